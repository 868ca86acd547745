"""Checkpoint files: written whole or not at all, read without executing anything.

Layout (the family's keys first): {"model": trainable parameters, "optimizer", "config", "scaler", "epoch"} plus what an exact
resume needs: {"iteration", "meters", "best", "llm", "version"}. `.safetensors` files are read too.
"""

import logging
import pickle
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from xraygpt.common.errors import CheckpointError, first_line
from xraygpt.common.files import atomic_path

logger = logging.getLogger(__name__)

_LFS_MAGIC = b"version https://git-lfs"


def save_checkpoint(path: str | Path, state: dict[str, Any]) -> None:
    """Write `state` (tensors and plain containers only) to `path` atomically."""
    with atomic_path(path) as temporary:
        torch.save(state, temporary)
    logger.info("Saved %s", path)


def load_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a `.pth` (tensors and plain containers only: nothing in the file is executed) or `.safetensors` file onto the CPU.

    Raises:
        CheckpointError: the file is missing, a git-LFS pointer, damaged, holds executable pickles, or holds no dictionary.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise CheckpointError(f"There is no checkpoint file {path} (looked for {path.absolute()}).")
    with open(path, "rb") as handle:
        if handle.read(len(_LFS_MAGIC)) == _LFS_MAGIC:
            raise CheckpointError(f"{path} is a git-LFS pointer of {path.stat().st_size} bytes, not the weights: run 'git lfs pull' there.")
    try:
        loaded = load_file(path) if path.suffix == ".safetensors" else torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        # Torch's own message advises weights_only=False, which would run what the file holds.
        raise CheckpointError(
            f"{path} is refused: it is damaged, or holds more than tensors and plain values, and then reading it could run code. "
            "Ask its author for safetensors, or for a file with parameters alone."
        ) from error
    except (RuntimeError, EOFError, ValueError, KeyError, SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{path} ({path.stat().st_size} bytes) cannot be read, it is damaged or incomplete: {first_line(error)}"
        ) from error
    if not isinstance(loaded, dict):
        raise CheckpointError(f"{path} holds a {type(loaded).__name__}; expected a dictionary of parameters, or one with a 'model' key.")
    return loaded


def model_state(checkpoint: dict[str, Any]) -> dict[str, torch.Tensor]:
    """The parameters in a checkpoint: under "model", or the dictionary itself."""
    return checkpoint.get("model", checkpoint)


def trainable_state(model: nn.Module) -> dict[str, torch.Tensor]:
    """Trainable parameters by name, on the CPU. Frozen parts are not in a checkpoint: they come from their own files."""
    return {name: parameter.detach().cpu() for name, parameter in model.named_parameters() if parameter.requires_grad}


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


def newest_checkpoint(folder: str | Path) -> Path | None:
    """The checkpoint of a run's folder that was written last; None if it has none."""
    found = sorted(Path(folder).glob("checkpoint_*.pth"), key=lambda path: path.stat().st_mtime_ns)
    return found[-1] if found else None
