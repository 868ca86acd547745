"""The memory that bodies of requests may take while they arrive."""

import asyncio
from types import TracebackType


class BodyMemory:
    """Room for `num_bodies` bodies of `max_body_bytes`, which no sender can hold without sending.

    A place for each body would be held by whoever sends slowly. Here a body counts for the bytes
    that have come of it, in the first half of the room. Once that is used up, the bodies go on in
    order, a few at a time, in the other half: there each of them has room for its full size, so
    that they never wait for each other.

    Args:
        num_bodies: of full size that there is room for.
        max_body_bytes: the full size. The caller reads no more of one body.
    """

    def __init__(self, *, num_bodies: int, max_body_bytes: int) -> None:
        num_reserved = max(1, num_bodies // 2)
        self.free = (num_bodies - num_reserved) * max_body_bytes
        self.reserved = asyncio.Semaphore(num_reserved)

    def share(self) -> "BodyShare":
        """The share of one body, empty; to be used in a `with` block, which gives it back."""
        return BodyShare(self)


class BodyShare:
    """What one body holds of the room."""

    def __init__(self, memory: BodyMemory) -> None:
        self._memory = memory
        self._num_bytes = 0
        self._is_reserved = False

    async def grow(self, num_bytes: int) -> None:
        """Take room for more bytes; wait until there is some."""
        if self._is_reserved:
            return
        if num_bytes <= self._memory.free:
            self._memory.free -= num_bytes
            self._num_bytes += num_bytes
        else:
            await self._memory.reserved.acquire()
            self._is_reserved = True

    def __enter__(self) -> "BodyShare":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self._memory.free += self._num_bytes
        self._num_bytes = 0
        if self._is_reserved:
            self._memory.reserved.release()
            self._is_reserved = False
