"""Whether a checkpoint of a run is one: each entry is of the type and within the bounds that a run writes, before anything is made of it.

How many values it holds, and how deep, `load_checkpoint` limits; the parameters `load_trainable_state` checks.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from xraygpt.common.errors import CheckpointError
from xraygpt.common.tensor_checks import form_problem, kind_problem, require_none, value_problem

_MOST_COUNTED = 2**53
_MOST_RANKS = 2**20
_MOST_IN_AN_UPDATE = 2**24
"""Samples; what is said about other batch sizes goes through all that divide them."""
_BATCH = ("batch_size_train", "accum_grad_iters")
_ADAM_KEEPS = {"step", "exp_avg", "exp_avg_sq"}


def check_saved_state(state: Mapping[str, Any], path: Path) -> None:
    """Check all entries but the parameters. One that is missing or None was not saved.

    Args:
        state: the checkpoint.
        path: its file, for messages.

    Raises:
        CheckpointError: an entry is not what a run writes.
    """
    for name, (expected, is_right) in _ENTRIES.items():
        value = state.get(name)
        if value is not None and not is_right(value):
            raise CheckpointError(f"{path} is damaged: {name!r} must be {expected}, but is {_shown(value)}.")
    run = (state.get("config") or {}).get("run", {})
    wrong = [name for name in _BATCH if name in run and not _is_whole(run[name], 1, _MOST_RANKS)]
    if wrong:
        raise CheckpointError(f"{path} is damaged: 'config' has run.{wrong[0]}={_shown(run[wrong[0]])}, expected a number from 1.")
    samples = math.prod(run.get(name, 1) for name in _BATCH) * (state.get("world_size") or 1)
    if samples > _MOST_IN_AN_UPDATE:
        raise CheckpointError(f"{path} is damaged: it says that {samples} samples went into an update; at most {_MOST_IN_AN_UPDATE} do.")


def check_optimizer(stored: Any, optimizer: Optimizer, path: Path) -> None:
    """Check an optimizer's state against the optimizer that is to go on with it.

    Raises:
        CheckpointError: it is of other parameters, or has values that are not those of an optimizer, or not finite.
    """
    if not isinstance(stored, dict) or not isinstance(stored.get("state"), dict) or not isinstance(stored.get("param_groups"), list):
        raise CheckpointError(f"{path} is damaged: 'optimizer' must have 'state' and 'param_groups', but is {_shown(stored)}.")
    groups, own = stored["param_groups"], optimizer.param_groups
    numbers = [group.get("params") if isinstance(group, dict) else None for group in groups]
    if [len(each) if isinstance(each, list) else None for each in numbers] != [len(group["params"]) for group in own]:
        raise CheckpointError(f"{path} has the optimizer's state of other parameters than this configuration trains.")
    names = [number for each in numbers for number in each or ()]
    if not all(isinstance(name, int) for name in names) or len(set(names)) != len(names) or stored["state"].keys() - set(names):
        raise CheckpointError(f"{path} is damaged: the optimizer's state does not say to which parameters it belongs.")
    settings = [(f"param_groups.{place}", group, mine) for place, (group, mine) in enumerate(zip(groups, own, strict=True))]
    require_none((each for setting in settings for each in _setting_problems(*setting)), f"{path}: the optimizer's state")
    parameters = dict(zip(names, (parameter for group in own for parameter in group["params"]), strict=True))
    moments = ((f"state.{name}", stored["state"][name], parameters[name]) for name in stored["state"])
    require_none((each for moment in moments for each in _moment_problems(*moment, keeps_adam="betas" in own[0])), f"{path}: the optimizer")


def _setting_problems(where: str, group: Mapping[str, Any], own: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """(name, problem) of each setting of a parameter group."""
    for key in own.keys() - {"params"}:
        if key in group and not _is_alike(group[key], own[key]):
            yield f"{where}.{key}", f"is {_shown(group[key])}, expected a value like {_shown(own[key])}"


def _is_alike(stored: Any, own: Any) -> bool:
    if isinstance(own, tuple):
        return isinstance(stored, tuple | list) and len(stored) == len(own) and all(map(_is_number, stored))
    if own is None or isinstance(own, bool):
        return stored is None or isinstance(stored, bool)
    return _is_number(stored)


def _moment_problems(where: str, moments: Any, parameter: Tensor, *, keeps_adam: bool) -> Iterator[tuple[str, str]]:
    """(name, problem) of each value that an optimizer keeps for a parameter."""
    if not isinstance(moments, dict):
        yield where, f"is {_shown(moments)}, expected values by name"
    elif keeps_adam and moments and _ADAM_KEEPS - moments.keys():
        yield where, f"lacks {', '.join(sorted(_ADAM_KEEPS - moments.keys()))}"
    else:
        for key, value in moments.items():
            yield f"{where}.{key!s}", _moment_problem(value, parameter)


def _moment_problem(value: Any, parameter: Tensor) -> str:
    if not isinstance(value, Tensor):
        return "" if value is None or isinstance(value, bool) or _is_number(value) else f"is {_shown(value)}, expected a number"
    if problem := form_problem(value) or kind_problem(value, parameter):
        return problem
    if value.ndim and value.shape != parameter.shape:
        return f"is {tuple(value.shape)}, expected {tuple(parameter.shape)}"
    return value_problem(value)


# Entries ---------------------------------------------------------------------------------------------------------


def _is_whole(value: Any, least: int, most: int = _MOST_COUNTED) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def _is_number(value: Any) -> bool:
    """Whether it is finite as a float too."""
    return _is_whole(value, -_MOST_COUNTED) or (isinstance(value, float) and math.isfinite(value))


def _is_config(value: Any) -> bool:
    """Sections of settings."""
    return isinstance(value, dict) and all(isinstance(section, dict) for section in value.values()) and _is_plain(value)


def _is_plain(value: Any) -> bool:
    """Whether it can be compared and printed: values by names, and no tensor among them."""
    if isinstance(value, dict):
        return all(isinstance(key, str) and _is_plain(item) for key, item in value.items())
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, bool | int | float | str)


def _is_data(value: Any) -> bool:
    return (isinstance(value, dict) and _is_plain(value)) and all(
        isinstance(facts, dict) and "annotations_sha256" in facts and isinstance(facts.get("num_samples"), dict) for facts in value.values()
    )


def _is_best(value: Any) -> bool:
    """Before the first validation both numbers are infinite."""
    return (
        isinstance(value, dict)
        and isinstance(value.get("agg_metrics"), int | float)
        and isinstance(value.get("loss", 0.0), int | float)
        and _is_whole(value.get("epoch"), -1)
    )


def _is_guard(value: Any) -> bool:
    counts = ("skipped", "spikes", "bad_samples", "skipped_in_a_row")
    return (
        isinstance(value, dict)
        and all(_is_whole(value.get(name), 0) for name in counts)
        and isinstance(value.get("losses"), list)
        and all(map(_is_number, value["losses"]))
    )


def _is_meters(value: Any) -> bool:
    """[total, count] by name."""
    return isinstance(value, dict) and all(
        isinstance(name, str) and isinstance(meter, list | tuple) and len(meter) == 2 and all(map(_is_number, meter))
        for name, meter in value.items()
    )


def _is_scaler(value: Any) -> bool:
    names = ("scale", "growth_factor", "backoff_factor", "growth_interval", "_growth_tracker")
    return isinstance(value, dict) and (not value or all(_is_number(value.get(name)) for name in names))


def _shown(value: Any) -> str:
    """A value in few words, however large it is."""
    is_short = value is None or isinstance(value, bool | float | str) or _is_whole(value, -_MOST_COUNTED)
    return f"{value!r:.60}" if is_short else f"of type {type(value).__name__}"


_ENTRIES: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "epoch": ("a whole number from -1", lambda value: _is_whole(value, -1)),
    "iteration": ("a whole number from 0", lambda value: _is_whole(value, 0)),
    "step": ("a whole number from 0", lambda value: _is_whole(value, 0)),
    "iters_per_epoch": ("a whole number from 1", lambda value: _is_whole(value, 1)),
    "world_size": ("a number of ranks", lambda value: _is_whole(value, 1, _MOST_RANKS)),
    "warmup_steps": ("a number from 0", lambda value: _is_number(value) and value >= 0),
    "config": ("sections of settings", _is_config),
    "data": ("checksum and number of samples by data set", _is_data),
    "llm": ("a language model's identity", lambda value: isinstance(value, dict) and _is_plain(value)),
    "libraries": ("versions by name", lambda value: isinstance(value, dict) and all(isinstance(each, str) for each in value.values())),
    "best": ("agg_metrics, loss and epoch", _is_best),
    "guard": ("counts of updates, and losses", _is_guard),
    "meters": ("total and count by name", _is_meters),
    "scaler": ("the loss scaler's numbers", _is_scaler),
    "rng": ("a random state for each rank", lambda value: isinstance(value, list) and all(isinstance(each, dict) for each in value)),
}
"""Entry → what it must be, and whether it is."""
