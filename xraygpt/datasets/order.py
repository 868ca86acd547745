"""Which sample stands where in the endless line of training samples: a pure function of (seed, position)."""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, Protocol

import numpy as np

from xraygpt.common.seed import stateless_seed
from xraygpt.datasets.data_utils import Draw

MIX_BLOCK = 1000
"""Several datasets are mixed in blocks of this many samples; the ratios hold within each block, to one part in a thousand."""


class StatelessOrder:
    """Position in the endless line of samples → `Draw`.

    Each dataset is passed through in a new random order at every pass; the datasets are mixed by `ratios`.

    Args:
        sizes: number of samples of each dataset.
        ratios: relative weight of each dataset, of any scale.
    """

    def __init__(self, *, sizes: Sequence[int], ratios: Sequence[float], seed: int) -> None:
        self.sizes, self.seed = list(sizes), seed
        self.quotas = _largest_remainder(ratios, MIX_BLOCK)
        self._make_caches()

    def _make_caches(self) -> None:
        self._permutation = lru_cache(maxsize=2 * len(self.sizes))(self._new_permutation)
        self._block = lru_cache(maxsize=2)(self._new_block)

    def __getstate__(self) -> dict[str, Any]:
        """What a loading process needs; it fills caches of its own."""
        return {"sizes": self.sizes, "seed": self.seed, "quotas": self.quotas}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._make_caches()

    def draw(self, position: int) -> Draw:
        """The sample at `position` (from 0)."""
        return Draw(*self.sample(position), stateless_seed(self.seed, position))

    def sample(self, position: int) -> tuple[int, int]:
        """Dataset and index of the sample at `position`: its draw without the seed, in a tenth of the time."""
        dataset, nth = self._nth_of_dataset(position)
        number_of_pass, place = divmod(nth, self.sizes[dataset])
        return dataset, int(self._permutation(dataset, number_of_pass)[place])

    def _nth_of_dataset(self, position: int) -> tuple[int, int]:
        if len(self.sizes) == 1:
            return 0, position
        block, offset = divmod(position, MIX_BLOCK)
        datasets, earlier = self._block(block)
        dataset = int(datasets[offset])
        return dataset, block * self.quotas[dataset] + int(earlier[offset])

    def _new_block(self, block: int) -> tuple[np.ndarray, np.ndarray]:
        """The shuffled datasets of one block, and how many of the same dataset stand before each."""
        datasets = np.repeat(np.arange(len(self.quotas)), self.quotas)
        np.random.default_rng([self.seed, 1, block]).shuffle(datasets)
        earlier = np.zeros(MIX_BLOCK, dtype=np.int64)
        for dataset, quota in enumerate(self.quotas):
            earlier[datasets == dataset] = np.arange(quota)
        return datasets, earlier

    def _new_permutation(self, dataset: int, number_of_pass: int) -> np.ndarray:
        return np.random.default_rng([self.seed, 2, dataset, number_of_pass]).permutation(self.sizes[dataset])


def _largest_remainder(ratios: Sequence[float], total: int) -> list[int]:
    """Whole numbers in the proportion of `ratios` that add up to `total`."""
    exact = np.asarray(ratios, dtype=np.float64) / np.sum(ratios) * total
    quotas = np.floor(exact).astype(int)
    for i in np.argsort(quotas - exact)[: total - quotas.sum()]:
        quotas[i] += 1
    return [int(quota) for quota in quotas]


WINDOW_UPDATES = 64
"""Texts of similar length are looked for among the samples of this many updates. More would save little: a batch then spans 1/64 of the
lengths there are."""


class Order(Protocol):
    """Position in the endless line of samples → `Draw`."""

    def draw(self, position: int) -> Draw:
        """The sample at `position` (from 0)."""

    def sample(self, position: int) -> tuple[int, int]:
        """Dataset and index of the sample at `position`."""


class LengthGroupedOrder:
    """A `StatelessOrder` within whose windows the samples of each update have texts of similar length.

    The line is cut into windows of `WINDOW_UPDATES` updates, and a window where a pass over the only dataset ends. Within such a piece
    samples change places: sorted by length, they are dealt to updates, and the updates stand in random order. In an update they stay
    sorted, so that each rank's slice is of similar length too. Every sample keeps its own seed, and every pass still has each sample once.

    The pieces depend on the samples of an update, not on how ranks, batches and accumulation share them out.

    Args:
        order: of a run without grouping.
        length_of: length of a sample, in any unit; asked for those of a window when it is reached.
        per_update: samples of one update over all ranks.
    """

    def __init__(self, order: StatelessOrder, *, length_of: Callable[[Draw], int], per_update: int) -> None:
        self.order, self.length_of, self.per_update = order, length_of, per_update
        total = sum(order.sizes)
        # A window of more than all the samples would put the same sample several times into one update.
        self.window = per_update * max(1, min(WINDOW_UPDATES, total // per_update))
        self.size_of_pass = total if len(order.sizes) == 1 else None
        self._make_caches()

    def _make_caches(self) -> None:
        self._piece = lru_cache(maxsize=4)(self._new_piece)

    def __getstate__(self) -> dict[str, Any]:
        """What a loading process needs; it fills caches of its own."""
        return {key: value for key, value in self.__dict__.items() if key != "_piece"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._make_caches()

    def draw(self, position: int) -> Draw:
        """The sample at `position` (from 0)."""
        return self.order.draw(self._ungrouped(position))

    def sample(self, position: int) -> tuple[int, int]:
        """Dataset and index of the sample at `position`."""
        return self.order.sample(self._ungrouped(position))

    def _ungrouped(self, position: int) -> int:
        start, stop = self._bounds(position)
        return int(self._piece(start, stop)[position - start])

    def _bounds(self, position: int) -> tuple[int, int]:
        start = position // self.window * self.window
        stop = start + self.window
        if self.size_of_pass is not None:
            start_of_pass = position // self.size_of_pass * self.size_of_pass
            start, stop = max(start, start_of_pass), min(stop, start_of_pass + self.size_of_pass)
        return start, stop

    def _new_piece(self, start: int, stop: int) -> np.ndarray:
        """For each place of [start, stop) the position in the ungrouped order of the sample that stands there."""
        lengths = [self.length_of(self.order.draw(position)) for position in range(start, stop)]
        by_length = start + np.argsort(lengths, kind="stable")
        # Updates that this piece shares with its neighbours get the longest texts from both.
        before = min(-start % self.per_update, stop - start)
        whole = (stop - start - before) // self.per_update
        updates = by_length[: whole * self.per_update].reshape(whole, self.per_update)
        longest = by_length[whole * self.per_update :]
        shuffled = np.random.default_rng([self.order.seed, 3, start]).permutation(updates)
        return np.concatenate([longest[:before], shuffled.ravel(), longest[before:]])
