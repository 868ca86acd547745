"""What the runner refuses, and how it names a run; training itself is tested end to end."""

import re
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from xraygpt.common.errors import ConfigError
from xraygpt.common.run_config import RunConfig
from xraygpt.models import BaseModel
from xraygpt.runners import RunnerBase, new_job_id


class Model(BaseModel):
    """Enough of a model to build a runner."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)


def make_runner(folder: Any, datasets: dict[str, Any], **run: Any) -> RunnerBase:
    """A runner over lists as datasets."""
    run_cfg = OmegaConf.structured(RunConfig(task="x", output_dir=str(folder), device="cpu", num_workers=0, **run))
    cfg: Any = SimpleNamespace(run_cfg=run_cfg, to_yaml=lambda: "", to_dict=dict, datasets_cfg={})
    return RunnerBase(cfg=cfg, job_id="job", task=None, model=Model(), datasets=datasets)


DATASETS = {"mimic": {"train": [1] * 7, "val": [1]}, "openi": {"train": [1] * 4}}


@pytest.mark.parametrize(
    ("run", "iterations"),
    [({}, 11), ({"batch_size_train": 2}, 5), ({"batch_size_train": 64}, 1), ({"batch_size_train": 2, "iters_per_epoch": 3}, 3)],
)
def test_an_epoch_is_one_pass_unless_said_otherwise(run: dict[str, int], iterations: int, tmp_path: Any) -> None:
    assert make_runner(tmp_path, DATASETS, **run).iters_per_epoch == iterations


@pytest.mark.parametrize("run", [{"valid_splits": ["vall"]}, {"test_splits": ["vall"]}, {"train_splits": ["vall"]}])
def test_a_split_that_no_dataset_has(run: dict[str, list[str]], tmp_path: Any) -> None:
    with pytest.raises(ConfigError, match=r"split vall .*mimic: train, val; openi: train"):
        make_runner(tmp_path, DATASETS, **run)
    assert list(tmp_path.iterdir()) == []


def test_evaluation_needs_the_test_splits_alone(tmp_path: Any) -> None:
    runner = make_runner(tmp_path, {"mimic": {"test": [1]}}, evaluate=True, valid_splits=["val"], test_splits=["test"])
    assert runner.splits.keys() == {"test"}
    assert [path.name for path in (tmp_path / "job").iterdir()] == ["result"]


@pytest.mark.parametrize(
    ("metrics", "best"),
    [
        ({"agg_metrics": 0.5, "loss": 3.0}, 1),
        ({"agg_metrics": 0.2, "loss": 1.0}, 0),
        ({"agg_metrics": 0.3, "loss": 1.0}, 1),
        ({"agg_metrics": 0.3, "loss": 3.0}, 0),
        ({"agg_metrics": 0.3}, 0),
        ({"loss": 1.0}, 0),
    ],
)
def test_the_best_epoch_has_the_highest_number_and_of_equals_the_lowest_loss(metrics: dict[str, float], best: int, tmp_path: Any) -> None:
    runner = make_runner(tmp_path, DATASETS)
    runner.state.note_best({"agg_metrics": 0.3, "loss": 2.0}, 0)
    runner.state.note_best(metrics, 1)
    assert runner.state.best["epoch"] == best


def test_an_epoch_without_a_number_to_choose_by_is_said(tmp_path: Any, caplog: pytest.LogCaptureFixture) -> None:
    runner = make_runner(tmp_path, DATASETS)
    runner.state.note_best({"loss": 1.0}, 3)
    assert runner.state.best["epoch"] == -1
    assert "Epoch 3 cannot become the best" in caplog.text


def test_a_job_is_named_by_the_user_or_by_the_second() -> None:
    assert new_job_id(SimpleNamespace(job_id="mine")) == "mine"
    assert re.fullmatch(r"20\d{12}", new_job_id(SimpleNamespace(job_id="")))


@pytest.mark.parametrize("variable", ["TORCHELASTIC_MAX_RESTARTS", "TORCHELASTIC_RESTART_COUNT", "SLURM_RESTART_COUNT"])
def test_a_job_that_may_be_started_again_needs_a_name(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable, "3")
    assert new_job_id(SimpleNamespace(job_id="mine")) == "mine"
    with pytest.raises(ConfigError, match=r"set run\.job_id"):
        new_job_id(SimpleNamespace(job_id=""))


def test_a_folder_that_cannot_be_written_to_is_said_at_the_start(tmp_path: Any) -> None:
    (tmp_path / "job").write_text("a file, where the run's folder should be")
    with pytest.raises(ConfigError, match=r"run's folder .*job cannot be written to: .*set run\.output_dir"):
        make_runner(tmp_path, DATASETS)
