"""Rows on disk: never a wrong one, whatever is interrupted, damaged, or written at the same time."""

import errno
import multiprocessing
import os
import pickle
import resource
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.reliability.file_operations import watched
from xraygpt.common.errors import DataError
from xraygpt.datasets import feature_cache
from xraygpt.datasets.feature_cache import FeatureCache

KEY = {"vision": {"files": ["a"]}, "shape": [4, 8], "dtype": "float32"}


def rows(first: int, count: int) -> tuple[list[bytes], np.ndarray]:
    """Names and rows that belong together: row k is filled with k."""
    numbers = np.arange(first, first + count)
    return [name(k) for k in numbers], np.broadcast_to(numbers[:, None, None], (count, 4, 8)).astype(np.float32)


def name(k: int) -> bytes:
    # Ends in a null byte now and then, as a checksum may.
    return int(k + 1).to_bytes(4, "big") + bytes(27) + bytes([k % 2])


def fill(path: Path, first: int, count: int) -> FeatureCache:
    cache = FeatureCache.open(path, KEY)
    with cache.writer() as writer:
        for k in range(first, first + count, 5):
            writer.add(*rows(k, min(5, first + count - k)))
    cache.refresh()
    return cache


def assert_holds(cache: FeatureCache, numbers: range) -> None:
    found = cache.find(np.array([name(k) for k in numbers], dtype="S32"))
    assert (found >= 0).all()
    for k, row in zip(numbers, found, strict=True):
        assert (cache.read(int(row)) == k).all()


def test_rows_come_back_by_name(tmp_path: Path) -> None:
    cache = fill(tmp_path, 0, 13)
    assert len(cache) == 13
    assert_holds(cache, range(13))
    assert cache.find(np.array([name(13), b""], dtype="S32")).tolist() == [-1, -1]


def test_a_new_process_adds_to_what_is_there(tmp_path: Path) -> None:
    fill(tmp_path, 0, 7)
    assert_holds(fill(tmp_path, 7, 6), range(13))


def test_a_loading_process_reads_the_same(tmp_path: Path) -> None:
    cache = fill(tmp_path, 0, 5)
    cache.read(0)
    data = pickle.dumps(cache)
    assert len(data) < 5 * cache.row_bytes + 2000  # names and places travel, rows do not
    assert_holds(pickle.loads(data), range(5))


def test_another_key_is_another_folder_and_both_stay(tmp_path: Path) -> None:
    one = fill(tmp_path, 0, 3)
    other = FeatureCache.open(tmp_path, {**KEY, "vision": {"files": ["b"]}})
    assert len(other) == 0 and one.folder != other.folder
    assert FeatureCache.open(tmp_path, {**KEY, "dtype": "float16"}).folder not in (one.folder, other.folder)
    assert_holds(FeatureCache.open(tmp_path, KEY), range(3))


def test_half_precision_takes_half_the_bytes(tmp_path: Path) -> None:
    cache = FeatureCache.open(tmp_path, {**KEY, "dtype": "float16"})
    with cache.writer() as writer:
        writer.add([name(1)], np.full((1, 4, 8), 0.1, np.float32))
    cache.refresh()
    assert cache.row_bytes == 64
    assert cache.read(0).dtype == np.float16 and cache.read(0)[0, 0] == np.float16(0.1)


def test_what_half_precision_cannot_hold_is_refused(tmp_path: Path) -> None:
    cache = FeatureCache.open(tmp_path, {**KEY, "dtype": "float16"})
    with pytest.raises(DataError, match="dtype=fp32"), cache.writer() as writer, np.errstate(over="ignore"):
        writer.add([name(1)], np.full((1, 4, 8), 1e6, np.float32))


def _fill_until_killed(path: Path, at: int) -> None:
    with watched(at=at):
        fill(path, 0, 40)


