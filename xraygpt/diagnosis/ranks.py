"""An all-reduce among the ranks that will train: who came, who failed and why, and how long it took.

Under torchrun or SLURM these are the ranks themselves, each of which calls `check_ranks`. Alone, one process is started for each CUDA
device, or two on the CPU. They meet in a key-value store: "arrived/{rank}" holds where a rank is, "done/{rank}" how it ended.
"""

import datetime
import json
import multiprocessing
import os
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlparse

import torch
import torch.distributed as dist

from xraygpt.common.dist_utils import resolve_device, started_as_rank
from xraygpt.common.errors import TrainingError, first_line
from xraygpt.diagnosis.finding import FAIL, OK, Finding, size

_NUMBERS = 1 << 20  # float32 numbers that are summed
_GRACE = 5.0  # seconds in which a rank that has ended reports
_ADVICE = (
    "Every rank must reach rank 0 (host name, firewall, on several networks GLOO_SOCKET_IFNAME or NCCL_SOCKET_IFNAME) and be started with "
    "the same number of ranks. Run again with NCCL_DEBUG=INFO or TORCH_DISTRIBUTED_DEBUG=DETAIL to see which step fails."
)


def check_ranks(device_name: str, distributed: bool, dist_url: str, timeout: float) -> Iterator[Finding]:
    """The all-reduce; on the ranks above 0 there is a finding only of what this rank itself could not do.

    Args:
        device_name: `run.device`.
        distributed: `run.distributed`.
        dist_url: `run.dist_url`.
        timeout: seconds that ranks wait for each other.
    """
    if not distributed:
        yield Finding(OK, "ranks", "run.distributed is False: a single process trains")
        return
    started = time.perf_counter()
    if started_as_rank(dist_url):
        rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        device = resolve_device(device_name)
        store = _store_of_run(rank, dist_url, timeout)
        own = take_part(store, rank, world_size, device, timeout)
        if rank > 0:
            if "error" in own:
                yield Finding(FAIL, f"rank {rank}", own["error"], _ADVICE)
            return
        reports, of = _collect(store, world_size, time.monotonic() + _GRACE), "ranks of this start"
    else:
        device = resolve_device(device_name)
        world_size = torch.cuda.device_count() if device.type == "cuda" else 2
        reports, of = _reports_of_local_processes(world_size, device.type, timeout), "processes of this machine"
    yield _verdict(reports, f"{world_size} {of} over {_backend(device)}", time.perf_counter() - started)


def take_part(store: Any, rank: int, world_size: int, device: torch.device, timeout: float) -> dict[str, Any]:
    """Do this rank's part, and put its report into the store.

    Returns:
        {"where", "seconds"} of one all-reduce, or {"where", "error"}.
    """
    report: dict[str, Any] = {"where": f"{socket.gethostname()} {device}"}
    store.set(f"arrived/{rank}", report["where"])
    try:
        _await_arrivals(store, world_size, timeout)
        report["seconds"] = _all_reduce(store, rank, world_size, device, timeout)
    except (TrainingError, RuntimeError, ValueError, OSError) as error:  # torch.distributed raises the last three
        report["error"] = first_line(error)
    store.set(f"done/{rank}", json.dumps(report))
    return report


def _await_arrivals(store: Any, world_size: int, timeout: float) -> None:
    keys = [f"arrived/{rank}" for rank in range(world_size)]
    try:
        store.wait(keys, datetime.timedelta(seconds=timeout))
    except RuntimeError:
        absent = [str(rank) for rank, key in enumerate(keys) if not store.check([key])]
        raise TrainingError(f"of {world_size} ranks, rank {', '.join(absent)} did not come within {timeout:g} s") from None


