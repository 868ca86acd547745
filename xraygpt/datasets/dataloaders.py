"""Loaders whose order is a pure function of (seed, position).

The samples of all ranks stand in one endless line (`xraygpt.datasets.order`). Iteration k takes the next `world_size * batch_size` of them
and each rank its part, so another number of ranks or workers, an accumulated batch, or a resumed run sees the same samples, crops and
prompts.

A sample that cannot be used is found by the process that loads it. With `on_bad_sample: skip` the next usable sample of the line takes its
place, with the place's own seed for crop and prompt; every other place keeps its sample. What stands at a position is therefore a function
of the seed, the position and the files alone.
"""

import dataclasses
import heapq
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch.utils.data import ConcatDataset, DataLoader, Dataset, Sampler, default_collate

from xraygpt.common.errors import ConfigError, TrainingError
from xraygpt.common.signals import in_loading_process
from xraygpt.datasets.bad_samples import Attempts, BadSample, attempt, cannot_be_used
from xraygpt.datasets.data_utils import Draw
from xraygpt.datasets.order import LengthGroupedOrder, Order, StatelessOrder

T = TypeVar("T")

STOP, SKIP = "stop", "skip"
"""Values of `run.on_bad_sample`."""

DEALT_TOGETHER = 1024
"""Samples of an iteration that are dealt to ranks together, by length."""

MAX_REPLACEMENTS = 100
"""So many samples of the line are tried for one place; where all are bad, the folder is gone rather than a file damaged."""


class StatelessBatchSampler(Sampler[list[int]]):
    """Endless batches of positions of one rank, from iteration `start_iteration` on.

    Args:
        length_of: position → length of the text there. An iteration's samples are dealt to the ranks by it, so that none has to wait for
            another with longer texts. None: each rank takes its slice.
    """

    def __init__(
        self, *, batch_size: int, rank: int, world_size: int, start_iteration: int, length_of: Callable[[int], int] | None = None
    ) -> None:
        self.batch_size, self.rank, self.world_size, self.start_iteration = batch_size, rank, world_size, start_iteration
        self.length_of = length_of if world_size > 1 else None

    def __iter__(self) -> Iterator[list[int]]:
        first = self.start_iteration * self.world_size * self.batch_size
        while True:
            yield self._own(first)
            first += self.world_size * self.batch_size

    def _own(self, first: int) -> list[int]:
        """This rank's positions of the iteration that begins at position `first`."""
        if self.length_of is None:
            first += self.rank * self.batch_size
            return list(range(first, first + self.batch_size))
        # Among all ranks it would cost each of a thousand more than it saves.
        most = max(1, DEALT_TOGETHER // self.batch_size)
        first_rank = self.rank // most * most
        ranks = min(most, self.world_size - first_rank)
        first += first_rank * self.batch_size
        lengths = {position: self.length_of(position) for position in range(first, first + ranks * self.batch_size)}
        return sorted(dealt_evenly(lengths, ranks)[self.rank - first_rank])


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

    def __init__(self, datasets: Sequence[Dataset], order: Order, *, replace_bad: bool = False) -> None:
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


def dealt_evenly(lengths: Mapping[int, int], hands: int) -> list[list[int]]:
    """Deal the keys to hands of the same number, so that the sums of their lengths are near to each other.

    From the longest on, each goes to the hand that has least and is not full (Graham 1969, with a limit on the number).
    """
    size = len(lengths) // hands
    dealt: list[list[int]] = [[] for _ in range(hands)]
    waiting = [(0, hand) for hand in range(hands)]
    for position in sorted(lengths, key=lambda position: (-lengths[position], position)):
        total, hand = heapq.heappop(waiting)
        dealt[hand].append(position)
        if len(dealt[hand]) < size:
            heapq.heappush(waiting, (total + lengths[position], hand))
    return dealt


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


def num_words(text: str, prompt_seed: int) -> int:
    """Words and punctuation marks: near to the number of tokens, where nothing knows that."""
    return len(re.findall(r"\w+|[^\w\s]", text))


class _Characters:
    """Position → characters of the text there: near enough to the number of tokens for dealing texts out."""

    def __init__(self, datasets: Sequence[Any], order: Order) -> None:
        self.datasets, self.order = datasets, order

    def __call__(self, position: int) -> int:
        dataset, index = self.order.sample(position)
        return self.datasets[dataset].text_length(index)


class RowLengths:
    """Draw → length of what the model reads for it."""

    def __init__(self, datasets: Sequence[Any], row_length: Callable[[str, int], int]) -> None:
        self.datasets, self.row_length = datasets, row_length

    def __call__(self, draw: Draw) -> int:
        return self.row_length(self.datasets[draw.dataset].text(draw.index), draw.seed)


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
    group_by_length: bool = False,
    row_length: Callable[[str, int], int] | None = None,
    accum_grad_iters: int = 1,
) -> Iterator[dict[str, Any]]:
    """An endless iterator over training batches. Datasets mix by their `sample_ratio`, or by size if none has one.

    Args:
        on_bad_sample: `STOP` or `SKIP`, see `RunConfig`.
        timeout_s: how long a batch may take to be loaded, in seconds; 0: for ever. Only loading processes are watched.
        group_by_length: bring texts of similar length together, see `LengthGroupedOrder`; without effect where a dataset has no
            `text(index)`.
        row_length: text and prompt seed → tokens of what the model reads; None: words of the text. Loading processes call it.
        accum_grad_iters: iterations whose samples make one update, which is what texts are brought together for.

    Raises:
        DataError: at the batch with a sample that cannot be used; under `SKIP`, if none of the next `MAX_REPLACEMENTS` can.
        TrainingError: at the batch at which a loading process has died or takes longer than `timeout_s`.
    """
    if on_bad_sample not in (STOP, SKIP):
        raise ConfigError(f"run.on_bad_sample is {on_bad_sample!r}; choices: {STOP}, {SKIP}.")
    sizes = [len(dataset) for dataset in datasets]
    given = [getattr(dataset, "sample_ratio", None) for dataset in datasets]
    ratios = sizes if all(ratio is None for ratio in given) else [1.0 if ratio is None else ratio for ratio in given]
    plain = StatelessOrder(sizes=sizes, ratios=ratios, seed=seed)
    order: Order = plain
    if group_by_length and all(hasattr(dataset, "text") for dataset in datasets):
        length_of = RowLengths(datasets, row_length or num_words)
        order = LengthGroupedOrder(plain, length_of=length_of, per_update=batch_size * world_size * accum_grad_iters)
    sampler = StatelessBatchSampler(
        batch_size=batch_size,
        rank=rank,
        world_size=world_size,
        start_iteration=start_iteration,
        length_of=_Characters(datasets, order) if all(hasattr(dataset, "text_length") for dataset in datasets) else None,
    )
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
