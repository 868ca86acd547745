"""Randomness as a pure function of (seed, position): nothing to store, nothing to replay when a run is resumed."""

import random

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
