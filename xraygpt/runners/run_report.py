"""What a run leaves for its reader: lines of log.txt, TensorBoard events, the loss curve."""

import datetime
import logging
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from xraygpt.common.dist_utils import is_main_process, main_process
from xraygpt.common.errors import ConfigError
from xraygpt.common.files import atomic_path, make_folder, make_private, write_json
from xraygpt.common.logger import RunLog, max_memory_mib

logger = logging.getLogger(__name__)


class RunReport:
    """Writes the records of a run, on rank 0.

    A line of the training loop:  {"step", "epoch", "lr", "loss", "grad_norm", "skipped", "spikes", "bad_samples", "data_time", …}
    A line at an epoch's end:     {"step", "epoch", "train_lr", "train_loss", "val_loss", …}
    """

    def __init__(self, log: RunLog, output_dir: Path, *, tensorboard: bool) -> None:
        self.log, self.output_dir = log, output_dir
        self.events = _summary_writer(output_dir) if tensorboard and is_main_process() else None
        self.start_clock()

    def start_clock(self) -> None:
        """Count images and tokens a second from here."""
        self._since, self._images, self._tokens = time.perf_counter(), 0, 0

    def count(self, *, images: int, tokens: int) -> None:
        """Add an update's images and supervised tokens, of all ranks."""
        self._images += images
        self._tokens += tokens

    def log_step(self, *, step: int, epoch: int, **values: float) -> None:
        """Write a line of the training loop; speeds are averages since the last one."""
        seconds = max(time.perf_counter() - self._since, 1e-9)
        memory = max_memory_mib()
        record: dict[str, Any] = {"step": step, "epoch": epoch, **{name: _json_number(value) for name, value in values.items()}}
        record |= {"images_per_s": round(self._images / seconds, 3), "tokens_per_s": round(self._tokens / seconds, 1)}
        if memory is not None:
            record["max_mem_mib"] = round(memory)
        self.log.write(record)
        self._send(step, {name: value for name, value in record.items() if name not in ("step", "epoch")}, prefix="train/")
        self.start_clock()

    def log_epoch(self, *, step: int, epoch: int, **values: float) -> None:
        """Write a line at an epoch's end."""
        self.log.write({"step": step, "epoch": epoch, **values})
        self._send(step, values, prefix="epoch/")

    def _send(self, step: int, values: Mapping[str, float | None], *, prefix: str) -> None:
        if self.events is not None:
            for name, value in values.items():
                if value is not None:
                    self.events.add_scalar(prefix + name, value, step)
            self.events.flush()

    @main_process
    def plot_losses(self) -> None:
        """Draw the training loss over steps, and the validation loss over epochs, to loss.png."""
        from matplotlib.figure import Figure  # a second that a run spends at its end rather than before its first step

        records = self.log.read()
        steps = [(record["step"], record["loss"]) for record in records if record.get("loss") is not None and "step" in record]
        valid = [(record["step"], record["val_loss"]) for record in records if "val_loss" in record]
        figure = Figure(figsize=(7, 4), layout="constrained")
        axes = figure.subplots()
        if steps:
            axes.plot(*zip(*steps, strict=True), label="train", linewidth=1)
        if valid:
            axes.plot(*zip(*valid, strict=True), "o-", label="val")
        axes.set(xlabel="step", ylabel="loss (nats a token)", title=self.output_dir.name)
        axes.grid(alpha=0.3)
        axes.legend()
        with atomic_path(self.output_dir / "loss.png") as temporary:
            figure.savefig(temporary, dpi=120, format="png")
        logger.info("The loss curve is in %s", self.output_dir / "loss.png")

    @main_process
    def write_summary(
        self, *, best: dict[str, Any] | None, tested: Mapping[str, Any], seconds: float, memory_mib: Mapping[str, Any]
    ) -> None:
        """Write summary.json, last of all: where it is, the run is complete. `memory_mib` is what `memory_by_part` gives."""
        summary = {"job_id": self.output_dir.name, "best": best, "test": tested, "seconds": round(seconds, 1), "memory_mib": memory_mib}
        write_json(self.output_dir / "summary.json", summary)
        weights = ", ".join(f"{part} {count:,.1f}" for part, count in memory_mib["weights"].items())
        others = ", ".join(f"{name} {memory_mib[name]:,.1f}" for name in ("gradients", "optimizer", "peak"))
        logger.info("Memory in MiB: weights: %s; %s", weights, others)
        logger.info("Finished in %s. Results are in %s", datetime.timedelta(seconds=int(seconds)), self.output_dir)


def _json_number(value: float) -> float | None:
    """null in log.txt for what is not finite: JSON has no word for it."""
    return value if math.isfinite(value) else None


def _summary_writer(output_dir: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ConfigError("run.tensorboard needs the package tensorboard: make install-extras EXTRAS=tensorboard.") from error
    make_folder(output_dir / "tensorboard")
    writer = SummaryWriter(str(output_dir / "tensorboard"))  # which makes its file, and appends to it
    make_private(output_dir / "tensorboard")
    return writer
