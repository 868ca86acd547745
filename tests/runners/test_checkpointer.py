"""When a run is saved, and what it does while the disk refuses."""

import errno
import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from xraygpt.common import files
from xraygpt.common.checkpoint import load_checkpoint
from xraygpt.common.checkpoint_folder import CheckpointFolder
from xraygpt.common.errors import CheckpointError
from xraygpt.runners import checkpointer as module
from xraygpt.runners.checkpointer import Checkpointer


class Run:
    """A weight that grows by one each step, and what saves it."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.weight, self.steps = torch.zeros(3), 0
        settings = {"every_iters": 0, "every_minutes": 0.0, "accum_grad_iters": 1, "retry_minutes": 1.0} | settings
        self.checkpointer = Checkpointer(folder=CheckpointFolder(folder), state=self.state, **settings)

    def state(self) -> dict[str, Any]:
        return {"model": {"w": self.weight}, "epoch": -1, "iteration": self.steps, "step": self.steps}

    def step(self) -> None:
        self.weight += 1
        self.steps += 1


class BrokenDisk:
    """Refuses every write until it is mended."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.broken, self.tries = True, 0
        self.real = files.disk.open
        monkeypatch.setattr(files.disk, "open", self.open)

    def open(self, path: Path, mode: str) -> Any:
        self.tries += 1
        if self.broken:
            raise OSError(errno.ENOSPC, "No space left on device")
        return self.real(path, mode)


@pytest.fixture
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    """A failed save is tried again at once."""
    monkeypatch.setattr(module, "FIRST_PAUSE_S", 0.0)


def saved_step(folder: Path, name: str) -> int:
    """The step of a checkpoint, whose weight must be of the same step."""
    checkpoint = load_checkpoint(folder / f"checkpoint_{name}.pth")
    assert checkpoint["model"]["w"].tolist() == [float(checkpoint["step"])] * 3
    return checkpoint["step"]


def test_training_goes_on_while_its_earlier_state_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    go_on = threading.Event()
    real = files.disk.open

    def slow_open(path: Path, mode: str) -> Any:
        assert go_on.wait(10)
        return real(path, mode)

    monkeypatch.setattr(files.disk, "open", slow_open)
    run = Run(tmp_path)
    run.step()
    run.checkpointer.save("step1")
    run.step()
    assert not list(tmp_path.glob("*.pth"))
    go_on.set()
    run.checkpointer.finish()
    assert saved_step(tmp_path, "step1") == 1


def test_a_checkpoint_has_the_random_generators_of_each_rank(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.checkpointer.save("0")
    run.checkpointer.finish()
    checkpoint = load_checkpoint(tmp_path / "checkpoint_0.pth")
    assert checkpoint["world_size"] == len(checkpoint["rng"]) == 1
    assert checkpoint["rng"][0].keys() == {"python", "numpy", "torch", "cuda"}


@pytest.mark.parametrize(
    ("every_iters", "accum", "due"), [(0, 1, []), (3, 1, [2, 5, 8]), (3, 2, [3, 5, 9]), (1, 2, [1, 3, 5, 7, 9]), (4, 4, [3, 7])]
)
def test_saves_inside_an_epoch_fall_on_updates(every_iters: int, accum: int, due: list[int], tmp_path: Path) -> None:
    checkpointer = Run(tmp_path, every_iters=every_iters, accum_grad_iters=accum).checkpointer
    updates = [i for i in range(10) if (i + 1) % accum == 0]
    assert [i for i in updates if checkpointer.due_after(i)] == due


def test_saves_by_the_clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    run, never = Run(tmp_path, every_minutes=15.0), Run(tmp_path)
    now[0] += 899
    assert not run.checkpointer.due_by_time()
    now[0] += 1
    assert run.checkpointer.due_by_time() and not never.checkpointer.due_by_time()
    run.checkpointer.save("step1")
    assert not run.checkpointer.due_by_time()
    run.checkpointer.wait()


# A disk that refuses -----------------------------------------------------------------------------------------------


def test_the_run_goes_on_and_tries_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_pause: None, caplog: pytest.LogCaptureFixture
) -> None:
    run = Run(tmp_path)
    run.checkpointer.save("step0")
    run.checkpointer.wait()
    disk = BrokenDisk(monkeypatch)
    run.step()
    run.checkpointer.save("step1")
    for _ in range(3):
        run.checkpointer.wait()
        run.checkpointer.retry()
    run.checkpointer.wait()
    assert disk.tries == 4
    assert "checkpoint_step1.pth could not be written" in caplog.text and "No space left" in caplog.text and "failure 4" in caplog.text
    assert saved_step(tmp_path, "step0") == 0
    disk.broken = False
    run.checkpointer.retry()
    run.checkpointer.wait()
    assert saved_step(tmp_path, "step1") == 1
    assert [path.name for path in tmp_path.glob("*.tmp")] == []


def test_pauses_grow_to_a_minute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    now = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    disk = BrokenDisk(monkeypatch)
    run = Run(tmp_path)
    run.checkpointer.save("step0")
    tried = []
    for second in range(300):
        run.checkpointer.wait()
        now[0], before = float(second), disk.tries
        run.checkpointer.retry()
        run.checkpointer.wait()
        tried += [second] * (disk.tries - before)
    assert tried == [1, 3, 7, 15, 31, 63, 123, 183, 243]


def test_a_newer_state_takes_the_place_of_one_that_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_pause: None, caplog: pytest.LogCaptureFixture
) -> None:
    disk = BrokenDisk(monkeypatch)
    run = Run(tmp_path)
    for name, best in [("step0", False), ("0", True), ("step1", False), ("1", False)]:
        run.checkpointer.save(name, best=best)
        run.step()
    run.checkpointer.wait()
    disk.broken = False
    run.checkpointer.finish()
    assert {path.name for path in tmp_path.glob("*.pth")} == {"checkpoint_0.pth", "checkpoint_best.pth", "checkpoint_1.pth"}
    assert (saved_step(tmp_path, "best"), saved_step(tmp_path, "1")) == (1, 3)
    assert "checkpoint_step0.pth could not be written until now; checkpoint_0.pth takes its place" in caplog.text


def test_the_end_of_a_run_waits_and_then_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(module.time, "sleep", lambda seconds: now.__setitem__(0, now[0] + seconds))
    disk = BrokenDisk(monkeypatch)
    run = Run(tmp_path, retry_minutes=2.0)
    run.checkpointer.save("0")
    with pytest.raises(CheckpointError, match=r"checkpoint_0\.pth could not be written .* in 2 minutes .*--resume auto"):
        run.checkpointer.finish()
    assert now[0] == 120.0 and disk.tries == 8  # 0, 1, 3, 7, 15, 31, 63, and once more at the end


def test_a_mistake_of_ours_is_no_disk_failure(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.checkpointer.state = lambda: {"model": {}}
    run.checkpointer.save("0")
    with pytest.raises(KeyError):
        run.checkpointer.wait()
