"""Loaders whose order is a pure function of (seed, position).

The samples of all ranks stand in one endless line. Iteration k takes the next `world_size * batch_size` of them and each rank its
slice, so another number of ranks or workers, an accumulated batch, or a resumed run sees the same samples, crops and prompts.

A sample that cannot be used is found by the process that loads it. With `on_bad_sample: skip` the next usable sample of the line takes its
place, with the place's own seed for crop and prompt; every other place keeps its sample. What stands at a position is therefore a function
of the seed, the position and the files alone.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeVar

import numpy as np
import torch
from torch.utils.data import ConcatDataset, DataLoader, Dataset, Sampler, default_collate

from xraygpt.common.errors import ConfigError, TrainingError
from xraygpt.common.seed import stateless_seed
from xraygpt.common.signals import in_loading_process
from xraygpt.datasets.bad_samples import Attempts, BadSample, attempt, cannot_be_used
from xraygpt.datasets.data_utils import Draw

T = TypeVar("T")

STOP, SKIP = "stop", "skip"
"""Values of `run.on_bad_sample`."""

MAX_REPLACEMENTS = 100
"""So many samples of the line are tried for one place; where all are bad, the folder is gone rather than a file damaged."""

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


class StatelessBatchSampler(Sampler[list[int]]):
    """Endless batches of positions of one rank, from iteration `start_iteration` on."""

    def __init__(self, *, batch_size: int, rank: int, world_size: int, start_iteration: int) -> None:
        self.batch_size, self.rank, self.world_size, self.start_iteration = batch_size, rank, world_size, start_iteration

    def __iter__(self) -> Iterator[list[int]]:
        first = (self.start_iteration * self.world_size + self.rank) * self.batch_size
        while True:
            yield list(range(first, first + self.batch_size))
            first += self.world_size * self.batch_size


@dataclass(frozen=True)
class Drawn:
    """What stands at one position of the line.

    Attributes:
        item: of the dataset; None if it could not be used and nothing took its place.
        draw: which sample the item is.
        bad: the samples that could not be used here.
    """

    item: dict[str, Any] | None
    draw: Draw
    bad: tuple[BadSample, ...]


class MixedDataset(Dataset):
    """Several datasets as one endless line of samples, indexed by position.

    Args:
        datasets: each is indexed by a `Draw`.
        order: position → draw.
        replace_bad: put the next usable sample of the line in the place of one that cannot be used.
    """

    def __init__(self, datasets: Sequence[Dataset], order: StatelessOrder, *, replace_bad: bool = False) -> None:
        self.datasets, self.order = list(datasets), order
        self.tries = MAX_REPLACEMENTS if replace_bad else 1

    def __getitem__(self, position: int) -> Drawn:
        bad: list[BadSample] = []
        seed = self.order.draw(position).seed
        for ahead in range(self.tries):
            draw = dataclasses.replace(self.order.draw(position + ahead), seed=seed)
            item = attempt(self.datasets[draw.dataset], draw)
            if not isinstance(item, BadSample):
                return Drawn(item, draw, tuple(bad))
            bad.append(item)
        return Drawn(None, draw, tuple(bad))


def collate_drawn(drawn: Sequence[Drawn]) -> dict[str, Any]:
    """The batch of some positions, as `data_utils` documents it; without items if there is none for one of them."""
    bad = [sample for each in drawn for sample in each.bad]
    if any(each.item is None for each in drawn):
        return {"bad_samples": bad}
    draws = torch.tensor([(each.draw.dataset, each.draw.index, each.draw.seed) for each in drawn])
    return {**default_collate([each.item for each in drawn]), "draw": draws, "bad_samples": bad}


def collate_attempts(samples: Sequence[Any]) -> dict[str, Any]:
    """The batch of samples, or of nothing but its bad samples if there are any."""
    bad = [sample for sample in samples if isinstance(sample, BadSample)]
    return {"bad_samples": bad} if bad else default_collate(list(samples))


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
    on_bad_sample: str = STOP,
    timeout_s: float = 0.0,
) -> Iterator[dict[str, Any]]:
    """An endless iterator over training batches. Datasets mix by their `sample_ratio`, or by size if none has one.

    Args:
        on_bad_sample: `STOP` or `SKIP`, see `RunConfig`.
        timeout_s: how long a batch may take to be loaded, in seconds; 0: for ever. Only loading processes are watched.

    Raises:
        DataError: at the batch with a sample that cannot be used; under `SKIP`, if none of the next `MAX_REPLACEMENTS` can.
        TrainingError: at the batch at which a loading process has died or takes longer than `timeout_s`.
    """
    if on_bad_sample not in (STOP, SKIP):
        raise ConfigError(f"run.on_bad_sample is {on_bad_sample!r}; choices: {STOP}, {SKIP}.")
    sizes = [len(dataset) for dataset in datasets]
    given = [getattr(dataset, "sample_ratio", None) for dataset in datasets]
    ratios = sizes if all(ratio is None for ratio in given) else [1.0 if ratio is None else ratio for ratio in given]
    order = StatelessOrder(sizes=sizes, ratios=ratios, seed=seed)
    sampler = StatelessBatchSampler(batch_size=batch_size, rank=rank, world_size=world_size, start_iteration=start_iteration)
    loader: DataLoader = DataLoader(
        MixedDataset(datasets, order, replace_bad=on_bad_sample == SKIP),
        batch_sampler=sampler,
        num_workers=num_workers,
        pin_memory=pin_memory,
        collate_fn=collate_drawn,
        timeout=timeout_s if num_workers else 0,
        worker_init_fn=in_loading_process,
    )
    return whole_batches(iter(loader), advice=f"{_MEND}, or train without them: run.on_bad_sample=skip.")


_MEND = "Mend or remove them ('train.py --check --scan-data' lists all that are bad)"


def whole_batches(batches: Iterator[dict[str, Any]], *, advice: str) -> Iterator[dict[str, Any]]:
    """The batches of a loader.

    Raises:
        DataError: a batch lacks a sample that cannot be used; `advice` says what to do.
        TrainingError: a loading process has died, or takes longer than it may.
    """
    while True:
        try:
            batch = next(batches, None)
        except RuntimeError as error:
            if not str(error).startswith("DataLoader "):  # "DataLoader worker (pid …) …" or "DataLoader timed out …"
                raise
            raise TrainingError(
                f"A process that loads data has died or hangs: {error} Usual causes: the memory is used up (the system's log says so; "
                "lower run.num_workers), /dev/shm is full, or the disk of the images does not answer. With run.num_workers=0 the training "
                "process loads by itself."
            ) from error
        if batch is None:
            return
        if batch.keys() == {"bad_samples"}:
            raise cannot_be_used(batch["bad_samples"], advice)
        yield batch


def split_into_batches(indices: Sequence[int], batch_size: int) -> list[list[int]]:
    """The indices in order, `batch_size` at a time."""
    return [list(indices[start : start + batch_size]) for start in range(0, len(indices), batch_size)]


def evenly_spaced(total: int, count: int) -> list[int]:
    """`count` positions out of `total`, at even distances from the first; all positions if there are not more."""
    count = min(count, total)
    return [i * total // count for i in range(count)]


class EvalLoader:
    """The batches of an evaluation, and their number.

    A sample that cannot be used is an error whatever `run.on_bad_sample` says: numbers over other samples are not comparable.
    """

    def __init__(self, loader: DataLoader) -> None:
        self.loader = loader

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return whole_batches(iter(self.loader), advice=f"{_MEND}; an evaluation leaves none out.")


def build_eval_loader(
    datasets: Sequence[Any], *, batches: Sequence[Sequence[int]], num_workers: int, pin_memory: bool, timeout_s: float = 0.0
) -> EvalLoader:
    """A loader over the given batches: indices into the datasets, which stand one after another.

    The ranks share a list of batches by turns, rank r taking `batches[r::world_size]`: a batch holds the same samples whatever their
    number, so that its numbers do not depend on it either. `in_turns` puts the results back in the order of the list.
    """
    whole: Dataset = ConcatDataset([Attempts(dataset) for dataset in datasets])
    loader: DataLoader = DataLoader(
        whole,
        batch_sampler=batches,  # type: ignore[arg-type]
        num_workers=num_workers,
        pin_memory=pin_memory,
        collate_fn=collate_attempts,
        timeout=timeout_s if num_workers else 0,
        worker_init_fn=in_loading_process,
    )
    return EvalLoader(loader)


def in_turns(shares: Sequence[Sequence[T]]) -> list[T]:
    """The list of which `shares[r]` is `[r::world_size]`.

    >>> in_turns([[0, 2, 4], [1, 3]])
    [0, 1, 2, 3, 4]
    """
    return [shares[i % len(shares)][i // len(shares)] for i in range(sum(map(len, shares)))]
