"""What the tests of MIMIC-CXR's reader share: reading a made data set, and changing it."""

import csv
import gzip
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.datasets.preparation.mimic_tree import MadeStudy, MadeTree
from xraygpt.datasets.preparation.account import Account
from xraygpt.datasets.preparation.mimic import MIMICSource
from xraygpt.datasets.preparation.study import Study


def read(*roots: Path, on_error: str = "skip", **options: Any) -> tuple[list[Study], Account]:
    source = MIMICSource(roots=roots, **options)
    account = Account(roots=source.roots, on_error=on_error)
    return list(source.studies(account)), account


def read_table(path: Path) -> list[list[str]]:
    with gzip.open(path, "rt", newline="") as handle:
        return list(csv.reader(handle))


def write_rows(path: Path, rows: Sequence[Sequence[str]]) -> None:
    with gzip.open(path, "wt", newline="") as handle:
        csv.writer(handle).writerows(rows)


def set_cell(path: Path, line: int, column: str, value: str) -> None:
    """Change one cell of a table; the first line is 1."""
    rows = read_table(path)
    rows[line - 1][rows[0].index(column)] = value
    write_rows(path, rows)


def ids(studies: Sequence[Study]) -> list[str]:
    return [study.study_id for study in studies]


def made_ids(studies: Sequence[MadeStudy]) -> list[str]:
    return [str(study.study_id) for study in studies]


def first(tree: MadeTree) -> MadeStudy:
    """The study of the metadata's first line."""
    return next(made for made in tree.studies if made.images)


def report_of(tree: MadeTree, made: MadeStudy) -> Path:
    return tree.reports / f"{made.folder}.txt"
