"""Ranks, devices, and the start of a distributed run (torchrun or SLURM; NCCL on CUDA, gloo on the CPU)."""

import datetime
import functools
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from omegaconf import DictConfig
from torch import Tensor

from xraygpt.common.errors import ConfigError, TrainingError, XrayGPTError
from xraygpt.common.rank_meeting import meet
from xraygpt.common.rank_watch import first_cause, start_rank_watch, stop_rank_watch, waiting_for_ranks

logger = logging.getLogger(__name__)

T = TypeVar("T")


def is_dist_avail_and_initialized() -> bool:
    """Whether this process is one of several ranks."""
    return dist.is_available() and dist.is_initialized()


def get_world_size() -> int:
    """Number of ranks; 1 without distribution."""
    return dist.get_world_size() if is_dist_avail_and_initialized() else 1


def get_rank() -> int:
    """This process's rank; 0 without distribution."""
    return dist.get_rank() if is_dist_avail_and_initialized() else 0


def is_main_process() -> bool:
    """Whether this is rank 0, which alone writes files."""
    return get_rank() == 0


def main_process(function: Callable[..., Any]) -> Callable[..., Any]:
    """Decorator: the function runs on rank 0 and returns None elsewhere."""

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs) if is_main_process() else None

    return wrapper


def barrier() -> None:
    """Wait for all ranks."""
    if is_dist_avail_and_initialized():
        with waiting_for_ranks("waiting for the other ranks"):
            dist.barrier()


def broadcast_object(value: Any) -> Any:
    """Rank 0's value, on every rank."""
    if not is_dist_avail_and_initialized():
        return value
    box = [value]
    with waiting_for_ranks("waiting for rank 0"):
        dist.broadcast_object_list(box, src=0)
    return box[0]


def decided_by_main(decide: Callable[[], T]) -> T:
    """What `decide` returns on rank 0, on every rank; an error that the user can mend is raised on every rank too."""
    outcome: tuple[Any, XrayGPTError | None] = (None, None)
    if is_main_process():
        try:
            outcome = (decide(), None)
        except XrayGPTError as error:
            outcome = (None, error)
    value, problem = broadcast_object(outcome)
    if problem is not None:
        raise problem
    return value


def all_gather_objects(value: Any) -> list[Any]:
    """Every rank's value, in rank order, on every rank."""
    if not is_dist_avail_and_initialized():
        return [value]
    gathered: list[Any] = [None] * get_world_size()
    with waiting_for_ranks("exchanging results"):
        dist.all_gather_object(gathered, value)
    return gathered


def all_reduce_sum(values: list[float], device: torch.device) -> list[float]:
    """Elementwise sum over the ranks, in float64."""
    return sum_over_ranks(torch.tensor(values, dtype=torch.float64), device).tolist()


def sum_over_ranks(values: Tensor, device: torch.device) -> Tensor:
    """The same of a tensor, which stays where it is. On CUDA nothing waits: the sums are there when the device has come to them."""
    if not is_dist_avail_and_initialized():
        return values
    sums = values.to(device, copy=True)
    with waiting_for_ranks("exchanging sums"):
        dist.all_reduce(sums)
        return sums.to(values.device)


def init_distributed_mode(run_cfg: DictConfig) -> None:
    """Join the other ranks if torchrun (RANK, WORLD_SIZE, LOCAL_RANK) or SLURM started several; `distributed: False` wins.

    Raises:
        ConfigError: the environment names a rank without the variables that go with it.
        TrainingError: a rank did not come.
    """
    if not run_cfg.distributed or not started_as_rank(run_cfg.dist_url):
        return
    device = resolve_device(run_cfg.device)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    timeout = datetime.timedelta(minutes=run_cfg.dist_timeout_minutes)
    dist.init_process_group(
        backend="nccl" if device.type == "cuda" else "gloo",
        store=meet(run_cfg.dist_url, rank=rank, world_size=world_size, timeout=timeout),
        rank=rank,
        world_size=world_size,
        timeout=timeout,
        device_id=device if device.type == "cuda" else None,
    )
    dist.barrier()
    start_rank_watch(timeout_s=60 * run_cfg.dist_timeout_minutes)
    logger.info("%d ranks joined over %s.", get_world_size(), dist.get_backend())


@contextmanager
def among_ranks(run_cfg: DictConfig) -> Iterator[None]:
    """Inside the block this process is one of several ranks, if it was started as one; see `init_distributed_mode`.

    Raises:
        TrainingError: another rank has failed; names the first cause.
    """
    init_distributed_mode(run_cfg)
    try:
        yield
    except Exception as error:
        if (cause := first_cause(error)) is not None:
            raise TrainingError(f"rank {get_rank()} lost contact with the others. The first cause: {cause}") from error
        raise
    finally:
        leave_process_group()


def leave_process_group() -> None:
    """Leave the other ranks, if this process is one of several."""
    if dist.is_initialized():
        dist.destroy_process_group()
    stop_rank_watch()  # after that, which may hang when another rank has failed


def started_as_rank(dist_url: str) -> bool:
    """Whether torchrun or SLURM started this process as one of several ranks; SLURM's variables are turned into torchrun's.

    Raises:
        ConfigError: the environment names a rank without the variables that go with it.
    """
    if "RANK" not in os.environ and "SLURM_PROCID" in os.environ and int(os.environ.get("SLURM_NTASKS", "1")) > 1:
        _adopt_slurm_variables()
    if "RANK" not in os.environ:
        return False
    absent = [name for name in ("WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if absent and dist_url == "env://":
        raise ConfigError(
            f"RANK is set but {', '.join(absent)} is not: start with torchrun, which sets all of them, or set run.distributed=False."
        )
    return True


def _adopt_slurm_variables() -> None:
    os.environ["RANK"] = os.environ["SLURM_PROCID"]
    os.environ["WORLD_SIZE"] = os.environ["SLURM_NTASKS"]
    os.environ["LOCAL_RANK"] = os.environ.get("SLURM_LOCALID", "0")
    os.environ.setdefault("MASTER_ADDR", os.environ.get("SLURM_LAUNCH_NODE_IPADDR", "127.0.0.1"))
    os.environ.setdefault("MASTER_PORT", str(20000 + int(os.environ.get("SLURM_JOB_ID", "0")) % 20000))


def resolve_device(name: str) -> torch.device:
    """Turn "auto" into this rank's CUDA device if there is one, else the CPU, and "cuda" into this rank's CUDA device.

    Raises:
        ConfigError: CUDA is asked for by name and not there, or the name is unknown.
    """
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    if name == "auto":
        return torch.device("cuda", local_rank % torch.cuda.device_count()) if torch.cuda.is_available() else torch.device("cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"run.device: {name!r} is not a device. Choices: auto, cpu, cuda, cuda:N, mps.") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"run.device is {name!r}, but torch sees no CUDA device here. Use device: auto, or cpu.")
    return torch.device("cuda", local_rank) if name == "cuda" else device
