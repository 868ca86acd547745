"""MIMIC-CXR's reports, in a tree and in their archive, and what may be wrong with them."""

import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.datasets.preparation.mimic_cases import first, ids, made_ids, read, report_of
from tests.datasets.preparation.mimic_tree import MadeTree, write_mimic_tree
from xraygpt.common.errors import DataError
from xraygpt.datasets.preparation import mimic_reports


@pytest.fixture
def tree(tmp_path: Path) -> MadeTree:
    """JPEG files and reports as files, of 12 subjects."""
    return write_mimic_tree(tmp_path / "data", num_subjects=12, seed=3)


def drop_report(tree: MadeTree) -> None:
    report_of(tree, first(tree)).unlink()


def spoil_encoding(tree: MadeTree) -> None:
    report_of(tree, first(tree)).write_bytes(b"FINDINGS: caf\xe9")


def swell_report(tree: MadeTree) -> None:
    report_of(tree, first(tree)).write_bytes(bytes(mimic_reports.MAX_REPORT_BYTES + 1))


def give_report_to_another_subject(tree: MadeTree) -> None:
    last = tree.studies[-1]
    shutil.copy(report_of(tree, first(tree)), report_of(tree, last).with_name(f"s{first(tree).study_id}.txt"))


def misplace_a_subject(tree: MadeTree) -> None:
    folder = tree.reports / "p99" / "p10000032"
    folder.mkdir(parents=True)
    (folder / "s50414267.txt").write_text("FINDINGS: None.")


@pytest.mark.parametrize(
    ("spoil", "count", "says", "is_lost"),
    [
        (drop_report, "reports missing", "metadata.*line 2: this image's report, .*txt, was not found", True),
        (spoil_encoding, "reports unreadable", r"no UTF-8 text \(byte 13\)", True),
        (swell_report, "reports unreadable", "larger than 1,048,576 bytes", True),
        (give_report_to_another_subject, "given to another subject", "the images of this study are given to the subject", False),
        (misplace_a_subject, "given to another subject", "first two digits", False),
    ],
)
def test_a_report_that_cannot_be_used(tree: MadeTree, spoil: Callable[[MadeTree], None], count: str, says: str, is_lost: bool) -> None:
    spoil(tree)
    studies, account = read(tree.root)
    assert account.counts == {count: 1}
    assert str(tree.root) not in account.problems[0].reason
    assert [problem.kind for problem in account.problems] == ["report"]
    expected = made_ids(tree.studies)
    if is_lost:
        expected.remove(str(first(tree).study_id))
    assert ids(studies) == expected
    with pytest.raises(DataError, match=says):
        read(tree.root, on_error="stop")


def test_no_text_of_a_report_is_logged(tree: MadeTree, caplog: pytest.LogCaptureFixture) -> None:
    report_of(tree, first(tree)).write_bytes(b"FINDINGS: secret \xff")
    read(tree.root)
    assert "no UTF-8" in caplog.text
    assert "secret" not in caplog.text


def rewrite_archive(path: Path, change: Callable[[dict[str, bytes]], None]) -> None:
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    change(members)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)


def test_members_that_are_no_reports_are_passed_over(tmp_path: Path) -> None:
    tree = write_mimic_tree(tmp_path, num_subjects=3, zipped_reports=True)
    strangers = (
        "../files/p10/p10000032/s50414267.txt",
        "__MACOSX/files/p10/p10000032/._s50414267.txt",
        "/p10/p10000032/s50414267.txt",
        "index.html",
    )
    rewrite_archive(tree.reports, lambda members: members.update(dict.fromkeys(strangers, b"FINDINGS: Clear.")))
    studies, account = read(tree.root)
    assert ids(studies) == made_ids(tree.studies)
    assert not account.problems


def test_a_report_in_an_archive_is_named_by_archive_and_member(tmp_path: Path) -> None:
    tree = write_mimic_tree(tmp_path, num_subjects=1, zipped_reports=True)
    studies, account = read(tree.root)
    name = f"mimic-cxr/2.0.0/mimic-cxr-reports.zip/files/{tree.studies[0].folder}.txt"
    assert studies[0].where == str(tree.root / name)
    assert next(file.file for file in account.source_files if file.kind == "report") == name


def test_a_bomb_and_a_damaged_member_cost_one_report_each(tmp_path: Path) -> None:
    tree = write_mimic_tree(tmp_path, num_subjects=4, zipped_reports=True)
    bomb, damaged = (f"files/{made.folder}.txt" for made in tree.studies[:2])
    rewrite_archive(tree.reports, lambda members: members.update({bomb: bytes(30_000_000)}))
    with zipfile.ZipFile(tree.reports) as archive:
        start = archive.getinfo(damaged).header_offset + 30 + len(damaged)
    content = bytearray(tree.reports.read_bytes())
    content[start : start + 20] = bytes(20)
    tree.reports.write_bytes(content)
    studies, account = read(tree.root)
    assert ids(studies) == made_ids(tree.studies[2:])
    assert [problem.reason.split(".txt: ")[1].split(" (")[0] for problem in account.problems] == [
        "larger than 1,048,576 bytes, so it is no report.",
        "cannot be unpacked",
    ]


def test_an_archive_that_was_cut_off(tmp_path: Path) -> None:
    tree = write_mimic_tree(tmp_path, num_subjects=2, zipped_reports=True)
    tree.reports.write_bytes(tree.reports.read_bytes()[:-30])
    with pytest.raises(DataError, match=r"mimic-cxr-reports\.zip: no readable zip archive"):
        read(tree.root)


def test_a_folder_that_was_not_unpacked_whole_is_completed_from_the_archive(tmp_path: Path) -> None:
    tree = write_mimic_tree(tmp_path, num_subjects=4, zipped_reports=True)
    with zipfile.ZipFile(tree.reports) as archive:
        archive.extract(f"files/{tree.studies[0].folder}.txt", tree.cxr)
    studies, account = read(tree.root)
    assert ids(studies) == made_ids(tree.studies)
    assert not account.problems
    assert studies[0].where == str(tree.cxr / "files" / f"{tree.studies[0].folder}.txt")