def test_a_kill_at_any_operation_costs_rows_but_never_gives_a_wrong_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feature_cache, "ROWS_A_SYNC", 10)
    context = multiprocessing.get_context("fork")
    killed = 0
    for at in range(1, 200):
        process = context.Process(target=_fill_until_killed, args=(tmp_path / str(at), at))
        process.start()
        process.join()
        if process.exitcode == 0:
            break
        assert process.exitcode == -signal.SIGKILL
        killed += 1
        cache = FeatureCache.open(tmp_path / str(at), KEY)
        assert cache.damaged() == []
        assert_holds(cache, range(len(cache)))
        assert_holds(fill(tmp_path / str(at), len(cache), 40 - len(cache)), range(40))
    assert killed > 50


@pytest.mark.parametrize("suffix", [".rows", ".index"])
def test_a_torn_end_is_left_out(suffix: str, tmp_path: Path) -> None:
    cache = fill(tmp_path, 0, 10)
    (file,) = cache.folder.glob(f"*{suffix}")
    os.truncate(file, file.stat().st_size - 3)
    cache.refresh()
    assert len(cache) == 9
    assert_holds(cache, range(9))


def test_a_flipped_byte_is_found_and_computed_again(tmp_path: Path) -> None:
    cache = fill(tmp_path, 0, 10)
    (file,) = cache.folder.glob("*.rows")
    data = bytearray(file.read_bytes())
    data[3 * cache.row_bytes + 17] ^= 4
    file.write_bytes(data)
    cache.refresh()
    with pytest.raises(DataError, match=r"row 3 is damaged. `xraygpt cache verify --repair"):
        cache.read(3)
    assert cache.damaged() == [3]
    cache.forget([3])
    assert len(FeatureCache.open(tmp_path, KEY)) == 9
    assert_holds(fill(tmp_path, 3, 1), range(10))


def test_a_flipped_byte_of_the_index_is_a_missing_row(tmp_path: Path) -> None:
    cache = fill(tmp_path, 0, 10)
    (file,) = cache.folder.glob("*.index")
    data = bytearray(file.read_bytes())
    data[4 * 40] ^= 1
    file.write_bytes(data)
    cache.refresh()
    assert len(cache) == 9
    assert_holds(cache, range(4))
    assert_holds(cache, range(5, 10))


def test_several_processes_fill_at_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=fill, args=(tmp_path, first, 60)) for first in (0, 60, 30)]  # the third's are double
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    cache = FeatureCache.open(tmp_path, KEY)
    assert len(cache) == 180
    assert_holds(cache, range(120))


@pytest.mark.parametrize("fault", ["ENOSPC", "EIO", "short"])
def test_a_disk_that_refuses_costs_nothing_that_was_there(fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feature_cache, "ROWS_A_SYNC", 10)
    fill(tmp_path, 100, 10)
    for at in range(1, 60):
        with watched(at=at, fault=fault):
            try:
                fill(tmp_path, 0, 40)
            except DataError as error:
                assert "feature cache" in str(error)
        cache = FeatureCache.open(tmp_path, KEY)
        assert cache.damaged() == []
        assert_holds(cache, range(100, 110))


def test_too_little_room_is_said_before_anything_is_computed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = FeatureCache.open(tmp_path, KEY)
    usage: Any = type("Usage", (), {"free": 1000})
    monkeypatch.setattr(feature_cache.shutil, "disk_usage", lambda path: usage)
    cache.require_room(5)
    with pytest.raises(DataError, match="GB more for 6 rows"):
        cache.require_room(6)


def test_a_folder_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=f"cannot be read or made.*{errno.ENOTDIR}"):
        FeatureCache.open(tmp_path / "file", KEY)


def test_more_files_than_a_process_may_open(tmp_path: Path) -> None:
    """Each run adds files of its own; hundreds of runs may share a cache."""
    for k in range(0, 200, 2):
        fill(tmp_path, k, 2)
    cache = FeatureCache.open(tmp_path, KEY)
    assert len(cache.files) == 100
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 80, hard))
    try:
        assert_holds(cache, range(200))
        assert cache.damaged() == []
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
