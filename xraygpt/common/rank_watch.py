"""Which of several ranks failed first, known on every rank.

A rank that fails leaves its cause in the store of the process group. A rank that is killed, or hangs, cannot: so each rank has a thread
that gives a sign of life every second, with what the rank is doing, and reads whether another one has failed. Where contact is lost, or a
rank has waited for nearly the whole timeout of the process group, the rank that gives no signs, or the one that lags, is the cause.
"""

import datetime
import json
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch.distributed as dist

from xraygpt.common.errors import first_line

logger = logging.getLogger(__name__)

INTERVAL_S = 1.0
"""Between two signs of life."""
SILENCE_S = 4.0
"""Without a sign for so long, after contact was lost, a rank counts as gone; a store that fails for so long as well."""
GRACE_S = 60.0
"""How long the training thread has to end by itself, once another rank's failure is known. A save may be under way."""
PATIENCE = 0.95
"""Share of the process group's timeout after which a wait counts as a failure: NCCL ends the process at the whole of it."""

_CAUSE = "xraygpt/first_cause"
_LOST_CONTACT = ("gloo", "Gloo", "NCCL", "Connection closed by peer", "Connection reset by peer", "Timed out waiting")


@dataclass(frozen=True)
class _Doing:
    """What a rank does, and since when. `count` grows by one with each change: ranks in step have the same."""

    count: int = 0
    step: int | None = None
    what: str = "starting"
    waits: bool = False
    since: float = 0.0

    def __str__(self) -> str:
        return self.what if self.step is None else f"step {self.step}, {self.what}"


class _Now:
    """What this process does: there is one of these, as there is one process group. Replaced as a whole, so that the thread may read it."""

    doing = _Doing()
    watch: "RankWatch | None" = None


def note_progress(what: str, *, step: int | None = None, waits: bool = False) -> None:
    """Say what this rank does from now on.

    Args:
        what: in the form "loading data".
        step: of the training; None: outside of it.
        waits: for the other ranks.
    """
    _Now.doing = _Doing(_Now.doing.count + 1, step, what, waits, time.monotonic())


@contextmanager
def waiting_for_ranks(what: str) -> Iterator[None]:
    """Note that the block waits for the other ranks. If it fails, what it did stays noted."""
    before = _Now.doing
    note_progress(what, step=before.step, waits=True)
    yield
    note_progress(before.what, step=before.step, waits=before.waits)


def is_lost_contact(error: BaseException) -> bool:
    """Whether an error is no cause, but what another rank's failure looks like from here."""
    if isinstance(error, dist.DistBackendError | dist.DistNetworkError | dist.DistStoreError):
        return True
    return isinstance(error, RuntimeError) and any(mark in str(error) for mark in _LOST_CONTACT)


