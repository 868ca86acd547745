"""Unpacking a downloaded `.tgz`: everything is checked before the first byte is written, and the folder appears whole or not at all.

The archive is read twice. The first reading writes nothing: it verifies gzip's own checksum and the structure of the tar, looks at every
name and kind of member, and adds up the sizes. The second writes into a temporary folder, which then takes the final name.
"""

import gzip
import logging
import re
import shutil
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath

from tqdm import tqdm

from xraygpt.common.errors import DataError, first_line
from xraygpt.common.files import atomic_folder, make_folder, private
from xraygpt.common.printable import printable_line
from xraygpt.datasets.preparation.disk_space import require_space, write_error

MAX_EXPANSION = 100
"""An archive that unpacks to more than this many times its size is refused. Radiographs reach 2, Open-i's reports 20, gzip at most 1000."""

_MAX_READ = 1 << 20
_COPY_BLOCK = 1 << 18
# ValueError, RecursionError: what tarfile lets through for malformed extended headers.
_DAMAGE = (tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError, ValueError, RecursionError)

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Archive:
    """One archive of a collection, and what is wanted of it."""

    name: str
    """File name, such as "NLMCXR_png.tgz"."""
    folder: str
    """Name of the folder it is unpacked into. A folder of that name inside the archive is not doubled."""
    suffixes: tuple[str, ...]
    """Files with other suffixes, and hidden files, are left in the archive. Lower case."""
    subfolders: bool = False
    """Keep the folders inside the archive; else all files come directly into `folder`."""
    sha256: str = ""
    """Hexadecimal SHA-256 that the archive must have; "" where none is known."""

    def __post_init__(self) -> None:
        if self.sha256 and not re.fullmatch("[0-9a-f]{64}", self.sha256):
            raise DataError(f"{self.name}: a SHA-256 is 64 digits of 0-9 and a-f (lower case); {self.sha256!r} is none.")


def unpack(archive: Archive, destination: Path) -> int:
    """Unpack `<destination>/<name>` into `<destination>/<folder>`, which must not exist yet, and return the number of files.

    Only regular files with an allowed suffix are written.

    Raises:
        DataError: the archive is damaged, holds no wanted file, expands more than `MAX_EXPANSION` times, or has a member that
            leaves its folder, is neither file nor folder, or occurs twice; or the disk has too little room. No folder is left then.
    """
    path = destination / archive.name
    with _open_tar(path, "checking") as tar:
        sizes = [member.size for member, _ in _wanted_files(tar, archive, path)]
        others = sum(member.isfile() for member in tar.getmembers()) - len(sizes)
    kind = " or ".join(archive.suffixes)
    if not sizes:
        raise DataError(f"{path} holds no {kind} file ({others:,} others), so it is not the archive expected. Delete it, or look at it.")
    require_space(destination, sum(sizes), f"to unpack {archive.name}")
    try:
        with atomic_folder(destination / archive.folder) as temporary, _open_tar(path, "unpacking") as tar:
            for member, target in _wanted_files(tar, archive, path):
                _write(tar, member, temporary / target)
    except OSError as error:
        raise write_error(error, destination, sum(sizes), f"{archive.name} is kept; the same command unpacks it.") from error
    logger.info("%s: unpacked %d files into %s/; left out %d that are no %s", path, len(sizes), archive.folder, others, kind)
    return len(sizes)


# Reading ---------------------------------------------------------------------------------------------------------------


class _BoundedGzip(gzip.GzipFile):
    """Refuses the one giant read with which a crafted header would fill the memory, and remembers what was read last."""

    last = b""

    def read(self, size: int | None = -1) -> bytes:
        if size is None or not 0 <= size <= _MAX_READ:
            raise tarfile.ReadError(f"a header that claims {size} bytes")
        self.last = super().read(size)
        return self.last


@contextmanager
def _open_tar(path: Path, action: str) -> Iterator[tarfile.TarFile]:
    """Yield the tar; when all its members have been read, check that it, and the gzip around it, end as they should."""
    try:
        with (
            open(path, "rb") as file,
            tqdm.wrapattr(file, "read", total=path.stat().st_size, desc=printable_line(f"{action} {path.name}"), disable=None) as counted,
            _BoundedGzip(fileobj=counted) as stream,
            tarfile.open(fileobj=stream, mode="r:") as tar,
        ):
            yield tar
            # tarfile takes a header that is cut off or unreadable for the end. The real end is zeros, then nothing.
            end = stream.last + stream.read(_MAX_READ)
            if len(end) < tarfile.BLOCKSIZE or any(end) or stream.read(1):
                raise tarfile.ReadError("the tar breaks off, or goes on after its end")
    except _DAMAGE as error:
        raise DataError(f"{path} is damaged ({first_line(error)}). Delete it, and the same command downloads it again.") from error


def _wanted_files(tar: tarfile.TarFile, archive: Archive, path: Path) -> Iterator[tuple[tarfile.TarInfo, Path]]:
    """The wanted members, each with its place in the folder; every member is checked."""
    limit = MAX_EXPANSION * path.stat().st_size
    expanded = 0
    seen = set()
    for member in tar:
        if member.size < 0:
            raise tarfile.ReadError(f"a size of {member.size} bytes")
        expanded += tarfile.BLOCKSIZE + member.size
        if expanded > limit:
            raise DataError(
                f"{path}: with {member.name!r} it unpacks to more than {limit:,} bytes, {MAX_EXPANSION} times its size: "
                "no collection of radiographs does. Delete it."
            )
        target = _place(member, archive, path)
        if target.suffix.lower() not in archive.suffixes or target.name.startswith(".") or member.isdir():
            continue
        if target in seen:
            raise DataError(f"{path}: the member {member.name!r} has the place of an earlier one, {target}. Delete the archive.")
        seen.add(target)
        yield member, target


def _place(member: tarfile.TarInfo, archive: Archive, path: Path) -> Path:
    """Where a member belongs, relative to the archive's folder.

    The name is read as a Windows path, which knows both separators and drives: what is safe there is safe everywhere.
    """
    name = PureWindowsPath(member.name)
    if name.anchor or ".." in name.parts:
        raise DataError(
            f"{path}: the member {member.name!r} leaves the folder it is unpacked into. Nothing was written; delete the archive."
        )
    if not (member.isdir() or (member.isfile() and not member.issparse())):
        raise DataError(f"{path}: the member {member.name!r} is neither a file nor a folder. Nothing was written; delete the archive.")
    parts = name.parts[1:] if name.parts[:1] == (archive.folder,) else name.parts
    return Path(*parts) if archive.subfolders else Path(*parts[-1:])


def _write(tar: tarfile.TarFile, member: tarfile.TarInfo, target: Path) -> None:
    content = tar.extractfile(member)
    assert content is not None, "a regular file has a content"
    make_folder(target.parent)
    with content, open(target, "xb", opener=private) as handle:
        shutil.copyfileobj(content, handle, _COPY_BLOCK)
