"""A run that a scheduler or a user stops, and starts again, is the run that was not stopped."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.reliability.killing import differences
from tests.reliability.user_module import SIGNALS
from tests.reliability.warm_parent import ROOT, WarmParent

STOPPED, INTERRUPTED = 75, 130
OPTIONS = ("run.task=signalled_pretrain", "model.qformer.dropout=0.2", "model.drop_path_rate=0.2")
RESUME = ("--resume", "auto")


class Runs:
    """Runs of one workspace on so many ranks, each under a name; `whole` is the one that was left alone."""

    def __init__(self, parent: WarmParent, cfg_path: Path, num_ranks: int) -> None:
        self.parent, self.cfg_path, self.num_ranks = parent, cfg_path, num_ranks
        self.whole = self.live("whole", codes=[0] * num_ranks)

    def live(
        self,
        name: str,
        *arguments: str,
        codes: list[int],
        hook: dict[str, object] | None = None,
        environment: dict[str, str] | None = None,
    ) -> Path:
        """Let a life come to its end, which must be `codes` by rank; returns the run's folder."""
        environment = environment or {}
        options = ("--import", "user_module", "--options", *OPTIONS, f"run.job_id={name}", f"run.batch_size_train={2 // self.num_ranks}")
        if self.num_ranks == 1:
            pids = [self.parent.start(self.cfg_path, *arguments, *options, hook=hook, environment=environment)]
        else:
            pids = self.parent.start_ranks(self.num_ranks, self.cfg_path, *arguments, *options, hooks=[hook], environment=environment)
        found = [self.parent.wait(pid) for pid in pids]
        assert found == codes, "\n".join(self.parent.said(pid) for pid in pids)
        return self.cfg_path.parent / "output" / name


@pytest.fixture(scope="module")
def runs(parent: WarmParent, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """On one rank."""
    from tests.e2e.tiny_run import make_workspace

    return Runs(parent, make_workspace(tmp_path_factory.mktemp("preemption")), num_ranks=1)


def signals(*names: str, step: int, rank: int = 0) -> dict[str, str]:
    """The environment in which a rank gets these signals in that step of its first life."""
    return {SIGNALS: json.dumps([{"rank": rank, "step": step, "signals": names}])}


@pytest.mark.parametrize(("name", "step"), [("SIGUSR1", 0), ("SIGTERM", 9), ("SIGINT", 13)])
def test_a_signal_then_resume(name: str, step: int, runs: Runs) -> None:
    """In the first step, in the last one of an epoch, in the middle."""
    folder = runs.live(name, codes=[STOPPED], environment=signals(name, step=step))
    assert not (folder / "summary.json").exists()
    runs.live(name, *RESUME, codes=[0])
    assert differences(folder, runs.whole) == []


def test_several_signals_are_one_wish(runs: Runs) -> None:
    """SLURM sends SIGTERM after SIGUSR1 where the first one is not obeyed quickly enough."""
    folder = runs.live("several", codes=[STOPPED], environment=signals("SIGUSR1", "SIGTERM", "SIGTERM", "SIGINT", step=4))
    runs.live("several", *RESUME, codes=[0])
    assert differences(folder, runs.whole) == []


def test_stopped_again_and_again(runs: Runs) -> None:
    """Each life does one step: the run still comes to its end."""
    for life in range(3):
        arguments = RESUME if life else ()
        folder = runs.live("again", *arguments, codes=[STOPPED], environment=signals("SIGTERM", step=0))
    runs.live("again", *RESUME, codes=[0])
    assert differences(folder, runs.whole) == []


def test_a_second_ctrl_c_ends_at_once(runs: Runs) -> None:
    """In the same step, so that the save on the first one has not begun."""
    folder = runs.live("twice", codes=[INTERRUPTED], environment=signals("SIGINT", "SIGINT", step=14))
    assert not (folder / "summary.json").exists()
    runs.live("twice", *RESUME, codes=[0])
    assert differences(folder, runs.whole) == []


@pytest.mark.parametrize("at", [3, 40])
def test_a_second_ctrl_c_inside_the_save(at: int, runs: Runs) -> None:
    """The first one comes in an operation of a save, and one more in each that follows; signals that come too quickly count as one."""
    name = f"inside-{at}"
    hook = {"at": at, "times": 10_000, "fault": "SIGINT", "only": "checkpoint"}
    folder = runs.live(name, codes=[INTERRUPTED], hook=hook)
    runs.live(name, *RESUME, codes=[0])
    assert differences(folder, runs.whole) == []


def test_slurm_requeues(runs: Runs) -> None:
    """SIGUSR1, as `sbatch --signal=USR1@120 --requeue` sends it; then the same command again, in SLURM's second life."""
    folder = runs.live("requeued", codes=[STOPPED], environment=signals("SIGUSR1", step=6))
    runs.live("requeued", codes=[1])  # without a restart it is refused: the folder holds a run
    runs.live("requeued", codes=[0], environment={"SLURM_RESTART_COUNT": "1"})
    assert differences(folder, runs.whole) == []


@pytest.mark.slow
def test_two_ranks(parent: WarmParent, cfg_path: Path) -> None:
    """The signal reaches one rank alone; both stop after the same step."""
    runs = Runs(parent, cfg_path, num_ranks=2)
    folder = runs.live("stopped", codes=[STOPPED, STOPPED], environment=signals("SIGUSR1", step=5, rank=1))
    runs.live("stopped", *RESUME, codes=[0, 0])
    assert differences(folder, runs.whole) == []


@pytest.mark.slow
def test_torchrun_restarts(parent: WarmParent, cfg_path: Path, soak: bool, record_property: Callable[[str, object], None]) -> None:
    """Rank 1 is killed in the first life, in the long form rank 0 in the second; nobody but torchrun starts the run again."""
    runs = Runs(parent, cfg_path, num_ranks=2)
    fates = [{"rank": 1, "step": 7, "signals": ["SIGKILL"]}, {"rank": 0, "step": 6, "signals": ["SIGKILL"]}][: 1 + soak]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "--max-restarts=3"]
    options = ["--import", "user_module", "--options", *OPTIONS, "run.job_id=restarted", "run.batch_size_train=1", "run.save_every_iters=2"]
    done = subprocess.run(
        [*launcher, str(ROOT / "train.py"), "--cfg-path", str(cfg_path), *options],
        env={**os.environ, SIGNALS: json.dumps(fates), "PYTHONPATH": str(Path(__file__).parent), "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    resumes = done.stderr.count("Resumed from")
    record_property("kills", len(fates))
    record_property("lines of ranks that resumed", resumes)
    assert resumes >= len(fates)
    assert differences(cfg_path.parent / "output" / "restarted", runs.whole) == []
