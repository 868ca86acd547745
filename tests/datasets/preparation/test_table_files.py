"""Rows of CSV, JSON lines and Parquet files, with their lines, and what is said of files that cannot be read."""

import csv
import itertools
import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xraygpt.common.errors import DataError
from xraygpt.common.printable import csv_table
from xraygpt.datasets.preparation import table_files
from xraygpt.datasets.preparation.table_files import Row, read_rows

_LINE_ENDS = re.compile(r"\r\n|\r|\n")


def read(path: Path, content: str | bytes, **options: Any) -> list[tuple[int, list[str]]]:
    """(line, cells) of each row of a file with this content."""
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return [(row.line, list(row.values.values())) for row in read_rows(path, **options)]


ROWS = [(2, ["a.png", "Clear."]), (3, ["b.png", "Opaque."])]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("plain.csv", "image,report\na.png,Clear.\nb.png,Opaque.\n"),
        ("upper.CSV", "image,report\na.png,Clear.\nb.png,Opaque."),
        ("bom.csv", "\ufeffimage,report\na.png,Clear.\nb.png,Opaque.\n"),
        ("crlf.csv", "image,report\r\na.png,Clear.\r\nb.png,Opaque.\r\n"),
        ("cr.csv", "image,report\ra.png,Clear.\rb.png,Opaque.\r"),
        ("semicolon.csv", "image;report\na.png;Clear.\nb.png;Opaque.\n"),
        ("tab.csv", "image\treport\na.png\tClear.\nb.png\tOpaque.\n"),
        ("tab.tsv", "image\treport\na.png\tClear.\nb.png\tOpaque.\n"),
        ("quoted.csv", 'image,"report"\n"a.png","Clear."\nb.png,"Opaque."\n'),
        ("spaced.csv", "image , report\na.png,Clear.\nb.png,Opaque.\n"),
        ("commas_in_a_name.csv", "image;report;the left, or right, side\na.png;Clear.;\nb.png;Opaque.;left, right\n"),
        ("more_columns.csv", "age,report,,image\n7,Clear.,,a.png\n8,Opaque.,,b.png\n"),
    ],
)
def test_csv(tmp_path: Path, name: str, content: str) -> None:
    assert read(tmp_path / name, content, columns=("image", "report")) == ROWS


def test_a_row_has_the_line_where_it_starts(tmp_path: Path) -> None:
    content = '\nimage,report\n\na.png,"Clear.\r\n\r\nNo ""air"" leak,\nfor now."\n  \nb.png,Größe normal – 心影正常.\n'
    assert read(tmp_path / "t.csv", content) == [
        (4, ["a.png", 'Clear.\r\n\r\nNo "air" leak,\nfor now.']),
        (9, ["b.png", "Größe normal – 心影正常."]),
    ]


CELLS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=12)


@given(
    rows=st.lists(st.tuples(CELLS, CELLS, CELLS), min_size=1, max_size=6),
    delimiter=st.sampled_from(",;\t"),
    end=st.sampled_from(["\n", "\r\n"]),
)
def test_what_a_csv_writer_writes_is_read(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, ...]], delimiter: str, end: str
) -> None:
    path = tmp_path_factory.getbasetemp() / "written.csv"
    with open(path, "w", encoding="utf-8-sig", newline="") as handle:
        csv.writer(handle, delimiter=delimiter, lineterminator=end, quoting=csv.QUOTE_ALL).writerows([("a", "b", "c"), *rows])
    starts = itertools.accumulate((sum(len(_LINE_ENDS.findall(cell)) for cell in row) + 1 for row in rows), initial=2)
    assert [(row.line, tuple(row.values.values())) for row in read_rows(path)] == list(zip(starts, rows, strict=False))


def test_a_long_report_is_read(tmp_path: Path) -> None:
    text = "No effusion. " * 30_000
    assert read(tmp_path / "t.csv", f"image,report\na.png,{text}\n") == [(2, ["a.png", text])]


