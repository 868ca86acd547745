"""Signs of life and first causes, with a store that is a dictionary; real ranks fail in tests/reliability/test_failing_ranks.py."""

import threading
from collections.abc import Iterator
from typing import Any

import pytest

from xraygpt.common import rank_watch
from xraygpt.common.rank_watch import RankWatch, first_cause, is_lost_contact, note_progress, waiting_for_ranks


class Store:
    """What a process group's store does."""

    def __init__(self) -> None:
        self.values: dict[str, bytes] = {}
        self.gone = False

    def set_timeout(self, timeout: Any) -> None:
        """Its answers come at once."""

    def _reach(self) -> None:
        if self.gone:
            raise RuntimeError("Connection reset by peer")

    def set(self, key: str, value: str) -> None:
        self._reach()
        self.values[key] = value.encode()

    def get(self, key: str) -> bytes:
        return self.values[key]

    def multi_get(self, keys: list[str]) -> list[bytes]:
        return [self.values[key] for key in keys]

    def check(self, keys: list[str]) -> bool:
        self._reach()
        return all(key in self.values for key in keys)

    def compare_set(self, key: str, expected: str, desired: str) -> bytes:
        self._reach()
        return self.values.setdefault(key, desired.encode())


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Short pauses, and a process that has done nothing yet."""
    for name, value in {"INTERVAL_S": 0.01, "SILENCE_S": 0.2, "GRACE_S": 0.05}.items():
        monkeypatch.setattr(rank_watch, name, value)
    monkeypatch.setattr(rank_watch._Now, "doing", rank_watch._Doing())
    yield


def make_watch(store: Store, rank: int, *, timeout_s: float = 60.0, end: Any = None) -> RankWatch:
    return RankWatch(store, rank=rank, world_size=2, timeout_s=timeout_s, end=end or (lambda code: None))


LOST = RuntimeError("[gloo/transport/tcp/pair.cc:553] Connection closed by peer [127.0.0.1]:4711")


def sign_of(store: Store, rank: int, *, signs: int, count: int, doing: str) -> None:
    store.set(f"xraygpt/sign/{rank}", f'[{signs}, {count}, "{doing}"]')


def test_the_first_failure_stays_the_cause() -> None:
    store = Store()
    note_progress("computing", step=7)
    first = make_watch(store, 1).first_cause(ZeroDivisionError("by zero\nand more"))
    assert first == "rank 1 (step 7, computing): ZeroDivisionError: by zero"
    assert make_watch(store, 0).first_cause(LOST) == first
    assert make_watch(store, 0).first_cause(ValueError("later")) == first


def test_rank_0_stays_until_the_others_know() -> None:
    store, ended = Store(), []
    other = make_watch(store, 1, end=ended.append)
    other.start()
    make_watch(store, 0).first_cause(ValueError("x"))
    assert "xraygpt/heard/1" in store.values
    other._thread.join(timeout=10)
    assert ended == [1]


def test_a_rank_without_signs_of_life_is_named() -> None:
    store = Store()
    sign_of(store, 1, signs=5, count=3, doing="step 7, waiting for data")
    watch = make_watch(store, 0)
    watch._sign()
    assert watch.first_cause(LOST).startswith("rank 1, last at: step 7, waiting for data: no sign of life.")


def test_a_rank_that_lags_is_named() -> None:
    store, stop = Store(), threading.Event()

    def live() -> None:
        number = 0
        while not stop.wait(0.005):
            number += 1
            sign_of(store, 1, signs=number, count=0, doing="step 7, waiting for data")

    other = threading.Thread(target=live)
    sign_of(store, 1, signs=0, count=0, doing="step 7, waiting for data")
    other.start()
    note_progress("exchanging gradients", step=7, waits=True)
    try:
        watch = make_watch(store, 0)
        watch._sign()
        cause = watch.first_cause(LOST)
    finally:
        stop.set()
        other.join()
    assert cause == (
        "rank 1, still at: step 7, waiting for data: it hangs, while others are at: step 7, exchanging gradients, where contact was lost"
    )


def test_a_wait_of_nearly_the_timeout_is_a_failure() -> None:
    """NCCL ends the process at the timeout, without a word of ours."""
    store = Store()
    sign_of(store, 1, signs=5, count=0, doing="step 7, waiting for data")
    ended: list[int] = []
    watch = make_watch(store, 0, timeout_s=0.05, end=ended.append)
    note_progress("exchanging gradients", step=7, waits=True)
    watch.start()
    watch._thread.join(timeout=10)
    assert ended == [1]
    assert store.get("xraygpt/first_cause").startswith(b"rank 1, last at: step 7, waiting for data")


def test_a_rank_that_hangs_is_ended_when_another_has_failed(caplog: pytest.LogCaptureFixture) -> None:
    store, ended = Store(), []
    store.set("xraygpt/first_cause", "rank 0 (step 3, computing): ValueError: x")
    watch = make_watch(store, 1, end=ended.append)
    watch.start()
    watch._thread.join(timeout=10)
    assert ended == [1]
    assert "The first cause: rank 0 (step 3, computing): ValueError: x" in caplog.text


def test_a_store_that_stays_away_is_a_cause(caplog: pytest.LogCaptureFixture) -> None:
    store, ended = Store(), []
    watch = make_watch(store, 1, end=ended.append)
    watch.start()
    store.gone = True
    watch._thread.join(timeout=10)
    assert ended == [1]
    assert "meeting point is gone" in caplog.text and "meeting point is gone" in watch.first_cause(LOST)


def test_a_rank_that_is_done_gives_no_more_signs() -> None:
    store, ended = Store(), []
    watch = make_watch(store, 0, end=ended.append)
    watch.start()
    watch.stop()
    assert not watch._thread.is_alive() and not ended


def test_waiting_counts_as_progress_and_names_what_failed() -> None:
    note_progress("computing", step=2)
    with waiting_for_ranks("exchanging sums"):
        assert (str(rank_watch._Now.doing), rank_watch._Now.doing.waits) == ("step 2, exchanging sums", True)
    assert (str(rank_watch._Now.doing), rank_watch._Now.doing.waits) == ("step 2, computing", False)
    with pytest.raises(RuntimeError), waiting_for_ranks("exchanging sums"):
        raise LOST
    assert str(rank_watch._Now.doing) == "step 2, exchanging sums"


def test_a_single_process_has_no_other_cause() -> None:
    assert first_cause(LOST) is None


@pytest.mark.parametrize(
    ("error", "lost"),
    [
        (LOST, True),
        (RuntimeError("NCCL error: unhandled system error"), True),
        (RuntimeError("shape mismatch"), False),
        (ValueError("gloo"), False),
    ],
)
def test_what_looks_like_lost_contact(error: Exception, lost: bool) -> None:
    assert is_lost_contact(error) is lost
