"""MIMIC-CXR as PhysioNet lays it out: the images of MIMIC-CXR-JPG, or the DICOM files of MIMIC-CXR, with the reports of MIMIC-CXR.

Where the parts may lie: `mimic_layout`. They may lie under different roots, since they are two data sets: the JPEG files and the tables
belong to MIMIC-CXR-JPG, the reports and the DICOM files to MIMIC-CXR.

    metadata      which images there are, and the view of each (PA, AP: frontal; LATERAL, LL: lateral; anything else: not known)
    split         the official splits, by subject; without it subjects are split by `splits`
    chexpert      labels of two labellers, for the annotations; may be absent
    negbio

Every report is delivered, also those without images, so that the counts add up to the reports that are there.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from heapq import merge
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

from xraygpt.common.errors import DataError
from xraygpt.datasets.preparation.account import Account
from xraygpt.datasets.preparation.mimic_layout import SUFFIXES, find_layout, study_folder
from xraygpt.datasets.preparation.mimic_reports import WRONG_SUBJECT, ReportStore, ReportTree, open_archive
from xraygpt.datasets.preparation.mimic_tables import BAD_LINES, ImageRow, read_images, read_labels, read_splits
from xraygpt.datasets.preparation.sections import read_sections
from xraygpt.datasets.preparation.study import About, Study, StudyImage

VIEWS = {"PA": "frontal", "AP": "frontal", "LATERAL": "lateral", "LL": "lateral"}
IMAGE_TABLES = ("metadata", "record-list")
"""Tables that name every image; the first one found is read. Only the metadata have views."""
LABEL_TABLES = ("chexpert", "negbio")

ABOUT = About(
    title="MIMIC-CXR: chest radiographs and reports of the Beth Israel Deaconess Medical Center",
    licence=(
        "PhysioNet Credentialed Health Data License 1.5.0: credentialed access. Neither the images and reports nor texts made from them "
        "may be passed on, nor sent to a service of others."
    ),
    citation=(
        "Johnson et al., MIMIC-CXR, a de-identified publicly available database of chest radiographs with free-text reports, "
        "Scientific Data 6:317, 2019; for JPEG files, splits and labels also Johnson et al., MIMIC-CXR-JPG, arXiv:1901.07042, 2019."
    ),
    notes=(
        "___ in the reports is de-identification: it hides names, dates, ages and places.",
        "Views by the tag ViewPosition: PA and AP are frontal, LATERAL and LL are lateral, all others are not known.",
        "Reports compare with earlier studies that the images do not show.",
        "Labels, where there are any, were made from the reports by programs: 1 present, 0 absent, -1 uncertain, none if not mentioned.",
    ),
)


class MIMICSource:
    """The studies of MIMIC-CXR.

    Args:
        roots: folders with images, reports and tables, or such a table or archive itself.
        prefer: which images are taken if both are there, "jpg" or "dicom".

    Raises:
        DataError: there are no images, no reports, or no table that names the images.
    """

    name = "mimic"
    about = ABOUT
    unit = "reports"
    filters: tuple[str, ...] = ("reports missing", "reports unreadable", WRONG_SUBJECT, "not in the split table", BAD_LINES)

    def __init__(self, *, roots: Sequence[Path], prefer: str = "jpg") -> None:
        if prefer not in SUFFIXES:
            raise DataError(f"The preferred images must be one of {', '.join(SUFFIXES)}, not {prefer!r}.")
        self.roots = tuple(dict.fromkeys(root.parent if root.is_file() else root for root in roots))
        self._layout = find_layout(roots)
        trees = self._layout.image_trees
        self.images = next((kind for kind in (prefer, *SUFFIXES) if trees[kind]), "")
        self.image_table = next((name for name in IMAGE_TABLES if name in self._layout.tables), "")
        self._require_all()
        self._suffix, self._image_trees = SUFFIXES[self.images], trees[self.images]
        self._label_tables = [name for name in LABEL_TABLES if name in self._layout.tables]
        self.options: Mapping[str, Any] = {
            "image_files": self.images,
            "image_table": self.image_table,
            "split": "official" if "split" in self._layout.tables else "hash",
            "labels": self._label_tables,
        }

    def studies(self, account: Account) -> Iterator[Study]:
        """Every report with its images, by the numbers of subject and study."""
        self._note_absent_tables(account)
        paths = self._layout.tables
        images = read_images(paths[self.image_table], account, with_views=self.image_table == "metadata")
        owners = {image.study_id: image.subject_id for image in images}
        tables = _Tables(
            owners=owners,
            splits=read_splits(paths["split"], account, owners) if "split" in paths else None,
            labels={name: read_labels(paths[name], account, owners) for name in self._label_tables},
        )
        with ExitStack() as stack:
            stores: list[ReportStore] = [ReportTree(folder) for folder in self._layout.report_trees]
            stores += [stack.enter_context(open_archive(path)) for path in self._layout.report_zips]
            for subject_id, study_id, rows, store in _by_study(images, stores, account):
                study = self._study(subject_id, study_id, rows, store, tables, account)
                if study is not None:
                    yield study

    def _study(
        self, subject_id: int, study_id: int, rows: Sequence[ImageRow], store: ReportStore | None, tables: "_Tables", account: Account
    ) -> Study | None:
        """A study with its report, or None: then the account knows why."""
        where = self._where(min(rows, key=lambda row: row.line)) if rows else ""
        about = {"kind": "report", "id": str(study_id)}
        if store is None:
            folder = study_folder(subject_id, study_id)
            account.problem("reports missing", f"{where}: this image's report, {folder}.txt, was not found.", where=where, **about)
            return None
        path = store.path(subject_id, study_id)
        about["where"] = str(path)
        if (owner := tables.owners.get(study_id, subject_id)) != subject_id:
            account.problem(WRONG_SUBJECT, f"{path}: the images of this study are given to the subject {owner}.", **about)
            return None
        if rows and tables.splits is not None and study_id not in tables.splits:
            table = self._layout.tables["split"]
            account.problem("not in the split table", f"{where}: the study {study_id} has no split in {table}.", **about)
            return None
        try:
            content = store.read(subject_id, study_id)
            text = _decode(content, path)
        except DataError as error:
            account.problem("reports unreadable", str(error), **about)
            return None
        account.source_content("report", str(study_id), path, content)
        sections = read_sections(text)
        return Study(
            study_id=str(study_id),
            subject_id=str(subject_id),
            images=tuple(map(self._image, rows)),
            where=str(path),
            findings=sections.findings,
            impression=sections.impression,
            text=text,
            split=(tables.splits or {}).get(study_id, ""),
            extra={name: labels[study_id] for name, labels in tables.labels.items() if study_id in labels},
        )

    def _image(self, row: ImageRow) -> StudyImage:
        name = f"{study_folder(row.subject_id, row.study_id)}/{row.dicom_id}{self._suffix}"
        first, *others = self._image_trees
        path = first / name
        if others and not path.exists():
            path = next((other for tree in others if (other := tree / name).exists()), path)
        return StudyImage(
            image_id=row.dicom_id,
            path=path,
            view=VIEWS.get(row.view_position, ""),
            view_position=row.view_position,
            where=self._where(row),
        )

    def _where(self, row: ImageRow) -> str:
        return f"{self._layout.tables[self.image_table]}, line {row.line}"

    def _note_absent_tables(self, account: Account) -> None:
        if self.image_table != "metadata":
            account.note(
                "no table of views",
                f"{self.roots[0]}: the views of the images are not known, so that only --views all keeps any. They stand in "
                "mimic-cxr-2.0.0-metadata.csv.gz, a small file of MIMIC-CXR-JPG: put it into one of the folders, or name it with --source.",
            )
        if "split" not in self._layout.tables:
            account.note(
                "no table of splits",
                f"{self.roots[0]}: subjects are split by a hash of their number, not officially. The official splits stand in "
                "mimic-cxr-2.0.0-split.csv.gz, a small file of MIMIC-CXR-JPG.",
            )

    def _require_all(self) -> None:
        folder = study_folder(10000032, 50414267)
        reports = self._layout.report_trees or self._layout.report_zips
        wanted = (
            (self.images, f"images, such as files/{folder}/<dicom_id>.jpg (MIMIC-CXR-JPG) or .dcm (MIMIC-CXR)"),
            (reports, f"reports, such as files/{folder}.txt, or mimic-cxr-reports.zip (MIMIC-CXR)"),
            (
                self.image_table,
                "the table of images: mimic-cxr-2.0.0-metadata.csv.gz (MIMIC-CXR-JPG), or cxr-record-list.csv.gz (MIMIC-CXR)",
            ),
        )
        missing = [what for found, what in wanted if not found]
        if missing:
            raise DataError(
                "\n  ".join((f"{', '.join(map(str, self.roots))}: this was not found there nor in the folders below:", *missing))
                + "\nThey must lie as PhysioNet lays them out; --source may name several folders."
            )


@dataclass(frozen=True, kw_only=True)
class _Tables:
    """What the tables say of a study: its subject, its split (None without such a table), its labels by table."""

    owners: Mapping[int, int]
    splits: Mapping[int, str] | None
    labels: Mapping[str, Mapping[int, Mapping[str, int]]]


def _by_study(
    images: Sequence[ImageRow], stores: Sequence[ReportStore], account: Account
) -> Iterator[tuple[int, int, list[ImageRow], ReportStore | None]]:
    """Subject, study, its images, and the first place that holds its report. Nothing but the images needs to be in memory."""
    by_ids = itemgetter(0, 1)
    streams: list[Iterator[tuple[int, int, ImageRow | ReportStore]]] = [((image.subject_id, image.study_id, image) for image in images)]
    streams += [_reports_of(store, account) for store in stores]
    for (subject_id, study_id), entries in groupby(merge(*streams, key=by_ids), key=by_ids):
        found = [entry[2] for entry in entries]
        rows = [item for item in found if isinstance(item, ImageRow)]
        places = [item for item in found if not isinstance(item, ImageRow)]
        yield subject_id, study_id, rows, places[0] if places else None


def _reports_of(store: ReportStore, account: Account) -> Iterator[tuple[int, int, ImageRow | ReportStore]]:
    return ((subject_id, study_id, store) for subject_id, study_id in store.studies(account))


def _decode(content: bytes, path: Path) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: no UTF-8 text (byte {error.start}).") from error
