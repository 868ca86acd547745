"""Folders of images without reports → studies, and what is passed over."""

import csv
import json
import os
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom.data import get_testdata_file

from tests.datasets.preparation.made_source import write_noise
from xraygpt.common.errors import DataError
from xraygpt.datasets.preparation.account import Account
from xraygpt.datasets.preparation.image_folder import ImageFolderSource
from xraygpt.datasets.preparation.pipeline import PrepareOptions, prepare

DICOM = b"\0" * 128 + b"DICM"


def read(source: Path, **options: Any) -> tuple[list[tuple[str, str]], Account]:
    """(image_id, file below the folder) of each image, and the account."""
    images = ImageFolderSource(source, **options)
    account = Account(roots=images.roots)
    studies = list(images.studies(account))
    assert all(study.study_id == study.images[0].image_id and len(study.images) == 1 for study in studies)
    return [(study.study_id, study.images[0].path.relative_to(images.root).as_posix()) for study in studies], account


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Images, DICOM files and other files, whose content is only looked at where the name does not tell."""
    root = tmp_path / "films"
    contents = {
        "b.png": b"",
        "p1/a (1).JPG": b"",
        "p1/1.2.840": DICOM,
        "p1/scan.dcm": b"",
        "p2/DICOMDIR": DICOM,
        "p2/notes.txt": b"Nothing.",
        "p2/Thumbs.db": b"",
        ".hidden.png": b"",
        ".cache/c.png": b"",
    }
    for name, content in contents.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return root


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ("auto", ["b", "image_000002", "p1/a _28_1_29_", "image_000004"]),
        ("keep", ["b", "p1/1.2.840", "p1/a _28_1_29_", "p1/scan"]),
        ("number", ["image_000001", "image_000002", "image_000003", "image_000004"]),
    ],
)
def test_images_of_a_folder(folder: Path, names: str, expected: list[str]) -> None:
    images, account = read(folder, names=names)
    assert images == list(zip(expected, ["b.png", "p1/1.2.840", "p1/a (1).JPG", "p1/scan.dcm"], strict=True))
    assert account.counts == {"other files": 3}
    assert account.problems == []


def test_links_are_followed_once(folder: Path) -> None:
    (folder / "p1/back").symlink_to(folder)
    (folder / "p2/loop").symlink_to(folder / "p2/loop")
    (folder / "p2/away.png").symlink_to(folder / "missing.png")
    images, account = read(folder, names="keep")
    assert [image_id for image_id, _ in images] == ["b", "p1/1.2.840", "p1/a _28_1_29_", "p1/scan", "p2/away"]  # p2/away: told when opened
    assert account.counts == {"other files": 4}


def test_one_name_for_two_images(folder: Path) -> None:
    (folder / "b.jpg").touch()
    images, account = read(folder, names="keep")
    assert images[0] == ("b", "b.jpg")
    assert "b.png" not in dict(images).values()
    [problem] = account.problems
    assert problem.where == "b.png"
    assert problem.reason == "b.png: would be called 'b', as b.jpg is. Rename one of them, or let all be numbered."


def test_names_that_cannot_be_written(folder: Path) -> None:
    (folder / f"{'ä' * 122}.png").touch()
    with open(os.fsencode(folder) + b"/gr\xf6\xdfe.png", "wb"):
        pass
    images, account = read(folder)
    assert len(images) == 4
    assert sorted(problem.reason.split(": ", 1)[1] for problem in account.problems) == [
        "a name of 248 bytes is too long for a file (240 at most).",
        "the name is not UTF-8; rename it.",
    ]
    json.dumps([problem.reason for problem in account.problems], ensure_ascii=False).encode()


def test_one_file(folder: Path) -> None:
    assert read(folder / "p1/scan.dcm")[0] == [("image_000001", "scan.dcm")]
    assert read(folder / "p2/notes.txt")[0] == [("notes.txt", "notes.txt")]  # that it is no image is told when it is opened


def test_bad_options(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no such folder or file"):
        ImageFolderSource(tmp_path / "missing")
    with pytest.raises(DataError, match="names must be one of auto, keep, number, not 'hash'"):
        ImageFolderSource(tmp_path, names="hash")


# To the prepared folder -------------------------------------------------------------------------------------------------


def test_prepared_folder(tmp_path: Path) -> None:
    root = tmp_path / "films"
    for seed, name in enumerate(("a.png", "p1/b.jpg")):
        write_noise(root / name, seed=seed)
    (root / "damaged.png").write_bytes((root / "a.png").read_bytes()[:100])
    dicom = get_testdata_file("CT_small.dcm")
    assert isinstance(dicom, str)
    dataset = pydicom.dcmread(dicom)
    dataset.Modality = "DX"
    dataset.save_as(root / "p1/DOE^JANE")
    options = PrepareOptions(out=tmp_path / "out", text="none", views=("all",), workers=1)
    manifest = prepare(ImageFolderSource(root), options)
    told = {name: count for name, count in manifest["counts"].items() if count}
    assert told == {"images": 4, "images unreadable": 1, "images kept": 3}
    assert next(iter(manifest["counts"])) == "images"
    annotations = (tmp_path / "out/filter_cap.json").read_text(encoding="utf-8")
    assert json.loads(annotations)["annotations"] == [{"image_id": name, "study_id": name} for name in ("a", "image_000003", "p1/b")]
    assert sorted(path.name for path in (tmp_path / "out/image").rglob("*.*")) == ["a.png", "b.jpg", "image_000003.jpg"]
    with open(tmp_path / "out/sources.csv", encoding="utf-8", newline="") as handle:
        files = {row["id"]: row["file"] for row in csv.DictReader(handle)}
    assert files == {"a": "a.png", "image_000003": "p1/DOE^JANE", "p1/b": "p1/b.jpg"}


def test_real_dicom_files(tmp_path: Path, test_data: Path) -> None:
    options = PrepareOptions(out=tmp_path / "out", text="none", views=("all",), workers=1)
    manifest = prepare(ImageFolderSource(test_data / "dicom"), options)
    assert manifest["counts"]["images kept"] >= 3
    assert {"CT_small", "MR_truncated"} <= {Path(problem["reason"].split(":")[0]).stem for problem in manifest["skipped"]}


def test_nothing_found(tmp_path: Path) -> None:
    (tmp_path / "films").mkdir()
    (tmp_path / "films/notes.txt").touch()
    with pytest.raises(DataError, match=r"films is left \(images: 0; other files: 1;"):
        prepare(ImageFolderSource(tmp_path / "films"), PrepareOptions(out=tmp_path / "out", text="none", views=("all",)))
