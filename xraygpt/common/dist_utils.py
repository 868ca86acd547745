"""Ranks, devices, and the start of a distributed run (torchrun or SLURM; NCCL on CUDA, gloo on the CPU)."""

import datetime
import functools
import logging
import os
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from omegaconf import DictConfig

from xraygpt.common.errors import ConfigError

logger = logging.getLogger(__name__)


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
        dist.barrier()


def broadcast_object(value: Any) -> Any:
    """Rank 0's value, on every rank."""
    if not is_dist_avail_and_initialized():
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def all_gather_objects(value: Any) -> list[Any]:
    """Every rank's value, in rank order, on every rank."""
    if not is_dist_avail_and_initialized():
        return [value]
    gathered: list[Any] = [None] * get_world_size()
    dist.all_gather_object(gathered, value)
    return gathered


def all_reduce_sum(values: list[float], device: torch.device) -> list[float]:
    """Elementwise sum over the ranks, in float64."""
    if not is_dist_avail_and_initialized():
        return values
    tensor = torch.tensor(values, dtype=torch.float64, device=device)
    dist.all_reduce(tensor)
    return tensor.tolist()


def init_distributed_mode(run_cfg: DictConfig) -> None:
    """Join the other ranks if torchrun (RANK, WORLD_SIZE, LOCAL_RANK) or SLURM started several; `distributed: False` wins.

    Raises:
        ConfigError: the environment names a rank without the variables that go with it.
    """
    if not run_cfg.distributed:
        return
    if "RANK" not in os.environ and "SLURM_PROCID" in os.environ and int(os.environ.get("SLURM_NTASKS", "1")) > 1:
        _adopt_slurm_variables()
    if "RANK" not in os.environ:
        return
    absent = [name for name in ("WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if absent and run_cfg.dist_url == "env://":
        raise ConfigError(
            f"RANK is set but {', '.join(absent)} is not: start with torchrun, which sets all of them, or set run.distributed=False."
        )
    device = resolve_device(run_cfg.device)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group(
        backend="nccl" if device.type == "cuda" else "gloo",
        init_method=run_cfg.dist_url,
        rank=int(os.environ["RANK"]),
        world_size=int(os.environ["WORLD_SIZE"]),
        timeout=datetime.timedelta(minutes=run_cfg.dist_timeout_minutes),
        device_id=device if device.type == "cuda" else None,
    )
    dist.barrier()
    logger.info("%d ranks joined over %s.", get_world_size(), dist.get_backend())


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
