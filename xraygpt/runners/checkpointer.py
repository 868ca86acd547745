"""When a run is saved, and how: a snapshot in the training thread, the writing in another, and what happens if the disk refuses."""

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from xraygpt.common.checkpoint import snapshot
from xraygpt.common.checkpoint_folder import CheckpointFolder
from xraygpt.common.dist_utils import all_gather_objects, broadcast_object, is_main_process
from xraygpt.common.errors import CheckpointError
from xraygpt.common.seed import random_state

logger = logging.getLogger(__name__)

FIRST_PAUSE_S = 1.0
"""Seconds until a save that failed is tried again; they double with each failure in a row."""
LONGEST_PAUSE_S = 60.0


@dataclass(frozen=True, eq=False)
class _Save:
    """A snapshot that is to become checkpoint_{name}.pth."""

    name: str
    state: dict[str, Any]
    best: bool


class Checkpointer:
    """Saves a run; on rank 0, but `save` and `finish` are called by every rank.

    One save is written at a time. If it fails, the run goes on and it is tried again after later steps; meanwhile a newer save takes its
    place, unless it is the best epoch's.

    Args:
        folder: where the checkpoints go.
        state: what a checkpoint holds besides the random generators, at the time of the call; may share memory with the run.
        every_iters: iterations between two saves inside an epoch; 0: none for this reason.
        every_minutes: minutes between two saves; 0: none for this reason.
        accum_grad_iters: saves fall on updates, which come every so many iterations.
        retry_minutes: how long the end of a run waits for a disk that refuses.
    """

    def __init__(
        self,
        *,
        folder: CheckpointFolder,
        state: Callable[[], dict[str, Any]],
        every_iters: int,
        every_minutes: float,
        accum_grad_iters: int,
        retry_minutes: float,
    ) -> None:
        self.folder, self.state = folder, state
        self.every_iters, self.every_minutes, self.accum_grad_iters = every_iters, every_minutes, accum_grad_iters
        self.retry_minutes = retry_minutes
        self._waiting: list[_Save] = []
        self._thread: threading.Thread | None = None
        self._crash: BaseException | None = None
        self._failures = 0
        self._saved_at = self._failed_at = time.monotonic()

    # When ------------------------------------------------------------------------------------------------------

    def due_after(self, i: int) -> bool:
        """Whether the update after iteration i of an epoch is one of every `every_iters` iterations; the same on every rank."""
        return self.every_iters > 0 and (i + 1) % self.every_iters < self.accum_grad_iters

    def due_by_time(self) -> bool:
        """Whether `every_minutes` have passed since the last save, by rank 0's clock."""
        return is_main_process() and 0 < self.every_minutes * 60 <= time.monotonic() - self._saved_at

    # How -------------------------------------------------------------------------------------------------------

    def save(self, name: str, *, best: bool = False) -> None:
        """Take the state as it is now, and begin to write it to checkpoint_{name}.pth; with `best` that is checkpoint_best.pth too."""
        random_states = all_gather_objects(random_state())
        if not is_main_process():
            return
        self.wait()
        self._saved_at = time.monotonic()
        new = _Save(name, snapshot({**self.state(), "rng": random_states, "world_size": len(random_states)}), best)
        kept = [save for save in self._waiting if save.best and not best]
        for save in self._waiting:
            if save not in kept:
                logger.error("checkpoint_%s.pth could not be written until now; checkpoint_%s.pth takes its place.", save.name, name)
        self._waiting = [*kept, new]
        self._start()

    def retry(self) -> None:
        """Begin to write again what could not be written, if its pause is over; called after each step."""
        running = self._thread is not None and self._thread.is_alive()
        if self._waiting and not running and time.monotonic() >= self._failed_at + self._pause():
            self._start()

    def wait(self) -> None:
        """Wait until nothing is being written. A save that failed stays for later."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._crash is not None:
            crash, self._crash = self._crash, None
            raise crash

    def finish(self) -> None:
        """Wait until everything is written, trying again for up to `retry_minutes`.

        Raises:
            CheckpointError: on every rank, if it was not to be.
        """
        self.wait()
        deadline = time.monotonic() + self.retry_minutes * 60
        while self._waiting and time.monotonic() < deadline:
            time.sleep(max(0.0, min(self._pause(), deadline - time.monotonic())))
            self._write()
            self.wait()
        lost = broadcast_object(", ".join(f"checkpoint_{save.name}.pth" for save in self._waiting))
        if lost:
            raise CheckpointError(
                f"{lost} could not be written to {self.folder.path} in {self.retry_minutes:g} minutes (run.save_retry_minutes); the log "
                "says why. The checkpoints before it are whole: mend the folder, then start again with --resume auto."
            )

    def _start(self) -> None:
        self._thread = threading.Thread(target=self._write, name="checkpoint writer")
        self._thread.start()

    def _write(self) -> None:
        """Write what waits, the oldest first."""
        try:
            while self._waiting:
                save = self._waiting[0]
                self.folder.save(save.name, save.state, best=save.best)
                self._waiting.pop(0)
                self._failures = 0
        except OSError as error:
            self._failures, self._failed_at = self._failures + 1, time.monotonic()
            logger.error(
                "checkpoint_%s.pth could not be written to %s: %s. The run goes on, its last good checkpoint stays, and it is tried again "
                "in %.0f s (failure %d).",
                self._waiting[0].name,
                self.folder.path,
                error,
                self._pause(),
                self._failures,
            )
        except Exception as error:  # a mistake of ours: the run must not go on as if it were saved
            self._crash = error

    def _pause(self) -> float:
        """Seconds between the last failure and the next try."""
        return min(FIRST_PAUSE_S * 2 ** min(self._failures - 1, 10), LONGEST_PAUSE_S)
