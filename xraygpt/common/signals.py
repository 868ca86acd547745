"""Being told to stop: SIGTERM and SIGUSR1 (SLURM and other schedulers), Ctrl-C.

The signal only leaves a note. The run reads it when a step is done, agrees with the other ranks, saves, and raises `StoppedEarly`.
"""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from xraygpt.common.large_tensors import keep_freed_memory

EXIT_STOPPED = 75
"""Exit code (EX_TEMPFAIL) of a run that was told to stop and has saved: start it again with --resume auto."""
EXIT_INTERRUPTED = 130
"""Exit code after a second Ctrl-C: at once, without saving."""

_SECONDS_TO_STOP = 60
_STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)


class StoppedEarly(Exception):
    """The run was told to stop, and everything that it needs to go on is saved."""


class _Received:
    """What has come since `stop_on_signals` began: signals are the process's, so there is one of these."""

    stop = False
    interrupts = 0


def stop_requested() -> bool:
    """Whether this process has been told to stop."""
    return _Received.stop


class UntilStopped:
    """A loader whose batches end with `StoppedEarly` once the process has been told to stop."""

    def __init__(self, loader: Any) -> None:
        self.loader = loader

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Any]:
        for batch in self.loader:
            if stop_requested():
                raise StoppedEarly
            yield batch


@contextmanager
def stop_on_signals() -> Iterator[None]:
    """Inside the block a stop signal is noted for `stop_requested`, and a second Ctrl-C ends the process at once.

    Python delivers signals to the main thread alone; in another thread the block changes nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _Received.stop, _Received.interrupts = False, 0
    before = {number: signal.signal(number, _note) for number in _STOP_SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)  # None: set by something that is not Python


def _note(number: int, frame: FrameType | None) -> None:
    _Received.interrupts += number == signal.SIGINT
    if _Received.interrupts > 1:
        _say("Interrupted twice: the run ends at once. What was saved before is whole.")
        os._exit(EXIT_INTERRUPTED)  # files are written whole or not at all, so there is nothing to wait for
    if not _Received.stop:
        again = " Ctrl-C again ends it at once." if number == signal.SIGINT else ""
        _say(f"{signal.Signals(number).name}: the run finishes this step, saves and stops.{again}")
    _Received.stop = True


def _say(text: str) -> None:
    """Straight to stderr: the signal may have come in the middle of a line of the log."""
    os.write(2, f"{text}\n".encode())


def in_loading_process(worker: int) -> None:
    """In a process that loads data (`worker_init_fn`): leave stopping to the run, which needs it to finish the step, and keep freed memory.

    A terminal sends Ctrl-C, and some schedulers every signal, to these processes too. SIGTERM ends them, at the second one or after a
    minute: it is also how the run gets rid of one that hangs.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _end_later)
    keep_freed_memory()


def _end_later(number: int, frame: FrameType | None) -> None:
    signal.signal(number, signal.SIG_DFL)
    signal.alarm(_SECONDS_TO_STOP)  # what SIGALRM does, unless told otherwise, is to end the process
