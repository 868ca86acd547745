"""The order of training is a function of (seed, position), whoever asks."""

import itertools
import pickle
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import Dataset

from xraygpt.datasets.data_utils import Draw, prepare_sample
from xraygpt.datasets.dataloaders import (
    RowLengths,
    StatelessBatchSampler,
    build_eval_loader,
    build_train_iterator,
    evenly_spaced,
    in_turns,
    num_words,
    split_into_batches,
)
from xraygpt.datasets.order import MIX_BLOCK, LengthGroupedOrder, StatelessOrder

PER_UPDATE = 12
"""Samples of one update over all ranks."""


class Numbers(Dataset):
    """Items that tell which sample they are, and with which seed."""

    def __init__(self, name: int, size: int, sample_ratio: float | None = None) -> None:
        self.name, self.size, self.sample_ratio = name, size, sample_ratio

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, key: int | Draw) -> dict[str, Any]:
        draw = key if isinstance(key, Draw) else Draw(self.name, key, 0)
        return {"dataset": self.name, "index": draw.index, "seed": draw.seed}


def rows(batch: dict[str, torch.Tensor]) -> list[tuple[int, ...]]:
    """(dataset, index, seed) of each sample of a batch."""
    return list(zip(*(batch[key].tolist() for key in ("dataset", "index", "seed")), strict=True))


def seen(
    datasets: list[Numbers],
    *,
    num_updates: int,
    world_size: int = 1,
    batch_size: int = PER_UPDATE,
    start: int = 0,
    workers: int = 0,
    group_by_length: bool = False,
) -> list[tuple[int, ...]]:
    """The samples of the first updates, in the order of the line; accumulation makes up for smaller batches."""
    accumulated = PER_UPDATE // (world_size * batch_size)
    iterators = [
        build_train_iterator(
            datasets,
            batch_size=batch_size,
            num_workers=workers,
            seed=3,
            rank=rank,
            world_size=world_size,
            start_iteration=start * accumulated,
            pin_memory=False,
            group_by_length=group_by_length,
            accum_grad_iters=accumulated,
        )
        for rank in range(world_size)
    ]
    return [row for _ in range(num_updates * accumulated) for iterator in iterators for row in rows(next(iterator))]


@pytest.mark.parametrize(
    "how",
    [
        {"world_size": 2, "batch_size": 6},
        {"world_size": 4, "batch_size": 3},
        {"world_size": 1, "batch_size": 3},
        {"world_size": 3, "batch_size": 2},
        {"world_size": 1, "workers": 2},
    ],
)
def test_ranks_batches_and_workers_see_the_same(how: dict[str, int]) -> None:
    datasets = [Numbers(0, 17), Numbers(1, 5)]
    assert seen(datasets, num_updates=5, **how) == seen(datasets, num_updates=5)


def test_a_resumed_run_sees_the_rest() -> None:
    datasets = [Numbers(0, 17), Numbers(1, 5)]
    assert seen(datasets, num_updates=3, start=2) == seen(datasets, num_updates=5)[2 * PER_UPDATE :]


@given(size=st.integers(1, 40), passes=st.integers(1, 4), seed=st.integers(0, 2**31))
def test_every_sample_once_in_each_pass(size: int, passes: int, seed: int) -> None:
    order = StatelessOrder(sizes=[size], ratios=[1.0], seed=seed)
    for number in range(passes):
        assert sorted(order.draw(number * size + i).index for i in range(size)) == list(range(size))


def test_passes_and_seeds_differ() -> None:
    order, other = (StatelessOrder(sizes=[50], ratios=[1.0], seed=seed) for seed in (1, 2))
    first, second = ([order.draw(start + i).index for i in range(50)] for start in (0, 50))
    assert first != second and first != sorted(first)
    assert first != [other.draw(i).index for i in range(50)]
    assert len({order.draw(i).seed for i in range(100)}) == 100


def test_order_does_not_depend_on_what_was_asked_before() -> None:
    order, fresh = (StatelessOrder(sizes=[7, 30, 11], ratios=[1, 2, 3], seed=1) for _ in range(2))
    expected = [order.draw(i) for i in range(3000)]
    assert [fresh.draw(i) for i in reversed(range(3000))] == expected[::-1]


@pytest.mark.parametrize(("ratios", "counts"), [([1, 3], [250, 750]), ([0.2, 0.2], [500, 500]), ([1, 1, 1], [334, 333, 333])])
def test_ratios_hold_in_every_block(ratios: list[float], counts: list[int]) -> None:
    order = StatelessOrder(sizes=[10] * len(ratios), ratios=ratios, seed=5)
    for block in range(3):
        found = Counter(order.draw(block * MIX_BLOCK + i).dataset for i in range(MIX_BLOCK))
        assert sorted(found.values(), reverse=True) == sorted(counts, reverse=True)


