"""Text that others chose (file names, identifiers, reports, questions) in each kind of output. One function for each kind:

    utf8_name                      a file name as an identifier that every format can hold, and that leads back to the file
    printable_line                 a name within a line: a heading, a line of a list, a progress bar
    printable_text                 text of several lines for a terminal or a text file
    message_text, LogFormatter     an error message or a log record, which may quote names
    json_text                      JSON
    csv_table, csv_text            CSV, for writing and for reading back
    markdown_code                  a code span in Markdown
    template_text                  a page of HTML, besides jinja2's escaping

What they escape: control characters (C0, DEL, C1), line and paragraph separators, characters that turn the direction of writing
(U+202A–202E, U+2066–2069), and what is not Unicode text. A terminal would obey them, and a reader would be misled.
"""

import csv
import io
import json
import logging
import re
from collections.abc import Iterable, Sequence
from typing import Any

_UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_UNSAFE_BUT_LAYOUT = re.compile(_UNSAFE.pattern.replace("\x00-\x1f", "\x00-\x08\x0b-\x1f"))  # keeps line feeds and tabs
_UNSAFE_IN_JSON = re.compile(_UNSAFE.pattern.replace("\x00-\x1f", ""))  # which json.dumps has escaped; a line feed is of the indentation
_SURROGATE = re.compile("[\ud800-\udfff]")
_LOOKS_ESCAPED = re.compile(r"\\(?=x[0-9a-f]{2})")
_SHORT = {"\n": r"\n", "\r": r"\r", "\t": r"\t"}

LOG_FORMAT = "%(asctime)s [%(levelname)s] %(message)s"

_FORMULA = re.compile("'*[=+\\-@\t\r\n\uff1d\uff0b\uff0d\uff20]")
"""How a cell begins that a spreadsheet would compute (OWASP, "CSV injection"; the last four are full-width), quoted or not."""


def _escape(found: re.Match[str]) -> str:
    r"""A backslash escape: `\n`, `\x1b`, `\u202e`; `\xff` for a byte of a file name that is not UTF-8 (PEP 383)."""
    character, code = found[0], ord(found[0])
    if 0xDC80 <= code <= 0xDCFF:
        return f"\\x{code - 0xDC00:02x}"
    return _SHORT.get(character) or (f"\\x{code:02x}" if code < 0x80 else f"\\u{code:04x}")


def well_formed(text: str) -> str:
    """The text with escapes in place of lone surrogates, which no encoding can write."""
    return _SURROGATE.sub(_escape, text)


def utf8_name(name: object) -> str:
    r"""A file name or path as Unicode text, different for different names.

    A byte 0xNN that is not UTF-8 is written `\xNN`. Where a name holds such a sequence itself, its backslash is written `\x5c`, so every
    `\xNN` stands for one byte. All other characters stay.
    """
    return well_formed(_LOOKS_ESCAPED.sub(r"\\x5c", str(name)))


def printable_line(text: object) -> str:
    """Text on one line: everything unsafe is escaped, line feeds and tabs too."""
    return _UNSAFE.sub(_escape, str(text))


def printable_text(text: object) -> str:
    """Text of several lines: everything unsafe is escaped but line feeds and tabs."""
    return _UNSAFE_BUT_LAYOUT.sub(_escape, str(text))


def message_text(text: object) -> str:
    """A message that begins in the first column, and whose other lines are indented: a name cannot forge a second message."""
    return printable_text(text).replace("\n", "\n  ")


class LogFormatter(logging.Formatter):
    """Formats each record as `message_text` does, whatever logged it."""

    def format(self, record: logging.LogRecord) -> str:
        """The record, with its traceback if it has one."""
        return message_text(super().format(record))


def set_up_logging(layout: str, *, level: int = logging.INFO, force: bool = True) -> None:
    """Send the log to stderr through a `LogFormatter`.

    Args:
        layout: of a line, as `logging.Formatter` takes it.
        level: the lowest that is shown.
        force: also where the log goes somewhere already, in place of that.
    """
    handler = logging.StreamHandler()
    handler.setFormatter(LogFormatter(layout))
    logging.basicConfig(level=level, handlers=[handler], force=force)


def json_text(value: Any, *, indent: int | None = None) -> str:
    """JSON with letters as they are; unsafe characters become JSON's own escapes, so a reader gets the same text."""
    text = json.dumps(value, indent=indent, ensure_ascii=False)
    return _UNSAFE_IN_JSON.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def csv_table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A table as CSV, one line feed a row.

    Text that a spreadsheet would compute gets an apostrophe in front, which `csv_text` takes away. Numbers stay numbers.
    """
    return "".join(
        _csv_row([f"'{cell}" if isinstance(cell, str) and _FORMULA.match(cell) else cell for cell in row]) for row in (header, *rows)
    )


def _csv_row(cells: Sequence[Any]) -> str:
    line = io.StringIO()
    csv.writer(line, lineterminator="\r\n").writerow(cells)  # which is also what a cell must not hold without quotes
    return line.getvalue().removesuffix("\r\n") + "\n"


def csv_text(cell: str) -> str:
    """The text that `csv_table` wrote to a cell."""
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell) else cell


def template_text(value: Any) -> Any:
    """`finalize` of a jinja2 environment: each text that a page shows is printable. What is markup already holds no text of others."""
    return printable_text(value) if type(value) is str else value


def markdown_code(text: object) -> str:
    """A code span that shows the text as it is: its fence is longer than every run of backticks in it."""
    line = printable_line(text)
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", line)), default=0))
    space = " " if line.startswith(("`", " ")) or line.endswith(("`", " ")) else ""
    return f"{fence}{space}{line}{space}{fence}"
