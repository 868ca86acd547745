"""Open-i's official archives: fetched, checked, unpacked.

    <destination>/NLMCXR_reports.tgz    → ecgen-radiology/<n>.xml                 3,955 reports
    <destination>/NLMCXR_png.tgz        → NLMCXR_png/<image_id>.png               7,470 images
    <destination>/NLMCXR_dcm.tgz        → NLMCXR_dcm/<study>/<image_id>.dcm       the same as DICOM: some 80 GB
    <destination>/downloads.json        for each archive: url, bytes, etag, last_modified; sha256 and files once it is unpacked

The publisher states no checksums. So an archive is held against its stated length and gzip's own checksum, and its SHA-256 is kept in
`downloads.json`: whoever fetches it again, or gives the SHA-256 of a colleague's, learns whether it is the same.

An archive may be deleted once it is unpacked; its folder and `downloads.json` say that it need not be fetched again.
"""

import json
import logging
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from xraygpt.common.errors import DataError
from xraygpt.common.files import make_folder, sha256_file, write_json
from xraygpt.datasets.preparation.archive import Archive, unpack
from xraygpt.datasets.preparation.transfer import TIMEOUT, WAITS, RemoteFile, check_web_address, download_file

OPENI_COLLECTION = "https://openi.nlm.nih.gov/imgs/collections/"
OPENI_ARCHIVES = {
    "reports": Archive(name="NLMCXR_reports.tgz", folder="ecgen-radiology", suffixes=(".xml",)),
    "png": Archive(name="NLMCXR_png.tgz", folder="NLMCXR_png", suffixes=(".png",)),
    "dcm": Archive(name="NLMCXR_dcm.tgz", folder="NLMCXR_dcm", suffixes=(".dcm",), subfolders=True),
}
RECORDS_NAME = "downloads.json"

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Record(RemoteFile):
    """What `downloads.json` holds of an archive."""

    url: str = ""
    """Where it came from; "" for an archive that was put there by hand."""
    bytes: int = 0
    sha256: str = ""
    """Of the archive that was unpacked; "" before that."""
    files: int = 0
    """How many files its folder has; 0 before it is unpacked."""


def fetch_archives(
    archives: Iterable[Archive], destination: Path, *, base_url: str, timeout: float = TIMEOUT, waits: Sequence[float] = WAITS
) -> list[Path]:
    """Download and unpack what is not there yet.

    Args:
        archives: what to fetch.
        destination: the folder for archives and their folders; made if need be.
        base_url: address of the folder that holds the archives.
        timeout: seconds to wait for a connection, and for the next bytes.
        waits: seconds before each new attempt after the connection broke off.

    Returns:
        The unpacked folder of each archive.

    Raises:
        DataError: the server, the archive, the disk or what already lies in `destination` does not allow it. The message says what
            to do; the same command goes on where this one stopped, and so it does after Ctrl-C.
    """
    check_web_address(base_url)
    try:
        make_folder(destination)
        return [_fetch(archive, destination, f"{base_url.rstrip('/')}/{archive.name}", timeout, waits) for archive in archives]
    except OSError as error:
        raise DataError(f"{destination}: the archives cannot be kept there ({error}).") from error


def _fetch(archive: Archive, destination: Path, url: str, timeout: float, waits: Sequence[float]) -> Path:
    folder, path = destination / archive.folder, destination / archive.name
    record = _read_records(destination).get(archive.name, Record())
    if os.path.lexists(folder):
        _check_unpacked(archive, folder, record)
        return folder
    if not path.exists():
        remote = download_file(url, path, timeout=timeout, waits=waits)
        record = replace(record, **asdict(remote))
        _keep_record(destination, archive, record)
    logger.info("%s: computing its SHA-256", path)
    sha256 = sha256_file(path)
    _check_sha256(path, sha256, archive, record)
    files = unpack(archive, destination)
    _keep_record(destination, archive, replace(record, bytes=path.stat().st_size, sha256=sha256, files=files))
    logger.info("%s may be deleted if room is needed: it is unpacked, and its SHA-256 is kept in %s", path, RECORDS_NAME)
    return folder


# Checking --------------------------------------------------------------------------------------------------------------


def _check_unpacked(archive: Archive, folder: Path, record: Record) -> None:
    """Accept a folder only as the complete content of the archive that is wanted."""
    if not record.files:
        raise DataError(
            f"{folder} exists, but no download made it: {RECORDS_NAME} does not know it. Use it as it is, without --download; "
            "or move it away, and the same command fetches the archive."
        )
    found = sum(path.is_file() for path in folder.rglob("*"))
    if found != record.files:
        raise DataError(
            f"{folder} holds {found:,} files, {archive.name} {record.files:,}. Delete the folder; the same command fills it again."
        )
    if archive.sha256 and archive.sha256 != record.sha256:
        raise DataError(f"{folder} was unpacked from an archive with SHA-256 {record.sha256}, and {archive.sha256} was asked for.")
    logger.info("%s is complete (%d files)", folder, found)


def _check_sha256(path: Path, sha256: str, archive: Archive, record: Record) -> None:
    for expected, source in ((archive.sha256, "was asked for"), (record.sha256, f"is what {RECORDS_NAME} holds from an earlier time")):
        if expected and sha256 != expected:
            raise DataError(
                f"{path} has SHA-256 {sha256}, and {expected} {source}. If the file is damaged, delete it: the same command downloads it "
                f"again. If the publisher has replaced it, take its entry out of {RECORDS_NAME}."
            )


# Records ---------------------------------------------------------------------------------------------------------------


def _read_records(destination: Path) -> dict[str, Record]:
    path = destination / RECORDS_NAME
    if not path.exists():
        return {}
    try:
        return {name: Record(**entry) for name, entry in json.loads(path.read_text(encoding="utf-8")).items()}
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(f"{path} is no record of downloads ({error}). Delete it, and the folders that were unpacked.") from error


def _keep_record(destination: Path, archive: Archive, record: Record) -> None:
    records = _read_records(destination) | {archive.name: record}
    write_json(destination / RECORDS_NAME, {name: asdict(entry) for name, entry in records.items()})
