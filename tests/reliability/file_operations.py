"""Watches the operations of `xraygpt.common.files.disk`, through which a run writes everything, and lets one of them go wrong."""

import errno
import json
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from xraygpt.common.files import disk

OPERATIONS = ("open", "write", "fsync", "rename", "link")

FAULTS = {
    "SIGKILL": OPERATIONS,
    "SIGINT": OPERATIONS,
    "ENOSPC": OPERATIONS,
    "EIO": OPERATIONS,
    "short": ("write",),  # takes half of the bytes, and says so
    "lying": ("write",),  # takes half of the bytes, and says that it took all
}
"""What can go wrong, and in which operations. EIO in fsync is the failing fsync, in rename the rename that fails."""


class Operations:
    """Counts operations; what it does to the `at`-th one (from 1) is `fault`.

    Args:
        record: a file that gets a line of JSON for each operation: [number, operation, name of the file]. Not written through `disk`.
        at: 0: nothing goes wrong.
        times: this many operations in a row fail from `at` on, as on a disk that is full for a while.
        only: count the operations on files whose name contains this.
    """

    def __init__(self, record: str | Path | None = None, *, at: int = 0, fault: str = "SIGKILL", times: int = 1, only: str = "") -> None:
        self.at, self.fault, self.times, self.only = at, fault, times, only
        self.seen: list[tuple[str, str]] = []
        self.injected = 0
        self._real = {name: getattr(disk, name) for name in OPERATIONS}
        self._record = None if record is None else os.open(record, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self._lock = threading.Lock()

    def install(self) -> None:
        """Step between the package and its disk, in this process."""
        for operation in OPERATIONS:
            setattr(disk, operation, getattr(self, operation))

    def remove(self) -> None:
        """Leave the package's disk as it was."""
        for operation in OPERATIONS:
            delattr(disk, operation)
        if self._record is not None:
            os.close(self._record)

    # The operations of Disk ------------------------------------------------------------------------------------

    def open(self, path: Path, mode: str) -> IO[bytes]:
        """As Disk's."""
        self._pass("open", Path(path).name)
        return self._real["open"](path, mode)

    def write(self, handle: IO[bytes], data: bytes | memoryview) -> int:
        """As Disk's; when it goes wrong, half of the data are in the file."""
        if not self._is_next("write", Path(handle.name).name):
            return self._real["write"](handle, data)
        whole = memoryview(data).cast("B")
        half = (len(whole) + (self.fault == "short")) // 2  # of one byte: all, and nothing if a byte shall be missing
        taken = self._real["write"](handle, whole[:half])
        if self.fault == "short":
            return taken
        if self.fault == "lying":
            return len(whole)
        self._fail("write")
        return taken + self._real["write"](handle, whole[half:])

    def fsync(self, descriptor: int) -> None:
        """As Disk's."""
        self._pass("fsync", Path(os.readlink(f"/proc/self/fd/{descriptor}")).name)
        self._real["fsync"](descriptor)

    def rename(self, source: Path, target: Path) -> None:
        """As Disk's."""
        self._pass("rename", Path(target).name)
        self._real["rename"](source, target)

    def link(self, source: Path, target: Path) -> None:
        """As Disk's."""
        self._pass("link", Path(target).name)
        self._real["link"](source, target)

    # -----------------------------------------------------------------------------------------------------------

    def _pass(self, operation: str, name: str) -> None:
        if self._is_next(operation, name):
            self._fail(operation)

    def _is_next(self, operation: str, name: str) -> bool:
        """Count an operation; whether it is one that shall go wrong."""
        if self.only not in name:
            return False
        with self._lock:
            self.seen.append((operation, name))
            number = len(self.seen)
            if self._record is not None:
                os.write(self._record, (json.dumps([number, operation, name]) + "\n").encode())
            goes_wrong = 0 < self.at <= number < self.at + self.times and operation in FAULTS[self.fault]
            self.injected += goes_wrong
            return goes_wrong

    def _fail(self, operation: str) -> None:
        if self.fault.startswith("SIG"):
            os.kill(os.getpid(), signal.Signals[self.fault])
            return
        raise OSError(getattr(errno, self.fault), f"injected into {operation}")


def install(hook: dict[str, Any] | None) -> None:
    """Watch this process from now on; `hook`: the arguments of Operations. None: do not."""
    if hook is not None:
        Operations(**hook).install()


@contextmanager
def watched(**hook: Any) -> Iterator[Operations]:
    """Watch this process inside the block."""
    operations = Operations(**hook)
    operations.install()
    try:
        yield operations
    finally:
        operations.remove()