def test_a_mixed_dataset_is_passed_through_as_well() -> None:
    order = StatelessOrder(sizes=[40, 60], ratios=[1, 1], seed=5)
    of_first = [draw.index for draw in map(order.draw, range(4 * MIX_BLOCK)) if draw.dataset == 0]
    assert all(sorted(of_first[i : i + 40]) == list(range(40)) for i in range(0, 2000, 40))


@pytest.mark.parametrize(
    ("given_ratios", "expected"),
    [((None, None), (750, 250)), ((1.0, 1.0), (500, 500)), ((3.0, None), (750, 250))],
)
def test_datasets_mix_by_ratio_or_by_size(given_ratios: tuple, expected: tuple[int, int]) -> None:
    datasets = [Numbers(i, size, ratio) for i, (size, ratio) in enumerate(zip((300, 100), given_ratios, strict=True))]
    iterator = build_train_iterator(
        datasets, batch_size=MIX_BLOCK, num_workers=0, seed=0, rank=0, world_size=1, start_iteration=0, pin_memory=False
    )  # fmt: skip
    assert torch.bincount(next(iterator)["dataset"]).tolist() == list(expected)


def test_an_order_survives_being_sent_to_a_process() -> None:
    order = StatelessOrder(sizes=[7, 30], ratios=[1, 2], seed=1)
    order.draw(3)
    sent = pickle.loads(pickle.dumps(order))
    assert [sent.draw(i) for i in range(50)] == [order.draw(i) for i in range(50)]


def test_the_sampler_is_endless() -> None:
    sampler = StatelessBatchSampler(batch_size=2, rank=0, world_size=1, start_iteration=0)
    assert len(list(itertools.islice(iter(sampler), 20))) == 20


class Texts(Numbers):
    """Numbers whose texts have lengths, in no order."""

    def text(self, index: int) -> str:
        return "word " * (index * 37 % 101)


@pytest.mark.parametrize("sizes", [[1, 0], [17, 5], [900, 0], [1000, 3]])
@pytest.mark.parametrize("how", [{"world_size": 2, "batch_size": 6}, {"world_size": 4, "batch_size": 3}, {"batch_size": 3}, {"workers": 2}])
def test_grouped_updates_are_the_same_on_any_ranks_batches_and_workers(sizes: list[int], how: dict[str, int]) -> None:
    datasets: list[Numbers] = [Texts(i, size) for i, size in enumerate(sizes) if size]
    expected = seen(datasets, num_updates=5, group_by_length=True)
    assert seen(datasets, num_updates=5, group_by_length=True, **how) == expected
    assert seen(datasets, num_updates=3, start=2, group_by_length=True, **how) == expected[2 * PER_UPDATE :]


def grouped(sizes: list[int], seed: int = 3) -> LengthGroupedOrder:
    """A grouped order over `Texts` of these sizes."""
    order = StatelessOrder(sizes=sizes, ratios=sizes, seed=seed)
    return LengthGroupedOrder(order, length_of=RowLengths([Texts(0, size) for size in sizes], num_words), per_update=PER_UPDATE)


@given(size=st.integers(1, 40 * PER_UPDATE), seed=st.integers(0, 2**31))
def test_grouping_keeps_each_pass_and_each_seed(size: int, seed: int) -> None:
    order = grouped([size], seed)
    for start in (0, size, 2 * size):
        draws = [order.draw(start + i) for i in range(size)]
        assert sorted(draw.index for draw in draws) == list(range(size))
        assert set(draws) == {order.order.draw(start + i) for i in range(size)}


def test_a_window_of_several_datasets_has_each_of_its_samples_once() -> None:
    order = grouped([400, 600])
    assert 0 < order.window <= 1000 and order.window % PER_UPDATE == 0
    for start in range(0, 3 * order.window, order.window):
        places = range(start, start + order.window)
        assert {order.draw(place) for place in places} == {order.order.draw(place) for place in places}


def test_grouped_updates_have_similar_lengths_in_random_order() -> None:
    order, num_updates = grouped([64 * PER_UPDATE]), 64
    lengths = np.array([order.length_of(order.draw(i)) for i in range(num_updates * PER_UPDATE)]).reshape(num_updates, -1)
    assert int(np.ptp(lengths, axis=1).max()) <= 4  # of lengths from 0 to 100
    means = lengths.mean(axis=1)
    assert abs(float(np.corrcoef(means, np.arange(num_updates))[0, 1])) < 0.3


def test_lengths_are_the_model_s_where_it_counts_them() -> None:
    datasets = [Texts(0, 7 * PER_UPDATE)]
    options = {"batch_size": PER_UPDATE, "num_workers": 0, "seed": 3, "rank": 0, "world_size": 1, "start_iteration": 0, "pin_memory": False}
    batches = build_train_iterator(datasets, **options, group_by_length=True, row_length=lambda text, seed: len(text) % 11)
    for _ in range(7):
        lengths = [len(datasets[0].text(index)) % 11 for index in next(batches)["index"].tolist()]
        assert lengths == sorted(lengths) and lengths[-1] - lengths[0] <= 3


