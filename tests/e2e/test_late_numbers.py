"""Runs whose updates are read one later, as on CUDA, are the runs whose updates are waited for."""

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.e2e.tiny_run import make_workspace, read_log, run_training, trace, weights
from xraygpt.common.signals import StoppedEarly
from xraygpt.common.updater import Updater

OPTIONS = ("run.log_freq=7", "run.save_every_iters=4", "run.resume_ckpt_path=auto")


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_workspace(tmp_path_factory.mktemp("late"))


@pytest.fixture(scope="module")
def whole(workspace: Path) -> Path:
    """The run that waits for each update."""
    return run_training(workspace, "run.job_id=whole", *OPTIONS)


@pytest.fixture
def told_late(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, bool]]:
    """Lets the CPU be read as CUDA is; grows by (iteration, whether it was the latest) of each update that is told of."""
    told: list[tuple[int, bool]] = []
    build, settle = Updater.__init__, Updater.settle

    def late(self: Updater, **settings: Any) -> None:
        build(self, **settings)
        self.reads_late = True

    def noted(self: Updater, **settings: Any) -> Any:
        stats = settle(self, **settings)
        told.extend((each.i, each.latest) for each in stats)
        return stats

    monkeypatch.setattr(Updater, "__init__", late)
    monkeypatch.setattr(Updater, "settle", noted)
    return told


def assert_same_run(one: Path, other: Path) -> None:
    for own, expected in zip(trace(one), trace(other), strict=True):
        assert own == pytest.approx(expected, rel=1e-5)
    epochs = [[record for record in read_log(folder) if "train_loss" in record] for folder in (one, other)]
    assert [record["train_loss"] for record in epochs[0]] == pytest.approx([record["train_loss"] for record in epochs[1]], rel=1e-5)
    for name in ("step4", "0", "1"):
        if (one / f"checkpoint_{name}.pth").exists():
            torch.testing.assert_close(weights(one, name), weights(other, name), rtol=1e-4, atol=1e-6)


def test_the_run_is_the_same(workspace: Path, whole: Path, told_late: list[tuple[int, bool]]) -> None:
    assert_same_run(run_training(workspace, "run.job_id=late", *OPTIONS), whole)
    saved_or_logged = {0, 3, 7, 9}
    assert told_late == [(i, i in saved_or_logged) for _ in range(2) for i in range(10)]


@pytest.mark.parametrize("step", [1, 4, 8, 15])
def test_a_signal_stops_it_saved(
    step: int, workspace: Path, whole: Path, told_late: list[tuple[int, bool]], monkeypatch: pytest.MonkeyPatch
) -> None:
    options = (f"run.job_id=told-{step}", *OPTIONS)
    update = Updater.update

    def interrupted(self: Updater, at: int) -> None:
        if at == step:
            os.kill(os.getpid(), signal.SIGTERM)
        update(self, at)

    with monkeypatch.context() as patch, pytest.raises(StoppedEarly):
        patch.setattr(Updater, "update", interrupted)
        run_training(workspace, *options)
    last, is_latest = told_late[-1]
    assert is_latest and last - step % 10 in (0, 1)
    assert_same_run(run_training(workspace, *options), whole)
