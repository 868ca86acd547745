"""Loaders whose order is a pure function of (seed, position).

The samples of all ranks stand in one endless line. Iteration k takes the next `world_size * batch_size` of them and each rank its
slice, so another number of ranks or workers, an accumulated batch, or a resumed run sees the same samples, crops and prompts.
"""

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any, TypeVar

import numpy as np
from torch.utils.data import ConcatDataset, DataLoader, Dataset, Sampler

from xraygpt.common.seed import stateless_seed
from xraygpt.datasets.data_utils import Draw

T = TypeVar("T")

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
        self._permutation = lru_cache(maxsize=2 * len(self.sizes))(self._new_permutation)
        self._block = lru_cache(maxsize=2)(self._new_block)

    def draw(self, position: int) -> Draw:
        """The sample at `position` (from 0)."""
        dataset, nth = self._nth_of_dataset(position)
        number_of_pass, place = divmod(nth, self.sizes[dataset])
        index = int(self._permutation(dataset, number_of_pass)[place])
        return Draw(dataset, index, stateless_seed(self.seed, position))

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


class StatelessBatchSampler(Sampler[list[Draw]]):
    """Endless batches of one rank, from iteration `start_iteration` on."""

    def __init__(self, order: StatelessOrder, *, batch_size: int, rank: int, world_size: int, start_iteration: int) -> None:
        self.order, self.batch_size = order, batch_size
        self.rank, self.world_size, self.start_iteration = rank, world_size, start_iteration

    def __iter__(self) -> Iterator[list[Draw]]:
        first = (self.start_iteration * self.world_size + self.rank) * self.batch_size
        while True:
            yield [self.order.draw(first + i) for i in range(self.batch_size)]
            first += self.world_size * self.batch_size


class MixedDataset(Dataset):
    """Several datasets as one that is indexed by `Draw`."""

    def __init__(self, datasets: Sequence[Dataset]) -> None:
        self.datasets = list(datasets)

    def __getitem__(self, draw: Draw) -> Any:
        return self.datasets[draw.dataset][draw]


def build_train_iterator(
    datasets: Sequence[Any],
    *,
    batch_size: int,
    num_workers: int,
    seed: int,
    rank: int,
    world_size: int,
    start_iteration: int,
    pin_memory: bool,
) -> Iterator[dict[str, Any]]:
    """An endless iterator over training batches. Datasets mix by their `sample_ratio`, or by size if none has one."""
    sizes = [len(dataset) for dataset in datasets]
    given = [getattr(dataset, "sample_ratio", None) for dataset in datasets]
    ratios = sizes if all(ratio is None for ratio in given) else [1.0 if ratio is None else ratio for ratio in given]
    order = StatelessOrder(sizes=sizes, ratios=ratios, seed=seed)
    sampler = StatelessBatchSampler(order, batch_size=batch_size, rank=rank, world_size=world_size, start_iteration=start_iteration)
    loader = DataLoader(MixedDataset(datasets), batch_sampler=sampler, num_workers=num_workers, pin_memory=pin_memory)
    return iter(loader)


def split_into_batches(indices: Sequence[int], batch_size: int) -> list[list[int]]:
    """The indices in order, `batch_size` at a time."""
    return [list(indices[start : start + batch_size]) for start in range(0, len(indices), batch_size)]


def evenly_spaced(total: int, count: int) -> list[int]:
    """`count` positions out of `total`, at even distances from the first; all positions if there are not more."""
    count = min(count, total)
    return [i * total // count for i in range(count)]


def build_eval_loader(datasets: Sequence[Any], *, batches: Sequence[Sequence[int]], num_workers: int, pin_memory: bool) -> DataLoader:
    """A loader over the given batches: indices into the datasets, which stand one after another.

    The ranks share a list of batches by turns, rank r taking `batches[r::world_size]`: a batch holds the same samples whatever their
    number, so that its numbers do not depend on it either. `in_turns` puts the results back in the order of the list.
    """
    whole: Dataset = datasets[0] if len(datasets) == 1 else ConcatDataset(datasets)
    return DataLoader(whole, batch_sampler=batches, num_workers=num_workers, pin_memory=pin_memory)  # type: ignore[arg-type]


def in_turns(shares: Sequence[Sequence[T]]) -> list[T]:
    """The list of which `shares[r]` is `[r::world_size]`.

    >>> in_turns([[0, 2, 4], [1, 3]])
    [0, 1, 2, 3, 4]
    """
    return [shares[i % len(shares)][i // len(shares)] for i in range(sum(map(len, shares)))]
