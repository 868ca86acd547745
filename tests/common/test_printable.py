"""Text of others in each kind of output."""

import csv
import io
import json
import logging
import os
import re

import pytest

from xraygpt.common.printable import (
    LogFormatter,
    csv_table,
    csv_text,
    json_text,
    markdown_code,
    message_text,
    printable_line,
    printable_text,
    template_text,
    utf8_name,
)

UNSAFE = [*map(chr, [*range(0x20), *range(0x7F, 0xA0), 0x2028, 0x2029, *range(0x202A, 0x202F), *range(0x2066, 0x206A)]), "\ud800", "\udcff"]


def unsafe_in(text: str) -> set[str]:
    """The characters of a text that a terminal would obey, or that mislead a reader."""
    return set(text) & set(UNSAFE)


def test_a_line_has_none_of_it() -> None:
    line = printable_line("".join(UNSAFE))
    assert not unsafe_in(line)
    line.encode()
    assert printable_line("a\nb\tc\x1b[2J\x85\u202e\udcff") == r"a\nb\tc\x1b[2J\u0085\u202e\xff"


def test_letters_of_every_script_stay() -> None:
    text = "Thorax é ß 胸部 أشعة תמונה \u200c\u200d 😀 a\\b"
    assert printable_line(text) == printable_text(text) == utf8_name(text) == text


def test_text_keeps_its_lines() -> None:
    assert unsafe_in(printable_text("".join(UNSAFE))) == {"\n", "\t"}


def test_a_message_has_one_line_at_the_margin() -> None:
    assert message_text("error: a\nerror: forged\r\x1b[1A") == "error: a\n  error: forged\\r\\x1b[1A"


def test_a_name_cannot_forge_a_log_line() -> None:
    name = "a.png\n2026-01-01 00:00:00,000 [INFO] all is well\x1b[2K"
    record = logging.LogRecord("x", logging.WARNING, "x", 1, "Left out: %s", (name,), None)
    written = LogFormatter("%(levelname)s %(message)s").format(record)
    assert written == "WARNING Left out: a.png\n  2026-01-01 00:00:00,000 [INFO] all is well\\x1b[2K"


# Names -----------------------------------------------------------------------------------------------------------


def name_of(text: str) -> bytes:
    """The bytes of a file name that `utf8_name` wrote, as docs/inference.md says how to get them back."""
    return re.sub(rb"\\x([0-9a-f]{2})", lambda found: bytes.fromhex(found[1].decode()), text.encode())


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (b"plain", "plain"),
        ("Thorax é\n".encode(), "Thorax é\n"),
        (b"M\xfcller", r"M\xfcller"),
        (b"a\\b", r"a\b"),
        (rb"a\xff", r"a\x5cxff"),
        (rb"a\x5cxff", r"a\x5cx5cxff"),
        (b"\\\xff\\x", r"\\xff\x"),
        (b"\\x\xff0", r"\x\xff0"),
        (rb"\\xff", r"\\x5cxff"),
    ],
)
def test_a_name_leads_back_to_its_file(name: bytes, text: str) -> None:
    assert utf8_name(os.fsdecode(name)) == text
    assert name_of(text) == name


def test_names_that_differ_stay_different() -> None:
    parts = (b"\\", b"x", b"ff", b"5c", b"\xff", b"\xfc", b"a")
    names = {b"".join(part) for part in [(a, b, c, d) for a in parts for b in parts for c in parts for d in parts]}
    assert len({utf8_name(os.fsdecode(name)) for name in names}) == len(names)


# JSON, CSV, Markdown ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("indent", [None, 1])
def test_json_is_read_back_and_safe_to_print(indent: int | None) -> None:
    value = {" ".join(UNSAFE): [" ".join(UNSAFE), "Ödem"]}  # spaces, because two halves make a pair
    text = json_text(value, indent=indent)
    assert json.loads(text) == value
    assert "Ödem" in text and unsafe_in(text) <= {"\n"}
    assert len(text.splitlines()) == (1 if indent is None else 6)
    text.encode()


CELLS = [
    *("=1+1", "+1", "-1", "@x", "\t=x", "\r=x", "\n=x", "\uff1dx", "\uff0bx", "\uff0dx", "\uff20x", "=", "'=x", "''-x"),
    *("", "'", "'x", "x", "x=1", " =1", '"=1"', "a,b", "a\nb", "a\rb", "- No effusion.", "\x1b[2J"),
]


def test_no_cell_is_a_formula_and_each_is_read_back() -> None:
    table = csv_table(["text", "number", "flag"], [[cell, -1.5, None] for cell in CELLS])
    rows = list(csv.reader(io.StringIO(table, newline="")))
    assert rows[0] == ["text", "number", "flag"]
    assert not [row for row in rows if row[0][:1] in {"=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20"}]
    assert [csv_text(row[0]) for row in rows[1:]] == CELLS
    assert {tuple(row[1:]) for row in rows[1:]} == {("-1.5", "")}  # numbers stay numbers


@pytest.mark.parametrize("text", ["x.png", "a`b", "``", "` <img src=x>", "`a", "a`", " a ", "a``b`c", ""])
def test_a_code_span_ends_where_the_text_does(text: str) -> None:
    span = markdown_code(text)
    fence = re.match("`+", span)
    assert fence is not None
    inside = span[len(fence[0]) : len(span) - len(fence[0])]
    assert span.endswith(fence[0]) and fence[0] not in inside
    assert (inside[1:-1] if inside.startswith(" ") and inside.endswith(" ") and inside.strip() else inside) == text


def test_a_page_shows_no_text_that_turns_others_round() -> None:
    assert template_text("a\u202eb") == r"a\u202eb"
    assert template_text(3) == 3
