"""Reads the files that are scored: generated reports, and the references they are scored against.

Whatever is wrong with a file is said at once, as a list with lines and ids. Nothing is left out silently: a test set never gets smaller.
"""

import codecs
import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from xraygpt.common.errors import DataError, first_line
from xraygpt.common.files import ANNOTATIONS_NAME
from xraygpt.common.printable import csv_text
from xraygpt.evaluation.metric import Corpus

IMAGE_SUFFIXES = (".png", ".jpg")
MAX_LISTED = 20  # problems that a message lists; it says how many more there are


@dataclass(frozen=True)
class Predictions:
    """Generated reports by id; `truncated` says which the model did not end, for the ids whose row says so."""

    reports: dict[str, str]
    truncated: dict[str, bool] = field(default_factory=dict)


@dataclass(frozen=True)
class References:
    """What the reports should say.

    Attributes:
        texts: id → one or more reference reports, none empty.
        studies: id → study; the id itself where nothing says which study it belongs to.
        images: id → image file, for the ids that have one.
    """

    texts: dict[str, tuple[str, ...]]
    studies: dict[str, str]
    images: dict[str, Path] = field(default_factory=dict)


def load_reports(path: str | Path) -> dict[str, str]:
    """Read id → report, one a row; see `load_predictions`."""
    return load_predictions(path).reports


def load_predictions(path: str | Path) -> Predictions:
    """Read generated reports.

    Args:
        path: JSON lines (.jsonl) or CSV (.csv) with the fields id and report, in JSON lines optionally truncated (true or false); or
            JSON (.json): {id: report} or {id: [report]}. UTF-8, or UTF-16 with a byte order mark.

    Raises:
        DataError: lists every row that is not as it should be.
    """
    path = Path(path)
    reports: dict[str, str] = {}
    truncated: dict[str, bool] = {}
    problems: list[str] = []
    for where, key, texts, row in _read(path, problems):
        if len(texts) != 1:
            problems.append(f"{where}: {len(texts)} reports for {key!r}; a generated report is one text")
        elif not isinstance(cut := row.get("truncated", False), bool):
            problems.append(f"{where}: the field 'truncated' must be true or false, not {cut!r}")
        else:
            reports[key] = texts[0]
            truncated |= {key: cut} if "truncated" in row else {}
    _raise(path, problems, reports)
    return Predictions(reports, truncated)


def load_references(path: str | Path, *, split: str = "test") -> References:
    """Read references from a prepared folder (the annotations of one split) or from a file (all of it).

    Args:
        path: a folder with `filter_cap.json` and `image/<image_id>.png|jpg`; or a file as for `load_predictions`, in which a report may
            also be a list of texts (several references of one image), and a field study may say which study an image belongs to.
        split: which split of the folder; a file has no splits.

    Raises:
        DataError: lists every row that is not as it should be, an empty reference among them; or the split has no annotations.
    """
    path = Path(path)
    if path.is_dir():
        return _folder_references(path, split)
    texts: dict[str, tuple[str, ...]] = {}
    studies: dict[str, str] = {}
    problems: list[str] = []
    for where, key, references, row in _read(path, problems):
        if not references or not all(text.strip() for text in references):
            problems.append(f"{where}: the reference of {key!r} is empty")
        if not isinstance(study := row.get("study", key), str):
            problems.append(f"{where}: the field 'study' must be text, not {study!r}")
        texts[key], studies[key] = references, study
    _raise(path, problems, texts)
    return References(texts, studies)


def load_training_reports(path: str | Path) -> list[str]:
    """The reports that a model was trained on: the train split of a prepared folder, or all reports of a file."""
    path = Path(path)
    if not path.is_dir():
        return [text for texts in load_references(path).texts.values() for text in texts]
    return [row["caption"] for row in _annotations(path / ANNOTATIONS_NAME) if row["split"] == "train"]


