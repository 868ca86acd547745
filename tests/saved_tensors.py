"""What autograd keeps of a forward pass for the backward pass."""

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


class _Kept:
    """A tensor for as long as autograd keeps it."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor


def kept_tensors(model: Any, compute: Callable[[], Any]) -> list[Tensor]:
    """Tensors that are kept when `compute` is done, but for the model's own weights, each storage once."""
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    alive: weakref.WeakSet[_Kept] = weakref.WeakSet()

    def pack(tensor: Tensor) -> _Kept:
        holder = _Kept(tensor)
        alive.add(holder)
        return holder

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda holder: holder.tensor):
        result = compute()
    storages = {holder.tensor.untyped_storage().data_ptr(): holder.tensor.detach() for holder in alive}
    del result
    return [tensor for address, tensor in storages.items() if address not in own]


def kept_bytes(model: Any, compute: Callable[[], Any]) -> int:
    """Bytes of their storages."""
    return sum(tensor.untyped_storage().nbytes() for tensor in kept_tensors(model, compute))