class RankWatch:
    """The signs of life of one rank, and what it knows of the others.

    Args:
        store: of the process group; used by a thread of its own.
        timeout_s: of the process group's operations.
        end: called with exit code 1 when the training thread does not end by itself.
    """

    def __init__(self, store: Any, *, rank: int, world_size: int, timeout_s: float, end: Callable[[int], Any] = os._exit) -> None:
        self.store, self.rank, self.world_size, self.timeout_s, self.end = store, rank, world_size, timeout_s, end
        self.interval_s, self.silence_s, self.grace_s = INTERVAL_S, SILENCE_S, GRACE_S
        store.set_timeout(datetime.timedelta(seconds=10))  # its answers come at once; where none comes, it is gone
        self._signs = 0
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="rank watch", daemon=True)

    def start(self) -> None:
        """Give signs of life from now on."""
        self._sign()
        self._thread.start()

    def stop(self) -> None:
        """Give no more signs: this rank is done."""
        self._stopped.set()
        self._thread.join(timeout=self.silence_s)

    def first_cause(self, error: BaseException) -> str:
        """Called when this rank fails: leave `error` as the cause for the others, or return theirs if it was there before."""
        try:
            if is_lost_contact(error):
                doing = _Now.doing
                note_progress(f"{doing.what}, where contact was lost", step=doing.step)  # which a rank that hangs does not come to
                cause = self._known() or self._settle(self._missing_or_late() or f"the connection failed: {first_line(error)}")
            else:
                cause = self._settle(f"rank {self.rank} ({_Now.doing}): {type(error).__name__}: {first_line(error)}")
            self._wait_until_heard()
        except RuntimeError as gone:
            return f"the ranks' meeting point is gone, so rank 0 or its torchrun has ended ({first_line(gone)})"
        return cause

    # The thread ------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        reached = time.monotonic()
        cause = None
        while cause is None:
            if self._stopped.wait(self.interval_s):
                return
            try:
                self._sign()
                cause = self._known() or self._cause_of_waiting()
                if cause is not None:
                    self._hear()
                reached = time.monotonic()
            except RuntimeError as error:
                if time.monotonic() - reached > self.silence_s:
                    cause = f"the ranks' meeting point is gone, so rank 0 or its torchrun has ended ({first_line(error)})"
        if not cause.startswith(f"rank {self.rank} "):
            logger.error("This rank ends, because the run has failed. The first cause: %s", cause)
        if not self._stopped.wait(self.grace_s):
            logger.error("The training thread has not ended in %.0f s: the process ends now.", self.grace_s)
            self.end(1)

    def _cause_of_waiting(self) -> str | None:
        doing = _Now.doing
        if not doing.waits or time.monotonic() - doing.since < PATIENCE * self.timeout_s:
            return None
        late = self._missing_or_late()
        return self._settle(late or f"all ranks wait for each other at: {doing}") if _Now.doing.count == doing.count else None

    # The store -------------------------------------------------------------------------------------------------

    def _sign(self) -> None:
        self._signs += 1
        doing = _Now.doing
        self.store.set(f"xraygpt/sign/{self.rank}", json.dumps([self._signs, doing.count, str(doing)]))

    def _signs_of_all(self) -> list[tuple[int, int, str]]:
        keys = [f"xraygpt/sign/{rank}" for rank in range(self.world_size)]
        return [tuple(json.loads(value)) for value in self.store.multi_get(keys)]

    def _known(self) -> str | None:
        return self.store.get(_CAUSE).decode() if self.store.check([_CAUSE]) else None

    def _settle(self, cause: str) -> str:
        """Make this the first cause, unless there is one; return the one that holds."""
        return self.store.compare_set(_CAUSE, "", cause).decode()

    def _hear(self) -> None:
        self.store.set(f"xraygpt/heard/{self.rank}", "")

    def _wait_until_heard(self) -> None:
        """The store may end with rank 0, which therefore stays until the others that live know the cause."""
        self._hear()
        end = time.monotonic() + self.silence_s
        everybody = [f"xraygpt/heard/{rank}" for rank in range(self.world_size)]
        while self.rank == 0 and time.monotonic() < end and not self.store.check(everybody):
            time.sleep(self.interval_s / 4)

    def _missing_or_late(self) -> str | None:
        """In words, the ranks that give no sign of life, else those that lag behind; else a cause that came up meanwhile, or None."""
        before = self._signs_of_all()
        end = time.monotonic() + self.silence_s
        while time.monotonic() < end:
            time.sleep(min(self.interval_s, self.silence_s))
            self._sign()
            if known := self._known():
                return known
        now = self._signs_of_all()
        silent = [rank for rank in range(self.world_size) if now[rank][0] == before[rank][0]]
        if silent:
            found = "; ".join(f"rank {rank}, last at: {now[rank][2]}" for rank in silent)
            return f"{found}: no sign of life. Killed (out of memory? the system's log says so), or its machine is gone"
        furthest = max(count for _, count, _ in now)
        late = [rank for rank in range(self.world_size) if now[rank][1] < furthest]
        if not late:
            return None
        others = next(doing for _, count, doing in now if count == furthest)
        return f"{'; '.join(f'rank {rank}, still at: {now[rank][2]}' for rank in late)}: it hangs, while others are at: {others}"


# The one of this process ---------------------------------------------------------------------------------------------


def start_rank_watch(*, timeout_s: float) -> None:
    """Watch the ranks of the process group, which all call this. `timeout_s` is that of its operations."""
    store = dist.distributed_c10d._get_default_store().clone()  # a connection of its own: an answer that is waited for blocks the others
    _Now.watch = RankWatch(store, rank=dist.get_rank(), world_size=dist.get_world_size(), timeout_s=timeout_s)
    _Now.watch.start()


def stop_rank_watch() -> None:
    """Watch no more, if somebody did."""
    if _Now.watch is not None:
        _Now.watch.stop()
        _Now.watch = None


def first_cause(error: BaseException) -> str | None:
    """What failed first, if `error` is what another rank's failure looks like from here; else None, and the other ranks learn of it."""
    if _Now.watch is None:
        return None
    cause = _Now.watch.first_cause(error)
    return cause if is_lost_contact(error) else None
