"""What a run says: console lines in the family's format, and log.txt with one JSON object a line."""

import datetime
import json
import logging
import sys
import time
from collections import defaultdict, deque
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from statistics import median
from typing import Any

import torch
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from xraygpt.common.dist_utils import all_reduce_sum, get_rank, is_main_process
from xraygpt.common.files import disk, write_text
from xraygpt.common.printable import LOG_FORMAT, set_up_logging

logger = logging.getLogger(__name__)


def setup_logger() -> None:
    """Log to stderr: INFO on rank 0, warnings on the others, marked with their rank."""
    rank = get_rank()
    set_up_logging(
        LOG_FORMAT if rank == 0 else LOG_FORMAT.replace("%(message)s", f"rank {rank}: %(message)s"),
        level=logging.INFO if rank == 0 else logging.WARNING,
    )


class SmoothedValue:
    """A series of numbers: the last `window_size` of them, and the average over all."""

    def __init__(self, window_size: int = 20, fmt: str = "{median:.4f} ({global_avg:.4f})") -> None:
        self.window: deque[float] = deque(maxlen=window_size)
        self.fmt = fmt
        self.total, self.count = 0.0, 0

    def update(self, value: float, n: int = 1) -> None:
        """Add a value that stands for n."""
        self.window.append(value)
        self.total += value * n
        self.count += n

    @property
    def global_avg(self) -> float:
        """Average over every value, or 0 before the first."""
        return self.total / self.count if self.count else 0.0

    @property
    def value(self) -> float:
        """The latest value."""
        return self.window[-1]

    def synchronize_between_processes(self, device: torch.device) -> None:
        """Make total and count those of all ranks."""
        self.total, count = all_reduce_sum([self.total, float(self.count)], device)
        self.count = int(count)

    def __str__(self) -> str:
        return self.fmt.format(median=median(self.window), global_avg=self.global_avg, value=self.value) if self.window else "-"


class MetricLogger:
    """Meters of an epoch, printed every `log_freq` iterations and at the last one.

    Train: data epoch: [0]  [  50/5000]  eta: 1:23:45  lr: 0.000010  loss: 3.1234  time: 1.2345  data: 0.0012
    """

    def __init__(self, delimiter: str = "  ", *, progress_bar: bool = False) -> None:
        self.meters: dict[str, SmoothedValue] = defaultdict(SmoothedValue)
        self.delimiter = delimiter
        self.progress_bar = progress_bar and is_main_process() and sys.stderr.isatty()
        self.iter_time, self.data_time = SmoothedValue(fmt="{value:.4f}"), SmoothedValue(fmt="{value:.4f}")

    def add_meter(self, name: str, meter: SmoothedValue) -> None:
        """Use `meter` for `name`."""
        self.meters[name] = meter

    def update(self, **values: float) -> None:
        """Add a value to each named meter."""
        for name, value in values.items():
            self.meters[name].update(value)

    @contextmanager
    def data_wait(self) -> Iterator[None]:
        """Time the block as waiting for data."""
        start = time.perf_counter()
        yield
        self.data_time.update(time.perf_counter() - start)

    def log_every(self, iterations: range, log_freq: int, header: str) -> Iterator[int]:
        """Yield each iteration number of `iterations`, whose `stop` is the epoch's length, and print the meters in between."""
        total, width = iterations.stop, len(str(iterations.stop))
        start = time.perf_counter()
        bar = tqdm(iterations, desc=header, initial=iterations.start, total=total, leave=False, disable=not self.progress_bar)
        with logging_redirect_tqdm():
            end = time.perf_counter()
            for i in bar:
                yield i
                self.iter_time.update(time.perf_counter() - end)
                end = time.perf_counter()
                if is_log_step(i, log_freq, total):
                    eta = datetime.timedelta(seconds=int(self.iter_time.global_avg * (total - i - 1)))
                    fields = [
                        f"[{i:>{width}}/{total}]",
                        f"eta: {eta}",
                        *self._fields(),
                        f"time: {self.iter_time}",
                        f"data: {self.data_time}",
                    ]
                    logger.info(self.delimiter.join([header, *fields, *_memory()]))
        seconds = time.perf_counter() - start
        each = seconds / max(len(iterations), 1)
        spent = datetime.timedelta(seconds=int(seconds))
        logger.info("%s Total time: %s (%.4f s / it)", header, spent, each)

    def _fields(self) -> list[str]:
        return [f"{name}: {meter}" for name, meter in self.meters.items()]

    def synchronize_between_processes(self, device: torch.device) -> None:
        """Make the averages those of all ranks."""
        for meter in self.meters.values():
            meter.synchronize_between_processes(device)

    def averages(self) -> dict[str, float]:
        """Full-precision average of each meter."""
        return {name: meter.global_avg for name, meter in self.meters.items()}

    def state_dict(self) -> dict[str, list[float]]:
        """Totals and counts, so that a resumed epoch's averages are those of the whole epoch."""
        return {name: [meter.total, meter.count] for name, meter in self.meters.items()}

    def load_state_dict(self, state: dict[str, list[float]]) -> None:
        """Continue from the totals of `state_dict`."""
        for name, (total, count) in state.items():
            self.meters[name].total, self.meters[name].count = total, int(count)


