"""Reads the files that are scored: generated reports, and the references they are scored against."""

import csv
import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xraygpt.common.errors import DataError
from xraygpt.common.files import ANNOTATIONS_NAME
from xraygpt.evaluation.scorecard import true_findings

IMAGE_SUFFIXES = (".png", ".jpg")


@dataclass(frozen=True)
class References:
    """What the reports should say: for each id its reference text, its true findings and, where there is one, its image."""

    texts: dict[str, str]
    findings: dict[str, list[dict[str, str]]]
    images: dict[str, Path]


def load_references(path: str | Path, *, split: str) -> References:
    """Read references from a prepared folder (the annotations of one split) or from a reports file (all of it).

    Args:
        path: a folder with `filter_cap.json` and `image/<image_id>.png|jpg`, or a file that `load_reports` reads.
        split: which split of the folder; a file has no splits.

    Raises:
        DataError: a file that cannot be read, a missing field, a repeated id, or a split without annotations.
    """
    path = Path(path)
    if not path.is_dir():
        texts = load_reports(path)
        return References(texts, {key: true_findings({"caption": text}) for key, text in texts.items()}, {})
    file = path / ANNOTATIONS_NAME
    chosen = [row for row in _annotations(file) if row["split"] == split]
    if not chosen:
        raise DataError(f"{file}: no annotation has the split {split!r}. Prepare the data with that split, or choose another.")
    texts = {row["image_id"]: row["caption"] for row in chosen}
    if len(texts) != len(chosen):
        raise DataError(f"{file}: {len(chosen) - len(texts)} image_id values of the split {split!r} are repeated; each must be unique.")
    images = {key: image for key in texts for suffix in IMAGE_SUFFIXES if (image := path / "image" / f"{key}{suffix}").is_file()}
    return References(texts, {row["image_id"]: true_findings(row) for row in chosen}, images)


def _annotations(file: Path) -> list[dict[str, Any]]:
    try:
        content = json.loads(read_utf8(file))
    except json.JSONDecodeError as error:
        raise DataError(f"{file}, line {error.lineno}: not JSON ({error.msg}).") from error
    rows = content.get("annotations") if isinstance(content, dict) else None
    if not isinstance(rows, list):
        raise DataError(f'{file}: expected {{"annotations": [...]}}.')
    for index, row in enumerate(rows):
        wrong = [field for field in ("image_id", "caption", "split") if not isinstance(row, dict) or not isinstance(row.get(field), str)]
        if wrong:
            raise DataError(f"{file}, annotation {index}: the fields {', '.join(wrong)} must be text; got {str(row)[:100]}.")
    return rows


def load_reports(path: str | Path) -> dict[str, str]:
    """Read id -> report from JSON lines (.jsonl) or CSV (.csv), UTF-8 with or without a byte order mark.

    Raises:
        DataError: not UTF-8, not JSON lines or CSV, a missing field, an id that is empty or not a string, an id that occurs
            twice (the first 10 and their count are listed), or no report at all.
    """
    path = Path(path)
    readers = {".jsonl": _json_rows, ".csv": _csv_rows}
    if path.suffix not in readers:
        raise DataError(f"{path}: expected a .jsonl or .csv file with the fields id and report.")
    reports: dict[str, str] = {}
    repeated: list[str] = []
    for line, row in readers[path.suffix](path):
        key, report = (_text_field(row, field, path, line) for field in ("id", "report"))
        if not key.strip():
            raise DataError(f"{path}, line {line}: the id is empty; every report needs the id of its image.")
        repeated += [f"{key!r} (line {line})"] if key in reports else []
        reports[key] = report
    if repeated:
        raise DataError(f"{path}: {len(repeated)} repeated ids: {', '.join(repeated[:10])}. Each id may have one report.")
    if not reports:
        raise DataError(f"{path}: there are no reports in this file.")
    return reports


def read_utf8(path: Path) -> str:
    """The text of a UTF-8 file, without its byte order mark; DataError names the line of the first wrong byte."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}).") from error
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise DataError(f"{path}, line {line}: not UTF-8 (byte 0x{content[error.start]:02x}). Save the file as UTF-8.") from error


def _json_rows(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    for line, text in enumerate(read_utf8(path).split("\n"), start=1):
        if not text.strip():
            continue
        try:
            row = json.loads(text)
        except json.JSONDecodeError as error:
            raise DataError(f"{path}, line {line}: not JSON ({error.msg} at column {error.colno}). Expected one object a line.") from error
        if not isinstance(row, dict):
            raise DataError(f'{path}, line {line}: expected an object {{"id": …, "report": …}}, got {type(row).__name__}.')
        yield line, row


def _csv_rows(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    reader = csv.DictReader(io.StringIO(read_utf8(path), newline=""), strict=True)
    try:
        for row in reader:
            if None in row or None in row.values():
                raise DataError(
                    f"{path}, line {reader.line_num}: the row has not the {len(reader.fieldnames or ())} columns of the header. "
                    "A report that holds a comma must stand in double quotes."
                )
            yield reader.line_num, row
    except csv.Error as error:
        raise DataError(f"{path}, line {reader.line_num}: not CSV ({error}).") from error


def _text_field(row: Mapping[str, Any], field: str, path: Path, line: int) -> str:
    if field not in row:
        raise DataError(f"{path}, line {line}: the field {field!r} is missing; found: {', '.join(map(str, row)) or 'nothing'}.")
    if not isinstance(row[field], str):
        raise DataError(f"{path}, line {line}: the field {field!r} must be text, not {type(row[field]).__name__}.")
    return row[field]
