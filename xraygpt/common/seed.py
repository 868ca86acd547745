"""Randomness as a pure function of (seed, position): nothing to store, nothing to replay when a run is resumed."""

import random
from typing import Any

import numpy as np
import torch


def stateless_seed(*numbers: int) -> int:
    """A seed in [0, 2**63) that depends on all the numbers given and on nothing else.

    >>> stateless_seed(42, 7) == stateless_seed(42, 7) != stateless_seed(42, 8)
    True
    """
    return int(np.random.SeedSequence((*numbers, len(numbers))).generate_state(1, np.uint64)[0] >> np.uint64(1))


def seed_everything(*numbers: int) -> None:
    """Seed Python, NumPy and torch (all devices) from the numbers given, for example (run seed, rank, global iteration)."""
    seed = stateless_seed(*numbers)
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def random_state() -> dict[str, Any]:
    """Where Python's, NumPy's, torch's and this process's CUDA generator stand, as plain values and tensors."""
    numpy: Any = np.random.get_state(legacy=True)
    plain = tuple(part.tolist() if isinstance(part, np.ndarray) else part for part in numpy)
    state = {"python": random.getstate(), "numpy": plain, "torch": torch.get_rng_state(), "cuda": None}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def set_random_state(state: dict[str, Any]) -> None:
    """Continue the draws of `random_state`; CUDA's only where both have it."""
    version, numbers, gauss = state["python"]
    random.setstate((version, tuple(numbers), gauss))
    np.random.set_state(tuple(state["numpy"]))
    torch.set_rng_state(state["torch"])
    if state["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
