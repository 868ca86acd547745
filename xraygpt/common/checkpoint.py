"""Checkpoint files: written whole or not at all, read without executing anything.

Layout (the family's keys first): {"model": trainable parameters, "optimizer", "config", "scaler", "epoch"} plus what an exact
resume needs, which `xraygpt.runners.run_state` lists. `.safetensors` files are read too.
"""

import logging
import pickle
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn

from xraygpt.common.errors import CheckpointError, first_line
from xraygpt.common.files import atomic_file

logger = logging.getLogger(__name__)

PUBLISHED_BUFFERS = ("position_ids", "rotary_emb.inv_freq")
"""Ends of the names of what the original's checkpoints carry besides parameters."""

_LFS_MAGIC = b"version https://git-lfs"


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
        CheckpointError: the file is missing, a git-LFS pointer, damaged, holds executable pickles, unpacks to more than its size, or holds
            no dictionary.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise CheckpointError(f"There is no checkpoint file {path} (looked for {path.absolute()}).")
    try:
        with open(path, "rb") as handle:
            start = handle.read(len(_LFS_MAGIC))
        if start == _LFS_MAGIC:
            raise CheckpointError(f"{path} is a git-LFS pointer of {path.stat().st_size} bytes, not the weights: run 'git lfs pull' there.")
        if path.suffix == ".safetensors":
            loaded = load_file(path)
        else:
            is_zip = zipfile.is_zipfile(path)
            if is_zip:
                _refuse_expansion(path)
            loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=mmap and is_zip)
        if any(tensor.nbytes > tensor.untyped_storage().nbytes() for tensor in tensors_in(loaded)):
            raise CheckpointError(
                f"{path} is refused: it holds a tensor that repeats its numbers, and a copy of which could fill the memory."
            )
    except CheckpointError:
        raise
    except pickle.UnpicklingError as error:
        # Torch's own message advises weights_only=False, which would run what the file holds.
        raise CheckpointError(
            f"{path} is refused: it is damaged, or holds more than tensors and plain values, and then reading it could run code. "
            "Ask its author for safetensors, or for a file with parameters alone."
        ) from error
    except Exception as error:  # damaged bytes make the readers fail in every way there is
        raise CheckpointError(
            f"{path} ({path.stat().st_size} bytes) cannot be read, it is damaged or incomplete: {first_line(error)}"
        ) from error
    if not isinstance(loaded, dict):
        raise CheckpointError(f"{path} holds a {type(loaded).__name__}; expected a dictionary of parameters, or one with a 'model' key.")
    return loaded


def _refuse_expansion(path: Path) -> None:
    """torch.save writes a zip without compression, and each of its parts once; what expands could fill the memory."""
    with zipfile.ZipFile(path) as archive:
        unpacked = sum(member.file_size for member in archive.infolist())
    if unpacked > path.stat().st_size:
        raise CheckpointError(f"{path} ({path.stat().st_size} bytes) is refused: it unpacks to {unpacked} bytes, which no checkpoint does.")


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


def model_state(checkpoint: dict[str, Any]) -> dict[str, torch.Tensor]:
    """The parameters in a checkpoint: under "model", or the dictionary itself."""
    return checkpoint.get("model", checkpoint)


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
    """Put back exactly what `trainable_state` saved; anything missing, unexpected or of another shape is an error."""
    expected = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    problems = [f"missing {name}" for name in expected.keys() - state.keys()]
    problems += [f"unexpected {name}" for name in state.keys() - expected.keys()]
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
    model.load_state_dict(state, strict=False)
