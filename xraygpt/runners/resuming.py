"""Whether a run may continue from a checkpoint, and from where: what has changed is refused or accepted by name.

Positions are compared in samples, so that another number of ranks with the same global batch continues the same order of the data.
"""

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from xraygpt.common.checkpoint import load_checkpoint
from xraygpt.common.checkpoint_folder import CheckpointFolder
from xraygpt.common.dist_utils import decided_by_main, get_world_size
from xraygpt.common.errors import CheckpointError
from xraygpt.runners.run_state import RunFacts, library_versions
from xraygpt.runners.saved_state import check_saved_state

logger = logging.getLogger(__name__)

HARMLESS = frozenset(
    {
        # Where and how a run is computed, logged and saved, when it gives up, and what is tested at its end.
        "batch_size_eval",
        "device",
        "dist_timeout_minutes",
        "dist_url",
        "distributed",
        "evaluate",
        "imports",
        "job_id",
        "keep_step_checkpoints",
        "known_images",
        "log_freq",
        "max_bad_share",
        "max_nonfinite_steps",
        "metrics",
        "num_logged_reports",
        "num_workers",
        "on_bad_sample",
        "output_dir",
        "progress_bar",
        "resume_allow",
        "resume_ckpt_path",
        "save_every_iters",
        "save_every_minutes",
        "save_retry_minutes",
        "scoring",
        "spike_factor",
        "spike_window",
        "tensorboard",
        "test_splits",
        "use_dist_eval_sampler",
        # Compared in samples, by `_Schedule`.
        "accum_grad_iters",
        "batch_size_train",
        "iters_per_epoch",
        "warmup_steps",
    }
)
"""Keys of `run` that cannot change what is learnt, and those that are compared otherwise."""

_CACHE_PATH = "run.feature_cache.path"


@dataclass(frozen=True)
class Difference:
    """A setting that is not what it was."""

    name: str
    then: Any
    now: Any

    def __str__(self) -> str:
        return f"{self.name}: {_short(self.then)} then, {_short(self.now)} now"


@dataclass(frozen=True)
class Continuation:
    """How a run goes on: what its numbers of iterations are for its number of ranks."""

    iters_per_epoch: int | None = None
    """None: as the configuration says."""
    warmup_steps: float | None = None
    """None: as the configuration says."""
    scale: Fraction = Fraction(1)
    """Iterations now for one iteration then."""


@dataclass(frozen=True)
class Resumed:
    """The checkpoint that a run continues from, its content, and how."""

    path: Path
    state: dict[str, Any]
    continuation: Continuation


def restarted() -> bool:
    """Whether torchrun (--max-restarts) or SLURM (requeue) has started this run again by itself."""
    return any(int(os.environ.get(name) or 0) > 0 for name in ("TORCHELASTIC_RESTART_COUNT", "SLURM_RESTART_COUNT"))


def find_checkpoint(folder: CheckpointFolder, setting: str | None, facts: RunFacts, *, allow: Sequence[str]) -> Resumed | None:
    """The checkpoint to continue from, the same on every rank; None to start anew.

    Args:
        folder: this run's.
        setting: `run.resume_ckpt_path`.
        facts: what this run is.
        allow: see `compare`.

    Raises:
        CheckpointError: there is none to be used, or this run is not the one that it is a checkpoint of.
    """
    path = decided_by_main(lambda: _newest_or_named(folder, setting))
    if path is None:
        return None
    state = load_checkpoint(path)
    if absent := {name for name in ("model", "optimizer", "epoch") if state.get(name) is None}:
        raise CheckpointError(
            f"{path} is no checkpoint of a run: it has no {', '.join(sorted(absent))}. To start from its weights, give it as model.ckpt."
        )
    check_saved_state(state, path)
    world_size = get_world_size()
    return Resumed(path, state, decided_by_main(lambda: compare(state, path, facts, world_size=world_size, allow=allow)))


def _newest_or_named(folder: CheckpointFolder, setting: str | None) -> Path | None:
    """A run that was started again by torchrun or SLURM continues from its own newest, whatever it was first started from.

    Raises:
        CheckpointError: the named one, or each of the folder's, is damaged.
    """
    if setting == "auto" or restarted():
        newest = folder.newest_good()
        if newest is not None or setting == "auto":
            return newest
    if not setting:
        return None
    named = Path(setting).expanduser()
    CheckpointFolder(named.parent).verify(named)
    return named


