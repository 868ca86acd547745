"""Two ranks of which one raises, is killed or hangs: both end, and each that can still speak names the first cause."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.reliability.warm_parent import ROOT, WarmParent

ARGUMENTS = ("--import", "failing_module", "--options", "run.task=failing_pretrain", "run.batch_size_train=1")


@pytest.mark.parametrize(
    ("how", "codes", "cause", "of_rank_1"),
    [
        ("raises", (1, 1), "rank 1 (step 3, computing): ZeroDivisionError: a mistake in a user's own task", "rank 1: rank 1 failed."),
        ("killed", (1, -signal.SIGKILL), "rank 1, last at: ", ""),
        (
            "sleeps",
            (1, 1),
            "rank 1, still at: step 3, computing: it hangs, while others are at: step 3",
            "The first cause: rank 1, still at: step 3",
        ),
    ],
)
def test_all_ranks_end_and_name_the_first_cause(
    how: str, codes: tuple[int, int], cause: str, of_rank_1: str, parent: WarmParent, cfg_path: Path
) -> None:
    pids = parent.start_ranks(2, cfg_path, *ARGUMENTS, f"run.job_id={how}", "run.dist_timeout_minutes=0.1")
    found = tuple(parent.wait(pid, seconds=120) for pid in pids)
    said = [parent.said(pid) for pid in pids]
    assert found == codes, "\n".join(said)
    assert f"The first cause: {cause}" in said[0], said[0]
    assert of_rank_1 in said[1], said[1]


def test_under_torchrun(cfg_path: Path) -> None:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", str(ROOT / "train.py")]
    done = subprocess.run(
        [*launcher, "--cfg-path", str(cfg_path), *ARGUMENTS, "run.job_id=raises"],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent), "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 1
    assert "The first cause: rank 1 (step 3, computing): ZeroDivisionError" in done.stderr
