"""`from xraygpt import load_model`, and what can be done with it."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image

import xraygpt
from xraygpt import load_model
from xraygpt.common.checkpoint import save_checkpoint
from xraygpt.common.errors import CheckpointError, ConfigError, DataError
from xraygpt.processors.input_gate import Concern
from xraygpt.serving import RESEARCH_NOTICE
from xraygpt.serving.report_model import Report

pytestmark = pytest.mark.usefixtures("no_default_files")


@pytest.fixture
def config(tiny_config: Callable[..., dict[str, Any]]) -> dict[str, Any]:
    config = tiny_config()
    config["model"]["model_type"] = "tiny"
    return config


@pytest.fixture
def checkpoint(tmp_path: Path, config: dict[str, Any], tiny_model: Any) -> Path:
    """A checkpoint with all weights of `tiny_model`, and its configuration."""
    save_checkpoint(tmp_path / "checkpoint_best.pth", {"model": tiny_model.state_dict(), "config": config, "llm": tiny_model.identity()})
    return tmp_path / "checkpoint_best.pth"


@pytest.fixture
def image(tiny_storage: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An image that the input gate, which is not tested here, does not doubt."""
    monkeypatch.setattr("xraygpt.serving.pipeline.check_image", lambda image: [])
    return tiny_storage / "image" / "x0.png"


def test_a_checkpoint_alone_is_the_model(checkpoint: Path, image: Path, tiny_model: Any) -> None:
    model = load_model(checkpoint)
    state = model.pipeline.model.state_dict()
    assert all(torch.equal(state[name], value) for name, value in tiny_model.state_dict().items())
    (expected,) = tiny_model.write_reports(model.pipeline.load_image(image).unsqueeze(0), max_new_tokens=8)
    assert model.report(image).text == model.report(str(image)).text == model.report(Image.open(image)).text == expected
    assert [report.text for report in model.reports([image, image])] == [expected] * 2


def test_a_yaml_is_a_model_too(tmp_path: Path, config: dict[str, Any], checkpoint: Path, image: Path) -> None:
    OmegaConf.save(OmegaConf.create(config), tmp_path / "config.yaml")
    by_yaml = load_model(str(tmp_path / "config.yaml"), options=[f"model.ckpt={checkpoint}"])
    assert by_yaml.report(image) == load_model(checkpoint).report(image)


def test_the_checkpoint_comes_after_those_it_was_trained_from(
    tmp_path: Path, config: dict[str, Any], checkpoint: Path, image: Path
) -> None:
    projection = {"llama_proj.weight": torch.zeros(32, 32), "llama_proj.bias": torch.ones(32)}
    config["model"]["ckpt"] = str(checkpoint)
    save_checkpoint(tmp_path / "stage2.pth", {"model": projection, "config": config})
    state = load_model(tmp_path / "stage2.pth").pipeline.model.state_dict()
    assert torch.equal(state["llama_proj.bias"], torch.ones(32))
    assert torch.equal(state["query_tokens"], torch.load(checkpoint, weights_only=True)["model"]["query_tokens"])


def test_what_a_checkpoint_lacks_is_said(tmp_path: Path, config: dict[str, Any], checkpoint: Path) -> None:
    torch.save({"llama_proj.weight": torch.zeros(2, 2)}, tmp_path / "projection.pth")
    with pytest.raises(CheckpointError, match=r"no configuration.*options=\['model.ckpt="):
        load_model(tmp_path / "projection.pth")
    config["model"]["ckpt"], config["model"]["llama_model"] = "gone/stage1.pth", "gone/llm"
    save_checkpoint(tmp_path / "stage2.pth", {"model": {}, "config": config})
    with pytest.raises(ConfigError) as caught:
        load_model(tmp_path / "stage2.pth")
    lines = str(caught.value).splitlines()
    assert lines[0].startswith(f"The configuration in {tmp_path / 'stage2.pth'} cannot be used here.")
    assert "model.llama_model: gone/llm is missing" in lines[1]
    assert "model.ckpt: gone/stage1.pth is missing" in lines[2]
    with pytest.raises(CheckpointError, match="There is no checkpoint file"):
        load_model("nowhere.pth")
    with pytest.raises(ConfigError, match="no configuration file"):
        load_model("nowhere.yaml")
    with pytest.raises(ConfigError, match=r"sees no CUDA device|not a device"):
        load_model(checkpoint, device="cuda" if not torch.cuda.is_available() else "abacus")


def test_a_report_carries_its_notice_and_flags(checkpoint: Path, image: Path) -> None:
    report = load_model(checkpoint).report(image)
    assert "truncated" in report.flags
    assert str(report).startswith(f"{report.text}\n\nNote: ")
    assert str(report).endswith(RESEARCH_NOTICE)
    assert report.notice == RESEARCH_NOTICE
    assert " ".join(sentence.text for sentence in report.sentences).split() == report.text.split()
    assert all(0 < sentence.confidence <= 1 for sentence in report.sentences)
    assert "Note on the image: Turned." in str(Report("Clear.", concerns=(Concern("rotated", "Turned.", 3.0, turn=90),)))


def test_settings_take_the_place_of_the_models(checkpoint: Path, image: Path) -> None:
    model = load_model(checkpoint)
    short, long = model.report(image, max_new_tokens=3).text, model.report(image).text
    assert long.startswith(short)
    assert len(short) < len(long)


def test_an_image_that_the_gate_doubts(checkpoint: Path, tiny_storage: Path) -> None:
    model, tiny = load_model(checkpoint), tiny_storage / "image" / "x0.png"
    assert [concern.kind for concern in model.report(tiny).concerns] == ["too_small"]
    for write in (model.report, model.chat):
        with pytest.raises(DataError, match=r"x0\.png: refused by the input gate"):
            write(tiny, strict=True)
    with pytest.raises(DataError, match=r"nowhere\.png"):
        model.report("nowhere.png")


def test_a_chat_goes_on_about_its_image(checkpoint: Path, image: Path, tmp_path: Path) -> None:
    model = load_model(checkpoint)
    chat = model.chat(image)
    first = chat.ask()
    assert first.text == model.report(image).text
    streamed = "".join(chat.stream("And the heart?"))
    assert chat.session.turns[-1].answer.text == streamed.strip()
    assert [turn.question for turn in chat.session.turns] == ["", "And the heart?"]
    assert str(chat.ask("Sure?")).endswith(RESEARCH_NOTICE)
    chat.save(tmp_path / "chat.md")
    assert RESEARCH_NOTICE in (tmp_path / "chat.md").read_text()


LAZY = """
import sys, xraygpt
assert "torch" not in sys.modules
from xraygpt import load_model
from xraygpt.common.registry import registry
assert "torch" in sys.modules and "openi" in registry.list_datasets() and "runner_base" in registry.list_runners()
"""


def test_the_name_is_loaded_with_all_that_a_configuration_names(repo_root: Path) -> None:
    assert subprocess.run([sys.executable, "-c", LAZY], cwd=repo_root).returncode == 0


def test_another_name_is_no_attribute() -> None:
    with pytest.raises(AttributeError, match="load_models"):
        xraygpt.load_models  # noqa: B018
