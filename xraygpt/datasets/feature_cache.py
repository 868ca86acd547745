"""What frozen vision parts make of images, computed once and kept on disk.

    {path}/files.json            checksums of files that were read before, by size and time of change
    {path}/{key}/key.json        which vision parts, in plain words; `key` is its hash: with other parts another folder is used
    {path}/{key}/{name}.rows     rows one after another, each what the query tokens read of one view of one image, [Q, D_q]
    {path}/{key}/{name}.index    for each row, in the same order, its name (a hash of image, processor and view) and its checksum

Each process that fills the cache writes files of its own. A row is named in the index only when its bytes are safe on the device, so
whatever is interrupted when, no row is ever served that is not whole; and its checksum is compared each time it is read.
"""

import functools
import hashlib
import json
import shutil
import uuid
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xraygpt.common.errors import DataError
from xraygpt.common.files import disk, sync_folder, write_json

FORMAT = 1
"""Changes whenever another version of this program would make other rows of the same images."""
ROWS_A_SYNC = 256
"""Rows that a crash can cost."""

_MAPPED_AT_ONCE = 64
"""Each mapped file is an open one, of which a process may have a thousand; the folder may have more."""

Names = NDArray[np.bytes_]
"""S32, the SHA-256 by which a row is known."""
_ENTRY = np.dtype([("name", "S32"), ("crc", "<u4"), ("check", "<u4")])


