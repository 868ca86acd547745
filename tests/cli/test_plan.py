"""`xraygpt plan` on the tiny model's configuration and on the published one."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from tests.e2e.tiny_run import kept_logging
from xraygpt.cli.main import main

Plan = Callable[..., tuple[int, str, str]]


@pytest.fixture
def plan(tmp_path: Path, tiny_config: Callable[..., dict[str, Any]], capsys: pytest.CaptureFixture[str]) -> Plan:
    """Runs the command on the tiny configuration; returns its exit code and what it printed to both streams."""

    def run(*options: str, model: dict[str, Any] | None = None, **keys: Any) -> tuple[int, str, str]:
        config = tiny_config(**keys)
        config["model"] |= {"model_type": "quickstart", **(model or {})}
        OmegaConf.save(OmegaConf.create(config), tmp_path / "config.yaml")
        with kept_logging():
            code = main(["plan", "--cfg-path", str(tmp_path / "config.yaml"), *options])
        return code, *capsys.readouterr()

    return run


def test_the_plan_as_text(plan: Plan) -> None:
    code, shown, _ = plan("--gpu", "rtx4090", "--num-gpus", "1024")
    assert code == 0
    assert "counted in 4 of 4 training captions" in shown
    assert "Memory of a step with 2 samples" in shown
    assert "1024 GPUs stop scaling at global batch: 2,048 samples, 0 updates a pass" in shown


def test_the_plan_as_json_is_that_of_the_model(plan: Plan, make_tiny_model: Callable[[], Any]) -> None:
    code, shown, _ = plan("--json")
    told = json.loads(shown)
    counts = make_tiny_model().parameter_counts()
    assert code == 0
    assert told["parameters"] == {part: count for part, (count, _) in counts.items()}
    assert sum(told["memory"].values()) > 16 * sum(told["parameters"].values())  # weight, gradient and two moments in float32
    assert told["run"]["trained"] == ["llm", "proj", "qformer", "vit"]
    assert told["hours"]["passes"] == 1.0
    assert told["time"]["total"] > 0


@pytest.fixture
def make_tiny_model(tiny_config: Callable[..., dict[str, Any]]) -> Callable[[], Any]:
    """Builds the tiny model."""
    from xraygpt.common.schema import check_section
    from xraygpt.models import MiniGPT4, MiniGPT4Config

    return lambda: MiniGPT4.from_config(check_section(MiniGPT4Config, {**tiny_config()["model"], "model_type": "tiny"}, "model")[0])


def test_a_given_length_takes_the_place_of_counting(plan: Plan) -> None:
    _, shown, _ = plan("--tokens", "20", "--json")
    texts = json.loads(shown)["run"]["texts"]
    assert texts["answer"] == 20
    assert texts["source"].startswith("assumed: 20 tokens")


def test_on_this_machine(plan: Plan) -> None:
    _, shown, _ = plan("--gpu", "cpu", "--json")
    told = json.loads(shown)
    assert told["machine"]["gpu"]["name"] == "cpu"
    assert not told["run"]["half"]


def test_without_the_language_model_its_size_must_be_named(plan: Plan, tmp_path: Path) -> None:
    absent = {"llama_model": str(tmp_path / "nowhere")}
    code, _, error = plan(model=absent)
    assert code == 1
    assert "--llm-size 7b" in error
    code, shown, _ = plan("--llm-size", "7b", "--json", model=absent)
    assert code == 0
    assert json.loads(shown)["parameters"]["llama_model"] == 6_738_415_616


def test_the_published_configurations_need_no_files(capsys: pytest.CaptureFixture[str], repo_root: Path) -> None:
    path = repo_root / "train_configs" / "stage1.yaml"
    with kept_logging():
        assert main(["plan", "--cfg-path", str(path), "--llm-size", "7b", "--samples", "241000", "--num-gpus", "64"]) == 0
    shown = capsys.readouterr().out
    assert "trained: proj" in shown
    assert "20,000 steps, 3,840,000 samples" in shown


def test_no_gpu_is_an_error(plan: Plan) -> None:
    code, _, error = plan("--num-gpus", "0")
    assert (code, error.strip()) == (1, "error: --num-gpus must be at least 1, not 0.")