def compare(state: Mapping[str, Any], path: Path, facts: RunFacts, *, world_size: int, allow: Sequence[str]) -> Continuation:
    """How this run continues from a checkpoint.

    Args:
        state: the checkpoint.
        path: its file, for messages.
        facts: what this run is.
        world_size: its number of ranks.
        allow: names of settings that may have changed, "data" and "llm" among them.

    Raises:
        CheckpointError: lists every change that is not allowed, or the batch sizes that would fit this number of ranks.
    """
    unknown = [key for key in ("config", "data", "llm", "world_size", "iters_per_epoch") if state.get(key) is None]
    if unknown:
        logger.warning("%s does not say its %s: whether these changed is not checked.", path, ", ".join(unknown))
    found = list(_config_differences(state.get("config") or {}, facts.config, path))
    if state.get("data") is not None and state["data"] != facts.data:
        found.append(Difference("data", _data_in_words(state["data"]), _data_in_words(facts.data)))
    if state.get("llm") is not None and (different := _llm_differences(facts, state["llm"], path)):
        found.append(Difference("llm", state["llm"].get("name"), "; ".join(different)))
    schedule = _Schedule(state, path, facts.config["run"], world_size)
    found += schedule.differences()
    refused = [difference for difference in found if not any(_is_named(difference.name, name) for name in allow)]
    if refused:
        names = ",".join(dict.fromkeys([*(d.name for d in refused), *(d.name for d in found), *allow]))
        listed = "\n".join(f"  {difference}" for difference in refused)
        raise CheckpointError(
            f"Resuming from {path} is refused, because {len(refused)} settings are not what they were:\n{listed}\n"
            "Resume with the configuration that the run started with (config.yaml beside the checkpoint), or accept the changes with "
            f"--resume-allow {names}{schedule.advice()}"
        )
    for difference in found:
        logger.warning("Resuming with a change that was allowed: %s.", difference)
    _report_libraries(state.get("libraries"))
    return schedule.continuation()


def _llm_differences(facts: RunFacts, stored: dict[str, Any], path: Path) -> list[str]:
    try:
        return facts.llm_differences(stored)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error


