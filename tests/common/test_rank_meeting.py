"""Ranks that are started again beside an old store find each other, and nothing that was left there."""

import datetime
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch.distributed as dist

from xraygpt.common.errors import TrainingError
from xraygpt.common.rank_meeting import fresh

SOON = datetime.timedelta(seconds=20)


def life(store: Any, ranks: list[int], world_size: int = 3) -> list[Any]:
    """What each rank gets, all starting at the same time, in the given order."""
    with ThreadPoolExecutor(len(ranks)) as threads:
        found = [threads.submit(fresh, store, rank=rank, world_size=world_size, timeout=SOON) for rank in ranks]
        return [each.result() for each in found]


@pytest.mark.parametrize("order", [[0, 1, 2], [2, 1, 0]])
def test_each_life_is_apart(order: list[int]) -> None:
    store = dist.HashStore()
    first = life(store, [0, 1, 2])
    first[0].set("address of rank 0", "old")
    assert [each.get("address of rank 0") for each in first] == [b"old"] * 3
    second = life(store, order)
    assert not any(each.check(["address of rank 0"]) for each in second)
    second[0].set("address of rank 0", "new")
    assert [each.get("address of rank 0") for each in second] == [b"new"] * 3


def test_a_rank_that_was_killed_while_it_waited_leaves_a_hello() -> None:
    store = dist.HashStore()
    store.set("xraygpt/hello/1", "a rank that is no more")
    one, other = life(store, [0, 1], world_size=2)
    one.set("here", "1")
    assert other.get("here") == b"1"


def test_a_rank_that_does_not_come_is_named() -> None:
    with pytest.raises(TrainingError, match=r"The ranks 1, 2 of 3 did not come.*dist_timeout_minutes"):
        fresh(dist.HashStore(), rank=0, world_size=3, timeout=datetime.timedelta(seconds=0.1))


def test_alone() -> None:
    assert fresh(dist.HashStore(), rank=0, world_size=1, timeout=SOON).check(["anything"]) is False