def is_log_step(i: int, log_freq: int, total: int) -> bool:
    """Whether iteration i of an epoch of `total` is one that is logged."""
    return i % log_freq == 0 or i == total - 1


def max_memory_mib() -> float | None:
    """Peak CUDA memory of this process in MiB; None without CUDA."""
    return torch.cuda.max_memory_allocated() / 2**20 if torch.cuda.is_available() else None


def _memory() -> list[str]:
    memory = max_memory_mib()
    return [] if memory is None else [f"max mem: {memory:.0f}"]


class RunLog:
    """log.txt: one JSON object a line, written by rank 0. Lines of the training loop carry "step", the global iteration.

    A line that cannot be written (disk full, folder gone) is an error in the console; it is kept, and written with the next one.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._unwritten: list[str] = []

    def write(self, record: dict[str, Any]) -> None:
        """Append one line."""
        if not is_main_process():
            return
        self._unwritten.append(json.dumps(record) + "\n")
        try:
            self._append("".join(self._unwritten).encode())
            self._unwritten.clear()
        except OSError as error:
            logger.error("%s: %d lines wait to be written: %s. The run goes on.", self.path, len(self._unwritten), error)

    def _append(self, data: bytes) -> None:
        """Write all of `data`, or, as far as the disk allows, nothing of it."""
        with disk.open(self.path, "ab") as handle:
            start, rest = handle.tell(), memoryview(data)
            try:
                while rest:
                    rest = rest[disk.write(handle, rest) :]
            except OSError:
                handle.truncate(start)
                raise

    def clear(self) -> None:
        """Begin anew."""
        self.path.unlink(missing_ok=True)

    def read(self) -> list[dict[str, Any]]:
        """Every record; a last line that a crash cut short is left out, and so is (said in the console) any other that is damaged."""
        if not self.path.exists():
            return []
        *complete, _ = self.path.read_text(encoding="utf-8", errors="replace").split("\n")
        records = []
        for number, line in enumerate(complete, start=1):
            try:
                records.append(json.loads(line))
            except ValueError:
                logger.warning("%s: line %d is damaged and left out.", self.path, number)
        return records

    def rewind(self, step: int, *, finished_epochs: int, scale: Fraction = Fraction(1)) -> None:
        """Drop what an interrupted run wrote after where the resumed run stands, which writes the same lines again.

        Args:
            step: iterations that are done, in those of the interrupted run.
            finished_epochs: epochs that are validated too; the line of another ("train_loss") goes, though its step may be done.
            scale: the resumed run's iterations for one of those, if it has another number of ranks; steps that stay are renumbered.
        """
        if not is_main_process() or not self.path.exists():
            return
        done = [record for record in self.read() if record.get("step", -1) < step]
        kept = [record for record in done if "train_loss" not in record or record["epoch"] < finished_epochs]
        for record in kept:
            if "step" in record:
                record["step"] = int((record["step"] + 1) * scale) - 1
        write_text(self.path, "".join(json.dumps(record) + "\n" for record in kept))