def test_rows_of_other_lengths_are_reported(tmp_path: Path) -> None:
    bad: list[tuple[int, str]] = []
    content = "image,report\na.png,Clear, but small.\nb.png\nc.png,Clear.\n"
    assert read(tmp_path / "t.csv", content, bad_row=lambda line, reason: bad.append((line, reason))) == [(4, ["c.png", "Clear."])]
    advice = "a text that holds a ',' must stand in double quotes"
    assert bad == [(2, f"the row has 3 cells, the header 2; {advice}"), (3, f"the row has 1 cells, the header 2; {advice}")]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("image,report\na.png,Clear, but small.\n", "t.csv, line 2: the row has 3 cells"),
        ("", "the file is empty"),
        ("\n \n", "the file is empty"),
        ("image,report\n", "there is no row"),
        ("image,report,image\na,b,c\n", "'image' more than once"),
        ("image,reprot\na.png,Clear.\n", "no column 'report'. Did you mean 'reprot'? Choices: image, reprot."),
        (b"image,report\na.png,Clear.\nb.png,Gr\xf6\xdfe\n", "line 3: not UTF-8 (byte 0xf6). Save the file as UTF-8."),
        (b"image,report\na.png,Cut off \xe2\x80", "line 2: not UTF-8 (byte 0xe2)"),
        ("image,report\na.png,Clear.\n".encode("utf-16"), "line 1: not UTF-8 (byte 0xff, this is UTF-16)"),
        (b"image,report\na.png,Cle\0ar.\n", "line 2: holds a NUL byte"),
        ('image,report\na.png,Clear.\nb.png,"He said\nand so on\nc.png,Clear.\n', "line 3: a quotation mark opens a cell here"),
        ('image,report\na.png,"He said\nb.png,"Clear."\n', "line 2: a quotation mark opens a cell here that does not end"),
        ('image,report\n"a\nb.png","He said\n\n\n', "line 3: a quotation mark opens"),
        ('image,report\na.png,"The \\"heart\\" is large."\n', "line 2: a quotation mark opens"),
        pytest.param('image,report\na.png,"' + "x\n" * 600_000, "line 2: a quotation mark opens", id="quote swallows the file"),
        pytest.param("image,report\na.png," + "x" * 1_200_000, "line 2: the row cannot be read", id="long cell"),
        pytest.param("image,report\n" + "x" * 10_000_001, "line 2: longer than 10000000 characters", id="long line"),
    ],
)
def test_unusable_csv(tmp_path: Path, content: str | bytes, message: str) -> None:
    with pytest.raises(DataError) as error:
        read(tmp_path / "t.csv", content, columns=("image", "report"))
    assert message in str(error.value)
    assert str(tmp_path / "t.csv") in str(error.value)


def test_wrong_encoding_far_down_is_found(tmp_path: Path) -> None:
    content = b"image,report\n" + "a.png,Größe.\n".encode() * 100_000 + b"b.png,Gr\xf6\xdfe\n"
    with pytest.raises(DataError, match="line 100002: not UTF-8"):
        read(tmp_path / "t.csv", content)


# JSON lines -------------------------------------------------------------------------------------------------------------


def test_json_lines(tmp_path: Path) -> None:
    records = [
        {"image": "a.png", "report": "Clear.", "age": 7, "more": {"nested": [1]}},
        {"image": ["b.png", "c.png"], "report": None, "age": 1.5},
        {"image": "d.png", "report": True},
        {"image": "e.png", "report": float("nan"), "age": "∞"},
    ]
    content = "\ufeff" + "\n\n".join(json.dumps(record) for record in records)
    assert read(tmp_path / "t.jsonl", content, columns=("image", "report", "age"), lists=("image",)) == [
        (1, ["a.png", "Clear.", "7"]),
        (3, ["b.png;c.png", "", "1.5"]),
        (5, ["d.png", "true", ""]),
        (7, ["e.png", "", "∞"]),
    ]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('{"image": "b.png"', "not JSON (Expecting ',' delimiter at column 18); one object a line is expected"),
        ('["b.png", "Clear."]', "an object is expected, not a list"),
        ('{"image": "b.png", "report": {"text": "Clear."}}', "the column 'report' holds a dict; text or a number is expected"),
        ('{"image": "b.png", "report": ["Clear."]}', "the column 'report' holds a list; text or a number is expected"),
        ('{"image": [["b.png"]], "report": ""}', "the column 'image' holds a list; text or a number is expected"),
        ('{"image": "b\\u0000.png", "report": ""}', "the column 'image' holds a character that no text has"),
        ('{"image": "b.png", "report": "\\ud800"}', "the column 'report' holds a character that no text has"),
        pytest.param("[" * 200_000, "not usable as JSON (", id="too deep"),
        pytest.param("1" * 5000, "not usable as JSON (", id="too large a number"),
    ],
)
def test_a_bad_json_line_is_reported(tmp_path: Path, line: str, reason: str) -> None:
    bad: list[tuple[int, str]] = []
    good = '{"image": "a.png", "report": "Clear."}'
    rows = read(
        tmp_path / "t.jsonl",
        f"{good}\n{line}\n{good}\n",
        columns=("image", "report"),
        lists=("image",),
        bad_row=lambda line, reason: bad.append((line, reason)),
    )
    assert rows == [(1, ["a.png", "Clear."]), (3, ["a.png", "Clear."])]
    assert [line for line, _ in bad] == [2]
    assert bad[0][1].startswith(reason)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "there is no row"),
        ('{"image": "a.png", "reports": "Clear."}\n', "t.jsonl, line 1: there is no column 'report'. Did you mean 'reports'?"),
        (b'{"image": "\xff"}\n', "line 1: not UTF-8 (byte 0xff)"),
    ],
)
def test_unusable_json_lines(tmp_path: Path, content: str | bytes, message: str) -> None:
    with pytest.raises(DataError) as error:
        read(tmp_path / "t.jsonl", content, columns=("image", "report"))
    assert message in str(error.value)


