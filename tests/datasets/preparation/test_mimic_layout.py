"""Where the parts of MIMIC-CXR may lie, and what is said of a part that is not there."""

import gzip
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.datasets.preparation.mimic_cases import ids, made_ids, read
from tests.datasets.preparation.mimic_tree import MadeTree, write_mimic_tree
from xraygpt.common.errors import DataError
from xraygpt.datasets.preparation import mimic_layout
from xraygpt.datasets.preparation.account import Account
from xraygpt.datasets.preparation.mimic import MIMICSource
from xraygpt.datasets.preparation.pipeline import PrepareOptions, prepare


@pytest.fixture
def tree(tmp_path: Path) -> MadeTree:
    """JPEG files and reports as files, of 12 subjects."""
    return write_mimic_tree(tmp_path / "data", num_subjects=12, seed=3)


@pytest.mark.parametrize(
    "roots",
    [
        lambda tree: [tree.jpg, tree.cxr],
        lambda tree: [tree.cxr, tree.jpg],
        lambda tree: [tree.jpg, tree.reports],
        lambda tree: [tree.root, tree.root, tree.jpg],
        lambda tree: [tree.images, tree.reports, tree.table("metadata"), tree.table("split")],
    ],
    ids=["two data sets", "in another order", "the tree itself", "named twice", "single tables"],
)
def test_the_parts_may_lie_under_several_roots(tree: MadeTree, roots: Callable[[MadeTree], list[Path]]) -> None:
    studies, account = read(*roots(tree))
    assert ids(studies) == made_ids(tree.studies)
    assert not account.problems
    assert not account.notes
    assert len({file.file for file in account.source_files}) == len(account.source_files)


def test_a_mirror_of_physionet_is_found_from_its_top(tree: MadeTree) -> None:
    mirror = tree.root / "mirror" / "physionet.org" / "files"
    mirror.mkdir(parents=True)
    for name in ("mimic-cxr-jpg", "mimic-cxr"):
        shutil.move(tree.root / name, mirror / name)
    (mirror / "mimic-cxr-jpg" / "2.0.0" / "back").symlink_to(mirror)  # a loop
    studies, account = read(tree.root)
    assert ids(studies) == made_ids(tree.studies)
    assert {file.file for file in account.source_files if file.kind == "table"} == {
        f"mirror/physionet.org/files/mimic-cxr-jpg/2.0.0/mimic-cxr-2.0.0-{name}.csv.gz"
        for name in ("metadata", "split", "chexpert", "negbio")
    }


def test_linked_folders_are_followed(tree: MadeTree, tmp_path: Path) -> None:
    (tmp_path / "links").mkdir()
    for name in ("mimic-cxr-jpg", "mimic-cxr"):
        (tmp_path / "links" / name).symlink_to(tree.root / name)
    assert ids(read(tmp_path / "links")[0]) == made_ids(tree.studies)


def test_images_of_one_kind_may_be_spread_over_trees(tree: MadeTree) -> None:
    moved = next(made for made in tree.studies if made.images)
    other = tree.root / "second" / "files" / moved.folder
    other.parent.mkdir(parents=True)
    shutil.move(tree.images / moved.folder, other)
    studies, _ = read(tree.root)
    assert all(image.path.is_file() for study in studies for image in study.images)


@pytest.mark.parametrize(("options", "suffix"), [({}, ".jpg"), ({"prefer": "dicom"}, ".dcm")])
def test_jpeg_is_preferred_where_both_are_there(tree: MadeTree, options: dict[str, str], suffix: str) -> None:
    for path in sorted(tree.images.rglob("*.jpg")):
        target = tree.cxr / "files" / path.relative_to(tree.images).with_suffix(".dcm")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(b"")
    source = MIMICSource(roots=[tree.root], **options)
    suffixes = {image.path.suffix for study in source.studies(Account(roots=source.roots)) for image in study.images}
    assert suffixes == {suffix}
    assert source.options["image_files"] == {".jpg": "jpg", ".dcm": "dicom"}[suffix]


