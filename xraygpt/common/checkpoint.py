"""Checkpoint files: written whole or not at all, read without executing anything.

Layout (the family's keys first): {"model": trainable parameters, "optimizer", "config", "scaler", "epoch"} plus what an exact
resume needs, which `xraygpt.runners.run_state` lists. `.safetensors` files are read too.
"""

import logging
import math
import pickle
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn

from xraygpt.common.checkpoint_guard import check_values, check_weights_file, damaged
from xraygpt.common.errors import CheckpointError
from xraygpt.common.files import atomic_file
from xraygpt.common.printable import printable_line
from xraygpt.common.tensor_checks import form_problem, kind_problem, require_none, value_problem

logger = logging.getLogger(__name__)

PUBLISHED_BUFFERS = ("position_ids", "rotary_emb.inv_freq")
"""Ends of the names of what the original's checkpoints carry besides parameters."""


@dataclass(frozen=True)
class Written:
    """What was meant to be in a file: its size in bytes, and the hexadecimal SHA-256 of its content."""

    bytes: int
    sha256: str


def save_checkpoint(path: str | Path, state: dict[str, Any]) -> Written:
    """Write `state` (tensors and plain containers only) to `path`, whole or not at all.

    Raises:
        OSError: the disk is full, read-only, gone, or failed. The checkpoint that was at `path` is still there.
    """
    with atomic_file(path) as file:
        torch.save(state, file)  # type: ignore[arg-type]  # all that it calls is write and flush
    logger.info("Saved %s", path)
    return Written(file.size, file.sha256)


def load_checkpoint(path: str | Path, *, mmap: bool = False) -> dict[str, Any]:
    """Read a `.pth` (tensors and plain containers only: nothing in the file is executed) or `.safetensors` file onto the CPU.

    Args:
        mmap: leave the numbers in the file until they are used, as far as its format allows (torch.save's old one does not).

    Raises:
        CheckpointError: the file is missing, a git-LFS pointer, damaged, holds more than tensors and plain values or asks for more memory
            than it is large (`checkpoint_guard`), or holds no dictionary.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise CheckpointError(f"There is no checkpoint file {path} (looked for {path.absolute()}).")
    form = check_weights_file(path)
    try:
        if form == "safetensors":
            loaded = load_file(path)
        else:
            loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=mmap and form == "zip")
    except pickle.UnpicklingError as error:
        # Torch's own message advises weights_only=False, which would run what the file holds.
        raise CheckpointError(
            f"{path} is refused: it is damaged, or holds more than tensors and plain values, and then reading it could run code. "
            "Ask its author for safetensors, or for a file with parameters alone."
        ) from error
    except Exception as error:  # damaged bytes make the readers fail in every way there is
        raise damaged(path, error) from error
    check_values(loaded, path)
    if not isinstance(loaded, dict):
        raise CheckpointError(f"{path} holds a {type(loaded).__name__}; expected a dictionary of parameters, or one with a 'model' key.")
    return loaded


def tensors_in(value: Any) -> Iterator[torch.Tensor]:
    """Every tensor in nested dictionaries, lists and tuples. Each is looked into once: a small file can refer to one billions of times."""
    seen: set[int] = set()
    waiting = [value]
    while waiting:
        value = waiting.pop()
        if isinstance(value, torch.Tensor):
            yield value
        elif isinstance(value, dict | list | tuple) and id(value) not in seen:
            seen.add(id(value))
            waiting.extend(value.values() if isinstance(value, dict) else value)


def model_state(checkpoint: dict[str, Any], path: str | Path) -> dict[str, torch.Tensor]:
    """The parameters in a checkpoint: under "model", or the dictionary itself. Their numbers are not read.

    Args:
        path: its file, for messages.

    Raises:
        CheckpointError: there are none, or they are not dense tensors of real numbers by their names.
    """
    parameters: Any = checkpoint.get("model", checkpoint)
    if not isinstance(parameters, dict) or not parameters:
        raise CheckpointError(f"{path} holds no parameters: expected them by name, or under 'model', got {_keys(parameters)}.")
    return require_parameters(parameters, path)


def require_parameters(parameters: Mapping[Any, Any], path: str | Path) -> Any:
    """The same parameters; CheckpointError unless they are dense tensors of real numbers by their names. No number is read."""
    if not isinstance(parameters, Mapping):
        raise CheckpointError(f"{path} holds no parameters: expected a dictionary, got {type(parameters).__name__}.")
    wrong = [name for name, value in parameters.items() if not isinstance(name, str) or not isinstance(value, torch.Tensor)]
    if wrong:
        raise CheckpointError(
            f"{path} holds no parameters: expected tensors by name, or under 'model'; {wrong[0]!r:.60} is not one (of {_keys(parameters)})."
        )
    require_none(((name, form_problem(tensor)) for name, tensor in parameters.items()), path)
    return parameters


def _keys(value: Any) -> str:
    is_empty = not isinstance(value, Mapping) or not value
    return type(value).__name__ if is_empty else f"the keys {', '.join(f'{key!r:.40}' for key in list(value)[:8])}"


def largest_of(parameter: torch.Tensor) -> float:
    """The largest number that the parameter's type can hold."""
    return torch.finfo(parameter.dtype).max if parameter.is_floating_point() else math.inf


def trainable_state(model: nn.Module) -> dict[str, torch.Tensor]:
    """Trainable parameters by name, sharing the model's memory. Frozen parts are not in a checkpoint: they come from their own files."""
    return {name: parameter.detach() for name, parameter in model.named_parameters() if parameter.requires_grad}


def snapshot(value: Any) -> Any:
    """A copy of nested dictionaries, lists and tuples with every tensor copied to the CPU: training goes on without touching it."""
    if isinstance(value, torch.Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        return {key: snapshot(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(snapshot(item) for item in value)
    return value


def load_trainable_state(model: nn.Module, state: dict[str, torch.Tensor], path: str | Path) -> None:
    """Put back exactly what `trainable_state` saved.

    Raises:
        CheckpointError: a parameter is missing, unexpected, of another shape, whole numbers, or not finite. The model is as before.
    """
    require_parameters(state, path)
    expected = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    problems = [f"missing {name}" for name in expected.keys() - state.keys()]
    problems += [f"unexpected {printable_line(name):.200}" for name in state.keys() - expected.keys()]
    problems += [
        f"{name} is {tuple(state[name].shape)}, expected {tuple(expected[name].shape)}"
        for name in expected.keys() & state.keys()
        if state[name].shape != expected[name].shape
    ]
    if problems:
        shown = "; ".join(sorted(problems)[:10])
        raise CheckpointError(
            f"{path} does not fit the parameters that this configuration trains ({len(problems)} differences): {shown}. "
            "Resume with the configuration that the run started with (config.yaml beside the checkpoint)."
        )
    require_none(((name, kind_problem(state[name], parameter)) for name, parameter in expected.items()), path)
    require_none(((name, value_problem(state[name], largest=largest_of(parameter))) for name, parameter in expected.items()), path)
    model.load_state_dict(state, strict=False)