class _Schedule:
    """The numbers of iterations and samples, then and now."""

    def __init__(self, state: Mapping[str, Any], path: Path, now: Mapping[str, Any], world_size: int) -> None:
        self.path, self.ranks = path, world_size
        self.known = state.get("world_size") is not None and state.get("iters_per_epoch") is not None
        then = (state.get("config") or {}).get("run", {})
        self.configured_then, self.configured_now = then, now
        self.iterations = {name: state.get(name) for name in ("iters_per_epoch", "warmup_steps")}
        self.samples_then = (state.get("world_size") or world_size) * then.get("batch_size_train", now["batch_size_train"])
        self.samples_now = world_size * now["batch_size_train"]
        self.batch_then = self.samples_then * then.get("accum_grad_iters", now["accum_grad_iters"])
        self.batch_now = self.samples_now * now["accum_grad_iters"]
        same_batch = self.known and self.batch_then == self.batch_now
        self.scale = Fraction(self.samples_then, self.samples_now) if same_batch else Fraction(1)

    def differences(self) -> Iterator[Difference]:
        """The global batch, and numbers of iterations that are neither as configured then nor as they should be for these ranks.

        Raises:
            CheckpointError: an epoch would not be a whole number of iterations.
        """
        if self.batch_then != self.batch_now:
            yield Difference("global_batch", f"{self.batch_then} samples an update", f"{self.batch_now} (ranks × batch × accumulation)")
        if not self.known:
            return
        if isinstance(self._effective("iters_per_epoch"), float):
            raise CheckpointError(
                f"{self.path}: an epoch of {self.iterations['iters_per_epoch']} iterations of {self.samples_then} samples "
                f"is no whole number of iterations of {self.samples_now}.{self.advice()}"
            )
        for name in self.iterations:
            then, now = self.configured_then.get(name), self.configured_now[name]
            if now not in (then, self._effective(name)):
                yield Difference(name, self._effective(name), now)

    def continuation(self) -> Continuation:
        """The numbers of iterations to go on with; one that was changed, and allowed, is left to the configuration."""
        if not self.known:
            return Continuation()
        changed = {difference.name for difference in self.differences()}
        kept: dict[str, Any] = {name: None if name in changed else self._effective(name) for name in self.iterations}
        if self.scale != 1:
            logger.info(
                "The checkpoint's iterations have %d samples, this run's %d: its numbers of iterations are multiplied by %s.",
                self.samples_then, self.samples_now, self.scale,
            )  # fmt: skip
        return Continuation(kept["iters_per_epoch"], kept["warmup_steps"], self.scale)

    def advice(self) -> str:
        """The batch sizes with which this number of ranks continues the order of the data; "" if they are as they were."""
        if self.batch_then == self.batch_now and not isinstance(self._effective("iters_per_epoch"), float):
            return ""
        each, rest = divmod(self.batch_then, self.ranks)
        sizes = [size for size in range(1, each + 1) if each % size == 0] if rest == 0 else []
        if iterations := self.iterations["iters_per_epoch"]:
            sizes = [size for size in sizes if iterations * self.samples_then % (size * self.ranks) == 0]
        if not sizes:
            return (
                f"\nNo batch size of {self.ranks} ranks gives {self.batch_then} samples an update; a number of ranks that divides "
                f"{self.batch_then} does."
            )
        fitting = " or ".join(f"batch_size_train={size} accum_grad_iters={each // size}" for size in sorted(sizes, reverse=True)[:4])
        return f"\nWith {self.ranks} ranks, this continues the same order of the data: {fitting}."

    def _effective(self, name: str) -> int | float | None:
        """A number of iterations of the checkpoint, in iterations of this run. A warm-up may end between two of them."""
        value = self.iterations[name]
        scaled = None if value is None else Fraction(value) * self.scale
        return None if scaled is None else int(scaled) if scaled.denominator == 1 else float(scaled)


def _config_differences(then: Mapping[str, Any], now: Mapping[str, Any], path: Path) -> Iterator[Difference]:
    """Settings that both configurations have, with different values; a path counts only where nothing else tells what is behind it."""
    before, after = dict(_flat(then)), dict(_flat(now))
    for settings in (before, after):
        if settings.get(_CACHE_PATH):
            settings[_CACHE_PATH] = "a feature cache"  # wherever it is: what is in it is the same
    new = [name for name in after.keys() ^ before.keys() if not _is_harmless(name)] if then else []
    if new:
        logger.warning("Not compared with %s, because only one of the two knows it: %s", path, ", ".join(sorted(new)))
    for name in before.keys() & after.keys():
        if before[name] != after[name] and not _is_harmless(name):
            yield Difference(name.removeprefix("run."), before[name], after[name])


def _flat(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted name, value) of every setting; a list is one value."""
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _is_harmless(name: str) -> bool:
    section, *rest = name.split(".")
    # The data's folder and the language model's are compared by what is in them.
    is_storage = section == "datasets" and rest[-1:] == ["storage"]
    return (section == "run" and not HARMLESS.isdisjoint(rest[:1])) or name == "model.llama_model" or is_storage


def _is_named(difference: str, allowed: str) -> bool:
    """`init_lr` and `run.init_lr` name run.init_lr, `max_txt_len` and `model.max_txt_len` the model's."""
    return f".run.{difference}".endswith(f".{allowed}")


def _data_in_words(data: Mapping[str, Any]) -> str:
    return ", ".join(
        f"{name} ({str(facts['annotations_sha256'])[:12]}, {' '.join(f'{split} {n}' for split, n in facts['num_samples'].items())})"
        for name, facts in data.items()
    )


def _report_libraries(then: Mapping[str, str] | None) -> None:
    now = library_versions()
    changed = [f"{name} {then[name]} → {now.get(name, 'none')}" for name in then or {} if then and now.get(name) != then[name]]
    if changed:
        logger.warning("Other versions than those the run was saved with, so its last digits may differ: %s.", ", ".join(changed))


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 200 else f"{text[:200]}…"
