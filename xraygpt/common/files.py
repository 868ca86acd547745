"""Files are written whole or not at all: to a temporary name in the same folder, flushed to disk, then renamed.

They are private: only the user who runs the program can read them (0600), and enter the folders that are made for them (0700). A folder
that is there keeps its mode. A file that is written again is a new one, and private again; one that is appended to keeps its mode.
"""

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from xraygpt.common.printable import json_text, well_formed

ANNOTATIONS_NAME = "filter_cap.json"
"""The annotations of a prepared folder: {"annotations": [{"image_id", "caption", "split", …}]}."""
MAX_JSON_BYTES = 16 << 20
"""Of a small file: a run's index or summary, a model's sizes. They have some kilobytes."""


PRIVATE_FILE, PRIVATE_FOLDER = 0o600, 0o700
"""Modes of what is made here."""


def private(path: str, flags: int) -> int:
    """`opener=private` of `open`: a file that this makes is private."""
    return os.open(path, flags, PRIVATE_FILE)


def make_folder(path: str | Path) -> None:
    """Make a folder, and those above it, where they do not exist; each that is made is private.

    Raises:
        OSError: it cannot be made, or there is a file of this name.
    """
    path = Path(path)
    if not path.parent.exists():
        make_folder(path.parent)
    path.mkdir(mode=PRIVATE_FOLDER, exist_ok=True)


def make_private(folder: Path) -> None:
    """Make private what a library wrote to a folder of ours, and the folder."""
    for path in (folder, *folder.rglob("*")):
        path.chmod(PRIVATE_FOLDER if path.is_dir() else PRIVATE_FILE)


class Disk:
    """The operations that writing a file consists of.

    All that a run writes while it trains goes through the one `disk` of this module: tests make its operations fail.
    """

    def open(self, path: Path, mode: str) -> IO[bytes]:
        """A binary file without a buffer of Python's own: what is written has reached the system. A new file is private."""
        return open(path, mode, buffering=0, opener=private)

    def write(self, handle: IO[bytes], data: bytes | memoryview) -> int:
        """How many bytes were taken; perhaps not all."""
        return handle.write(data)

    def fsync(self, descriptor: int) -> None:
        """Wait until a file's content, or a folder's list of names, has reached the device."""
        os.fsync(descriptor)

    def rename(self, source: Path, target: Path) -> None:
        """Put `source` in the place of `target`, at once."""
        os.replace(source, target)

    def link(self, source: Path, target: Path) -> None:
        """Give a file a second name. Some network folders cannot: OSError."""
        os.link(source, target)


disk = Disk()


class ChecksumFile:
    """A file that counts and hashes what was meant to be written, whatever the disk makes of it; `torch.save` can write to it."""

    def __init__(self, handle: IO[bytes]) -> None:
        self.handle, self.digest, self.size = handle, hashlib.sha256(), 0
        self.error: OSError | None = None
        """The first failure. A library may report it as something else."""

    def write(self, data: bytes | memoryview) -> int:
        """Write all of `data`.

        Raises:
            OSError: the disk refused it, or takes no more.
        """
        rest = memoryview(data).cast("B")
        total = len(rest)
        self.digest.update(rest)
        self.size += total
        try:
            while len(rest):
                taken = disk.write(self.handle, rest)
                if not taken:
                    raise OSError(errno.EIO, "the disk takes no more bytes")
                rest = rest[taken:]
        except OSError as error:
            self.error = self.error or error
            raise
        return total

    def flush(self) -> None:
        """Nothing is held back."""

    @property
    def sha256(self) -> str:
        """Hexadecimal SHA-256 of what was written."""
        return self.digest.hexdigest()


@contextmanager
def atomic_file(path: str | Path) -> Iterator[ChecksumFile]:
    """Yield a file under a temporary name; when the block succeeds it becomes `path`, its content and name safe on the device.

    Raises:
        OSError: one of the operations failed. At `path` is then what was there before, whole, or (if it was the very last step, making
            the name safe, that failed) the new file, whole; nothing else is left behind.
    """
    path = Path(path)
    make_folder(path.parent)
    temporary = temporary_name(path)
    temporary.unlink(missing_ok=True)
    try:
        with disk.open(temporary, "xb") as handle:
            file = ChecksumFile(handle)
            try:
                yield file
            except Exception as error:
                raise file.error or error from None
            disk.fsync(handle.fileno())
            on_disk = os.fstat(handle.fileno()).st_size
            if on_disk != file.size:
                raise OSError(errno.EIO, f"{on_disk} of {file.size} bytes have arrived", str(temporary))
        disk.rename(temporary, path)
        sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield an empty temporary file beside `path`; rename it to `path` when the block succeeds, remove it when it fails."""
    path = Path(path)
    make_folder(path.parent)
    temporary = temporary_name(path)
    temporary.unlink(missing_ok=True)
    try:
        open(temporary, "xb", opener=private).close()  # libraries that write to a file keep its mode
        yield temporary
        temporary.chmod(PRIVATE_FILE)  # others put a new file in its place
        with open(temporary, "rb") as handle:
            disk.fsync(handle.fileno())
        disk.rename(temporary, path)
        sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def temporary_name(path: Path) -> Path:
    """Where a file is written before it gets its name; one for each process."""
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")


def sync_folder(folder: Path) -> None:
    """Make the names in a folder safe on the device; a rename is not before that."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        disk.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # a network folder that does not know this for folders; it keeps the order by itself
            raise
    finally:
        os.close(descriptor)


@contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """Yield an empty temporary folder beside `path`; it becomes `path`, in place of what was there, when the block succeeds.

    When the block fails it is removed, and what was there stays.
    """
    path = Path(os.path.abspath(path))
    temporary = temporary_name(path)
    make_folder(path.parent)
    temporary.mkdir(mode=PRIVATE_FOLDER)
    try:
        yield temporary
        make_private(temporary)
        replace_folder(temporary, path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def replace_folder(new: Path, path: Path) -> None:
    """Rename a finished folder to `path`, in place of what was there; if that fails, what was there stays."""
    replaced = path.with_name(f".{path.name}.{os.getpid()}.old")
    if path.exists():
        path.rename(replaced)
    try:
        new.rename(path)
    except BaseException:
        if replaced.exists():
            replaced.rename(path)
        raise
    shutil.rmtree(replaced, ignore_errors=True)


def write_text(path: str | Path, text: str) -> None:
    """Write UTF-8 text atomically. What is no Unicode text in it, such as a byte of a file name, is written as an escape."""
    with atomic_file(path) as file:
        file.write(well_formed(text).encode())


def write_json(path: str | Path, value: Any) -> None:
    """Write JSON atomically: indented, keys in the given order, one final newline."""
    write_text(path, json_text(value, indent=1) + "\n")


def read_small_json(path: str | Path, *, max_bytes: int = MAX_JSON_BYTES) -> Any:
    """The value in a small file of JSON that someone else may have written.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no JSON, larger than `max_bytes`, or nested without end.
    """
    with open(path, "rb") as handle:
        content = handle.read(max_bytes + 1)
    if len(content) > max_bytes:
        raise ValueError(f"it is larger than {max_bytes} bytes")
    try:
        return json.loads(content.decode())
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def write_json_lines(path: str | Path, rows: Iterable[dict]) -> None:
    """Write one JSON object a line, atomically."""
    write_text(path, "".join(json_text(row) + "\n" for row in rows))


def sha256_file(path: str | Path) -> str:
    """Hexadecimal SHA-256 of a file's content."""
    digest = hashlib.sha256()
    with open(path, "rb") as handle:
        while block := handle.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
