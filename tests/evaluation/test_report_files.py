"""Reading reports and references: what is accepted, and what each refusal says."""

import json
from pathlib import Path

import pytest

from xraygpt.common.errors import DataError
from xraygpt.evaluation.report_files import (
    Predictions,
    References,
    load_predictions,
    load_references,
    load_reports,
    load_training_reports,
    pair,
)


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
        ("r.csv", 'id,report\n1,"No, none."\né,\n'.encode("utf-16")),
        ("r.json", '{"1": "No, none.", "é": [""]}'),
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
        ("r.jsonl", '{"id": "1"}', "line 1: no field 'report'; found: id"),
        ("r.jsonl", '{"id": 1, "report": ""}', "line 1: the id must be text that is not empty, not 1"),
        ("r.jsonl", '{"id": "1", "report": null}', "line 1: the report of '1' must be text, not NoneType"),
        ("r.jsonl", '{"id": "1", "report": ["a", "b"]}', "line 1: 2 reports for '1'"),
        ("r.jsonl", '{"id": "1", "report": "a", "truncated": "no"}', "line 1: the field 'truncated' must be true or false"),
        ("r.jsonl", '{"id": " ", "report": ""}', "line 1: the id must be text that is not empty"),
        ("r.jsonl", '{"id": "1", "report": "a"}\n' * 3, "2 problems.*\n.*line 2: the id '1' stood already at line 1.*\n.*line 3: "),
        ("r.jsonl", b'{"id": "1",\n "report": "\xe9"}', "line 2: not UTF-8 .byte 0xe9"),
        ("r.json", '{"1": "a", "1": "b"}', "entry 2: the id '1' stood already at entry 1"),
        ("r.json", '[{"id": "1", "report": "a"}]', "expected .*or give a .jsonl"),
        ("r.json", "{", "line 1: not JSON"),
        ("r.csv", "image,text\n1,a\n", "line 2: no field 'id' and 'report'; found: image, text"),
        ("r.csv", "id,report\n1,No, none.\n", "line 2: the row has not the 2 columns"),
        ("r.csv", "id,report\n1\n", "line 2: the row has not the 2 columns"),
        ("r.csv", 'id,report\n1,"a\n', "not CSV"),
        ("r.csv", "id,report,error\n1,,damaged\n", "line 2: '1' has no report: damaged"),
        ("r.jsonl", '{"id": "1", "error": "damaged"}', "line 1: '1' has no report: damaged"),
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
    folder = prepared(tmp_path, [row("a"), row("b", study_id="s"), row("c", split="train")])
    image = write(folder / "image", "a.png", b"")
    references = load_references(folder, split="test")
    assert references.texts == {"a": ("Left effusion.",), "b": ("Left effusion.",)}
    assert references.studies == {"a": "a", "b": "s"}
    assert references.images == {"a": image}
    assert load_training_reports(folder) == ["Left effusion."]


def test_a_file_may_give_several_references_and_studies(tmp_path: Path) -> None:
    rows = '{"id": "1", "report": ["A.", "B."], "study": "s"}\n{"id": "2", "report": "C."}'
    references = load_references(write(tmp_path, "r.jsonl", rows))
    assert references == References({"1": ("A.", "B."), "2": ("C.",)}, {"1": "s", "2": "2"})
    assert load_training_reports(tmp_path / "r.jsonl") == ["A.", "B.", "C."]


def test_every_problem_of_a_file_is_listed_at_once(tmp_path: Path) -> None:
    rows = '{"id": "1", "report": " "}\n{"id": "2", "report": []}\nx\n{"id": "3", "report": "a", "study": 7}\n{"report": "a"}'
    with pytest.raises(DataError) as error:
        load_references(write(tmp_path, "r.jsonl", rows))
    message = str(error.value)
    assert "5 problems. Nothing of it was used." in message
    for part in (
        "line 1: the reference of '1' is empty",
        "line 2: the reference",
        "line 3: not JSON",
        "line 4: the field 'study'",
        "line 5",
    ):
        assert part in message


def test_a_long_list_of_problems_says_how_many_more(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="25 problems") as error:
        load_reports(write(tmp_path, "r.jsonl", "x\n" * 25))
    assert "… and 5 more" in str(error.value)


def test_pairing_follows_the_references(tmp_path: Path) -> None:
    references = References({"b": ("B.",), "a": ("A.", "AA.")}, {"b": "s", "a": "s"})
    corpus = pair(Predictions({"a": "x", "b": ""}, {"a": True, "b": False}), references)
    assert (corpus.ids, corpus.predictions, corpus.references) == (("b", "a"), ("", "x"), (("B.",), ("A.", "AA.")))
    assert (corpus.studies, corpus.truncated) == (("s", "s"), (False, True))
    assert pair(Predictions({"a": "x", "b": ""}, {"a": True}), references).truncated is None  # not known of all


def test_pairing_never_makes_a_test_set_smaller() -> None:
    references = References({"a": ("A.",), "b": ("B.",)}, {"a": "a", "b": "b"})
    with pytest.raises(DataError, match=r"1 reports and the 2 references.*2 without a report: 'a', 'b'; ids 1 without a reference: 'c'"):
        pair(Predictions({"c": ""}), references)


def test_truncation_is_read(tmp_path: Path) -> None:
    rows = '{"id": "1", "report": "a", "truncated": true}\n{"id": "2", "report": "b"}'
    assert load_predictions(write(tmp_path, "r.jsonl", rows)) == Predictions({"1": "a", "2": "b"}, {"1": True})


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([row("a", split="train")], "no annotation has the split 'test'"),
        ([row("a"), row("a")], "1 image_id values of the split 'test' are repeated"),
        ([row("a", caption=" ")], "the reference of 'a' is empty"),
        ([row("../a")], "'../a' leaves the image folder"),
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
