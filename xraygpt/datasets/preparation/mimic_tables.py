"""MIMIC-CXR's tables, read line by line: which images a study has and of which view, its split, its labels.

A line that cannot be used goes to the account. A table that cannot be read at all is an error: without it every number would be another.
"""

import csv
import gzip
import re
import sys
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, NamedTuple

from xraygpt.common.errors import DataError, first_line
from xraygpt.common.files import sha256_file
from xraygpt.datasets.preparation.account import Account
from xraygpt.datasets.preparation.mimic_reports import WRONG_SUBJECT

BAD_LINES = "table lines unusable"
"""The count of lines with a wrong number of columns or a value that cannot be."""
MAX_TABLE_BYTES = 1 << 30
"""Unpacked; the largest table has less than 0.1 GB."""
LABELS = (
    "Atelectasis",
    "Cardiomegaly",
    "Consolidation",
    "Edema",
    "Enlarged Cardiomediastinum",
    "Fracture",
    "Lung Lesion",
    "Lung Opacity",
    "No Finding",
    "Pleural Effusion",
    "Pleural Other",
    "Pneumonia",
    "Pneumothorax",
    "Support Devices",
)

_MAX_LINE = 1 << 16  # characters
_MAX_CELL = 1 << 17
_ID = re.compile(r"[1-9][0-9]{7}")
_DICOM_ID = re.compile(r"[0-9A-Za-z][\w.-]*", re.ASCII)
_SPLITS = {"train": "train", "validate": "val", "test": "test"}
_LABEL_VALUES = {"1.0": 1, "0.0": 0, "-1.0": -1, "1": 1, "0": 0, "-1": -1}  # present, absent, uncertain


class ImageRow(NamedTuple):
    """One image, as a table names it. Rows sort by subject, study and image."""

    subject_id: int
    study_id: int
    dicom_id: str
    view_position: str
    line: int


def read_images(path: Path, account: Account, *, with_views: bool) -> list[ImageRow]:
    """Every image of a table, sorted.

    Args:
        path: the metadata, or another table with a line for each image.
        account: gets the lines that cannot be used.
        with_views: the table has the column ViewPosition.

    Raises:
        DataError: the table cannot be read or lacks a column.
    """
    table = _Table(path, account, kind="image")
    owners: dict[int, int] = {}
    images = []
    for line, subject, study, (dicom_id, *view) in table.rows("dicom_id", *(["ViewPosition"] if with_views else [])):
        if not _DICOM_ID.fullmatch(dicom_id):
            table.bad_value(line, "dicom_id", dicom_id, "letters, digits, '-', '_' and '.'")
        elif table.agrees(line, subject, study, owners):
            owners[study] = subject
            images.append(ImageRow(subject, study, dicom_id, sys.intern(view[0].strip()) if view else "", line))
    images.sort()
    return images


def read_splits(path: Path, account: Account, owners: Mapping[int, int]) -> dict[int, str]:
    """study_id → "train", "val" or "test".

    Args:
        path: the table of splits, a line for each image.
        account: gets the lines that cannot be used.
        owners: study_id → subject_id, as the images have it.

    Raises:
        DataError: the table cannot be read or lacks a column, or one study stands in two splits.
    """
    table = _Table(path, account, kind="image")
    splits: dict[int, str] = {}
    for line, subject, study, (name,) in table.rows("split"):
        if not table.agrees(line, subject, study, owners):
            continue
        if name not in _SPLITS:
            table.bad_value(line, "split", name, ", ".join(_SPLITS))
        elif (before := splits.setdefault(study, _SPLITS[name])) != _SPLITS[name]:
            raise DataError(f"{path}, line {line}: the study {study} is in the split {_SPLITS[name]!r} here and in {before!r} before.")
    return splits


def read_labels(path: Path, account: Account, owners: Mapping[int, int]) -> dict[int, Mapping[str, int]]:
    """study_id → finding → 1 (present), 0 (absent) or -1 (uncertain), of the findings that the report mentions.

    Studies with the same labels share one mapping.

    Args:
        path: a table of labels, a line for each study.
        account: gets the lines that cannot be used.
        owners: study_id → subject_id, as the images have it.

    Raises:
        DataError: the table cannot be read or lacks a column.
    """
    table = _Table(path, account, kind="report")
    known: dict[tuple[str, ...], Mapping[str, int]] = {}
    labels: dict[int, Mapping[str, int]] = {}
    for line, subject, study, values in table.rows(*LABELS):
        if not table.agrees(line, subject, study, owners):
            continue
        key = tuple(values)
        if key not in known:
            mentioned = {name: value for name, value in zip(LABELS, values, strict=True) if value}
            unknown = next((name for name, value in mentioned.items() if value not in _LABEL_VALUES), None)
            if unknown is not None:
                table.bad_value(line, unknown, mentioned[unknown], "1.0, 0.0, -1.0 or nothing")
                continue
            known[key] = {name: _LABEL_VALUES[value] for name, value in mentioned.items()}
        labels[study] = known[key]
    return labels


