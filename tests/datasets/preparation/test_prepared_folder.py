"""A prepared folder is there whole or not at all; an interrupted one waits under a hidden name."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock

from xraygpt.common.errors import DataError
from xraygpt.datasets.preparation.prepared_folder import split_counts, unfinished_folder, write_annotations, write_manifest

KEY = {"resize": 0}
ROWS = [
    {"image_id": "a", "caption": "Normal.", "study_id": "1", "split": "train"},
    {"image_id": "b", "caption": "Normal.", "study_id": "2", "split": "test"},
    {"image_id": "c", "caption": "Effusion.", "study_id": "2", "split": "test"},
]


def fill(folder: Path) -> None:
    (folder / "image").mkdir(exist_ok=True)
    (folder / "image/a.png").write_bytes(b"a")


def finish(folder: Path) -> None:
    fill(folder)
    write_annotations(folder, ROWS)
    write_manifest(folder, {"dataset": "x"}, ROWS, [("a", "1")])


def fail(out: Path, error: BaseException, action: Callable[[Path], None] = fill, *, overwrite: bool = False) -> None:
    with pytest.raises(type(error)), unfinished_folder(out, KEY, overwrite=overwrite) as folder:
        action(folder)
        raise error


def test_it_appears_when_it_is_complete(tmp_path: Path) -> None:
    out = tmp_path / "deep/data"
    with unfinished_folder(out, KEY, overwrite=False) as folder:
        finish(folder)
        assert not out.exists()
        assert folder.name.startswith(".")
    assert sorted(path.name for path in out.iterdir()) == ["filter_cap.json", "image", "manifest.json"]
    assert [path.name for path in out.parent.iterdir()] == ["data"]


def test_an_interrupted_one_waits_and_is_gone_on_with(tmp_path: Path) -> None:
    fail(tmp_path / "data", KeyboardInterrupt())
    assert [path.name for path in tmp_path.iterdir()] == [".data.unfinished"]
    with unfinished_folder(tmp_path / "data", KEY, overwrite=False) as folder:
        assert (folder / "image/a.png").exists()
        finish(folder)
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_with_other_options_it_is_begun_anew(tmp_path: Path) -> None:
    fail(tmp_path / "data", KeyboardInterrupt())
    with unfinished_folder(tmp_path / "data", {"resize": 512}, overwrite=False) as folder:
        assert not (folder / "image").exists()
        finish(folder)


def test_without_a_finished_image_nothing_stays(tmp_path: Path) -> None:
    fail(tmp_path / "data", DataError("x"), lambda folder: None)
    assert list(tmp_path.iterdir()) == []


def test_two_preparations_do_not_meet(tmp_path: Path) -> None:
    with (
        FileLock(tmp_path / ".data.lock"),
        pytest.raises(DataError, match="Another preparation is writing"),
        unfinished_folder(tmp_path / "data", KEY, overwrite=False),
    ):
        raise AssertionError


def test_a_prepared_folder_is_replaced_only_when_asked_and_only_by_a_complete_one(tmp_path: Path) -> None:
    out = tmp_path / "data"
    with unfinished_folder(out, KEY, overwrite=False) as folder:
        finish(folder)
    (out / "old").touch()
    with pytest.raises(DataError, match=r"exists already.*--overwrite"), unfinished_folder(out, KEY, overwrite=False):
        raise AssertionError
    fail(out, DataError("x"), overwrite=True)
    assert (out / "old").exists()
    with unfinished_folder(out, KEY, overwrite=True) as folder:
        finish(folder)
    assert not (out / "old").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_a_folder_of_something_else_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "precious").touch()
    with pytest.raises(DataError, match=r"no prepared folder and is not overwritten"), unfinished_folder(tmp_path, KEY, overwrite=True):
        raise AssertionError


def test_the_fingerprint_says_whether_the_data_are_the_same(tmp_path: Path) -> None:
    def fingerprint(rows: list[dict[str, str]], images: list[tuple[str, str]]) -> str:
        write_annotations(tmp_path, rows)
        manifest = write_manifest(tmp_path, {"dataset": "x"}, rows, images)
        assert json.loads((tmp_path / "manifest.json").read_text()) == manifest
        return manifest["fingerprint"]

    images = [("a", "1"), ("b", "2")]
    same = fingerprint(ROWS, images)
    assert fingerprint(ROWS, images[::-1]) == same
    assert fingerprint(ROWS, [("a", "1"), ("b", "3")]) != same
    assert fingerprint([*ROWS[:2], ROWS[2] | {"caption": "No effusion."}], images) != same


def test_split_counts() -> None:
    assert split_counts(ROWS) == {
        "train": {"studies": 1, "images": 1},
        "val": {"studies": 0, "images": 0, "images with a caption of train": 0},
        "test": {"studies": 1, "images": 2, "images with a caption of train": 1},
    }
    assert split_counts([{"image_id": "a", "study_id": "a"}]) == {}
