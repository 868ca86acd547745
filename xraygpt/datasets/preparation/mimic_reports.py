"""MIMIC-CXR's reports, one text file a study, in a tree or in the archive that PhysioNet offers. The archive is read as it is."""

import re
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from xraygpt.common.errors import DataError, first_line
from xraygpt.datasets.preparation.account import Account
from xraygpt.datasets.preparation.mimic_layout import GROUP, REPORT, SUBJECT, names_in, study_folder

MAX_REPORT_BYTES = 1 << 20
"""A larger file is no report: they have some thousand characters."""
WRONG_SUBJECT = "given to another subject"
"""The count of reports and images that one place gives to one subject, another place to another."""

# No part begins with a dot: neither "..", nor what a file manager leaves behind.
_MEMBER = re.compile(r"(?:[^/.][^/]*/)*(p[1-9][0-9])/p([1-9][0-9]{7})/s([1-9][0-9]{7})\.txt")
# RuntimeError: an encrypted member. NotImplementedError: a compression that zipfile does not know.
_DAMAGE = (OSError, zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError)


class ReportStore(Protocol):
    """A place that holds reports."""

    def studies(self, account: Account) -> Iterator[tuple[int, int]]:
        """(subject_id, study_id) of its reports, ascending."""
        ...

    def path(self, subject_id: int, study_id: int) -> Path:
        """The file of a report; one in an archive is named as if the archive were a folder."""
        ...

    def read(self, subject_id: int, study_id: int) -> bytes:
        """The content of a report.

        Raises:
            DataError: it is damaged or too large.
        """
        ...


class ReportTree:
    """Reports as files.

    Args:
        folder: holds p10, p11, ….
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def studies(self, account: Account) -> Iterator[tuple[int, int]]:
        """(subject_id, study_id) of its reports, ascending; a subject's folder is listed when its turn comes."""
        for group in names_in(self.folder, GROUP):
            for subject in names_in(self.folder / group, SUBJECT):
                folder = self.folder / group / subject
                if subject.startswith(group):
                    yield from ((int(subject[1:]), int(name[1:9])) for name in names_in(folder, REPORT, files=True))
                else:
                    _wrong_group(folder, account)

    def path(self, subject_id: int, study_id: int) -> Path:
        """The file of a report."""
        return self.folder / f"{study_folder(subject_id, study_id)}.txt"

    def read(self, subject_id: int, study_id: int) -> bytes:
        """The content of a report."""
        path = self.path(subject_id, study_id)
        try:
            with open(path, "rb") as handle:
                content = handle.read(MAX_REPORT_BYTES + 1)
        except OSError as error:
            raise DataError(f"{path}: cannot be read ({error.strerror}).") from error
        return _require_size(content, path)


class ReportArchive:
    """Reports in a zip archive.

    Args:
        archive: the open archive.
        file: where it lies.
    """

    def __init__(self, archive: zipfile.ZipFile, file: Path) -> None:
        self.archive, self.file = archive, file
        self._members: dict[tuple[int, int], str] = {}

    def studies(self, account: Account) -> Iterator[tuple[int, int]]:
        """(subject_id, study_id) of its reports, ascending."""
        for name in self.archive.namelist():
            if not (found := _MEMBER.fullmatch(name)):
                continue
            if found[2].startswith(found[1][1:]):
                self._members.setdefault((int(found[2]), int(found[3])), name)
            else:
                _wrong_group(self.file / name, account)
        yield from sorted(self._members)

    def path(self, subject_id: int, study_id: int) -> Path:
        """The file of a report, as if the archive were a folder."""
        return self.file / self._members[subject_id, study_id]

    def read(self, subject_id: int, study_id: int) -> bytes:
        """The content of a report; no more than its limit is ever unpacked."""
        path = self.path(subject_id, study_id)
        try:
            with self.archive.open(self._members[subject_id, study_id]) as handle:
                content = handle.read(MAX_REPORT_BYTES + 1)
        except _DAMAGE as error:
            raise DataError(f"{path}: cannot be unpacked ({first_line(error)}).") from error
        return _require_size(content, path)


@contextmanager
def open_archive(path: Path) -> Iterator[ReportArchive]:
    """Open an archive of reports.

    Raises:
        DataError: it is no zip archive, or damaged.
    """
    try:
        archive = zipfile.ZipFile(path)
    except _DAMAGE as error:
        raise DataError(f"{path}: no readable zip archive ({first_line(error)}). Download it again.") from error
    with archive:
        yield ReportArchive(archive, path)


def _require_size(content: bytes, path: Path) -> bytes:
    if len(content) > MAX_REPORT_BYTES:
        raise DataError(f"{path}: larger than {MAX_REPORT_BYTES:,} bytes, so it is no report.")
    return content


def _wrong_group(path: Path, account: Account) -> None:
    message = f"{path}: this subject's folder must lie in the folder named by the first two digits of its number."
    account.problem(WRONG_SUBJECT, message, kind="report", where=str(path))
