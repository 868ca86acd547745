"""A run that was interrupted and resumed is the run that was not interrupted: every later step, and every weight, bit for bit."""

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from tests.e2e.tiny_run import make_workspace, read_log, run_training, same_weights, trace, weights
from xraygpt.common.errors import CheckpointError
from xraygpt.common.logger import RunLog
from xraygpt.common.updater import Updater, UpdateStats
from xraygpt.runners.checkpointer import Checkpointer

# Dropout in a trained Q-Former and random depth in the ViT: their draws must continue too. Validation lies between the epochs.
OPTIONS = ("model.qformer.dropout=0.2", "model.vit.depth=2", "model.drop_path_rate=0.2", "run.save_every_iters=3")


class Interrupted(Exception):
    """Stands for a crash."""


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """run.yaml of a workspace that all runs here share."""
    cfg_path = make_workspace(tmp_path_factory.mktemp("resume"))
    OmegaConf.save(OmegaConf.merge(OmegaConf.load(cfg_path), OmegaConf.from_dotlist(list(OPTIONS))), cfg_path)
    return cfg_path


@pytest.fixture(scope="module")
def whole(workspace: Path) -> Path:
    """The run that was not interrupted."""
    return run_training(workspace, "run.job_id=whole")


def interrupt_at(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the next run crash before the update of global iteration `step`."""
    update = Updater.update

    def crashing_update(self: Updater, step_: int) -> UpdateStats:
        if step_ == step:
            raise Interrupted
        return update(self, step_)

    monkeypatch.setattr(Updater, "update", lambda self, step: crashing_update(self, step))


def assert_same_run(resumed: Path, whole: Path) -> None:
    """Same lines of training, same lines of the epochs, same weights, same test."""
    assert trace(resumed) == trace(whole)
    epochs = [[record for record in read_log(folder) if "train_loss" in record] for folder in (resumed, whole)]
    assert epochs[0] == epochs[1]
    assert same_weights(weights(resumed, "1"), weights(whole, "1"))
    assert same_weights(weights(resumed, "best"), weights(whole, "best"))
    assert (resumed / "result" / "test_best.json").read_text() == (whole / "result" / "test_best.json").read_text()


@pytest.mark.parametrize("step", [0, 2, 5, 9, 10, 13, 19])
def test_resume_after_a_crash_at(step: int, workspace: Path, whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = (f"run.job_id=crash-{step}", "run.resume_ckpt_path=auto")
    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        interrupt_at(step, patch)
        run_training(workspace, *options)
    assert_same_run(run_training(workspace, *options), whole)


@pytest.mark.parametrize("name", ["step3", "0", "step13", "1"])
def test_resume_after_a_crash_just_after_saving(name: str, workspace: Path, whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = (f"run.job_id=saved-{name}", "run.resume_ckpt_path=auto")
    save = Checkpointer.save

    def crash_after(self: Checkpointer, saved: str, *, best: bool = False) -> None:
        save(self, saved, best=best)
        if saved == name:
            raise Interrupted

    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        patch.setattr(Checkpointer, "save", crash_after)
        run_training(workspace, *options)
    assert_same_run(run_training(workspace, *options), whole)


def test_resume_with_accumulation(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = ("run.accum_grad_iters=3", "run.resume_ckpt_path=auto")
    whole = run_training(workspace, *options, "run.job_id=accumulated")
    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        interrupt_at(18, patch)
        run_training(workspace, *options, "run.job_id=accumulated-crash")
    assert_same_run(run_training(workspace, *options, "run.job_id=accumulated-crash"), whole)


def test_resume_with_loading_processes(workspace: Path, whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = ("run.job_id=workers", "run.resume_ckpt_path=auto", "run.num_workers=2")
    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        interrupt_at(8, patch)
        run_training(workspace, *options)
    assert_same_run(run_training(workspace, *options), whole)


def test_resume_after_sigkill(workspace: Path, whole: Path, repo_root: Path) -> None:
    options = ("run.job_id=killed", "run.resume_ckpt_path=auto", "run.save_every_iters=1")
    command = [sys.executable, str(repo_root / "train.py"), "--cfg-path", str(workspace), "--options", *options]
    folder = workspace.parent / "output" / "killed"
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not list(folder.glob("checkpoint_*.pth")) and process.poll() is None:
        time.sleep(0.01)
    time.sleep(time.time() % 0.4)  # somewhere: in a step, while a checkpoint is written, between the epochs
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (folder / "summary.json").exists()
    assert_same_run(run_training(workspace, *options), whole)


def test_resuming_a_finished_run_trains_nothing(workspace: Path, whole: Path) -> None:
    folder = whole.with_name("finished")
    shutil.copytree(whole, folder, copy_function=shutil.copy2)
    run_training(workspace, "run.job_id=finished", "run.resume_ckpt_path=auto")
    assert_same_run(folder, whole)


def test_continue_in_another_folder(workspace: Path, whole: Path, tmp_path: Path) -> None:
    """The best epoch is then one of the new folder, even if the earlier one was better: its checkpoint is not here."""
    checkpoint = torch.load(whole / "checkpoint_0.pth", weights_only=True)
    torch.save(checkpoint | {"best": {"agg_metrics": 0.0, "epoch": 0}}, tmp_path / "checkpoint_0.pth")
    folder = run_training(workspace, f"run.resume_ckpt_path={tmp_path}/checkpoint_0.pth", "run.job_id=elsewhere")
    assert trace(folder) == trace(whole)[10:]
    assert same_weights(weights(folder, "best"), weights(whole, "1"))
    assert json.loads((folder / "summary.json").read_text())["best"]["epoch"] == 1


def test_a_checkpoint_of_an_earlier_version(workspace: Path, whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It lacks what later versions added, and its folder has no index."""
    folder = whole.with_name("earlier")
    shutil.copytree(
        whole, folder, ignore=shutil.ignore_patterns("checkpoints.json", "checkpoint_1.pth", "checkpoint_step*", "summary.json")
    )
    state = torch.load(folder / "checkpoint_0.pth", weights_only=True)
    keys = ("model", "optimizer", "config", "scaler", "epoch", "iteration", "meters", "best", "llm", "version")
    (folder / "checkpoint_best.pth").unlink()
    torch.save({key: state[key] for key in keys}, folder / "checkpoint_0.pth")
    run_training(workspace, "run.job_id=earlier", "run.resume_ckpt_path=auto")
    assert "does not say its data, world_size, iters_per_epoch: whether these changed is not checked" in capsys.readouterr().err
    assert_same_run(folder, whole)


def test_a_checkpoint_of_another_configuration_is_refused(workspace: Path, whole: Path) -> None:
    options = (f"run.resume_ckpt_path={whole}/checkpoint_0.pth", "run.job_id=other", "model.freeze_vit=true")
    with pytest.raises(CheckpointError, match=r"(?s)refused, because 1 settings.*model\.freeze_vit: False then, True now.*config\.yaml"):
        run_training(workspace, *options)


def test_weights_alone_are_no_checkpoint_to_resume_from(workspace: Path, whole: Path, tmp_path: Path) -> None:
    torch.save(weights(whole, "1"), tmp_path / "weights.pth")
    with pytest.raises(CheckpointError, match=r"no epoch, model, optimizer.*model\.ckpt"):
        run_training(workspace, f"run.resume_ckpt_path={tmp_path}/weights.pth", "run.job_id=weights")


def test_a_torn_last_line_is_dropped(workspace: Path, whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = ("run.job_id=torn", "run.resume_ckpt_path=auto")
    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        interrupt_at(5, patch)
        run_training(workspace, *options)
    log = RunLog(whole.with_name("torn") / "log.txt")
    log.path.write_text(log.path.read_text() + '{"step": 5, "epo')
    assert_same_run(run_training(workspace, *options), whole)
