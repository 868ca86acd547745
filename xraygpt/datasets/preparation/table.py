"""Anybody's own data: a table with a path and a report in each row, beside the images.

    image               path below the image folder; several, separated by ";" or "|" (or a JSON list), are one study
    report              the text, or findings and impression in columns of their own
    group               the patient, whose studies all go into one split
    study               rows with the same value are one study, and have the same text; without it each row is a study
    view                frontal, lateral, PA, AP, LATERAL, LL; one for the row, or one for each of its images
    split               train, val or test; without it the hash of the group, or of the study, decides

An image is called by its path without suffix, see `image_names`. Without a study column so is the study, by its first image: an
identifier does not change when rows are added. What is wrong with a row is listed with the line where it starts.
"""

import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from xraygpt.common.errors import DataError
from xraygpt.common.files import sha256_file
from xraygpt.datasets.preparation.account import Account
from xraygpt.datasets.preparation.sections import read_sections
from xraygpt.datasets.preparation.study import About, Study, StudyImage
from xraygpt.datasets.preparation.table_cells import CellError, locate_image, read_split, read_views, split_paths
from xraygpt.datasets.preparation.table_files import Row, place, read_rows, require_table

TEXTS = ("as-is", "summary")


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
            raise DataError("The column with the paths of the images must be named (--image-column).")
        whole, parts = bool(self.report), (bool(self.findings), bool(self.impression))
        if (whole, *parts) not in ((True, False, False), (False, True, True)):
            raise DataError("Name either --report-column, or both --findings-column and --impression-column.")

    def named(self) -> dict[str, str]:
        """The columns that the table has: what → name."""
        return {what: name for what, name in asdict(self).items() if name}


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
        self.about = _about(self.table.name, columns)

    def studies(self, account: Account) -> Iterator[Study]:
        """Every study, in the order of its first row.

        Raises:
            DataError: the table cannot be read, or lacks a column.
        """
        rows = _Rows(self, account)
        wanted = tuple(dict.fromkeys(self.columns.named().values()))
        for row in read_rows(self.table, wanted, lists=(self.columns.image,), bad_row=rows.refuse):
            rows.add(row)
        account.source_file("table", "", self.table, bytes=self.table.stat().st_size, sha256=sha256_file(self.table))
        for draft in rows.drafts:
            yield self._study(draft)

    def _study(self, draft: "_Draft") -> Study:
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


def _about(table: str, columns: TableColumns) -> About:
    splits = f"column {columns.split!r}" if columns.split else "hash"
    together = f"column {columns.group!r}" if columns.group else "study; no column says which studies are of the same patient"
    return About(
        title=f"Reports and images of {table}",
        licence="that of the data",
        notes=(
            f"Split by {splits}, kept together by {together}.",
            "`sources.csv` leads from an identifier back to the file. File names may hold patient data: do not pass it on.",
        ),
    )


# From rows to studies ---------------------------------------------------------------------------------------------------


@dataclass(slots=True, kw_only=True)
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

    def conflict(self, other: "_Draft") -> str:
        """In what two rows of one study differ that they must share, "" if all is well."""
        shared = {"text": ("findings", "impression", "report"), "group": ("subject_id",), "split": ("split",)}
        return next((what for what, names in shared.items() if any(_words(self, name) != _words(other, name) for name in names)), "")


def _words(draft: _Draft, name: str) -> list[str]:
    return getattr(draft, name).split()


class _Rows:
    """Puts rows together into drafts of studies; what is wrong with one goes to the account.

    Each row of the table counts as one of the "rows": here, unless a study stands for it, which the pipeline counts.
    """

    def __init__(self, source: TableSource, account: Account) -> None:
        self.table, self.columns, self.image_root = source.table, source.columns, source.image_root
        self.account = account
        self.drafts: list[_Draft] = []
        self.by_study: dict[str, _Draft] = {}
        self.images: dict[str, StudyImage] = {}

    def refuse(self, line: int, reason: str, *, count: str = "rows unreadable", study_id: str = "") -> None:
        """Leave out a row."""
        where = place(self.table, line)
        self.account.count("rows")
        self.account.problem(count, f"{where}: {reason}.", kind="report", id=study_id, where=where)

    def add(self, row: Row) -> None:
        """Take in a row: a study of its own, or more images of one that is there."""
        paths = split_paths(self._cell(row, "image"))
        try:
            views = read_views(self._cell(row, "view"), len(paths))
            draft = self._draft(row)
            earlier = self._earlier(draft)
        except CellError as error:
            self.refuse(row.line, str(error), count=error.count, study_id=self._cell(row, "study"))
            return
        draft.images += self._images(paths, views, draft.where)
        if earlier:
            earlier.images += draft.images
            self.account.count("rows")
            self.account.count("further rows of a study")
        elif draft.images or not paths:
            self._begin(draft)
        else:  # each of its images is listed
            self.account.count("rows")

    def _begin(self, draft: _Draft) -> None:
        if self.columns.study:
            self.by_study[draft.study_id] = draft
        elif draft.images:
            draft.study_id = draft.images[0].image_id
        if self.columns.group and not draft.subject_id:
            self.account.note("studies without group", f"{draft.where}: the group is empty; the study counts as a patient of its own.")
        self.drafts.append(draft)

    def _cell(self, row: Row, what: str) -> str:
        name = getattr(self.columns, what)
        return row.values[name].strip() if name else ""

    def _draft(self, row: Row) -> _Draft:
        return _Draft(
            where=place(self.table, row.line),
            study_id=self._cell(row, "study"),
            findings=self._cell(row, "findings"),
            impression=self._cell(row, "impression"),
            report=self._cell(row, "report"),
            subject_id=self._cell(row, "group"),
            split=read_split(self._cell(row, "split")) if self.columns.split else "",
        )

    def _earlier(self, draft: _Draft) -> _Draft | None:
        """The study that a row continues."""
        if not self.columns.study:
            return None
        if not draft.study_id:
            raise CellError("rows without study", f"the column {self.columns.study!r} is empty")
        earlier = self.by_study.get(draft.study_id)
        if earlier and (what := draft.conflict(earlier)):
            raise CellError("rows at odds with their study", f"the {what} is another than in {earlier.where}, which is the same study")
        return earlier

    def _images(self, paths: list[str], views: list[tuple[str, str]], where: str) -> Iterator[StudyImage]:
        """The images of a row that can be used and are named for the first time."""
        for cell, (view, view_position) in zip(paths, views, strict=True):
            image_id = ""
            try:
                image_id, path = locate_image(cell, self.image_root)
                self._require_new(image_id, path)
            except CellError as error:
                self.account.problem(error.count, f"{where}: {error}.", kind="image", id=image_id, where=where)
                continue
            image = StudyImage(image_id=image_id, path=path, view=view, view_position=view_position, where=where)
            self.images[image_id] = image
            yield image

    def _require_new(self, image_id: str, path: Path) -> None:
        other = self.images.get(image_id)
        if other is None:
            return
        if other.path == path:
            raise CellError("image named twice", f"the image {image_id!r} stands in {other.where} already")
        raise CellError("image named twice", f"{path.name} would be called {image_id!r}, as {other.path.name} of {other.where} is")
