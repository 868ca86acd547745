"""Large tensors on the CPU in mappings of their own, made of huge pages, so that freed ones go back to the system. Linux with glibc.

glibc keeps a freed tensor's place for later ones, but (2.36) cannot use it for one of the same size: torch asks for aligned memory, for
which glibc looks for some bytes more. What a training step keeps for its backward pass so takes more than twice its size. A mapping is
given back when its tensor is freed. New ones cost clearing their pages, which is cheap with huge pages alone, so it is both or neither.
"""

import ctypes
import os
import sys
from pathlib import Path

LARGE = 5 * 2**20
"""Bytes from which a tensor is large. From 2 MiB on, at which torch asks for huge pages, a step at 'mid' size took an eighth longer and
more; with 5 MiB, which its inner widths and logits have and its hidden states have not, as long within 3 %, for a fifth less memory."""
_MOST = 32 * 2**20
"""Bytes at which a place becomes a mapping at the latest, as glibc finds by itself."""
_SWITCH = "THP_MEM_ALLOC_ENABLE"
"""Read by torch at its first tensor."""
_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")
_M_MMAP_THRESHOLD = -3  # malloc.h


def map_large_tensors() -> bool:
    """Give each large tensor of this process a mapping of huge pages, where the system has them; returns whether it does.

    To be called before torch is imported: torch reads the environment once. `THP_MEM_ALLOC_ENABLE=0` in the environment forbids it.
    """
    if "torch" not in sys.modules and _PAGES.is_file() and "[never]" not in _PAGES.read_text(encoding="ascii"):
        os.environ.setdefault(_SWITCH, "1")
    return os.environ.get(_SWITCH) == "1" and _map_from(LARGE)


def keep_freed_memory() -> None:
    """In a process that reads images, started by one that maps: its large pieces of memory are not tensors."""
    if os.environ.get(_SWITCH) == "1":
        _map_from(_MOST)


def _map_from(num_bytes: int) -> bool:
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and bool(mallopt(_M_MMAP_THRESHOLD, num_bytes))
