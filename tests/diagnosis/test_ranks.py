"""The all-reduce when ranks are late, lost or wrong. Two that work: `tests/cli/test_doctor.py`."""

import json
import time
from datetime import timedelta
from typing import Any

import pytest
import torch
import torch.distributed as dist

from xraygpt.diagnosis import ranks


def of_run(monkeypatch: pytest.MonkeyPatch, rank: int, port: int) -> None:
    for name, value in {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 3, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}.items():
        monkeypatch.setenv(name, str(value))


def test_rank_0_names_those_who_did_not_come(monkeypatch: pytest.MonkeyPatch) -> None:
    of_run(monkeypatch, 0, dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False).port)
    monkeypatch.setattr(ranks, "_GRACE", 0.0)
    (finding,) = ranks.check_ranks("cpu", True, "env://", 0.2)
    assert finding.level == "FAIL"
    assert finding.found.startswith("3 ranks of this start over gloo: rank 0 (")
    assert "of 3 ranks, rank 1, 2 did not come within 0.2 s" in finding.found
    assert "rank 1 (place not known): did not come; rank 2" in finding.found
    assert "NCCL_SOCKET_IFNAME" in finding.advice


def test_another_rank_says_what_it_could_not_do(monkeypatch: pytest.MonkeyPatch) -> None:
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    of_run(monkeypatch, 1, store.port)
    (finding,) = ranks.check_ranks("cpu", True, "env://", 0.2)
    assert (finding.level, finding.what) == ("FAIL", "rank 1")
    assert json.loads(dist.PrefixStore("doctor/0", store).get("done/1"))["error"] == finding.found


def test_a_rank_without_its_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "0")
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with pytest.raises(Exception, match="WORLD_SIZE"):
        list(ranks.check_ranks("cpu", True, "env://", 1.0))


def test_a_single_process_meets_nobody() -> None:
    (finding,) = ranks.check_ranks("cpu", False, "env://", 1.0)
    assert finding.found == "run.distributed is False: a single process trains"


def test_a_wrong_sum_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dist, "init_process_group", lambda **kwargs: None)
    monkeypatch.setattr(dist, "destroy_process_group", lambda: None)
    monkeypatch.setattr(dist, "all_reduce", lambda tensor: tensor.add_(1.0))
    report = ranks.take_part(dist.HashStore(), 0, 1, torch.device("cpu"), 1.0)
    assert report["error"] == "the sum over the ranks is 2 to 2, expected 1"


def test_a_process_that_dies_is_named_with_its_exit_code() -> None:
    store: Any = dist.HashStore()
    store.set("done/0", json.dumps({"where": "here", "seconds": 0.1}))
    reports = ranks._collect(store, 2, time.monotonic() + 60, lambda rank: -9)
    assert reports == {0: {"where": "here", "seconds": 0.1}, 1: {"error": "ended with exit code -9 before it reported"}}


def test_a_rank_that_falls_silent_is_told_from_one_that_never_came() -> None:
    store: Any = dist.HashStore()
    store.set_timeout(timedelta(seconds=1))
    store.set("arrived/0", "here")
    assert ranks._collect(store, 2, time.monotonic()) == {0: {"error": "came, and then fell silent"}, 1: {"error": "did not come"}}
