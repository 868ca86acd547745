"""Files of reports: each format carries everything, the notice in each row."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from xraygpt.common.errors import DataError
from xraygpt.evaluation import load_predictions
from xraygpt.serving import RESEARCH_NOTICE
from xraygpt.serving.report_files import FORMATS, format_of, write_report_file
from xraygpt.serving.safety import FLAGS

ROTATED = {"kind": "rotated", "message": "The film looks turned.", "score": 3.5, "turn": 90}
ABOUT = {"prompt": "###Patient: {}", "decoding": {"num_beams": 1, "seed": 42}, "model": {"arch": "mini_gpt4", "ckpt": ["a.pth"]}}
FINE: dict[str, Any] = {
    "report": 'Große "Blässe",\nclear; lungs.', "flags": [], "confidence": 0.8, "truncated": False, "repeated": False, "concerns": [],
    "sentences": [{"text": 'Große "Blässe",\nclear; lungs.', "confidence": 0.8}],
}  # fmt: skip
UNSURE = {"text": "New opacity", "confidence": 0.31}
ROWS: list[dict[str, Any]] = [
    {"id": "a", "image": "x/a.png", **FINE},
    {"id": "b", "image": "x/b.png", **FINE}
    | {
        "report": "New opacity",
        "flags": ["compares_with_prior", "truncated"],
        "truncated": True,
        "concerns": [ROTATED],
        "sentences": [UNSURE],
    },
]
FAILED = {"id": "c", "image": "x/c.png", "error": "x/c.png: the file is empty.", "concerns": []}


def written(folder: Path, format_name: str, rows: list[dict[str, Any]]) -> str:
    path = folder / f"reports.{format_name}"
    write_report_file(path, rows, ABOUT, format_name=format_name)
    return path.read_text(encoding="utf-8")


@pytest.mark.parametrize("format_name", list(FORMATS))
def test_every_row_of_every_format_carries_the_notice(tmp_path: Path, format_name: str) -> None:
    texts = [written(tmp_path, format_name, rows).count(RESEARCH_NOTICE) for rows in ([], ROWS[:1], [*ROWS, FAILED])]
    assert [count - texts[0] for count in texts] == [0, 1, 3]


def test_json_lines_hold_everything_and_are_scored(tmp_path: Path) -> None:
    first, second, failed = map(json.loads, written(tmp_path, "jsonl", [*ROWS, FAILED]).splitlines())
    assert first == {**ROWS[0], **ABOUT, "notice": RESEARCH_NOTICE}
    assert second["concerns"] == [ROTATED]
    assert failed == {**FAILED, "notice": RESEARCH_NOTICE}
    written(tmp_path, "jsonl", ROWS)
    predictions = load_predictions(tmp_path / "reports.jsonl")
    assert predictions.reports == {row["id"]: row["report"] for row in ROWS}
    assert predictions.truncated == {"a": False, "b": True}


def test_csv_holds_everything_and_is_scored(tmp_path: Path) -> None:
    first, second, failed = csv.DictReader(written(tmp_path, "csv", [*ROWS, FAILED]).splitlines(keepends=True))
    assert first["report"] == FINE["report"]
    assert json.loads(first["decoding"]) == ABOUT["decoding"]
    assert first["confidence"] == "0.8"
    assert (json.loads(first["sentences"]), json.loads(second["sentences"]), failed["sentences"]) == (FINE["sentences"], [UNSURE], "")
    assert (second["flags"], second["concerns"], second["error"]) == ("compares_with_prior truncated", "rotated", "")
    assert (failed["report"], failed["error"], failed["prompt"]) == ("", FAILED["error"], "")
    written(tmp_path, "csv", ROWS)
    assert load_predictions(tmp_path / "reports.csv").reports == {row["id"]: row["report"] for row in ROWS}


def test_text_is_for_reading(tmp_path: Path) -> None:
    text = written(tmp_path, "txt", [*ROWS, FAILED])
    assert text.startswith(f"{RESEARCH_NOTICE}\nprompt: ###Patient: {{}}\n")
    assert '"num_beams": 1' in text
    assert f"== a (x/a.png)\n{FINE['report']}\n" in text
    assert f"New opacity\nUnsure (31%): New opacity\n\nNote: {FLAGS['compares_with_prior']}\n" in text
    assert "Note on the image: The film looks turned." in text
    assert "No report: x/c.png: the file is empty." in text


@pytest.mark.parametrize(
    ("name", "asked", "chosen"), [("a.jsonl", None, "jsonl"), ("a.CSV", None, "csv"), ("a.b.txt", None, "txt"), ("a", "csv", "csv")]
)
def test_the_ending_says_the_format(name: str, asked: str | None, chosen: str) -> None:
    assert format_of(Path(name), asked) == chosen


@pytest.mark.parametrize("name", ["reports", "reports.json"])
def test_another_ending_is_refused(name: str) -> None:
    with pytest.raises(DataError, match="which format"):
        format_of(Path(name), None)


# Text of others ----------------------------------------------------------------------------------------------------


def test_csv_holds_no_formula_and_loses_no_character(tmp_path: Path) -> None:
    texts = ["=1+1", "- No effusion.", "@x", "\r=x", "'=x", "one\rtwo\r\nthree", "+", "\u202e\x1b[2J"]
    rows = [{**ROWS[0], "id": f"{text} {number}", "image": text, "report": text} for number, text in enumerate(texts)]
    written(tmp_path, "csv", rows)
    assert load_predictions(tmp_path / "reports.csv").reports == {row["id"]: row["report"] for row in rows}
    with open(tmp_path / "reports.csv", newline="", encoding="utf-8") as handle:
        cells = [cell for row in csv.reader(handle) for cell in row]
    assert not [cell for cell in cells if cell[:1] in set("=+-@\t\r")]


def test_a_heading_of_the_text_is_an_image(tmp_path: Path) -> None:
    row = {**ROWS[0], "id": "a\n== b (b.png)", "image": "a\x1b[2J.png", "report": "Clear.\n== c (c.png)\nEffusion.\x1b[2J\u202e"}
    text = written(tmp_path, "txt", [row])
    assert [line for line in text.split("\n") if line.startswith("==")] == [r"== a\n== b (b.png) (a\x1b[2J.png)"]
    assert not {"\x1b", "\u202e"} & set(text)
