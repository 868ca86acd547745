"""Where the parts of MIMIC-CXR lie below the folders that were given.

    <tree>/p10/p10000032/s50414267.txt             a report
    <tree>/p10/p10000032/s50414267/<dicom_id>.jpg  an image (MIMIC-CXR-JPG), or .dcm (MIMIC-CXR)
    mimic-cxr-reports.zip                          the reports as they are downloaded
    mimic-cxr-2.0.0-metadata.csv.gz …              tables; any version, packed or not

A tree is any folder that holds the groups p10 to p19; PhysioNet calls it `files`. It is found some folders deep, so that the data set's own
folder will do as well as one that holds `physionet.org/files/mimic-cxr-jpg/2.0.0`. Trees are not searched: what is in them follows from
the identifiers.
"""

import logging
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from xraygpt.common.errors import DataError

MAX_DEPTH = 7
"""Folders from a root to a tree: physionet.org/files/mimic-cxr/2.0.0/mimic-cxr-reports/files is 6."""
MAX_FOLDERS = 10_000
"""Folders that are searched below a root."""
SUFFIXES = {"jpg": ".jpg", "dicom": ".dcm"}

GROUP = re.compile(r"p[1-9][0-9]")
SUBJECT = re.compile(r"p[1-9][0-9]{7}")
STUDY = re.compile(r"s[1-9][0-9]{7}")
IMAGE = re.compile(r"[^.].*\.(?:jpg|dcm)")
REPORT = re.compile(r"s[1-9][0-9]{7}\.txt")

_ZIP = re.compile(r"mimic-cxr-reports.*\.zip")
_TABLE = re.compile(r"(?:mimic-)?cxr-(?:.+-)?(metadata|split|chexpert|negbio|record-list)\.csv(?:\.gz)?")
_MAX_PROBES = 2000  # subjects looked at to learn what a tree holds; the first few tell, unless a download is incomplete

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Layout:
    """What was found, in the order of the roots.

    Attributes:
        report_trees: trees that hold reports.
        report_zips: archives of reports.
        image_trees: "jpg" and "dicom" → trees that hold such images.
        tables: "metadata", "split", "chexpert", "negbio", "record-list" → the first such table; of several in a folder the newest version.
    """

    report_trees: list[Path] = field(default_factory=list)
    report_zips: list[Path] = field(default_factory=list)
    image_trees: dict[str, list[Path]] = field(default_factory=lambda: {kind: [] for kind in SUFFIXES})
    tables: dict[str, Path] = field(default_factory=dict)


def find_layout(roots: Sequence[Path]) -> Layout:
    """Look for trees, archives and tables in folders and below them; a root may also be such a file itself.

    Raises:
        DataError: a root does not exist or cannot be listed, or holds too many folders to be a data set.
    """
    layout = Layout()
    for folder, subfolders, files in _walk(roots):
        if any(GROUP.fullmatch(name) for name in subfolders):
            kinds = _kinds(folder)
            if "report" in kinds:
                layout.report_trees.append(folder)
            for kind in SUFFIXES.keys() & kinds:
                layout.image_trees[kind].append(folder)
        for name in sorted(files, reverse=True):
            if _ZIP.fullmatch(name):
                layout.report_zips.append(folder / name)
            elif found := _TABLE.fullmatch(name):
                layout.tables.setdefault(found[1], folder / name)
    return layout


def study_folder(subject_id: int, study_id: int) -> str:
    """The folder of a study's images, relative to its tree; with ".txt" its report."""
    return f"p{subject_id // 1_000_000}/p{subject_id}/s{study_id}"


def names_in(folder: Path, pattern: re.Pattern[str], *, files: bool = False) -> list[str]:
    """Sorted names of the folders (or files) in a folder that match.

    Raises:
        DataError: the folder cannot be listed.
    """
    try:
        with os.scandir(folder) as entries:
            return sorted(e.name for e in entries if pattern.fullmatch(e.name) and (e.is_file() if files else e.is_dir()))
    except OSError as error:
        raise DataError(f"{folder}: cannot be listed ({error.strerror}).") from error


# The search -------------------------------------------------------------------------------------------------------------


def _walk(roots: Sequence[Path]) -> Iterator[tuple[Path, list[str], list[str]]]:
    """Folder, names of its folders, names of its files; the nearest folders first, each once."""
    entered: set[tuple[int, int]] = set()
    for root in roots:
        if root.is_file():
            yield root.parent, [], [root.name]
            continue
        level, num_folders = [root], 0
        for _ in range(MAX_DEPTH + 1):
            deeper: list[Path] = []
            for folder in level:
                subfolders, files = _list(folder, is_root=folder == root, entered=entered)
                yield folder, subfolders, files
                deeper += [folder / name for name in subfolders if not (GROUP.fullmatch(name) or name.startswith("."))]
            num_folders += len(level)
            if num_folders + len(deeper) > MAX_FOLDERS:
                raise DataError(f"{root}: more than {MAX_FOLDERS:,} folders lie below it. Name the folder of the data set itself.")
            level = deeper


def _list(folder: Path, *, is_root: bool, entered: set[tuple[int, int]]) -> tuple[list[str], list[str]]:
    """Sorted names of the folders in a folder, and of the files that may be of use; none if it has been entered, by a link, before."""
    try:
        status = os.stat(folder)
        if (status.st_dev, status.st_ino) in entered:
            return [], []
        entered.add((status.st_dev, status.st_ino))
        with os.scandir(folder) as entries:
            kept = [(entry.name, entry.is_dir()) for entry in entries if entry.is_dir() or entry.name.endswith((".zip", ".csv", ".gz"))]
    except OSError as error:
        if is_root:
            raise DataError(f"{folder}: this --source cannot be listed ({error.strerror}).") from error
        logger.warning("%s: cannot be listed (%s); it is not searched.", folder, error.strerror)
        return [], []
    return sorted(name for name, is_folder in kept if is_folder), [name for name, is_folder in kept if not is_folder]


def _kinds(tree: Path) -> set[str]:
    """What a tree holds: "report", "jpg", "dicom"."""
    kinds: set[str] = set()
    subjects = (tree / group / name for group in names_in(tree, GROUP) for name in names_in(tree / group, SUBJECT))
    for subject in islice(subjects, _MAX_PROBES):
        if names_in(subject, REPORT, files=True):
            kinds.add("report")
        if kinds <= {"report"}:
            kinds |= _image_kinds(subject)
        if "report" in kinds and len(kinds) > 1:
            break
    return kinds


def _image_kinds(subject: Path) -> set[str]:
    images = (name for study in names_in(subject, STUDY) for name in names_in(subject / study, IMAGE, files=True))
    found = {Path(name).suffix for name in images}
    return {kind for kind, suffix in SUFFIXES.items() if suffix in found}
