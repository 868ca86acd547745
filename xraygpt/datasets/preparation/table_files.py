"""Reads the rows of a table, each with the line where it starts: CSV, TSV, JSON lines, Parquet.

    .csv .tsv     UTF-8 with or without byte order mark; comma, semicolon or tab; any line ends; quoted cells may hold line ends
    .jsonl        one object a line; numbers become text, null and NaN become ""
    .parquet      with pyarrow, which `make install-extras EXTRAS=parquet` brings

Rows are read one after another, so memory does not grow with the table.
"""

import codecs
import csv
import importlib
import itertools
import json
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from xraygpt.common.errors import DataError, first_line
from xraygpt.common.printable import csv_text
from xraygpt.common.registry import suggest

TABLE_SUFFIXES = (".csv", ".tsv", ".jsonl", ".parquet")
DELIMITERS = ",;\t"
LIST_SEPARATOR = ";"
MAX_CELL = 1_000_000
"""Characters in a cell of a CSV file. A report has some thousands; a quotation mark that is not closed swallows the rest of the file."""
MAX_LINE = 10_000_000
"""Characters in a line, so that a file without line ends does not fill the memory."""

_SPREADSHEETS = (".xlsx", ".xls", ".xlsm", ".ods")
_BATCH = 4096  # rows of a Parquet file that are in memory at a time