class FeatureCache:
    """The rows of one set of vision parts, mapped into memory.

    Args:
        folder: its own.
        key: as `open` writes it.
    """

    @classmethod
    def open(cls, path: Path, key: dict[str, Any]) -> "FeatureCache":
        """The cache of some vision parts, which is empty if it is new.

        Args:
            path: folder of all caches.
            key: plain values that decide what a row holds, with "shape" [Q, D_q] and "dtype" ("float16" or "float32").

        Raises:
            DataError: the folder cannot be made or read.
        """
        key = {"format": FORMAT, **key}
        folder = path / hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]
        try:
            if not (folder / "key.json").exists():
                write_json(folder / "key.json", key)
            return cls(folder, key)
        except OSError as error:
            raise DataError(f"The feature cache {folder} cannot be read or made: {error}. Mend it, or set another path.") from error

    def __init__(self, folder: Path, key: dict[str, Any]) -> None:
        self.folder, self.key = folder, folder.name
        self.shape, self.dtype = tuple(key["shape"]), np.dtype(key["dtype"])
        self.row_bytes = int(np.prod(self.shape)) * self.dtype.itemsize
        self.refresh()

    def refresh(self) -> None:
        """Look at what is on the disk now."""
        self.files = sorted(self.folder.glob("*.index"))
        self._sizes = [index.with_suffix(".rows").stat().st_size for index in self.files]
        entries, segments, places = [], [], []
        for segment, index in enumerate(self.files):
            found, place = _whole_entries(index, self._sizes[segment] // self.row_bytes)
            entries.append(found)
            places.append(place)
            segments.append(np.full(len(found), segment, dtype=np.int32))
        self._entries = np.concatenate([np.empty(0, _ENTRY), *entries])
        self._segments = np.concatenate([np.empty(0, np.int32), *segments])
        self._places = np.concatenate([np.empty(0, np.int64), *places])
        self._order = np.argsort(self._entries["name"], kind="stable")
        self._sorted = self._entries["name"][self._order]

    def __len__(self) -> int:
        return len(self._entries)

    def find(self, names: Names) -> NDArray[np.int64]:
        """The number of the row of each name; -1 where there is none."""
        if not len(self):
            return np.full(len(names), -1)
        near = np.minimum(np.searchsorted(self._sorted, names), len(self) - 1)
        return np.where(self._sorted[near] == names, self._order[near], -1)

    def read(self, row: int) -> NDArray[Any]:
        """A copy of row number `row`, [Q, D_q].

        Raises:
            DataError: the bytes are not those that were written.
        """
        segment, place = int(self._segments[row]), int(self._places[row])
        file = self.files[segment].with_suffix(".rows")
        data = np.array(_mapped(file, self._sizes[segment])[place * self.row_bytes : (place + 1) * self.row_bytes])
        if len(data) != self.row_bytes or zlib.crc32(data.tobytes()) != self._entries["crc"][row]:
            raise DataError(
                f"{file}: row {place} is damaged. `xraygpt cache verify --repair {self.folder.parent}` "
                "removes what is damaged; it is then computed again."
            )
        return data.view(self.dtype).reshape(self.shape)

    def damaged(self) -> list[int]:
        """The numbers of all rows that are not what was written; every row is read."""
        bad = []
        for row in range(len(self)):
            try:
                self.read(row)
            except DataError:
                bad.append(row)
        return bad

    def forget(self, rows: Iterable[int]) -> None:
        """Take rows out of the index, so that they are computed again. No other process may be filling the cache."""
        by_segment: dict[int, list[int]] = {}
        for row in rows:
            by_segment.setdefault(int(self._segments[row]), []).append(int(self._places[row]))
        for segment, places in by_segment.items():
            data = bytearray(self.files[segment].read_bytes())
            entries = np.frombuffer(data, _ENTRY, count=len(data) // _ENTRY.itemsize)
            entries["check"][places] ^= 1
            with open(self.files[segment], "r+b") as handle:
                handle.write(data)
        self.refresh()

    def require_room(self, rows: int) -> None:
        """Raise DataError unless the disk has room for so many rows more."""
        needed, free = rows * (self.row_bytes + _ENTRY.itemsize), shutil.disk_usage(self.folder).free
        if needed > free:
            raise DataError(
                f"The feature cache {self.folder} needs {needed / 1e9:.1f} GB more for {rows:,} rows, and {free / 1e9:.1f} GB are free. "
                "Free some, set another run.feature_cache.path, or fewer run.feature_cache.views."
            )

    def writer(self) -> "RowWriter":
        """Adds rows; other processes may do so at the same time."""
        return RowWriter(self)


def _whole_entries(index: Path, num_rows: int) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """The entries of an index that were written to their end, for `num_rows` rows, and at which place of the file each stands."""
    data = index.read_bytes()
    entries = np.frombuffer(data[: len(data) // _ENTRY.itemsize * _ENTRY.itemsize], _ENTRY)
    is_whole = entries["check"] == _checks(entries)
    is_whole[num_rows:] = False
    places = np.flatnonzero(is_whole)
    return entries[places], places


@functools.lru_cache(maxsize=_MAPPED_AT_ONCE)
def _mapped(file: Path, size: int) -> NDArray[np.uint8]:
    """The bytes of a file of rows that had this size; one that has grown is mapped anew."""
    return np.memmap(file, np.uint8, mode="r", shape=(size,))


def _checks(entries: NDArray[Any]) -> NDArray[np.uint32]:
    """Of each entry the checksum of its name and crc, by which one that was not written to its end is told."""
    data = entries.tobytes()
    size, used = _ENTRY.itemsize, _ENTRY.itemsize - 4
    return np.array([zlib.crc32(data[start : start + used]) for start in range(0, len(data), size)], dtype=np.uint32)


class RowWriter:
    """Appends rows to files of its own, which are made with the first row. A context manager."""

    def __init__(self, cache: FeatureCache) -> None:
        self.cache = cache
        self.path = cache.folder / uuid.uuid4().hex[:16]
        self._rows: Any = None
        self._waiting: list[tuple[bytes, int]] = []

    def __enter__(self) -> "RowWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def add(self, names: Sequence[bytes], rows: NDArray[Any]) -> None:
        """Add rows [N, Q, D_q], of any floating type, under their names.

        Raises:
            DataError: the disk refuses them. What was added before, but for the last `ROWS_A_SYNC` rows, is safe.
        """
        data = np.ascontiguousarray(rows, self.cache.dtype)
        if not np.isfinite(data).all():
            raise DataError(f"The features of an image are not finite in {self.cache.dtype}; set run.feature_cache.dtype=fp32.")
        try:
            if self._rows is None:
                self._rows, self._index = (disk.open(self.path.with_suffix(suffix), "ab") for suffix in (".rows", ".index"))
                sync_folder(self.cache.folder)
            for name, row in zip(names, data, strict=True):
                _write_all(self._rows, row.tobytes())
                self._waiting.append((name, zlib.crc32(row.tobytes())))
            if len(self._waiting) >= ROWS_A_SYNC:
                self._sync()
        except OSError as error:
            raise self._refused(error) from error

    def _sync(self) -> None:
        """Make the rows safe, and only then name them."""
        if not self._waiting:
            return
        disk.fsync(self._rows.fileno())
        entries = np.array([(name, crc, 0) for name, crc in self._waiting], dtype=_ENTRY)
        entries["check"] = _checks(entries)
        _write_all(self._index, entries.tobytes())
        disk.fsync(self._index.fileno())
        self._waiting.clear()

    def close(self) -> None:
        """Make the last rows safe."""
        if self._rows is None:
            return
        try:
            self._sync()
        except OSError as error:
            raise self._refused(error) from error
        finally:
            self._rows.close()
            self._index.close()
            self._rows = None

    def _refused(self, error: OSError) -> DataError:
        self._waiting.clear()  # where the files end is not certain any more: nothing is added to them
        return DataError(f"The feature cache cannot be written to {self.path}: {error}. What was named before is kept; mend it and go on.")


def _write_all(handle: Any, data: bytes) -> None:
    rest = memoryview(data)
    while len(rest):
        rest = rest[disk.write(handle, rest) :]
