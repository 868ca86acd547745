"""What is wrong with a folder: one planted fault a case, and nothing else found."""

import hashlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from xraygpt.common.errors import DataError
from xraygpt.common.files import sha256_file, write_json
from xraygpt.datasets.preparation.folder_checks import Issue, find_issues, hash_images, image_files
from xraygpt.datasets.preparation.folder_summary import read_samples

Folder = Callable[..., Path]
TEXTS = ["The lungs are clear.", "Small left effusion.", "The heart is enlarged.", "Right upper nodule seen."]


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    """Makes a prepared folder without fault: four studies, two a subject, images "0" to "3"; rows and image contents may be changed."""

    def make(changes: dict[int, dict[str, Any]] | None = None, *, images: dict[str, bytes] | None = None) -> Path:
        rows: list[dict[str, Any]] = [
            {"image_id": str(i), "caption": text, "study_id": f"s{i}", "subject_id": f"p{i // 2}", "split": "test" if i > 1 else "train"}
            for i, text in enumerate(TEXTS)
        ]
        for index, change in (changes or {}).items():
            rows[index] = {key: value for key, value in (rows[index] | change).items() if value is not None}
        write_json(tmp_path / "filter_cap.json", {"annotations": rows})
        write_json(tmp_path / "manifest.json", {"sha256": {"filter_cap.json": sha256_file(tmp_path / "filter_cap.json")}})
        for name, content in ({f"{i}.png": b"image %d" % i for i in range(4)} | (images or {})).items():
            (tmp_path / "image" / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "image" / name).write_bytes(content)
        return tmp_path

    return make


def issues_of(folder: Path) -> list[Issue]:
    samples, files = read_samples(folder), image_files(folder)
    return find_issues(folder, samples, files, hash_images(folder, samples, files))


def test_a_good_folder_has_no_issue(folder: Folder) -> None:
    assert issues_of(folder()) == []


LONG = "No change. " * 151


@pytest.mark.parametrize(
    ("changes", "level", "what", "examples"),
    [
        ({1: {"split": "test"}}, "error", "subjects in more than one split", ["p0 (test, train)"]),
        (
            {1: {"split": "val", "subject_id": "p9", "study_id": "s0", "caption": TEXTS[0]}},
            "error",
            "studies in more than one split",
            ["s0 (train, val)"],
        ),
        ({2: {"split": None}}, "error", "subjects in more than one split", ["p1 (test, train)"]),  # no split: for training
        ({0: {"caption": "Normal."}}, "warning", "fewer than 3 words", ["0"]),
        ({0: {"caption": " "}}, "warning", "fewer than 3 words", ["0"]),
        ({0: {"caption": LONG}}, "warning", "more than 300 words", ["0"]),
        ({0: {"caption": "Seen by Dr. ___ today."}}, "warning", "de-identification marks", ["0"]),
        ({0: {"caption": "Compared with XXXX films."}}, "warning", "de-identification marks", ["0"]),
        ({0: {"caption": "Clear\x07 lungs bilaterally."}}, "warning", "control or wrongly decoded", ["0"]),
        ({0: {"caption": "Clear\ufffd lungs bilaterally."}}, "warning", "control or wrongly decoded", ["0"]),
        ({0: {"caption": None}}, "warning", "without a text", ["0"]),
        ({3: {"caption": TEXTS[0]}}, "note", r"another study of train has word for word \(test 1\)", ["3"]),
    ],
)
def test_each_fault_of_the_annotations(changes: dict, level: str, what: str, examples: list[str], folder: Folder) -> None:
    found = issues_of(folder(changes))
    expected = next(issue for issue in found if issue.examples == tuple(examples))
    assert (expected.level, expected.count) == (level, len(examples))
    assert re.search(what, expected.what)
    assert [issue for issue in found if issue is not expected and not issue.what.startswith("annotations without a split")] == []


def test_tabs_and_line_ends_are_text(folder: Folder) -> None:
    assert issues_of(folder({0: {"caption": "Findings:\r\n\tclear lungs"}})) == []


def test_the_originals_layout_has_only_notes(folder: Folder) -> None:
    nothing = {"study_id": None, "subject_id": None, "split": None}
    path = folder(dict.fromkeys(range(4), nothing))
    (path / "manifest.json").unlink()
    assert [(issue.level, issue.count) for issue in issues_of(path)] == [("note", 4), ("note", 1)]


def test_images_without_texts_have_no_issue_of_texts(folder: Folder) -> None:
    assert issues_of(folder({i: {"caption": None, "split": None} for i in range(4)})) == []


def test_an_issue_names_samples_and_never_a_text(folder: Folder) -> None:
    found = issues_of(folder({0: {"caption": "Smith ___"}, 1: {"caption": "Smith\x00"}, 3: {"caption": "Smith ___"}}))
    assert len(found) == 4
    assert "Smith" not in str(found)