@pytest.mark.parametrize(("content", "name"), [("plain", "mimic-cxr-2.0.0-metadata.csv"), ("windows", "mimic-cxr-2.1.0-metadata.csv.gz")])
def test_tables_unpacked_renamed_or_saved_by_other_programs(tree: MadeTree, content: str, name: str) -> None:
    packed = tree.table("metadata").read_bytes()
    text = gzip.decompress(packed)
    tree.table("metadata").unlink()
    (tree.jpg / name).write_bytes(
        text if content == "plain" else b"\xef\xbb\xbf" + text.replace(b"\n", b"\r\n")
    )  # not packed, whatever its name
    studies, account = read(tree.root)
    assert ids(studies) == made_ids(tree.studies)
    assert not account.problems
    assert sum(len(study.images) for study in studies) == len(text.splitlines()) - 1


def test_of_several_versions_the_newest_table_is_read(tree: MadeTree) -> None:
    newer = tree.jpg / "mimic-cxr-2.1.0-metadata.csv.gz"
    shutil.copy(tree.table("metadata"), newer)
    tree.table("metadata").write_bytes(b"")
    _, account = read(tree.root)
    assert any(file.file.endswith(newer.name) for file in account.source_files)


# Parts that are not there -----------------------------------------------------------------------------------------------


def test_without_the_table_of_views_they_are_unknown_and_a_note_says_where_it_is(tmp_path: Path) -> None:
    tree = write_mimic_tree(tmp_path, num_subjects=3, dicom=True)
    shutil.rmtree(tree.jpg)
    source = MIMICSource(roots=[tree.root])
    account = Account(roots=source.roots)
    studies = list(source.studies(account))
    assert ids(studies) == made_ids(tree.studies)
    assert {image.view + image.view_position for study in studies for image in study.images} == {""}
    assert {study.split for study in studies} == {""}
    assert dict(account.notes) == {"no table of views": 1, "no table of splits": 1}
    assert source.options == {"image_files": "dicom", "image_table": "record-list", "split": "hash", "labels": []}


def test_without_views_the_default_ends_with_the_way_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tree = write_mimic_tree(tmp_path / "data", num_subjects=3, dicom=True)
    shutil.rmtree(tree.jpg)
    with pytest.raises(DataError, match="--views all"):
        prepare(MIMICSource(roots=[tree.root]), PrepareOptions(out=tmp_path / "out", workers=1))
    assert "mimic-cxr-2.0.0-metadata.csv.gz, a small file of MIMIC-CXR-JPG" in caplog.text


@pytest.mark.parametrize(
    ("remove", "missing"),
    [
        ("images", r"images, such as files/p10/p10000032/s50414267/<dicom_id>\.jpg"),
        ("reports", r"reports, such as files/p10/p10000032/s50414267\.txt, or mimic-cxr-reports\.zip"),
        ("tables", r"mimic-cxr-2\.0\.0-metadata\.csv\.gz"),
    ],
)
def test_what_is_missing_is_named(tree: MadeTree, remove: str, missing: str) -> None:
    if remove == "tables":
        tree.table("metadata").unlink()
        (tree.cxr / "cxr-record-list.csv.gz").unlink()
    else:
        shutil.rmtree(getattr(tree, remove))
    with pytest.raises(DataError, match=missing) as raised:
        MIMICSource(roots=[tree.root])
    assert str(raised.value).count("\n  ") == 1


def test_an_empty_folder_lacks_all_three(tmp_path: Path) -> None:
    with pytest.raises(DataError) as raised:
        MIMICSource(roots=[tmp_path])
    assert str(raised.value).count("\n  ") == 3


def test_a_folder_that_is_no_data_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match="cannot be listed"):
        MIMICSource(roots=[tmp_path / "absent"])
    for number in range(6):
        (tmp_path / str(number)).mkdir()
    monkeypatch.setattr(mimic_layout, "MAX_FOLDERS", 5)
    with pytest.raises(DataError, match="more than 5 folders"):
        MIMICSource(roots=[tmp_path])
