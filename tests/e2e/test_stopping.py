"""A run that is told to stop finishes its step, saves, and goes on later as if nothing had been; also on another number of ranks."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

import train
from tests.e2e.tiny_run import kept_logging, make_workspace, read_log, run_training, same_weights, trace, weights
from xraygpt.common.checkpoint import load_checkpoint
from xraygpt.common.signals import StoppedEarly
from xraygpt.common.updater import Updater
from xraygpt.tasks.base_task import BaseTask
from xraygpt.tasks.image_text_pretrain import ImageTextPretrainTask

# torchrun's error recorder wants a real stderr, which pytest has replaced.
pytestmark = pytest.mark.filterwarnings("ignore:Unable to enable fault handler")

AUTO = "run.resume_ckpt_path=auto"
TOLERANCE = 1e-5
"""Relative: sums in another order, as in test_equal_batches."""


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """run.yaml of a workspace that all runs here share; four samples an update."""
    cfg_path = make_workspace(tmp_path_factory.mktemp("stopping"))
    OmegaConf.save(OmegaConf.merge(OmegaConf.load(cfg_path), {"run": {"batch_size_train": 4}}), cfg_path)
    return cfg_path


@pytest.fixture(scope="module")
def whole(workspace: Path) -> Path:
    """The run that was not stopped."""
    return run_training(workspace, "run.job_id=whole")


def tell_at(step: int, patch: pytest.MonkeyPatch, number: signal.Signals = signal.SIGTERM) -> None:
    """Let a signal come while the update of global iteration `step` is computed."""
    update = Updater.update

    def interrupted_update(self: Updater, at: int) -> Any:
        if at == step:
            os.kill(os.getpid(), number)
        return update(self, at)

    patch.setattr(Updater, "update", lambda self, step: interrupted_update(self, step))


def assert_same_run(resumed: Path, whole: Path) -> None:
    """Same lines of training and of the epochs, same weights, same test."""
    assert trace(resumed) == trace(whole)
    epochs = [[record for record in read_log(folder) if "train_loss" in record] for folder in (resumed, whole)]
    assert epochs[0] == epochs[1]
    assert same_weights(weights(resumed, "1"), weights(whole, "1"))
    assert (resumed / "result" / "test_best.json").read_text() == (whole / "result" / "test_best.json").read_text()


@pytest.mark.parametrize(
    ("step", "number", "saved"),
    [(4, signal.SIGTERM, "step5"), (9, signal.SIGUSR1, "step10"), (13, signal.SIGINT, "step14"), (19, signal.SIGTERM, "step20")],
)
def test_stopped_in_a_step(
    step: int, number: signal.Signals, saved: str, workspace: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the last step of an epoch, validation is left for later."""
    options = (f"run.job_id=stopped-{step}", AUTO)
    with monkeypatch.context() as patch, pytest.raises(StoppedEarly):
        tell_at(step, patch, number)
        run_training(workspace, *options)
    folder = whole.with_name(f"stopped-{step}")
    assert trace(folder) == trace(whole)[: step + 1]
    assert load_checkpoint(folder / f"checkpoint_{saved}.pth")["step"] == step + 1
    assert_same_run(run_training(workspace, *options), whole)


