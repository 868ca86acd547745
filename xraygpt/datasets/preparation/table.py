"""Anybody's own data: a table with a path and a report in each row, beside the images.

    image               path below the image folder; several, separated by ";" or "|" (or a JSON list), are one study
    report              the text, or findings and impression in columns of their own
    group               the patient, whose studies all go into one split
    study               rows with the same value are one study, and have the same texts; without it each row is a study
    view                frontal, lateral, PA, AP, LATERAL, LL; one for the row, or one for each image
    split               train, val or test; without it the hash of group or study decides

An image is called by its path without suffix, see `image_names`. Without a study column so is the study, by its first image: an
identifier does not change when rows are added. What is wrong with a row is listed with the line where it starts.
"""

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePath, PureWindowsPath
from typing import Any

from xraygpt.common.errors import DataError
from xraygpt.common.files import sha256_file
from xraygpt.datasets.preparation.account import Account
from xraygpt.datasets.preparation.image_files import IMAGE_SUFFIXES
from xraygpt.datasets.preparation.image_names import image_id_of
from xraygpt.datasets.preparation.sections import read_sections
from xraygpt.datasets.preparation.study import About, Study, StudyImage
from xraygpt.datasets.preparation.table_files import Row, place, read_rows, require_table

TEXTS = ("as-is", "summary")
SPLIT_NAMES = {"train": "train", "training": "train", "val": "val", "valid": "val", "validate": "val", "validation": "val", "dev": "val"}
SPLIT_NAMES |= {"test": "test", "testing": "test"}
VIEW_NAMES = {
    **dict.fromkeys(("", "UNKNOWN", "UNK"), ("", "")),
    "FRONTAL": ("frontal", ""),
    "PA": ("frontal", "PA"),
    "AP": ("frontal", "AP"),
    **dict.fromkeys(("LATERAL", "LAT", "L"), ("lateral", "LATERAL")),
    "LL": ("lateral", "LL"),
    "RL": ("lateral", "RL"),
}
"""Value of a view column, in upper case → view and view position."""

_SEPARATORS = re.compile(r"[;|]")


@dataclass(frozen=True, kw_only=True)
class TableColumns:
    """Which column holds what; "" for what the table does not have.

    Attributes:
        image: paths of the images.
        report: the whole text.
        findings: that section alone, together with `impression` and instead of `report`.
        impression: see `findings`.
        group: the patient.
        study: the study.
        view: the view.
        split: the split.
    """

    image: str
    report: str = ""
    findings: str = ""
    impression: str = ""
    group: str = ""
    study: str = ""
    view: str = ""
    split: str = ""

    def __post_init__(self) -> None:
        if not self.image:
            raise DataError("The column that holds the paths of the images must be named (--image-column).")
        if bool(self.report) == bool(self.findings or self.impression) or bool(self.findings) != bool(self.impression):
            raise DataError("Name either --report-column, or both --findings-column and --impression-column.")

    def named(self) -> dict[str, str]:
        """The columns that the table has: what → name."""
        return {what: name for what, name in asdict(self).items() if name}


@dataclass(slots=True)
class _Draft:
    """A study while its rows come in."""

    where: str
    study_id: str
    findings: str
    impression: str
    report: str
    subject_id: str
    split: str
    images: list[StudyImage] = field(default_factory=list)

    def difference(self, other: "_Draft") -> str:
        """What two rows of one study have in common by right, and these have not; "" if all is well."""
        names = {"findings": "text", "impression": "text", "report": "text", "subject_id": "group", "split": "split"}
        return next((word for name, word in names.items() if getattr(self, name).split() != getattr(other, name).split()), "")


class _RowError(Exception):
    """A row that is left out: the count it belongs to, and why."""

    def __init__(self, count: str, reason: str) -> None:
        super().__init__(reason)
        self.count = count


