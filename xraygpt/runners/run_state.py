"""What a checkpoint of a run holds, and how a run continues from it."""

import logging
import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from torch import nn

from xraygpt import __version__
from xraygpt.common.checkpoint import load_trainable_state, trainable_state
from xraygpt.common.dist_utils import get_rank, get_world_size
from xraygpt.common.errors import CheckpointError, first_line
from xraygpt.common.files import ANNOTATIONS_NAME, sha256_file
from xraygpt.common.seed import set_random_state
from xraygpt.common.updater import Updater
from xraygpt.runners.saved_state import check_optimizer

logger = logging.getLogger(__name__)

_LIBRARIES = ("torch", "torchvision", "transformers", "timm", "numpy", "pillow", "omegaconf", "safetensors")


@dataclass
class Progress:
    """Where a run stands: the next iteration of an epoch, and the totals of the meters of what is done of it."""

    epoch: int = 0
    iteration: int = 0
    meters: dict[str, list[float]] | None = None


@dataclass(frozen=True)
class RunFacts:
    """What a run is: every checkpoint of it says so, and a run that continues from one is compared with that."""

    config: dict[str, Any]
    """The resolved configuration."""
    data: dict[str, Any]
    """See `data_identity`."""
    llm: dict[str, Any] | None
    """The language model's identity."""
    llm_differences: Callable[[dict[str, Any]], list[str]]
    """In words, how a stored identity differs from it."""


class RunState:
    """Where a run stands: parameters, optimizer, scaler, position, averages, best epoch.

    Args:
        model: its trainable parameters are saved.
        updater: has optimizer and scaler.
        facts: what the run is.
        iters_per_epoch, warmup_steps: in iterations of this run.
    """

    def __init__(self, *, model: nn.Module, updater: Updater, facts: RunFacts, iters_per_epoch: int, warmup_steps: float) -> None:
        self.model, self.updater, self.facts = model, updater, facts
        self.iters_per_epoch, self.warmup_steps = iters_per_epoch, warmup_steps
        self.libraries = library_versions()
        self.progress = Progress()
        self.best: dict[str, Any] = {"agg_metrics": -float("inf"), "loss": float("inf"), "epoch": -1}

    @property
    def step(self) -> int:
        """Iterations that are done, of all epochs."""
        return self.progress.epoch * self.iters_per_epoch + self.progress.iteration

    def note_best(self, metrics: dict[str, float], epoch: int) -> None:
        """Remember an epoch if it is the best so far; `metrics` are those of its validation."""
        if "agg_metrics" not in metrics:
            logger.warning("Epoch %d cannot become the best: what chooses it (run.agg_metric) had nothing to measure.", epoch)
            return
        best = {"agg_metrics": metrics["agg_metrics"], "loss": metrics.get("loss", float("inf")), "epoch": epoch}
        # Models that write the same report for every image tie; of them the one with the lowest loss is kept.
        if (best["agg_metrics"], -best["loss"]) > (self.best["agg_metrics"], -self.best.get("loss", float("inf"))):
            self.best = best

    def state_dict(self) -> dict[str, Any]:
        """A checkpoint but for the ranks' random generators, sharing memory with the run. The family's keys come first."""
        return {
            "model": trainable_state(self.model),
            **self.updater.state_dict(),
            "config": self.facts.config,
            "epoch": self.progress.epoch - 1,
            "iteration": self.progress.iteration,
            "step": self.step,
            "iters_per_epoch": self.iters_per_epoch,
            "warmup_steps": self.warmup_steps,
            "meters": self.progress.meters,
            "best": self.best,
            "llm": self.facts.llm,
            "data": self.facts.data,
            "version": __version__,
            "libraries": self.libraries,
        }

    def load_state_dict(self, state: dict[str, Any], path: Path, *, scale: Fraction = Fraction(1)) -> None:
        """Stand exactly where a checkpoint was written, but for its best epoch.

        Args:
            state: the checkpoint.
            path: its file, for messages.
            scale: iterations of this run for one of the checkpoint's.

        Raises:
            CheckpointError: it has other parameters than this run trains, or values that cannot be gone on with.
        """
        check_optimizer(state["optimizer"], self.updater.optimizer, path)
        load_trainable_state(self.model, state["model"], path)
        self.updater.load_state_dict(state)
        self.progress = Progress(state["epoch"] + 1, int((state.get("iteration") or 0) * scale), state.get("meters"))
        if state.get("world_size") == get_world_size():
            _set_random_state(state, path)
        logger.info("Resumed from %s at epoch %d, iteration %d.", path, self.progress.epoch, self.progress.iteration)


def _set_random_state(state: dict[str, Any], path: Path) -> None:
    try:
        set_random_state(state["rng"][get_rank()])
    except (LookupError, TypeError, ValueError, RuntimeError, ArithmeticError) as error:  # each generator has its own
        raise CheckpointError(f"{path} is damaged: 'rng' has no random state of rank {get_rank()}: {first_line(error)}") from error


def data_identity(datasets_cfg: Mapping[Any, Any], datasets: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """{dataset name: {"annotations_sha256", "num_samples" by split}}: what decides which sample belongs to which step.

    The hash is None for a dataset that is not read from a prepared folder.
    """
    return {
        name: {
            "annotations_sha256": _annotations_sha256(datasets_cfg.get(name)),
            "num_samples": {split: len(dataset) for split, dataset in splits.items()},
        }
        for name, splits in datasets.items()
    }


def _annotations_sha256(block: Any) -> str | None:
    storage = block.get("storage") if block else None
    annotations = Path(storage).expanduser() / ANNOTATIONS_NAME if isinstance(storage, str) else None
    return sha256_file(annotations) if annotations is not None and annotations.is_file() else None


def library_versions() -> dict[str, str]:
    """Python, this package, and the libraries that its numbers depend on."""
    found = {"python": platform.python_version(), "xraygpt": __version__}
    for name in _LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
