"""The same samples make the same update, whether in one batch, in accumulated batches, or on several ranks.

Captions are of very different lengths here, so an average of averages would show.
"""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.tiny_run import make_workspace, read_log, run_training, trace

TOLERANCE = 1e-5
"""Relative. Sums in another order differ by 1e-7 in float32; twenty updates carry that on."""


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_workspace(tmp_path_factory.mktemp("batches"))


@pytest.fixture(scope="module")
def whole(workspace: Path) -> Path:
    """One rank, four samples an update."""
    return run_training(workspace, "run.batch_size_train=4", "run.job_id=whole")


def assert_same_updates(one: Path, other: Path) -> None:
    numbers = [[number for step in trace(folder) for number in step[2:]] for folder in (one, other)]
    assert numbers[0] == pytest.approx(numbers[1], rel=TOLERANCE)
    losses = [[record["val_loss"] for record in read_log(folder) if "val_loss" in record] for folder in (one, other)]
    assert losses[0] == pytest.approx(losses[1], rel=TOLERANCE)


def test_accumulation(workspace: Path, whole: Path) -> None:
    per_update = ["run.batch_size_train=2", "run.accum_grad_iters=2", "run.iters_per_epoch=20", "run.warmup_steps=10", "run.log_freq=2"]
    folder = run_training(workspace, *per_update, "run.job_id=accumulated")
    assert [step for step, *_ in trace(folder)] == list(range(1, 40, 2))
    assert_same_updates(folder, whole)


def test_two_ranks(workspace: Path, whole: Path, repo_root: Path) -> None:
    """Two processes joined by gloo; they agree on a run's folder that no one named."""
    options = ["run.batch_size_train=2", "run.job_id=''", f"run.output_dir={workspace.parent}/ranks", "run.batch_size_eval=1"]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    command = [*launcher, str(repo_root / "train.py"), "--cfg-path", str(workspace), "--options", *options]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (folder,) = (workspace.parent / "ranks").iterdir()
    assert len(trace(folder)) == 20
    assert_same_updates(folder, whole)
    assert (folder / "summary.json").exists()


def test_a_partial_last_group_is_an_update_of_its_own(workspace: Path) -> None:
    """Five iterations in groups of two: the epoch ends with a group of one, and its gradient does not leak into the next epoch."""
    options = ["run.batch_size_train=2", "run.accum_grad_iters=2", "run.iters_per_epoch=5", "run.job_id=partial"]
    assert [step for step, *_ in trace(run_training(workspace, *options))] == [1, 3, 4, 6, 8, 9]
