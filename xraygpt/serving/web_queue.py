"""Who uses the model next: the page's answers and heat maps, in the order in which they came, and how they end when the server stops."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from xraygpt.common.errors import XrayGPTError

MAX_WAITING = 16
"""Answers and heat maps that wait for the model; who comes then is told that it is busy."""

MAX_PLACES_OF_OWNER = 8
"""Of these, so that no login takes all."""

STOP_SECONDS = 60.0
"""For what has the model when the server is told to stop; it then ends where it is."""

_LAST_SECONDS = 5.0  # after that, for what cannot be ended at once: a beam search, a heat map
_DELIVERY_SECONDS = 1.0  # for the last words to reach the browser


class BusyError(XrayGPTError):
    """The model is not to be had."""


class Place:
    """A place in the queue; `PageQueue.place` gives it."""

    def __init__(self, queue: "PageQueue", owner: str = "") -> None:
        self.queue = queue
        self.owner = owner
        self.has_model = False

    @property
    def num_before(self) -> int:
        """How many of the page's answers and heat maps come first."""
        return self.queue.places.index(self)

    def take(self, seconds: float) -> bool:
        """Wait for the model as long as this at most; returns whether it is had. It is given back with the place.

        Raises:
            BusyError: the server stops.
        """
        if self.queue.is_stopping:
            raise BusyError("The server is stopping. Ask again when it is back.")
        if self.num_before:
            time.sleep(seconds)
            return False
        self.has_model = self.queue.lock.acquire(timeout=seconds)
        return self.has_model


class PageQueue:
    """The queue before the model.

    Args:
        lock: held while the model works; give the one of what else uses the model in this process.
        max_waiting: besides the one that has the model.
        stop_seconds: see `STOP_SECONDS`.
    """

    def __init__(self, lock: "threading.Lock | None" = None, *, max_waiting: int = MAX_WAITING, stop_seconds: float = STOP_SECONDS) -> None:
        self.lock = lock or threading.Lock()
        self.max_waiting = max_waiting
        self.stop_seconds = stop_seconds
        self.places: list[Place] = []
        self._guard = threading.Lock()
        self._end: float | None = None

    @contextmanager
    def place(self, owner: str = "", *, at_once: bool = False) -> Iterator[Place]:
        """A place, first come, first served, until the block is left.

        Args:
            owner: whose it is; nobody has more than `MAX_PLACES_OF_OWNER`. "": not counted.
            at_once: only if nobody is before.

        Raises:
            BusyError: there is none, or the server stops.
        """
        place = Place(self, owner)
        with self._guard:
            if owner and sum(other.owner == owner for other in self.places) >= MAX_PLACES_OF_OWNER:
                raise BusyError("You are waiting for several answers already. Ask again when one is there.")
            if self.is_stopping:
                raise BusyError("The server is stopping. Ask again when it is back.")
            if len(self.places) > (0 if at_once else self.max_waiting):
                raise BusyError(f"The model is busy: {len(self.places)} answers are asked for already. Try again in a minute.")
            self.places.append(place)
        try:
            yield place
        finally:
            with self._guard:
                self.places.remove(place)
            if place.has_model:
                self.lock.release()

    @property
    def is_stopping(self) -> bool:
        """Whether `stop` was called."""
        return self._end is not None

    @property
    def must_end(self) -> bool:
        """Whether what has the model must end where it is."""
        return self._end is not None and time.monotonic() > self._end

    @property
    def is_done(self) -> bool:
        """After `stop`: whether nothing is left to wait for."""
        return not self.places or (self._end is not None and time.monotonic() > self._end + _LAST_SECONDS)

    def stop(self) -> None:
        """From now on, refuse who comes and who waits; what has the model may finish, within `stop_seconds`."""
        if self._end is None:
            self._end = time.monotonic() + self.stop_seconds

    def finish(self) -> None:
        """Stop, and return when all is written and sent."""
        was_busy = bool(self.places)
        self.stop()
        while not self.is_done:
            time.sleep(0.05)
        if was_busy:
            time.sleep(_DELIVERY_SECONDS)