# Parquet ----------------------------------------------------------------------------------------------------------------


def write_parquet(path: Path, columns: dict[str, list[Any]]) -> Path:
    arrow = pytest.importorskip("pyarrow")
    pytest.importorskip("pyarrow.parquet").write_table(arrow.table(columns), path, row_group_size=3)
    return path


def test_parquet(tmp_path: Path) -> None:
    number = table_files._BATCH + 5
    columns: dict[str, list[Any]] = {
        "image": [["a.png", "b.png"], None] + [["c.png"]] * number,
        "report": ["Clear.", None] + ["Größe"] * number,
        "age": list(range(number + 2)),
        "more": [{"nested": 1}] * (number + 2),
    }
    path = write_parquet(tmp_path / "t.parquet", columns)
    rows = list(read_rows(path, ("report", "image", "age"), lists=("image",)))
    assert rows[:3] == [
        Row(1, {"report": "Clear.", "image": "a.png;b.png", "age": "0"}),
        Row(2, {"report": "", "image": "", "age": "1"}),
        Row(3, {"report": "Größe", "image": "c.png", "age": "2"}),
    ]
    assert rows[-1] == Row(number + 2, {"report": "Größe", "image": "c.png", "age": str(number + 1)})
    with pytest.raises(DataError, match="row 1: the column 'more' holds a dict"):
        list(read_rows(path, ("more",)))
    with pytest.raises(DataError, match=r"no column 'reports'. Did you mean 'report'\?"):
        list(read_rows(path, ("reports",)))


@pytest.mark.parametrize("damage", ["empty", "text", "truncated", "pages"])
def test_damaged_parquet(tmp_path: Path, damage: str) -> None:
    content = write_parquet(tmp_path / "t.parquet", {"report": ["Clear."] * 10}).read_bytes()
    damaged = {"empty": b"", "text": b"report\nClear.\n", "truncated": content[:-20], "pages": content[:4] + b"\xff" * 60 + content[64:]}
    (tmp_path / "t.parquet").write_bytes(damaged[damage])
    with pytest.raises(DataError, match=r"t\.parquet: no readable Parquet file"):
        list(read_rows(tmp_path / "t.parquet", ("report",)))


def test_parquet_without_rows(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "t.parquet", {"report": []})
    with pytest.raises(DataError, match="there is no row"):
        list(read_rows(path))


def test_parquet_without_pyarrow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "t.parquet").write_bytes(b"PAR1")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(DataError, match=r"make install-extras EXTRAS=parquet"):
        list(read_rows(tmp_path / "t.parquet"))


# What is no table -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("t.xlsx", "Save the sheet as CSV, UTF-8"),
        ("t.json", "Write one object a line and call it .jsonl"),
        ("t.txt", "expected a table that is called .csv, .tsv, .jsonl, .parquet"),
        ("folder.csv", "is a folder"),
        ("missing.csv", "there is no such file"),
        ("loop.csv", "there is no such file"),
    ],
)
def test_no_table(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "folder.csv").mkdir()
    (tmp_path / "loop.csv").symlink_to(tmp_path / "loop.csv")
    with pytest.raises(DataError, match=message):
        read_rows(tmp_path / name)


def test_an_apostrophe_against_spreadsheets_is_no_part_of_the_text(tmp_path: Path) -> None:
    texts = ["=1+1", "- No effusion.", "'-x", "x", "'x", "a\rb"]
    content = csv_table(["image", "report"], [["a.png", text] for text in texts])
    assert [values[1] for _, values in read(tmp_path / "t.csv", content, columns=("image", "report"))] == texts
