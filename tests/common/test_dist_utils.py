"""Ranks and devices: what the environment says, and who wins."""

import os
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from xraygpt.common import dist_utils
from xraygpt.common.dist_utils import (
    all_gather_objects,
    all_reduce_sum,
    barrier,
    broadcast_object,
    init_distributed_mode,
    main_process,
    resolve_device,
)
from xraygpt.common.errors import ConfigError

TORCHRUN = {"RANK": "1", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29400"}
SLURM = {"SLURM_PROCID": "3", "SLURM_NTASKS": "8", "SLURM_LOCALID": "1", "SLURM_LAUNCH_NODE_IPADDR": "10.0.0.7", "SLURM_JOB_ID": "123"}
NAMES = {*TORCHRUN, *SLURM}


@pytest.fixture
def joined(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What would have been given to `init_process_group`; the environment names no rank, and comes back afterwards."""
    calls: list[dict[str, Any]] = []
    for name in NAMES:
        monkeypatch.setenv(name, "")  # remembered, so that what the code sets is undone
        monkeypatch.delenv(name)
    monkeypatch.setattr(dist_utils.dist, "init_process_group", lambda **settings: calls.append(settings))
    monkeypatch.setattr(dist_utils, "meet", lambda dist_url, **others: f"the store at {dist_url}")
    monkeypatch.setattr(dist_utils.dist, "barrier", lambda: None)
    monkeypatch.setattr(dist_utils.dist, "get_backend", lambda: "gloo")
    monkeypatch.setattr(dist_utils, "start_rank_watch", lambda *, timeout_s: None)
    return calls


def run_cfg(**values: Any) -> Any:
    """The part of the run section that is read."""
    return SimpleNamespace(**{"distributed": True, "dist_url": "env://", "device": "cpu", "dist_timeout_minutes": 2.0} | values)


def setenv(monkeypatch: pytest.MonkeyPatch, values: dict[str, str]) -> None:
    for name, value in values.items():
        monkeypatch.setenv(name, value)


def test_alone(joined: list[dict[str, Any]]) -> None:
    init_distributed_mode(run_cfg())
    assert joined == []


def test_torchrun(joined: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    setenv(monkeypatch, TORCHRUN)
    init_distributed_mode(run_cfg())
    (call,) = joined
    assert (call["backend"], call["rank"], call["world_size"], call["store"]) == ("gloo", 1, 4, "the store at env://")
    assert call["timeout"].total_seconds() == 120


def test_distributed_false_wins_over_the_environment(joined: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    setenv(monkeypatch, TORCHRUN)
    init_distributed_mode(run_cfg(distributed=False))
    assert joined == []


@pytest.mark.parametrize("absent", ["LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR"])
def test_half_an_environment_is_an_error(absent: str, joined: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    setenv(monkeypatch, {name: value for name, value in TORCHRUN.items() if name != absent})
    with pytest.raises(ConfigError, match=rf"RANK is set but {absent} is not: start with torchrun"):
        init_distributed_mode(run_cfg())
    assert joined == []


def test_slurm(joined: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    setenv(monkeypatch, SLURM)
    init_distributed_mode(run_cfg())
    (call,) = joined
    assert (call["rank"], call["world_size"]) == (3, 8)
    assert (os.environ["LOCAL_RANK"], os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"]) == ("1", "10.0.0.7", "20123")


def test_one_task_of_slurm_is_alone(joined: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    setenv(monkeypatch, SLURM | {"SLURM_NTASKS": "1", "SLURM_PROCID": "0"})
    init_distributed_mode(run_cfg())
    assert joined == []


# Devices ---------------------------------------------------------------------------------------------------------


def test_auto_takes_the_cpu_where_there_is_no_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert resolve_device("auto") == torch.device("cpu")
    with pytest.raises(ConfigError, match="torch sees no CUDA device"):
        resolve_device("cuda")


@pytest.mark.parametrize(
    ("name", "local_rank", "device"),
    [("auto", 0, "cuda:0"), ("auto", 3, "cuda:1"), ("cuda", 1, "cuda:1"), ("cuda:1", 0, "cuda:1"), ("cpu", 1, "cpu")],
)
def test_each_rank_has_its_own_device(name: str, local_rank: int, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("LOCAL_RANK", str(local_rank))
    assert resolve_device(name) == torch.device(device)


def test_an_unknown_device_is_an_error() -> None:
    with pytest.raises(ConfigError, match="'gpu0' is not a device"):
        resolve_device("gpu0")


# Without distribution every helper is the identity ---------------------------------------------------------------


def test_a_single_process() -> None:
    barrier()
    assert broadcast_object("x") == "x"
    assert all_gather_objects("x") == ["x"]
    assert all_reduce_sum([1.0, 2.0], torch.device("cpu")) == [1.0, 2.0]


def test_main_process(monkeypatch: pytest.MonkeyPatch) -> None:
    double = main_process(lambda x: 2 * x)
    assert double(2) == 4
    monkeypatch.setattr(dist_utils, "get_rank", lambda: 1)
    assert double(2) is None