def pair(predictions: Predictions, references: References) -> Corpus:
    """Put predictions and references together, in the order of the references.

    Raises:
        DataError: they have not exactly the same ids; every missing and every extra id is counted, the first are listed.
    """
    problems = [
        f"{len(ids)} {what}: {', '.join(map(repr, ids[:MAX_LISTED]))}{', …' if len(ids) > MAX_LISTED else ''}"
        for what, ids in (
            ("without a report", [key for key in references.texts if key not in predictions.reports]),
            ("without a reference", [key for key in predictions.reports if key not in references.texts]),
        )
        if ids
    ]
    if problems:
        raise DataError(
            f"The {len(predictions.reports)} reports and the {len(references.texts)} references must have the same ids. Ids "
            + "; ids ".join(problems)
            + ". Generate the missing reports, or score the split that they were generated for."
        )
    ids = tuple(references.texts)
    known = all(key in predictions.truncated for key in ids)
    return Corpus(
        ids=ids,
        predictions=tuple(predictions.reports[key] for key in ids),
        references=tuple(references.texts[key] for key in ids),
        studies=tuple(references.studies[key] for key in ids),
        truncated=tuple(predictions.truncated[key] for key in ids) if known else None,
    )


# Prepared folders ----------------------------------------------------------------------------------------------------------


def _folder_references(folder: Path, split: str) -> References:
    file = folder / ANNOTATIONS_NAME
    chosen = [row for row in _annotations(file) if row["split"] == split]
    if not chosen:
        raise DataError(f"{file}: no annotation has the split {split!r}. Prepare the data with that split, or choose another.")
    texts: dict[str, tuple[str, ...]] = {row["image_id"]: (row["caption"],) for row in chosen}
    problems = [f"the reference of {key!r} is empty" for key, (text, *_) in texts.items() if not text.strip()]
    problems += [f"the image_id {key!r} leaves the image folder" for key in texts if Path(key).is_absolute() or ".." in Path(key).parts]
    if len(texts) != len(chosen):
        problems.append(f"{len(chosen) - len(texts)} image_id values of the split {split!r} are repeated; each must be unique")
    _raise(file, problems, texts)
    images = {key: image for key in texts for suffix in IMAGE_SUFFIXES if (image := folder / "image" / f"{key}{suffix}").is_file()}
    return References(texts, {row["image_id"]: str(row.get("study_id") or row["image_id"]) for row in chosen}, images)


def _annotations(file: Path) -> list[dict[str, Any]]:
    content = read_json(file)
    rows = content.get("annotations") if isinstance(content, dict) else None
    if not isinstance(rows, list):
        raise DataError(f'{file}: expected {{"annotations": [...]}}.')
    for index, row in enumerate(rows):
        wrong = [name for name in ("image_id", "caption", "split") if not isinstance(row, dict) or not isinstance(row.get(name), str)]
        if wrong:
            raise DataError(f"{file}, annotation {index}: the fields {', '.join(wrong)} must be text; got {str(row)[:100]}.")
    return rows


# Files of reports ----------------------------------------------------------------------------------------------------------

Row = tuple[str, Mapping[str, Any]]  # (where it stands, its fields)


def _read(path: Path, problems: list[str]) -> Iterator[tuple[str, str, tuple[str, ...], Mapping[str, Any]]]:
    """(where, id, texts, row) of each row that has both; what is wrong with the others goes to `problems`."""
    readers: dict[str, Callable[[Path, list[str]], Iterable[Row]]] = {".jsonl": _json_lines, ".csv": _csv_rows, ".json": _json_rows}
    if path.suffix not in readers:
        raise DataError(f"{path}: expected a .jsonl or .csv file with the fields id and report, or .json {{id: report}}.")
    seen: dict[str, str] = {}
    for where, row in readers[path.suffix](path, problems):
        if row.get("error"):
            problems.append(f"{where}: {row.get('id')!r} has no report: {row['error']}")
            continue
        if absent := [name for name in ("id", "report") if name not in row]:
            problems.append(f"{where}: no field {' and '.join(map(repr, absent))}; found: {', '.join(map(str, row)) or 'nothing'}")
            continue
        key, report = row["id"], row["report"]
        texts = tuple(report) if isinstance(report, list) else (report,)
        if not isinstance(key, str) or not key.strip():
            problems.append(f"{where}: the id must be text that is not empty, not {key!r}")
        elif key in seen:
            problems.append(f"{where}: the id {key!r} stood already at {seen[key]}; each id may have one row")
        elif wrong := [text for text in texts if not isinstance(text, str)]:
            problems.append(f"{where}: the report of {key!r} must be text, not {type(wrong[0]).__name__}")
        else:
            seen[key] = where
            yield where, key, texts, row