BadRow = Callable[[int, str], None]


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a table.

    Attributes:
        line: the line of the file where it starts, from 1; in a Parquet file the number of the row.
        values: column → text.
    """

    line: int
    values: dict[str, str]


def read_rows(path: Path, columns: Sequence[str] = (), *, lists: Collection[str] = (), bad_row: BadRow | None = None) -> Iterator[Row]:
    """Read a table row by row.

    Args:
        path: a file with one of `TABLE_SUFFIXES`.
        columns: those that are wanted; the others are not looked at. None named: all.
        lists: columns of JSON lines and Parquet whose cells may be lists of texts; these are joined with `LIST_SEPARATOR`.
        bad_row: called with the line and the reason for a row that cannot be read, which is left out; None: it is an error.

    Raises:
        DataError: there is no such file, or it is of another kind, not UTF-8, damaged, without rows, or lacks a column; or a row cannot
            be read and `bad_row` is None.
    """
    require_table(path)

    def refuse(line: int, reason: str) -> None:
        raise DataError(f"{place(path, line)}: {reason}.")

    report = bad_row or refuse
    suffix = path.suffix.lower()
    if suffix == ".jsonl":
        rows = _json_rows(path, columns, lists, report)
    elif suffix == ".parquet":
        rows = _parquet_rows(path, columns, lists, report)
    else:
        rows = _csv_rows(path, columns, report)
    return rows


def require_table(path: Path) -> None:
    """Refuse what cannot be a table: nothing, a folder, a spreadsheet, another kind of file.

    Raises:
        DataError: says what to do.
    """
    suffix = path.suffix.lower()
    if suffix in _SPREADSHEETS:
        raise DataError(f"{path}: a spreadsheet is not read. Save the sheet as CSV, UTF-8.")
    if os.path.isdir(path):
        raise DataError(f"{path} is a folder; a table ({', '.join(TABLE_SUFFIXES)}) is expected.")
    if suffix not in TABLE_SUFFIXES:
        hint = " Write one object a line and call it .jsonl." if suffix == ".json" else ""
        raise DataError(f"{path}: expected a table that is called {', '.join(TABLE_SUFFIXES)}.{hint}")
    if not os.path.isfile(path):
        raise DataError(f"{path}: there is no such file.")


def place(path: Path, line: int) -> str:
    """How a message names a row: "reports.csv, line 7"."""
    return f"{path}, {'row' if path.suffix.lower() == '.parquet' else 'line'} {line}"


def _require_columns(path: Path, wanted: Iterable[str], found: Collection[str], where: str = "") -> None:
    for name in wanted:
        if name not in found:
            raise DataError(f"{where or path}: there is no column {name!r}.{suggest(name, found)}")


def _no_rows(path: Path) -> NoReturn:
    raise DataError(f"{path}: there is no row in this table.")


# CSV --------------------------------------------------------------------------------------------------------------------


def _csv_rows(path: Path, columns: Sequence[str], report: BadRow) -> Iterator[Row]:
    csv.field_size_limit(max(csv.field_size_limit(), MAX_CELL))
    lines = _lines(path)
    head = []
    for text in lines:
        head.append(text)
        if text.strip():
            break
    else:
        raise DataError(f"{path}: the file is empty.")
    delimiter = "\t" if path.suffix.lower() == ".tsv" else _delimiter(head[-1], columns)
    records = _csv_records(path, csv.reader(itertools.chain(head, lines), delimiter=delimiter, strict=True))
    _, header = next(records, (0, [""]))  # "" in quotation marks is a blank record all the same
    names = [name.strip() for name in header]
    repeated = {name for name in names if name and names.count(name) > 1}
    if repeated:
        raise DataError(f"{path}: the header names {', '.join(map(repr, sorted(repeated)))} more than once.")
    _require_columns(path, columns, [name for name in names if name])
    positions = [(name, names.index(name)) for name in columns or filter(None, names)]
    line = 0
    for line, cells in records:
        if len(cells) == len(names):
            yield Row(line, {name: csv_text(cells[position]) for name, position in positions})
        else:
            mark = {"\t": "tab"}.get(delimiter, delimiter)
            reason = f"the row has {len(cells)} cells, the header {len(names)}; a text that holds a {mark!r} must stand in double quotes"
            report(line, reason)
    if not line:
        _no_rows(path)


def _csv_records(path: Path, reader: Any) -> Iterator[tuple[int, list[str]]]:
    """The records that are not blank, each with the line where it starts."""
    while True:
        start = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise _broken_record(path, start, reader.line_num, error) from error
        if len(cells) > 1 or "".join(cells).strip():
            yield start, cells


def _broken_record(path: Path, start: int, end: int, error: csv.Error) -> DataError:
    quoted = [line for line, text in enumerate(itertools.islice(_lines(path), end), start=1) if line >= start and '"' in text]
    if not quoted:
        return DataError(f"{path}, line {start}: the row cannot be read ({error}).")
    opened = quoted[0] if "expected after" in str(error) else quoted[-1]
    return DataError(
        f"{path}, line {opened}: a quotation mark opens a cell here that does not end as it should (noticed in line {end}). "
        "Close it, and double every quotation mark within the text."
    )


def _delimiter(header: str, columns: Sequence[str]) -> str:
    """The one with which the header has most of the wanted columns, and then most columns at all."""

    def columns_found(delimiter: str) -> tuple[int, int]:
        names = {name.strip() for name in next(csv.reader([header], delimiter=delimiter))}
        return len(names.intersection(columns)), len(names)

    return max(DELIMITERS, key=columns_found)


def _lines(path: Path) -> Iterator[str]:
    """The lines of a UTF-8 file with their line ends, without the byte order mark."""
    try:
        with open(path, encoding="utf-8-sig", newline="") as handle:
            for number in itertools.count(1):
                line = handle.readline(MAX_LINE + 1)
                if not line:
                    return
                if len(line) > MAX_LINE:
                    raise DataError(
                        f"{path}, line {number}: longer than {MAX_LINE} characters; this is no table, or it lacks its line ends."
                    )
                if "\0" in line:
                    raise DataError(f"{path}, line {number}: holds a NUL byte; the file is damaged, or not UTF-8. Save it as UTF-8.")
                yield line
    except UnicodeDecodeError as error:
        raise _wrong_encoding(path) from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error}).") from error


def _wrong_encoding(path: Path) -> DataError:
    """Names the line and the byte that is not UTF-8."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    line = 1
    with open(path, "rb") as handle:
        while True:
            block = handle.read(1 << 20)
            try:
                decoder.decode(block, final=not block)
            except UnicodeDecodeError as error:
                line += error.object.count(b"\n", 0, error.start)
                kind = ", this is UTF-16" if error.object[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else ""
                return DataError(f"{path}, line {line}: not UTF-8 (byte 0x{error.object[error.start]:02x}{kind}). Save the file as UTF-8.")
            if not block:
                return DataError(f"{path}: changed while it was read.")
            line += block.count(b"\n")


# JSON lines and Parquet -------------------------------------------------------------------------------------------------


def _json_rows(path: Path, columns: Sequence[str], lists: Collection[str], report: BadRow) -> Iterator[Row]:
    checked, line = False, 0
    for line, text in enumerate(_lines(path), start=1):
        if not text.strip():
            continue
        try:
            record = json.loads(text.strip())
        except json.JSONDecodeError as error:
            report(line, f"not JSON ({error.msg} at column {error.colno}); one object a line is expected")
            continue
        except (ValueError, RecursionError) as error:
            report(line, f"not usable as JSON ({first_line(error)})")
            continue
        if not isinstance(record, dict):
            report(line, f"an object is expected, not a {type(record).__name__}")
            continue
        if not checked:  # later rows may leave out what is empty
            _require_columns(path, columns, record, where=place(path, line))
            checked = True
        yield from _typed_row(line, record, columns, lists, report)
    if not line:
        _no_rows(path)


def _parquet_rows(path: Path, columns: Sequence[str], lists: Collection[str], report: BadRow) -> Iterator[Row]:
    try:
        arrow, parquet = (importlib.import_module(name) for name in ("pyarrow", "pyarrow.parquet"))
    except ImportError as error:
        raise DataError(f"{path}: Parquet needs pyarrow, which is not installed: make install-extras EXTRAS=parquet") from error
    line = 0
    try:
        with parquet.ParquetFile(path) as file:
            _require_columns(path, columns, file.schema_arrow.names)
            batches = file.iter_batches(batch_size=_BATCH, columns=list(columns) or None)
            for line, record in enumerate((record for batch in batches for record in batch.to_pylist()), start=1):
                yield from _typed_row(line, record, columns, lists, report)
    except (arrow.ArrowException, OSError, ValueError) as error:
        raise DataError(f"{path}: no readable Parquet file ({first_line(error)}).") from error
    if not line:
        _no_rows(path)


def _typed_row(line: int, record: Mapping[str, Any], columns: Sequence[str], lists: Collection[str], report: BadRow) -> Iterator[Row]:
    values = {}
    for name in columns or record:
        try:
            values[name] = _text_of(record.get(name), is_list=name in lists)
        except TypeError as error:
            report(line, f"the column {name!r} {error}")
            return
    yield Row(line, values)


def _text_of(value: Any, *, is_list: bool) -> str:
    if is_list and isinstance(value, list):
        return LIST_SEPARATOR.join(_text_of(item, is_list=False) for item in value)
    if value is None or value != value:  # NaN
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple | dict | bytes):
        raise TypeError(f"holds a {type(value).__name__}; text or a number is expected")
    text = str(value)
    if "\0" in text or not _is_whole(text):
        raise TypeError("holds a character that no text has (NUL or half of a surrogate pair)")
    return text


def _is_whole(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
