"""Reading reports and references: what is accepted, and what each refusal says."""

import json
from pathlib import Path

import pytest

from xraygpt.common.errors import DataError
from xraygpt.evaluation.report_files import load_references, load_reports


def write(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("r.jsonl", '{"id": "1", "report": "No, none."}\n\n{"report": "", "id": "é", "image": "x"}\n'),
        ("r.jsonl", b'\xef\xbb\xbf{"id": "1", "report": "No, none."}\r\n{"report": "", "id": "\xc3\xa9"}'),
        ("r.csv", 'id,report\n1,"No, none."\né,\n'),
        ("r.csv", '\ufeffimage,report,id\r\nx,"No, none.",1\r\nx,,é\r\n'),
    ],
)
def test_reads(tmp_path: Path, name: str, content: str | bytes) -> None:
    assert load_reports(write(tmp_path, name, content)) == {"1": "No, none.", "é": ""}


def test_line_breaks_inside_a_report_are_kept(tmp_path: Path) -> None:
    assert load_reports(write(tmp_path, "r.csv", 'id,report\n1,"One.\n\nTwo.\u2028Three."\n')) == {"1": "One.\n\nTwo.\u2028Three."}
    assert load_reports(write(tmp_path, "r.jsonl", '{"id": "1", "report": "One.\u2028Two."}\n')) == {"1": "One.\u2028Two."}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("r.txt", "", "expected a .jsonl or .csv"),
        ("r.jsonl", "", "no reports"),
        ("r.csv", "id,report\n", "no reports"),
        ("r.jsonl", '{"id": "1", "report": ""}\n{"id": ', "line 2: not JSON"),
        ("r.jsonl", "[1]", "line 1: expected an object .* got list"),
        ("r.jsonl", '{"id": "1"}', "line 1: the field 'report' is missing; found: id"),
        ("r.jsonl", '{"id": 1, "report": ""}', "line 1: the field 'id' must be text, not int"),
        ("r.jsonl", '{"id": "1", "report": null}', "line 1: the field 'report' must be text, not NoneType"),
        ("r.jsonl", '{"id": " ", "report": ""}', "line 1: the id is empty"),
        ("r.jsonl", '{"id": "1", "report": "a"}\n' * 3, r"2 repeated ids: '1' \(line 2\), '1' \(line 3\)"),
        ("r.jsonl", b'{"id": "1",\n "report": "\xe9"}', "line 2: not UTF-8 .byte 0xe9"),
        ("r.csv", "image,text\n1,a\n", "line 2: the field 'id' is missing; found: image, text"),
        ("r.csv", "id,report\n1,No, none.\n", "line 2: the row has not the 2 columns"),
        ("r.csv", "id,report\n1\n", "line 2: the row has not the 2 columns"),
        ("r.csv", 'id,report\n1,"a\n', "not CSV"),
    ],
)
def test_refuses(tmp_path: Path, name: str, content: str | bytes, message: str) -> None:
    path = write(tmp_path, name, content)
    with pytest.raises(DataError, match=message) as error:
        load_reports(path)
    assert str(path) in str(error.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.jsonl: cannot be read"):
        load_reports(tmp_path / "none.jsonl")


def prepared(folder: Path, rows: object) -> Path:
    write(folder, "filter_cap.json", json.dumps({"annotations": rows}))
    (folder / "image").mkdir()
    return folder


def row(key: str, split: str = "test", **extra: object) -> dict[str, object]:
    return {"image_id": key, "caption": "Left effusion.", "study_id": key, "split": split, **extra}


def test_a_prepared_folder_gives_the_references_of_one_split(tmp_path: Path) -> None:
    folder = prepared(tmp_path, [row("a"), row("b", findings=[]), row("c", split="train")])
    image = write(folder / "image", "a.png", b"")
    references = load_references(folder, split="test")
    assert references.texts == {"a": "Left effusion.", "b": "Left effusion."}
    assert references.findings == {"a": [{"finding": "pleural_effusion", "side": "left", "zone": ""}], "b": []}
    assert references.images == {"a": image}


def test_a_file_gives_references_without_images(tmp_path: Path) -> None:
    references = load_references(write(tmp_path, "r.csv", "id,report\n1,Cardiomegaly.\n"), split="test")
    assert references.findings == {"1": [{"finding": "cardiomegaly", "side": "", "zone": ""}]}
    assert references.images == {}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([row("a", split="train")], "no annotation has the split 'test'"),
        ([row("a"), row("a")], "1 image_id values of the split 'test' are repeated"),
        ([row("a"), {"image_id": "b"}], "annotation 1: the fields caption, split must be text"),
        (["a"], "annotation 0"),
        (None, "expected .*annotations"),
    ],
)
def test_refuses_a_prepared_folder(tmp_path: Path, rows: object, message: str) -> None:
    with pytest.raises(DataError, match=message):
        load_references(prepared(tmp_path, rows), split="test")


def test_a_folder_that_is_not_prepared_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"filter_cap\.json: cannot be read"):
        load_references(tmp_path, split="test")
