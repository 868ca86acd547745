"""A run that is told to stop."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from xraygpt.common.signals import StoppedEarly, UntilStopped, in_loading_process, stop_on_signals, stop_requested

STOPS = [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT]


@pytest.mark.parametrize("number", STOPS)
def test_a_signal_leaves_a_note(number: signal.Signals, capfd: pytest.CaptureFixture[str]) -> None:
    before = signal.getsignal(number)
    with stop_on_signals():
        assert not stop_requested()
        os.kill(os.getpid(), number)
        assert stop_requested()
        if number != signal.SIGINT:
            os.kill(os.getpid(), number)  # a scheduler may say it twice
    assert signal.getsignal(number) is before
    assert capfd.readouterr().err.count(f"{number.name}: the run finishes this step, saves and stops.") == 1
    with stop_on_signals():
        assert not stop_requested()


def test_a_second_interrupt_ends_at_once(repo_root: Path) -> None:
    code = """
import os, signal
from xraygpt.common.signals import stop_on_signals
with stop_on_signals():
    os.kill(os.getpid(), signal.SIGTERM)
    os.kill(os.getpid(), signal.SIGINT)
    print("still here", flush=True)
    os.kill(os.getpid(), signal.SIGINT)
    print("not here")
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=repo_root, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (130, "still here\n")
    assert "ends at once" in done.stderr


def test_another_thread_changes_nothing() -> None:
    before = [signal.getsignal(number) for number in STOPS]
    seen: list[object] = []

    def inside() -> None:
        with stop_on_signals():
            seen.extend(signal.getsignal(number) for number in STOPS)

    thread = threading.Thread(target=inside)
    thread.start()
    thread.join()
    assert seen == before


def test_an_evaluation_ends_at_the_next_batch(capfd: pytest.CaptureFixture[str]) -> None:
    loader = UntilStopped([1, 2, 3])
    assert (len(loader), list(loader)) == (3, [1, 2, 3])
    with stop_on_signals():
        batches = iter(loader)
        assert next(batches) == 1
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(StoppedEarly):
            next(batches)


def test_loading_processes_leave_stopping_to_the_run() -> None:
    before = {number: signal.getsignal(number) for number in STOPS}
    try:
        in_loading_process(0)
        for number in STOPS:
            os.kill(os.getpid(), number)
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL  # the second one ends a process that hangs
        assert 0 < signal.alarm(0) <= 60  # and so does time
    finally:
        signal.alarm(0)
        for number, handler in before.items():
            signal.signal(number, handler)
