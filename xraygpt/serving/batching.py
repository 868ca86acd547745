"""Requests that arrive together are written together: one thread owns the model, and takes its work from a queue.

A job's events go to whoever waits for it as they come: pieces of text, then one `Finished` or `Failed`, and nothing after that. Jobs
are taken in the order in which they came. Those behind the first that can be written in one batch with it (equal `batch_key`) go with it.
"""

import logging
import threading
import time
import traceback
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Piece:
    """The next piece of an answer."""

    text: str


@dataclass(frozen=True)
class Finished:
    """The whole answer: what the writer made of the job."""

    answer: Any


@dataclass(frozen=True)
class Failed:
    """No answer. `reason` is "time" (it waited too long), "stopped" (the server stops) or "error" (see the log)."""

    reason: str


Event = Piece | Finished | Failed


@dataclass(eq=False, kw_only=True)
class Job:
    """One answer to write.

    Attributes:
        question: what the writer needs.
        batch_key: jobs with equal keys can be written together.
        deadline: when it must have ended, on the clock of `time.monotonic`.
        deliver: gets the events, in the worker's thread.
    """

    question: Any
    batch_key: Hashable
    deadline: float
    deliver: Callable[[Event], None]
    _cancelled: threading.Event = field(default_factory=threading.Event)
    _ended: bool = False

    def cancel(self) -> None:
        """Nobody waits for it any more."""
        self._cancelled.set()

    @property
    def is_cancelled(self) -> bool:
        """Whether nobody waits for it."""
        return self._cancelled.is_set()

    @property
    def is_late(self) -> bool:
        """Whether its time is over."""
        return time.monotonic() >= self.deadline

    @property
    def is_unwanted(self) -> bool:
        """Whether writing on is of no use; a writer asks this after each token."""
        return self.is_cancelled or self.is_late

    def end(self, event: Finished | Failed) -> None:
        """Deliver the last event. After the first call this does nothing."""
        if not self._ended:
            self._ended = True
            self.deliver(event)


class BatchWorker:
    """The thread that writes.

    Args:
        write: writes a batch: delivers pieces where it can, and ends each job. A job that it leaves open has failed.
        max_batch: most jobs in a batch.
        batch_seconds: how long a job waits for others, if there are not enough in the queue.
        on_batch: called with each batch and the seconds that it took.
    """

    def __init__(
        self,
        write: Callable[[Sequence[Job]], None],
        *,
        max_batch: int = 8,
        batch_seconds: float = 0.01,
        on_batch: Callable[[Sequence[Job], float], None] = lambda jobs, seconds: None,
    ) -> None:
        self.write = write
        self.max_batch = max_batch
        self.batch_seconds = batch_seconds
        self.on_batch = on_batch
        self.last_seconds = 0.0
        """What the last batch took."""
        self._waiting: list[Job] = []
        self._changed = threading.Condition()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="batch worker", daemon=True)

    def start(self) -> None:
        """Begin to work."""
        self._thread.start()

    def stop(self, timeout: float | None = None) -> None:
        """Finish the batch that is being written; the jobs behind it fail with the reason "stopped"."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        self._thread.join(timeout)

    @property
    def is_alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    @property
    def num_waiting(self) -> int:
        """Jobs that no batch has taken yet."""
        return len(self._waiting)

    def submit(self, job: Job) -> None:
        """Put a job at the end of the queue."""
        with self._changed:
            if not self._stopping:
                self._waiting.append(job)
                self._changed.notify_all()
                return
        job.end(Failed("stopped"))

    def _run(self) -> None:
        while batch := self._next_batch():
            start = time.monotonic()
            try:
                self.write(batch)
            except Exception as error:  # the server goes on with the next batch
                # Neither the message nor the values are logged: both may quote what a client sent.
                places = "".join(traceback.format_tb(error.__traceback__))
                logger.error("A batch of %d failed with %s at:\n%s", len(batch), type(error).__name__, places)
            for job in batch:
                job.end(Failed("error"))
            self.last_seconds = time.monotonic() - start
            self.on_batch(batch, self.last_seconds)

    def _next_batch(self) -> list[Job]:
        """Wait for jobs; an empty list when the worker stops."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._stopping)
            self._changed.wait_for(lambda: len(self._waiting) >= self.max_batch or self._stopping, timeout=self.batch_seconds)
            while not self._stopping:
                self._end_unwanted()
                if batch := self._take():
                    return batch
                self._changed.wait_for(lambda: self._waiting or self._stopping)
            for job in self._waiting:
                job.end(Failed("stopped"))
            self._waiting.clear()
            return []

    def _end_unwanted(self) -> None:
        for job in self._waiting:
            if job.is_unwanted:
                job.end(Failed("time"))
        self._waiting = [job for job in self._waiting if not job.is_unwanted]

    def _take(self) -> list[Job]:
        """The first job, and those that go with it."""
        batch = [job for job in self._waiting if job.batch_key == self._waiting[0].batch_key][: self.max_batch]
        self._waiting = [job for job in self._waiting if job not in batch]
        return batch
