"""Checkpoints that are made up, and known bit for bit from their step alone."""

from pathlib import Path
from typing import Any

import torch

from xraygpt.common.checkpoint import load_checkpoint
from xraygpt.common.checkpoint_folder import CheckpointFolder


def state(step: int) -> dict[str, Any]:
    """What is saved: a few tensors, so that a save has many writes, and all of a checkpoint that the folder reads."""
    generator = torch.Generator().manual_seed(step)
    model = {f"layer{i}.weight": torch.randn(16, 16, generator=generator) for i in range(4)}
    return {"model": model, "step": step, "epoch": step, "iteration": 0}


def assert_is_state(found: dict[str, Any]) -> None:
    """A checkpoint holds the tensors of its step, bit for bit."""
    wanted = state(found["step"])
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found["model"][name], tensor) for name, tensor in wanted["model"].items())


def newest(folder: Path) -> int:
    """The step that a run would continue from, 0 for none; what is there must be what was saved."""
    path = CheckpointFolder(folder).newest_good()
    if path is None:
        return 0
    found = load_checkpoint(path)
    assert_is_state(found)
    return found["step"]
