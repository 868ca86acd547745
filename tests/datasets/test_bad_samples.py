"""Samples that cannot be used: found, named, and replaced as a function of the position alone."""

import os
import signal
from pathlib import Path
from typing import Any

import pytest
from torch.utils.data import Dataset

from xraygpt.common.errors import ConfigError, DataError, TrainingError
from xraygpt.datasets.bad_samples import scan_data
from xraygpt.datasets.data_utils import Draw
from xraygpt.datasets.dataloaders import SKIP, STOP, build_eval_loader, build_train_iterator
from xraygpt.datasets.order import StatelessOrder

SIZE = 10
BAD = (2, 3, 7)
PER_UPDATE = 12


class Films(Dataset):
    """Items that tell their draw; some are damaged."""

    sample_ratio = None

    def __init__(self, bad: tuple[int, ...] = BAD) -> None:
        self.bad = bad

    def __len__(self) -> int:
        return SIZE

    def locate(self, index: int) -> tuple[str, str]:
        return f"film-{index}", f"image/film-{index}.png"

    def __getitem__(self, key: int | Draw) -> dict[str, Any]:
        index = key.index if isinstance(key, Draw) else key
        if index in self.bad:
            raise DataError("the image is damaged")
        return {"index": index, "sample_id": f"film-{index}"}


class Mortal(Films):
    """The process that loads its film 5 is killed."""

    def __getitem__(self, key: int | Draw) -> dict[str, Any]:
        item = super().__getitem__(key)
        if item["index"] == 5:
            os.kill(os.getpid(), signal.SIGKILL)
        return item


def iterator(dataset: Dataset, *, on_bad_sample: str = SKIP, workers: int = 0, batch_size: int = PER_UPDATE, **place: int) -> Any:
    place = {"rank": 0, "world_size": 1, "start_iteration": 0} | place
    return build_train_iterator(
        [dataset], batch_size=batch_size, num_workers=workers, seed=3, pin_memory=False, on_bad_sample=on_bad_sample, **place
    )  # fmt: skip


def line(num_updates: int, *, workers: int = 0, world_size: int = 1, start: int = 0) -> list[list[int]]:
    """The draws of the first updates, in the order of the line."""
    size = PER_UPDATE // world_size
    ranks = [
        iterator(Films(), workers=workers, batch_size=size, rank=rank, world_size=world_size, start_iteration=start)
        for rank in range(world_size)
    ]
    return [draw for _ in range(num_updates) for rank in ranks for draw in next(rank)["draw"].tolist()]


def test_only_the_places_of_bad_samples_change() -> None:
    order = StatelessOrder(sizes=[SIZE], ratios=[SIZE], seed=3)
    planned = [order.draw(position) for position in range(4 * PER_UPDATE)]
    found = line(4)
    assert [row[2] for row in found] == [draw.seed for draw in planned]  # a place keeps its seed
    for position, draw in enumerate(planned):
        expected = next(order.draw(position + ahead).index for ahead in range(SIZE) if order.draw(position + ahead).index not in BAD)
        assert found[position][1] == expected
        assert draw.index in BAD or expected == draw.index


@pytest.mark.parametrize("how", [{"workers": 2}, {"world_size": 2}, {"world_size": 3}])
def test_workers_and_ranks_replace_alike(how: dict[str, int]) -> None:
    assert line(3, **how) == line(3)


def test_a_resumed_run_replaces_alike() -> None:
    assert line(2, start=2) == line(4)[2 * PER_UPDATE :]


@pytest.mark.parametrize("workers", [0, 1])
def test_a_batch_says_what_was_left_out_of_it(workers: int) -> None:
    batch = next(iterator(Films(), workers=workers, batch_size=SIZE))
    assert {bad.sample_id for bad in batch["bad_samples"]} == {f"film-{i}" for i in BAD}
    assert {(bad.file, bad.reason) for bad in batch["bad_samples"] if bad.sample_id == "film-2"} == {
        ("image/film-2.png", "the image is damaged")
    }
    assert len(batch["sample_id"]) == SIZE


@pytest.mark.parametrize("workers", [0, 1])
def test_stop_is_one_clean_error(workers: int) -> None:
    with pytest.raises(DataError) as error:
        next(iterator(Films(), on_bad_sample=STOP, workers=workers, batch_size=SIZE))
    assert str(error.value).startswith("3 of the next samples cannot be used:\n  sample film-")
    assert "(image/film-7.png): the image is damaged" in str(error.value) and "run.on_bad_sample=skip" in str(error.value)
    assert "Traceback" not in str(error.value)


def test_a_folder_that_is_gone_stops_whatever_was_asked() -> None:
    with pytest.raises(DataError, match="cannot be used"):
        next(iterator(Films(tuple(range(SIZE)))))


def test_an_evaluation_leaves_none_out() -> None:
    loader = build_eval_loader([Films()], batches=[[0, 1], [2, 4]], num_workers=1, pin_memory=False)
    assert len(loader) == 2
    batches = iter(loader)
    assert next(batches)["index"].tolist() == [0, 1]
    with pytest.raises(DataError, match=r"(?s)film-2.*an evaluation leaves none out"):
        next(batches)


def test_a_policy_that_does_not_exist() -> None:
    with pytest.raises(ConfigError, match="'ignore'; choices: stop, skip"):
        iterator(Films(), on_bad_sample="ignore")


def test_a_loading_process_that_is_killed_is_named() -> None:
    with pytest.raises(TrainingError, match=r"has died or hangs: DataLoader worker .*lower run\.num_workers"):
        next(iterator(Mortal(), workers=1, batch_size=SIZE))


@pytest.mark.parametrize("workers", [0, 2])
def test_the_scan_finds_all(workers: int) -> None:
    found = scan_data([Films(), Films((0,))], num_workers=workers)
    assert [bad.sample_id for bad in found] == ["film-2", "film-3", "film-7", "film-0"]


def test_real_files_are_named(tmp_path: Path) -> None:
    from tests.datasets.test_caption_datasets import make_dataset

    dataset = make_dataset(tmp_path)
    (tmp_path / "a.png").write_bytes(b"no image")
    (tmp_path / "p10/b.png").unlink()
    damaged, missing, again = scan_data([dataset], num_workers=0)
    assert (damaged.sample_id, damaged.file) == ("a", str(tmp_path / "a.png")) and damaged == again
    assert (missing.sample_id, missing.file) == ("p10/b", str(tmp_path / "p10/b.jpg"))
    assert "There is no image" in missing.reason