def _raise(path: Path, problems: list[str], rows: Mapping[str, Any]) -> None:
    if problems:
        more = f"\n  … and {len(problems) - MAX_LISTED} more" if len(problems) > MAX_LISTED else ""
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        raise DataError(f"{path}: {count}. Nothing of it was used.\n  " + "\n  ".join(problems[:MAX_LISTED]) + more)
    if not rows:
        raise DataError(f"{path}: there are no reports in this file.")


def read_text(path: Path) -> str:
    """The text of a UTF-8 file, or of a UTF-16 file with a byte order mark; DataError names the line of the first wrong byte."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}).") from error
    encoding = "utf-16" if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig"
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise DataError(
            f"{path}, line {line}: not {encoding.removesuffix('-sig').upper()} (byte 0x{content[error.start]:02x}). Save the file as UTF-8."
        ) from error


def read_json(path: Path, **options: Any) -> Any:
    """The value in a file of JSON; `options` are those of `json.loads`. DataError names the line of what is wrong."""
    try:
        return json.loads(read_text(path), **options)
    except json.JSONDecodeError as error:
        raise DataError(f"{path}, line {error.lineno}: not JSON ({error.msg}).") from error
    except (ValueError, RecursionError) as error:  # a number of thousands of digits; lists within lists without end
        raise DataError(f"{path}: not usable as JSON ({first_line(error)}).") from error


def _json_lines(path: Path, problems: list[str]) -> Iterator[Row]:
    for line, text in enumerate(read_text(path).split("\n"), start=1):
        if not text.strip():
            continue
        try:
            row = json.loads(text)
        except json.JSONDecodeError as error:
            problems.append(f"line {line}: not JSON ({error.msg} at column {error.colno}); expected one object a line")
            continue
        except (ValueError, RecursionError) as error:
            problems.append(f"line {line}: not usable as JSON ({first_line(error)})")
            continue
        if isinstance(row, dict):
            yield f"line {line}", row
        else:
            problems.append(f'line {line}: expected an object {{"id": …, "report": …}}, got {type(row).__name__}')


def _json_rows(path: Path, problems: list[str]) -> Iterator[Row]:
    def keep_pairs(pairs: list[tuple[str, Any]]) -> Any:
        return pairs  # a dict would let the last of two equal ids win

    content = read_json(path, object_pairs_hook=keep_pairs)
    if not isinstance(content, list) or not all(isinstance(item, tuple) for item in content):
        raise DataError(f'{path}: expected {{"id": "report", …}} or {{"id": ["report", …], …}}; or give a .jsonl file, one object a line.')
    for number, (key, report) in enumerate(content, start=1):
        yield f"entry {number}", {"id": key, "report": report}


def _csv_rows(path: Path, problems: list[str]) -> Iterator[Row]:
    reader = csv.DictReader(io.StringIO(read_text(path), newline=""), strict=True)
    try:
        for row in reader:
            if None in row or None in row.values():
                problems.append(
                    f"line {reader.line_num}: the row has not the {len(reader.fieldnames or ())} columns of the header; "
                    "a report that holds a comma must stand in double quotes"
                )
            else:
                yield f"line {reader.line_num}", {name: csv_text(cell) for name, cell in row.items()}
    except csv.Error as error:
        raise DataError(f"{path}, line {reader.line_num}: not CSV ({error}).") from error
