"""MIMIC-CXR's tables: lines that cannot be used, and tables that cannot be read."""

import csv
import gzip
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.datasets.preparation.mimic_cases import first, ids, made_ids, read, read_table, set_cell, write_rows
from tests.datasets.preparation.mimic_tree import MadeTree, write_mimic_tree
from xraygpt.common.errors import DataError
from xraygpt.datasets.preparation import mimic_tables


@pytest.fixture
def tree(tmp_path: Path) -> MadeTree:
    """JPEG files and reports as files, of 12 subjects."""
    return write_mimic_tree(tmp_path / "data", num_subjects=12, seed=3)


def shorten_line(name: str) -> Callable[[MadeTree], None]:
    def shorten(tree: MadeTree) -> None:
        rows = read_table(tree.table(name))
        rows[1].pop()
        write_rows(tree.table(name), rows)

    return shorten


def spoil_cell(name: str, column: str, value: str) -> Callable[[MadeTree], None]:
    return lambda tree: set_cell(tree.table(name), 2, column, value)


def give_study_to_another_subject(name: str) -> Callable[[MadeTree], None]:
    """The second line of a study names another subject."""

    def give(tree: MadeTree) -> None:
        rows = read_table(tree.table(name))
        study = rows[0].index("study_id")
        line = next(i for i in range(1, len(rows) - 1) if rows[i][study] == rows[i + 1][study]) + 2
        set_cell(tree.table(name), line, "subject_id", "19999999")

    return give


@pytest.mark.parametrize(
    ("spoil", "count", "says"),
    [
        (shorten_line("metadata"), "table lines unusable", "metadata.*line 2: 11 columns; the first line has 12"),
        (shorten_line("negbio"), "table lines unusable", "negbio.*line 2: 15 columns; the first line has 16"),
        (spoil_cell("metadata", "study_id", "5041x267"), "table lines unusable", "study_id is '5041x267'; expected a number of 8 digits"),
        (spoil_cell("metadata", "subject_id", "10000032.0"), "table lines unusable", "subject_id is '10000032.0'"),
        (spoil_cell("metadata", "dicom_id", "../../etc/passwd"), "table lines unusable", "dicom_id is '../../etc/passwd'"),
        (spoil_cell("chexpert", "Edema", "yes"), "table lines unusable", "Edema is 'yes'; expected 1.0, 0.0, -1.0 or nothing"),
        (give_study_to_another_subject("metadata"), "given to another subject", "the subject 19999999; elsewhere"),
        (give_study_to_another_subject("split"), "given to another subject", "the subject 19999999; elsewhere"),
    ],
)
def test_a_line_that_cannot_be_used(tree: MadeTree, spoil: Callable[[MadeTree], None], count: str, says: str) -> None:
    spoil(tree)
    studies, account = read(tree.root)
    assert account.counts == {count: 1}
    assert str(tree.root) not in account.problems[0].reason
    assert ids(studies) == made_ids(tree.studies)
    with pytest.raises(DataError, match=says):
        read(tree.root, on_error="stop")


def test_a_study_without_a_split(tree: MadeTree) -> None:
    study_id = str(first(tree).study_id)
    write_rows(tree.table("split"), [row for row in read_table(tree.table("split")) if row[1] != study_id])
    studies, account = read(tree.root)
    assert account.counts == {"not in the split table": 1}
    assert [problem.id for problem in account.problems] == [study_id]
    assert ids(studies) == [other for other in made_ids(tree.studies) if other != study_id]
    with pytest.raises(DataError, match=f"metadata.*line 2: the study {study_id} has no split in .*split"):
        read(tree.root, on_error="stop")


def test_a_split_that_cannot_be_leaves_its_study_without_one(tree: MadeTree) -> None:
    single = next(made for made in tree.studies if len(made.images) == 1)
    line = next(i for i, row in enumerate(read_table(tree.table("split")), start=1) if row[1] == str(single.study_id))
    set_cell(tree.table("split"), line, "split", "holdout")
    studies, account = read(tree.root)
    assert account.counts == {"table lines unusable": 1, "not in the split table": 1}
    assert str(single.study_id) not in ids(studies)


def test_a_study_in_two_splits_is_refused(tree: MadeTree) -> None:
    rows = read_table(tree.table("split"))
    line = next(i for i in range(1, len(rows) - 1) if rows[i][1] == rows[i + 1][1]) + 2
    set_cell(tree.table("split"), line, "split", "test")
    with pytest.raises(DataError, match=f"line {line}: the study {rows[line - 1][1]} is in the split 'test' here and in 'train' before"):
        read(tree.root)


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda content: content[:-20], "cannot be read beyond about line"),
        (lambda content: content[:40] + b"\x00" * 40 + content[80:], "cannot be read beyond about line"),
        (lambda content: gzip.compress(b"\xff\xfe" + gzip.decompress(content)), "cannot be read beyond about line 0"),
        (
            lambda content: gzip.compress(gzip.decompress(content).replace(b"ViewPosition", b"View", 1)),
            "lacks ViewPosition. Expected .*; found",
        ),
        (lambda content: b"", "found nothing"),
        (lambda content: gzip.compress(bytes(50_000_000)), "a line of 65,536 characters"),
        (lambda content: gzip.compress(gzip.decompress(content) + b'"open' + b"\n," * 200_000), "field larger than field limit"),
    ],
    ids=["cut off", "overwritten", "not UTF-8", "other columns", "empty", "one endless line", "an open quotation mark"],
)
def test_a_damaged_table_ends_it(tree: MadeTree, spoil: Callable[[bytes], bytes], says: str) -> None:
    csv.field_size_limit(1 << 30)  # as reading a table of reports leaves it
    path = tree.table("metadata")
    path.write_bytes(spoil(path.read_bytes()))
    with pytest.raises(DataError, match=says) as raised:
        read(tree.root)
    assert str(path) in str(raised.value)


def test_a_table_that_unpacks_without_end(tree: MadeTree, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mimic_tables, "MAX_TABLE_BYTES", 1000)
    with pytest.raises(DataError, match="1,000 bytes in all"):
        read(tree.root)
