"""The machine as torch sees it: its CUDA and driver, its devices, the memory of the host."""

import os
import platform
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import torch

from xraygpt.common.dist_utils import resolve_device
from xraygpt.common.errors import ConfigError
from xraygpt.diagnosis.finding import FAIL, OK, WARN, Finding, size

_BUSY_SHARE = 0.1
"""A device of which more than this is in use has another tenant."""
_CGROUPS = Path("/sys/fs/cgroup")


def check_torch() -> Iterator[Finding]:
    """The build of torch, and whether it can use the driver that is there."""
    driver = _driver_version()
    built_for = (
        f"CUDA {torch.version.cuda}" if torch.version.cuda else f"ROCm {torch.version.hip}" if torch.version.hip else "the CPU alone"
    )
    found = f"{torch.__version__}, built for {built_for}; NVIDIA driver {driver or 'none'}"
    if driver and not torch.version.cuda:
        yield Finding(WARN, "torch", found, "This build cannot use the GPU. Install one for CUDA (pytorch.org/get-started).")
    elif driver and not torch.cuda.is_available():
        advice = "torch cannot use the driver: update the driver, install a torch for an older CUDA, or look at CUDA_VISIBLE_DEVICES."
        yield Finding(WARN, "torch", found, advice)
    else:
        yield Finding(OK, "torch", found)


def check_devices(name: str) -> Iterator[Finding]:
    """Each CUDA device, or the CPU.

    Args:
        name: `run.device`.
    """
    try:
        device = resolve_device(name)
    except ConfigError as error:
        yield Finding(FAIL, "device", str(error))
        return
    if device.type != "cuda":
        threads = f"{torch.get_num_threads()} threads of {os.cpu_count()} cores"
        yield Finding(OK, f"device {device}", f"{platform.machine()}, {threads}; trains in float32")
        return
    for index in range(torch.cuda.device_count()):
        yield _cuda_device(index)


def _cuda_device(index: int) -> Finding:
    free, total = torch.cuda.mem_get_info(index)
    properties = torch.cuda.get_device_properties(index)
    with torch.cuda.device(index):
        usable, native = torch.cuda.is_bf16_supported(), torch.cuda.is_bf16_supported(including_emulation=False)
    bf16 = "bf16" if native else "bf16 emulated" if usable else "no bf16"
    found = f"{properties.name}, {size(total)} ({size(free)} free), compute {properties.major}.{properties.minor}, {bf16}"
    if total - free > _BUSY_SHARE * total:
        return Finding(
            WARN, f"device cuda:{index}", found, f"Something else uses {size(total - free)}: see nvidia-smi, or choose another device."
        )
    if not native:
        mode = "in emulated bf16, slowly" if usable else "in fp16 with a loss scaler"
        return Finding(WARN, f"device cuda:{index}", found, f"Mixed precision runs {mode} here; run.amp=False trains in float32.")
    return Finding(OK, f"device cuda:{index}", found)


def _driver_version() -> str | None:
    """What nvidia-smi says; None where there is none, or it does not answer."""
    if shutil.which("nvidia-smi") is None:
        return None
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    return next(iter(answer.split()), None)


def check_memory() -> Iterator[Finding]:
    """How much memory of the host, and disk of the working directory, is free."""
    memory, disk = available_memory(), shutil.disk_usage(Path.cwd()).free
    found = f"{size(memory)} free" if memory is not None else "this system does not say how much is free"
    yield Finding(OK, "memory", f"{found}; disk of the working directory: {size(disk)} free")


def available_memory() -> int | None:
    """Bytes of host memory that this process may still take: what the system has, within the limit of its control group.

    None where the system does not say (it is read from /proc, so on Linux alone).
    """
    try:
        match = re.search(r"^MemAvailable:\s+(\d+) kB$", Path("/proc/meminfo").read_text(), flags=re.MULTILINE)
    except OSError:
        return None
    if match is None:
        return None
    return min([int(match[1]) * 1024, *_group_limits()])


def _group_limits() -> Iterator[int]:
    """`memory.max` of this process's control group and of those above it, where they are set (containers, SLURM)."""
    own = re.search(r"^0::/(.*)$", Path("/proc/self/cgroup").read_text(), flags=re.MULTILINE)
    group = _CGROUPS / (own[1] if own else "")
    for folder in (group, *group.parents):
        limit = folder / "memory.max"
        if limit.is_file() and (value := limit.read_text().strip()).isdigit():
            yield int(value)
