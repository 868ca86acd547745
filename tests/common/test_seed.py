"""Randomness as a function of position."""

import random

import numpy as np
import torch

from xraygpt.common.seed import seed_everything, stateless_seed


def test_the_seed_depends_on_every_number_and_on_their_order() -> None:
    seeds = [stateless_seed(*numbers) for numbers in [(0, 1), (1, 0), (1, 1), (7, 42), (42, 8), (42, 7)]]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert stateless_seed(42, 7) == seeds[5]


def test_the_seed_is_the_same_on_every_machine() -> None:
    assert stateless_seed(42, 7) == 3117315295600852364


def test_every_generator_is_seeded() -> None:
    def draw() -> tuple[float, float, float]:
        return random.random(), float(np.random.rand()), float(torch.rand(()))

    seed_everything(42, 0, 5)
    first = draw()
    assert draw() != first
    seed_everything(42, 0, 5)
    assert draw() == first
    seed_everything(42, 1, 5)
    assert not set(draw()) & set(first)