def test_datasets_that_have_no_texts_are_not_grouped() -> None:
    datasets = [Texts(0, 17), Numbers(1, 5)]
    assert seen(datasets, num_updates=5, group_by_length=True) == seen(datasets, num_updates=5)


def test_a_grouped_order_survives_being_sent_to_a_process() -> None:
    order = grouped([50])
    order.draw(3)
    assert [pickle.loads(pickle.dumps(order)).draw(i) for i in range(60)] == [order.draw(i) for i in range(60)]


@pytest.mark.parametrize("world_size", [1, 2, 3, 16])
def test_evaluation_has_the_same_batches_on_any_number_of_ranks(world_size: int) -> None:
    datasets = [Numbers(0, 7), Numbers(1, 4)]
    batches = split_into_batches(range(11), 2)
    loaders = [
        build_eval_loader(datasets, batches=batches[rank::world_size], num_workers=0, pin_memory=False) for rank in range(world_size)
    ]
    found = in_turns([[[row[:2] for row in rows(batch)] for batch in loader] for loader in loaders])
    samples = [(0, i) for i in range(7)] + [(1, i) for i in range(4)]
    assert found == [samples[start : start + 2] for start in range(0, 11, 2)]


def test_evaluation_of_nothing_left() -> None:
    assert list(build_eval_loader([Numbers(0, 7)], batches=[], num_workers=0, pin_memory=False)) == []


@pytest.mark.parametrize(
    ("total", "count", "expected"),
    [(10, 3, [0, 3, 6]), (4, 4, [0, 1, 2, 3]), (3, 5, [0, 1, 2]), (5, 0, []), (0, 3, []), (7, 2, [0, 3])],
)
def test_evenly_spaced(total: int, count: int, expected: list[int]) -> None:
    assert evenly_spaced(total, count) == expected


def test_a_batch_stays_where_it_is_without_cuda() -> None:
    samples = {"image": torch.zeros(1), "caption": ["a"]}
    assert prepare_sample(samples, cuda_enabled=False) is samples


@pytest.mark.gpu
def test_every_tensor_of_a_batch_moves_to_cuda() -> None:
    moved = prepare_sample({"image": torch.zeros(1), "more": [torch.ones(2), "a"]}, cuda_enabled=True)
    assert moved["image"].is_cuda and moved["more"][0].is_cuda and moved["more"][1] == "a"


# Ranks --------------------------------------------------------------------------------------------------------------


def test_ranks_get_texts_of_equal_length_together_and_the_same_samples() -> None:
    lengths = np.random.default_rng(0).lognormal(4, 0.6, 3200).astype(int)
    samplers = [
        StatelessBatchSampler(batch_size=4, rank=rank, world_size=8, start_iteration=2, length_of=lambda place: int(lengths[place]))
        for rank in range(8)
    ]
    sliced = [StatelessBatchSampler(batch_size=4, rank=rank, world_size=8, start_iteration=2) for rank in range(8)]
    longest = {"dealt": 0, "sliced": 0}
    for iteration, (dealt, plain) in enumerate(zip(zip(*samplers, strict=True), zip(*sliced, strict=True), strict=True)):
        positions = range((iteration + 2) * 32, (iteration + 3) * 32)
        assert sorted(place for batch in dealt for place in batch) == list(positions)
        assert all(len(batch) == 4 for batch in dealt)
        for name, batches in (("dealt", dealt), ("sliced", plain)):
            longest[name] += max(sum(lengths[place] for place in batch) for batch in batches)
        if iteration == 90:
            break
    mean = sum(lengths[64 : 64 + 91 * 32]) / 8
    assert longest["sliced"] / mean > 1.3
    assert longest["dealt"] / mean < 1.15


def test_a_single_rank_keeps_the_order() -> None:
    sampler = StatelessBatchSampler(batch_size=3, rank=0, world_size=1, start_iteration=0, length_of=lambda place: -place)
    assert next(iter(sampler)) == [0, 1, 2]


def test_a_large_batch_is_dealt_among_neighbours() -> None:
    def own(rank: int) -> list[int]:
        sampler = StatelessBatchSampler(
            batch_size=400, rank=rank, world_size=5, start_iteration=1, length_of=lambda place: place * 37 % 101
        )
        return next(iter(sampler))

    dealt = [own(rank) for rank in range(5)]
    assert all(len(batch) == 400 for batch in dealt)
    assert sorted(dealt[0] + dealt[1]) == list(range(2000, 2800))
    assert sorted(dealt[2] + dealt[3]) == list(range(2800, 3600))
    assert dealt[4] == list(range(3600, 4000))
