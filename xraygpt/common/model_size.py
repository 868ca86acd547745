"""The numbers that a model has, counted while it is built without storage: a small file cannot ask for a model that fills the memory."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import get_ident
from typing import Any

from xraygpt.common.errors import CheckpointError

MAX_MODULES = 100_000
"""A published language model has some thousands."""
MAX_NEW_NUMBERS = 2_000_000_000
"""Of a model with random weights: 8 GB in float32. Larger ones start from published weights."""
MAX_NUMBERS = 2**40
"""Of a model without storage."""
ALWAYS_ALLOWED = 16_000_000
"""Numbers, 64 MB in float32: masks and tables of positions are in the model and not in its files."""
NUMBERS_PER_BYTE = 2
"""Of weights in 4 bits, the smallest that are read. It also covers a last layer that is stored once and built twice."""


def numbers_in(files: Iterable[Path]) -> int:
    """The most numbers that a model of these weights can have."""
    return ALWAYS_ALLOWED + NUMBERS_PER_BYTE * sum(path.stat().st_size for path in files)


@contextmanager
def counted(limit: int, source: Path, allowed: str) -> Iterator[None]:
    """Modules that are built inside by this thread have no storage, and are counted.

    Args:
        limit: of numbers in all parameters and buffers.
        source: the file that asks for them, for the message.
        allowed: where the limit comes from and what to do, for the message.

    Raises:
        CheckpointError: there are more numbers, or more than `MAX_MODULES` modules.
    """
    import torch
    from torch.nn.modules import module as hooks

    thread, modules, numbers = get_ident(), 0, 0

    def count_module(*_: Any) -> None:
        nonlocal modules
        modules += get_ident() == thread
        if modules > MAX_MODULES:
            raise CheckpointError(f"{source} is refused: it asks for a model of more than {MAX_MODULES:,} modules.")

    def count_tensor(_module: Any, _name: str, tensor: Any) -> None:
        nonlocal numbers
        if tensor is not None and get_ident() == thread:
            numbers += tensor.numel()
        if numbers > limit:
            raise CheckpointError(f"{source} is refused: it asks for a model of more than {limit:,} numbers, {allowed}")

    registered = [
        hooks.register_module_module_registration_hook(count_module),
        hooks.register_module_parameter_registration_hook(count_tensor),
        hooks.register_module_buffer_registration_hook(count_tensor),
    ]
    try:
        with torch.device("meta"):
            yield
    finally:
        for hook in registered:
            hook.remove()