@pytest.mark.parametrize(("split", "saved"), [("val", "step10"), ("test", "1")])
def test_stopped_in_an_evaluation(split: str, saved: str, workspace: Path, whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It ends after its batch; a validation is done anew from the state that training left."""
    options = (f"run.job_id=evaluating-{split}", AUTO)
    evaluation, valid_step = BaseTask.evaluation, ImageTextPretrainTask.valid_step
    batches = []

    def interrupted(self: Any, *args: Any, **kwargs: Any) -> Any:
        batches.append(split)
        os.kill(os.getpid(), signal.SIGTERM)
        return valid_step(self, *args, **kwargs)

    def evaluate(self: Any, *args: Any, header: str, **kwargs: Any) -> Any:
        if split in header:
            patch.setattr(ImageTextPretrainTask, "valid_step", interrupted)
        return evaluation(self, *args, header=header, **kwargs)

    with monkeypatch.context() as patch, pytest.raises(StoppedEarly):
        patch.setattr(BaseTask, "evaluation", evaluate)
        run_training(workspace, *options)
    assert len(batches) == 1
    assert (whole.with_name(f"evaluating-{split}") / f"checkpoint_{saved}.pth").exists()
    assert_same_run(run_training(workspace, *options), whole)


def test_stopped_before_the_first_step(workspace: Path, whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = ("run.job_id=early", AUTO)
    with monkeypatch.context() as patch, pytest.raises(StoppedEarly):
        build_model = BaseTask.build_model
        patch.setattr(BaseTask, "build_model", lambda self, cfg: (os.kill(os.getpid(), signal.SIGTERM), build_model(self, cfg))[1])
        run_training(workspace, *options)
    assert not list(whole.with_name("early").glob("*.pth"))
    assert_same_run(run_training(workspace, *options), whole)


def test_exit_codes(workspace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def command(*arguments: str) -> int:
        options = ["run.job_id=codes", "run.max_epoch=1", "run.test_splits=[]"]
        monkeypatch.setattr(sys, "argv", ["train.py", "--cfg-path", str(workspace), *arguments, "--options", *options])
        with kept_logging():
            return train.main()

    with monkeypatch.context() as patch:
        tell_at(2, patch)
        assert command() == 75
    assert "Stopped early, all is saved. Start again with --resume auto." in capsys.readouterr().err
    assert command() == 1
    assert "already holds a run. Continue it with --resume auto" in capsys.readouterr().err
    checkpoint = workspace.parent / "output" / "codes" / "checkpoint_step3.pth"
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    with monkeypatch.context() as patch:
        tell_at(4, patch)
        assert command() == 75  # went on by itself
    monkeypatch.delenv("SLURM_RESTART_COUNT")
    assert command("--resume", str(checkpoint), "--resume-allow", "init_lr,data") == 0
    assert [record["step"] for record in read_log(checkpoint.parent) if "grad_norm" in record] == list(range(10))


# Another number of ranks -------------------------------------------------------------------------------------------


def assert_same_updates(one: Path, other: Path) -> None:
    """The same numbers but for the order of sums."""
    numbers = [[number for step in trace(folder) for number in step[2:]] for folder in (one, other)]
    assert numbers[0] == pytest.approx(numbers[1], rel=TOLERANCE)


def test_accumulation_in_the_place_of_ranks(workspace: Path, whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half as many samples an iteration, twice as many iterations: numbers of iterations follow, those in the log too."""
    options = ("run.job_id=halves", AUTO)
    with monkeypatch.context() as patch, pytest.raises(StoppedEarly):
        tell_at(6, patch)
        run_training(workspace, *options)
    folder = run_training(workspace, *options, "run.batch_size_train=2", "run.accum_grad_iters=2")
    assert [step for step, *_ in trace(folder)] == list(range(1, 40, 2))
    assert_same_updates(folder, whole)


STOP_ONE_RANK = """
import os, signal
from xraygpt.common.updater import Updater

update = Updater.update

def update_or_be_told(self, step):
    if step == 12 and os.environ["RANK"] == "1":
        os.kill(os.getpid(), signal.SIGUSR1)
    return update(self, step)

Updater.update = update_or_be_told
"""


def test_one_rank_is_told_and_one_rank_goes_on(workspace: Path, whole: Path, repo_root: Path) -> None:
    """Two ranks stop at the same step, saved; a single one with twice the batch continues."""
    (workspace.parent / "stop_one_rank.py").write_text(STOP_ONE_RANK)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    options = ["--import", "stop_one_rank", "--options", "run.job_id=ranks", "run.batch_size_train=2"]
    command = [*launcher, str(repo_root / "train.py"), "--cfg-path", str(workspace), *options]
    path = f"{workspace.parent}{os.pathsep}{repo_root}"
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path})
    assert "exitcode  : 75" in done.stderr or "exitcode: 75" in done.stderr, done.stderr
    folder = whole.with_name("ranks")
    assert [step for step, *_ in trace(folder)] == list(range(13))
    checkpoint = load_checkpoint(folder / "checkpoint_step13.pth")
    assert (checkpoint["world_size"], len(checkpoint["rng"])) == (2, 2)
    assert_same_updates(run_training(workspace, "run.job_id=ranks", AUTO), whole)