class _Table:
    """One table, read as a stream.

    Args:
        path: the file, packed or not.
        account: gets the table's identity and the lines that cannot be used.
        kind: what a line is about, "image" or "report".
    """

    def __init__(self, path: Path, account: Account, *, kind: str) -> None:
        self.path, self.account, self.kind = path, account, kind

    def rows(self, *columns: str) -> Iterator[tuple[int, int, int, list[str]]]:
        """Line number, subject_id, study_id and the values of `columns`, for each line that can be used."""
        needed = ("subject_id", "study_id", *columns)
        reader = None
        try:
            self.account.source_file("table", "", self.path, bytes=self.path.stat().st_size, sha256=sha256_file(self.path))
            with _open(self.path) as handle:
                csv.field_size_limit(_MAX_CELL)  # of the whole process: who read another table before may have raised it
                reader = csv.reader(_lines(handle, self.path))
                header = next(reader, [])
                positions = _positions(header, needed, self.path)
                for row in reader:
                    if len(row) != len(header):
                        self._wrong_width(reader.line_num, len(row), len(header))
                        continue
                    subject, study, *values = (row[position] for position in positions)
                    for name, value in (("subject_id", subject), ("study_id", study)):
                        if not _ID.fullmatch(value):
                            self.bad_value(reader.line_num, name, value, "a number of 8 digits")
                            break
                    else:
                        yield reader.line_num, int(subject), int(study), values
        except (OSError, EOFError, zlib.error, UnicodeDecodeError, csv.Error) as error:
            raise DataError(
                f"{self.path}: cannot be read beyond about line {reader.line_num if reader else 0} ({first_line(error)}). If it is "
                "damaged, download it again; SHA256SUMS.txt of the data set tells what it must be."
            ) from error

    def agrees(self, line: int, subject: int, study: int, owners: Mapping[int, int]) -> bool:
        """Whether a line gives a study to the subject that it has elsewhere."""
        owner = owners.get(study, subject)
        if owner != subject:
            self._problem(WRONG_SUBJECT, line, f"gives the study {study} to the subject {subject}; elsewhere it is {owner}'s")
        return owner == subject

    def bad_value(self, line: int, name: str, value: str, expected: str) -> None:
        """A line is not used for the sake of one value."""
        self._problem(BAD_LINES, line, f"{name} is {value[:40]!r}; expected {expected}")

    def _wrong_width(self, line: int, found: int, expected: int) -> None:
        if found:  # an empty line is no line
            self._problem(BAD_LINES, line, f"{found} columns; the first line has {expected}")

    def _problem(self, count: str, line: int, message: str) -> None:
        where = f"{self.path}, line {line}"
        self.account.problem(count, f"{where}: {message}.", kind=self.kind, where=where)


def _open(path: Path) -> IO[str]:
    """A table as text. Whether it is packed is read off its first bytes: browsers unpack downloads without changing the name."""
    with open(path, "rb") as handle:
        packed = handle.read(2) == b"\x1f\x8b"
    return gzip.open(path, "rt", encoding="utf-8-sig", newline="") if packed else open(path, encoding="utf-8-sig", newline="")


def _lines(handle: IO[str], path: Path) -> Iterator[str]:
    """The lines of a table, which must be of a table's size: a few packed kilobytes can unpack to any number of gigabytes."""
    size = 0
    while line := handle.readline(_MAX_LINE):
        size += len(line)
        if len(line) == _MAX_LINE or size > MAX_TABLE_BYTES:
            raise DataError(
                f"{path}: has a line of {_MAX_LINE:,} characters, or {MAX_TABLE_BYTES:,} bytes in all, so it is none of MIMIC's tables."
            )
        yield line


def _positions(header: Sequence[str], columns: Sequence[str], path: Path) -> list[int]:
    missing = [name for name in columns if name not in header]
    if missing:
        found = ", ".join(header)[:500] or "nothing"
        raise DataError(f"{path}: the first line lacks {', '.join(missing)}. Expected {', '.join(columns)}; found {found}.")
    return [header.index(name) for name in columns]
