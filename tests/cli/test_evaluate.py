"""What `xraygpt evaluate` refuses before it loads a model; what it does is in tests/e2e/test_evaluation.py."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from tests.e2e.tiny_run import kept_logging
from xraygpt.cli.main import main

pytestmark = pytest.mark.usefixtures("no_default_files")


@pytest.fixture
def evaluate(tmp_path: Path, tiny_config: Callable[..., dict[str, Any]]) -> Callable[..., int]:
    """Runs the command with keys of `run:`; returns its exit code."""

    def run(**keys: Any) -> int:
        config = tiny_config(output_dir=str(tmp_path / "output"), job_id="job", **keys)
        config["model"]["model_type"] = "tiny"
        OmegaConf.save(OmegaConf.create(config), tmp_path / "config.yaml")
        with kept_logging():
            return main(["evaluate", "--cfg-path", str(tmp_path / "config.yaml")])

    return run


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"task": "report_generation"}, "run.test_splits is empty; name the splits to evaluate"),
        ({"test_splits": ["test"]}, "run.task is image_text_pretrain, which writes no reports"),
        ({"task": "report_generation", "test_splits": ["tset"]}, "No dataset has the split tset"),
        ({"task": "report_generation", "test_splits": ["test"], "metrics": ["blue"]}, "There is no metric 'blue'"),
        ({"task": "report_generation", "test_splits": ["test"], "scoring": {"resample": 1}}, "run.scoring.resample: there is no such key"),
    ],
)
def test_what_cannot_be_evaluated_is_one_message(
    evaluate: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str], keys: dict[str, Any], message: str
) -> None:
    assert evaluate(**keys) == 1
    shown = capsys.readouterr().err
    assert message in shown and "Traceback" not in shown
    assert not (tmp_path / "output").exists()


def test_evaluate_need_not_stand_in_the_configuration(evaluate: Callable[..., int], tmp_path: Path) -> None:
    run = {"task": "report_generation", "test_splits": ["test"], "evaluate": False, "scoring": {"resamples": 10}}
    assert evaluate(**run) == 0
    assert (tmp_path / "output" / "job" / "test" / "report.html").exists()
    assert not (tmp_path / "output" / "job" / "log.txt").exists()