class TableSource:
    """The studies of a table.

    Args:
        table: a file that `table_files.read_rows` reads.
        columns: which column holds what.
        image_root: the folder of the images; None: the table's.
        text: "as-is": the texts as they are; "summary": findings and impression, looked for in the report where they have no columns.

    Raises:
        DataError: there is no such table or folder.
    """

    name = "table"
    unit = "rows"
    filters: tuple[str, ...] = (
        "rows unreadable",
        "rows of unknown split",
        "rows of unknown view",
        "rows without study",
        "rows at odds with their study",
        "further rows of a study",
        "image paths refused",
        "image named twice",
    )

    def __init__(self, table: Path, columns: TableColumns, *, image_root: Path | None = None, text: str = "as-is") -> None:
        if text not in TEXTS:
            raise DataError(f"The text of a table must be one of {', '.join(TEXTS)}, not {text!r}.")
        self.table = Path(os.path.abspath(table))
        require_table(self.table)
        self.image_root = self.table.parent if image_root is None else Path(os.path.abspath(image_root))
        if not self.image_root.is_dir():
            raise DataError(f"{self.image_root}: there is no such folder of images (--image-root).")
        self.columns, self.text = columns, text
        self.roots: tuple[Path, ...] = tuple(dict.fromkeys((self.image_root, self.table.parent)))
        self.options: Mapping[str, Any] = {"columns": columns.named()}
        by = f"the column {columns.group!r}" if columns.group else "study: no column says which studies are of one patient"
        self.about = About(
            title=f"Reports and images of {self.table.name}",
            licence="that of the data",
            notes=(
                f"Splits by {by}.",
                "`sources.csv` leads from an identifier back to the file. File names may hold patient data: do not pass it on.",
            ),
        )

    def studies(self, account: Account) -> Iterator[Study]:
        """Every study, in the order of its first row.

        Raises:
            DataError: the table cannot be read, or lacks a column.
        """
        account.source_file("table", "", self.table, bytes=self.table.stat().st_size, sha256=sha256_file(self.table))
        drafts = _Drafts(self, account)
        wanted = tuple(dict.fromkeys(self.columns.named().values()))
        for row in read_rows(self.table, wanted, lists=(self.columns.image,), bad_row=drafts.refuse):
            drafts.add(row)
        for draft in drafts.studies:
            yield self._study(draft)

    def _study(self, draft: _Draft) -> Study:
        findings, impression = draft.findings, draft.impression
        if self.columns.report and self.text == "summary":
            sections = read_sections(draft.report)
            findings, impression = sections.findings, sections.impression
        return Study(
            study_id=draft.study_id,
            images=tuple(draft.images),
            where=draft.where,
            findings=findings,
            impression=impression,
            text=draft.report or " ".join(filter(None, (findings, impression))),
            subject_id=draft.subject_id,
            split=draft.split,
        )


class _Drafts:
    """Puts rows together into studies; what is wrong goes to the account.

    Every row is counted as one of the "rows": here, unless a study stands for it, which the pipeline counts.
    """

    def __init__(self, source: TableSource, account: Account) -> None:
        self.table, self.columns, self.image_root = source.table, source.columns, source.image_root
        self.real_root = source.image_root.resolve()
        self.account = account
        self.studies: list[_Draft] = []
        self.by_study: dict[str, _Draft] = {}
        self.images: dict[str, StudyImage] = {}

    def refuse(self, line: int, reason: str, *, count: str = "rows unreadable", study_id: str = "") -> None:
        """Leave out a row."""
        where = place(self.table, line)
        self.account.count("rows")
        self.account.problem(count, f"{where}: {reason}.", kind="report", id=study_id, where=where)

    def add(self, row: Row) -> None:
        """Take in a row: a study of its own, or more images of one that is there."""
        draft = self._draft(row)
        try:
            views = self._views(row)
            earlier = self._earlier(draft)
            draft.split = self._split(row)
            if earlier and (what := draft.difference(earlier)):
                raise _RowError("rows at odds with their study", f"another {what} than in {earlier.where}, which is the same study")
        except _RowError as error:
            self.refuse(row.line, str(error), count=error.count, study_id=draft.study_id)
            return
        named = self._image_cells(row)
        for position, cell in enumerate(named):
            view, view_position = views[position % len(views)]
            if image := self._image(cell, draft.where, view, view_position):
                draft.images.append(image)
        if earlier:
            earlier.images += draft.images
            self.account.count("rows")
            self.account.count("further rows of a study")
        elif draft.images or not named:
            draft.study_id = draft.study_id or (draft.images[0].image_id if draft.images else "")
            self.studies.append(draft)
            self.by_study[draft.study_id] = draft
        else:
            self.account.count("rows")

    # The cells of a row -------------------------------------------------------------------------------------------------

    def _cell(self, row: Row, what: str) -> str:
        return row.values[name].strip() if (name := getattr(self.columns, what)) else ""

    def _draft(self, row: Row) -> _Draft:
        return _Draft(
            where=place(self.table, row.line),
            study_id=self._cell(row, "study"),
            findings=self._cell(row, "findings"),
            impression=self._cell(row, "impression"),
            report=self._cell(row, "report"),
            subject_id=self._cell(row, "group"),
            split="",
        )
