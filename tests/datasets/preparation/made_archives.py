"""Small archives made here, good and bad, for the tests of unpacking and downloading."""

import gzip
import io
import tarfile
from collections.abc import Iterable
from pathlib import Path

BLOCK = tarfile.BLOCKSIZE


def member(name: str, content: bytes = b"", kind: bytes = tarfile.REGTYPE, **attributes: object) -> tuple[tarfile.TarInfo, bytes]:
    """One entry of an archive; `attributes` are those of `TarInfo`, such as `linkname`."""
    info = tarfile.TarInfo(name)
    info.type = kind
    info.size = len(content)
    for key, value in attributes.items():
        setattr(info, key, value)
    return info, content


def make_tar(members: Iterable[tuple[tarfile.TarInfo, bytes]], *, tar_format: int = tarfile.PAX_FORMAT) -> bytes:
    """The bytes of an uncompressed tar."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tar_format) as tar:
        for info, content in members:
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def make_tgz(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    """The bytes of a .tgz; the same members give the same bytes."""
    return gzip.compress(make_tar(members), mtime=0)


def tgz_of(files: dict[str, bytes]) -> bytes:
    """The bytes of a .tgz of regular files."""
    return make_tgz(*(member(name, content) for name, content in files.items()))


def read_folder(folder: Path) -> dict[str, bytes]:
    """Relative name → content of every file under a folder."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
