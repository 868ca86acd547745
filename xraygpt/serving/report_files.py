"""Files of generated reports: JSON lines, CSV, or plain text. Each row of each format carries the research notice.

A row is one image:

    {"id", "image", "report", "flags", "confidence", "sentences", "truncated", "repeated", "concerns"}   a report
    {"id", "image", "error", "concerns"}                                                                 an image that got none, and why

`flags` are of `xraygpt.serving.safety.FLAGS`; `confidence` is the geometric mean of the probabilities that the model gave its tokens;
`sentences` has that of each sentence, `[{"text", "confidence"}, …]`; `concerns` are those of the input gate.

and `about`, {"prompt", "decoding", "model"}, is what all reports of a file share.
"""

import csv
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import IO, Any

from xraygpt.common.errors import DataError
from xraygpt.common.files import atomic_path
from xraygpt.common.registry import suggest
from xraygpt.serving.safety import RESEARCH_NOTICE, unsure_notes, with_notice

Row = Mapping[str, Any]

CSV_COLUMNS = ("id", "image", "report", "error", "flags", "confidence", "sentences", "concerns", "prompt", "decoding", "model", "notice")
"""No column `truncated`: the flags say it, and `xraygpt score` reads it from JSON lines alone."""


def _write_jsonl(handle: IO[str], rows: Iterable[Row], about: Row) -> None:
    for row in rows:
        shared = {} if "error" in row else about
        handle.write(json.dumps({**row, **shared, "notice": RESEARCH_NOTICE}, ensure_ascii=False) + "\n")


def _write_csv(handle: IO[str], rows: Iterable[Row], about: Row) -> None:
    writer = csv.DictWriter(handle, CSV_COLUMNS, restval="", extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for row in rows:
        shared = {} if "error" in row else {key: value if isinstance(value, str) else json.dumps(value) for key, value in about.items()}
        writer.writerow(
            {**row, **shared}
            | ({"sentences": json.dumps(row["sentences"], ensure_ascii=False)} if "sentences" in row else {})
            | {"flags": " ".join(row.get("flags", ())), "concerns": " ".join(concern["kind"] for concern in row["concerns"])}
            | {"notice": RESEARCH_NOTICE}
        )


def _write_txt(handle: IO[str], rows: Iterable[Row], about: Row) -> None:
    shared = [f"{key}: {value if isinstance(value, str) else json.dumps(value)}" for key, value in about.items()]
    handle.write("\n".join([RESEARCH_NOTICE, *shared]) + "\n")
    for row in rows:
        text = f"No report: {row['error']}" if "error" in row else row["report"]
        messages = [concern["message"] for concern in row["concerns"]]
        text = "\n".join([text, *unsure_notes(row.get("sentences", ()))])
        handle.write(f"\n== {row['id']} ({row['image']})\n{with_notice(text, flags=row.get('flags', ()), concerns=messages)}\n")


FORMATS: dict[str, Callable[[IO[str], Iterable[Row], Row], None]] = {"jsonl": _write_jsonl, "csv": _write_csv, "txt": _write_txt}


def format_of(path: Path, asked: str | None) -> str:
    """The format that is asked for, or the one that the file's ending names.

    Raises:
        DataError: neither says which.
    """
    name = asked or path.suffix.removeprefix(".").lower()
    if name not in FORMATS:
        raise DataError(f"{path}: which format? Give --format, or an ending of these.{suggest(name, FORMATS)}")
    return name


def write_report_file(path: Path, rows: Iterable[Row], about: Row, *, format_name: str) -> None:
    """Write the rows to `path` in one of the `FORMATS`, whole or not at all."""
    with atomic_path(path) as temporary, open(temporary, "w", encoding="utf-8", newline="") as handle:
        FORMATS[format_name](handle, rows, about)