def test_examples_are_few_and_errors_come_first(folder: Folder) -> None:
    path = folder({1: {"split": "test"}}, images={f"stray{i}.png": b"stray %d" % i for i in range(9)})
    first, second = issues_of(path)
    assert (first.level, second.level) == ("error", "warning")
    assert (second.count, second.examples) == (9, ("stray0", "stray1", "stray2", "stray3", "stray4"))


# Images ----------------------------------------------------------------------------------------------------------------


def test_missing_images_and_strangers(folder: Folder) -> None:
    path = folder(images={"5.jpg": b"five", ".hidden": b"", "notes.txt": b"", "1.PNG": b"what no dataset finds"})
    (path / "image" / "0.png").unlink()
    assert [(issue.what, issue.examples) for issue in issues_of(path)] == [
        ("annotations whose image is missing", ("0",)),
        ("images without an annotation", ("5",)),
    ]


def test_images_may_lie_in_folders_and_a_broken_link_is_missing(folder: Folder) -> None:
    path = folder({0: {"image_id": "p1/s2/0"}}, images={"p1/s2/0.dcm": b"dicom"})
    (path / "image" / "0.png").unlink()
    assert issues_of(path) == []
    assert image_files(path)["p1/s2/0"] == "p1/s2/0.dcm"
    (path / "image" / "1.png").unlink()
    (path / "image" / "1.png").symlink_to(path / "gone.png")
    assert [issue.what for issue in issues_of(path)] == ["annotations whose image is missing"]


def test_a_folder_without_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no folder image/"):
        image_files(tmp_path)


SAME = b"the same image"


@pytest.mark.parametrize(
    ("twins", "changes", "found"),
    [
        ((0, 1), {}, [("warning", "groups of identical images under several studies", ("0 = 1",))]),
        ((0, 1), {1: {"study_id": "s0"}}, []),  # two views of one study
        ((0, 1), {1: {"subject_id": "p9"}}, [("warning", "groups of identical images under several subjects", ("0 = 1",))]),
        ((1, 2), {}, [("error", "groups of identical images in more than one split: leakage", ("1 = 2",))]),
        ((0, 1, 2, 3), {}, [("error", "groups of identical images in more than one split: leakage", ("0 = 1 = 2 = … (4 in all)",))]),
    ],
)
@pytest.mark.parametrize("recorded", [True, False])
def test_identical_images(twins: tuple[int, ...], changes: dict, found: list, recorded: bool, folder: Folder) -> None:
    path = folder(changes, images={} if recorded else {f"{i}.png": SAME for i in twins})
    if recorded:  # the source's files were the same, whatever became of them
        write_sources(path, {str(i): SAME if i in twins else b"%d" % i for i in range(4)})
    assert [(issue.level, issue.what, issue.examples) for issue in issues_of(path)] == found


def test_images_of_one_size_are_told_apart_by_content(folder: Folder) -> None:
    path = folder()
    samples, files = read_samples(path), image_files(path)
    hashes = hash_images(path, samples, files)
    assert hashes.by_image == {str(i): hashlib.sha256(b"image %d" % i).hexdigest() for i in range(4)}
    assert hashes.origin == "the files in image/"


def test_a_table_that_does_not_name_every_image_is_not_trusted(folder: Folder) -> None:
    path = folder(images={"1.png": SAME, "2.png": SAME})
    write_sources(path, {"0": b"0", "1": b"1", "3": b"3"})
    error, warning = issues_of(path)
    assert (error.what, error.examples) == ("groups of identical images in more than one split: leakage", ("1 = 2",))
    assert (warning.what, warning.examples) == ("images that sources.csv does not name; the files themselves were compared", ("2",))


def test_other_tables_are_refused(folder: Folder) -> None:
    path = folder()
    (path / "sources.csv").write_text("kind,name\nimage,0\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"sources\.csv: the column 'id' is missing"):
        issues_of(path)


def write_sources(path: Path, contents: dict[str, bytes]) -> None:
    lines = [f"image,{image_id},x.png,1,{hashlib.sha256(content).hexdigest()}" for image_id, content in contents.items()]
    (path / "sources.csv").write_text("\n".join(["kind,id,file,bytes,sha256", "report,0,0.xml,1,00", *lines, ""]), encoding="utf-8")


# Files -----------------------------------------------------------------------------------------------------------------


def test_annotations_that_were_changed_afterwards(folder: Folder) -> None:
    path = folder()
    with open(path / "filter_cap.json", "a", encoding="utf-8") as handle:
        handle.write("\n")
    assert [issue.what for issue in issues_of(path)] == [
        "filter_cap.json was changed after it was prepared (manifest.json has another SHA-256)"
    ]


@pytest.mark.parametrize(("text", "reason"), [("{", "is no readable JSON"), ("[]", "must be a JSON object")])
def test_a_damaged_manifest_is_named(text: str, reason: str, folder: Folder) -> None:
    path = folder()
    (path / "manifest.json").write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=rf"manifest\.json {reason}"):
        issues_of(path)
