"""Files of generated reports: JSON lines, CSV, or plain text. Each row of each format carries the research notice.

A row is one image:

    {"id", "image", "report", "flags", "confidence", "sentences", "truncated", "repeated", "concerns"}   a report
    {"id", "image", "error", "concerns"}                                                                 an image that got none, and why

`flags` are of `xraygpt.serving.safety.FLAGS`; `confidence` is the geometric mean of the probabilities that the model gave its tokens;
`sentences` has that of each sentence, `[{"text", "confidence"}, …]`; `concerns` are those of the input gate.

and `about`, {"prompt", "decoding", "model"}, is what all reports of a file share.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from xraygpt.common.errors import DataError
from xraygpt.common.files import write_text
from xraygpt.common.printable import csv_table, json_text, printable_line, printable_text
from xraygpt.common.registry import suggest
from xraygpt.serving.safety import RESEARCH_NOTICE, unsure_notes, with_notice

Row = Mapping[str, Any]

CSV_COLUMNS = ("id", "image", "report", "error", "flags", "confidence", "sentences", "concerns", "prompt", "decoding", "model", "notice")
"""No column `truncated`: the flags say it, and `xraygpt score` reads it from JSON lines alone."""


def _as_jsonl(rows: Iterable[Row], about: Row) -> str:
    return "".join(json_text({**row, **({} if "error" in row else about), "notice": RESEARCH_NOTICE}) + "\n" for row in rows)


def _as_csv(rows: Iterable[Row], about: Row) -> str:
    shared = {key: value if isinstance(value, str) else json.dumps(value) for key, value in about.items()}
    cells = (
        {**row, **({} if "error" in row else shared)}
        | ({"sentences": json_text(row["sentences"])} if "sentences" in row else {})
        | {"flags": " ".join(row.get("flags", ())), "concerns": " ".join(concern["kind"] for concern in row["concerns"])}
        | {"notice": RESEARCH_NOTICE}
        for row in rows
    )
    return csv_table(CSV_COLUMNS, ([row.get(column, "") for column in CSV_COLUMNS] for row in cells))


def _as_txt(rows: Iterable[Row], about: Row) -> str:
    shared = [printable_line(f"{key}: {value if isinstance(value, str) else json.dumps(value)}") for key, value in about.items()]
    parts = ["\n".join([RESEARCH_NOTICE, *shared]) + "\n"]
    for row in rows:
        text = f"No report: {row['error']}" if "error" in row else row["report"]
        messages = [concern["message"] for concern in row["concerns"]]
        text = "\n".join([text, *unsure_notes(row.get("sentences", ()))])
        whole = printable_text(with_notice(text, flags=row.get("flags", ()), concerns=messages))
        lines = [f" {line}" if line.startswith("==") else line for line in whole.split("\n")]  # only a row has a heading
        parts.append("\n".join(["", f"== {printable_line(row['id'])} ({printable_line(row['image'])})", *lines, ""]))
    return "".join(parts)


FORMATS: dict[str, Callable[[Iterable[Row], Row], str]] = {"jsonl": _as_jsonl, "csv": _as_csv, "txt": _as_txt}


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
    write_text(path, FORMATS[format_name](rows, about))
