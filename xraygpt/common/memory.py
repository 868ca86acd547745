"""Where memory goes: the bytes of weights, gradients and optimizer state of a run, and its peak."""

import resource
import sys
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from xraygpt.common.checkpoint import tensors_in

MIB = 2**20


def weight_bytes(model: nn.Module) -> dict[str, int]:
    """Part (top-level attribute) → bytes of its parameters and buffers, as they are stored; what is shared counts once.

    Weights that are mapped from a file count too, although the system may drop them from memory and read them again.
    """
    seen: set[int] = set()
    parts: dict[str, int] = {}
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if id(tensor) not in seen:
            seen.add(id(tensor))
            part = name.split(".")[0]
            parts[part] = parts.get(part, 0) + tensor.nbytes
    return parts


def gradient_bytes(model: nn.Module) -> int:
    """Bytes of all gradients, when they are there: one number for each trainable parameter, in its type."""
    return sum(parameter.nbytes for parameter in model.parameters() if parameter.requires_grad)


def optimizer_bytes(optimizer: Optimizer) -> int:
    """Bytes of the optimizer's state; 0 before its first step."""
    return sum(tensor.nbytes for tensor in tensors_in(optimizer.state))


def peak_bytes(device: torch.device) -> int:
    """The most memory that was in use at once: on CUDA by this process's tensors, otherwise by the process (libraries, mapped files)."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def memory_by_part(model: nn.Module, optimizer: Optimizer, device: torch.device) -> dict[str, Any]:
    """In MiB: {"weights": {part: …}, "gradients": …, "optimizer": …, "peak": …}.

    On CUDA, what the peak has more than the sum of the others is activations and logits.
    """
    return {
        "weights": {part: _mib(count) for part, count in weight_bytes(model).items()},
        "gradients": _mib(gradient_bytes(model)),
        "optimizer": _mib(optimizer_bytes(optimizer)),
        "peak": _mib(peak_bytes(device)),
    }


def _mib(count: int) -> float:
    return round(count / MIB, 1)