def _all_reduce(store: Any, rank: int, world_size: int, device: torch.device, timeout: float) -> float:
    """Seconds of the second of two sums over all ranks; the first connects them."""
    os.environ["TORCH_NCCL_BLOCKING_WAIT"] = "1"  # a rank that waits in vain gets an error, instead of being ended by NCCL's watchdog
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group(
        backend=_backend(device),
        store=dist.PrefixStore("group", store),
        rank=rank,
        world_size=world_size,
        timeout=datetime.timedelta(seconds=timeout),
        device_id=device if device.type == "cuda" else None,
    )
    try:
        expected, seconds = world_size * (world_size + 1) / 2, 0.0
        for _ in range(2):
            numbers = torch.full((_NUMBERS,), rank + 1.0, device=device)
            start = time.perf_counter()
            dist.all_reduce(numbers)
            lowest, highest = numbers.aminmax()  # on a GPU this waits for the sum
            seconds = time.perf_counter() - start
            if lowest != expected or highest != expected:
                raise TrainingError(f"the sum over the ranks is {lowest:g} to {highest:g}, expected {expected:g}")
    finally:
        dist.destroy_process_group()
    return seconds


def _backend(device: torch.device) -> str:
    return "nccl" if device.type == "cuda" else "gloo"


def _store_of_run(rank: int, dist_url: str, timeout: float) -> Any:
    """The store at the address of the run; rank 0 opens it where torchrun has not."""
    address = urlparse(dist_url)
    host = address.hostname or os.environ["MASTER_ADDR"]
    port = address.port or int(os.environ["MASTER_PORT"])
    opened = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True" and not address.hostname
    wait = datetime.timedelta(seconds=timeout)
    store = dist.TCPStore(host, port, is_master=rank == 0 and not opened, timeout=wait, wait_for_workers=False)
    return dist.PrefixStore(f"doctor/{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", store)


def _reports_of_local_processes(world_size: int, device_type: str, timeout: float) -> dict[int, dict[str, Any]]:
    """Start a process for each rank, and let them do it among themselves."""
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])  # torch is imported once, and no process inherits threads or a used GPU
    shared = (world_size, device_type, store.port, timeout)
    processes = [context.Process(target=_local_rank, args=(rank, *shared), daemon=True) for rank in range(world_size)]
    for process in processes:
        process.start()
    try:
        return _collect(store, world_size, time.monotonic() + 3 * timeout, lambda rank: processes[rank].exitcode)
    finally:
        for process in processes:
            process.terminate()
            process.join()


def _local_rank(rank: int, world_size: int, device_type: str, port: int, timeout: float) -> None:
    device = torch.device(device_type, rank) if device_type == "cuda" else torch.device(device_type)
    store = dist.TCPStore("127.0.0.1", port, is_master=False, timeout=datetime.timedelta(seconds=timeout), wait_for_workers=False)
    take_part(store, rank, world_size, device, timeout)


def _collect(
    store: Any, world_size: int, deadline: float, exit_code: Callable[[int], int | None] = lambda rank: None
) -> dict[int, dict[str, Any]]:
    """Each rank's report, waited for until `deadline`; "error" says so where a rank has ended or is silent without one."""
    reports: dict[int, dict[str, Any]] = {}
    for rank in range(world_size):
        while True:
            code = exit_code(rank)  # before the look: a rank reports before it ends
            if store.check([f"done/{rank}"]):
                reports[rank] = json.loads(store.get(f"done/{rank}"))
            elif code is not None:
                reports[rank] = {"error": f"ended with exit code {code} before it reported"}
            elif time.monotonic() > deadline:
                came = store.check([f"arrived/{rank}"])
                reports[rank] = {"error": "came, and then fell silent" if came else "did not come"}
            else:
                time.sleep(0.02)
                continue
            break
    return reports


def _verdict(reports: dict[int, dict[str, Any]], who: str, seconds: float) -> Finding:
    failed = {rank: report for rank, report in reports.items() if "error" in report}
    if failed:
        lines = [f"rank {rank} ({report.get('where', 'place not known')}): {report['error']}" for rank, report in failed.items()]
        return Finding(FAIL, "all-reduce", f"{who}: {'; '.join(lines)}", _ADVICE)
    slowest = max(report["seconds"] for report in reports.values())
    return Finding(OK, "all-reduce", f"{who}: {size(4 * _NUMBERS)} summed in {slowest:.3f} s; {seconds:.1f} s with start and meeting")
