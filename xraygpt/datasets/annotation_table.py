"""The annotations of a prepared folder without a Python object for each: the JSON file stays on the disk, mapped into memory, and an index
says where in it each annotation stands. A million of them take 20 MB, shared by all loading processes.

The index is kept beside the file (`filter_cap.index.npz`) and belongs to its content, by SHA-256: a file that has changed is read anew. It
also holds what was found when every annotation was checked.
"""

import json
import logging
import math
import mmap
import re
import zipfile
from array import array
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, overload

import numpy as np
import orjson
from numpy.typing import NDArray

from xraygpt.common.errors import DataError
from xraygpt.common.files import atomic_path, sha256_file
from xraygpt.datasets.bad_samples import BadSample

logger = logging.getLogger(__name__)

_FORMAT = 1
_INDEX_SUFFIX = ".index.npz"
_BEGIN = re.compile(rb'"annotations"[ \t\n\r]*:[ \t\n\r]*\[[ \t\n\r]*')
_COMMA = re.compile(rb"[ \t\n\r]*,[ \t\n\r]*")
_END = re.compile(rb"[ \t\n\r]*\]")
_MOST_BRACES = 100
"""In one annotation; a file with more in one is read as a whole."""
_KEPT_FROM = 20_000
"""Annotations from which on an index is kept: fewer are read in no time."""

Annotations = Iterator[dict[str, Any]]


@dataclass(frozen=True)
class AnnotationIndex:
    """Where annotations stand in a file, and what is wrong with it.

    Attributes:
        spans: int64 [N, 2], first byte and the one after the last of each usable annotation.
        split: uint8 [N], its split, as a place in `splits`.
        number: int32 [N], dense number of its image.
        splits: names.
        bad: (split, sample) of each that cannot be used.
        divided: subjects or studies that stand in several splits, in words; "" if none does.
    """

    spans: NDArray[np.int64]
    split: NDArray[np.uint8]
    number: NDArray[np.int32]
    splits: list[str]
    bad: list[tuple[str, BadSample]]
    divided: str

    @classmethod
    def of(cls, path: Path, problem_of: Callable[[Any], str], divided: Callable[[Annotations], str]) -> "AnnotationIndex | None":
        """Check every annotation of a file.

        Args:
            path: UTF-8 JSON, {"annotations": [...]}.
            problem_of: what is wrong with an annotation; "" if nothing.
            divided: what is wrong with the good ones together.

        Returns:
            None if the file does not have this form: whoever reads it whole can say what is wrong.
        """
        data = _mapped(path)
        spans, split, numbers = array("q"), array("I"), array("i")
        splits: dict[str, int] = {}
        seen: dict[str, int] = {}
        bad: list[tuple[str, BadSample]] = []

        def good() -> Annotations:
            """Those that can be used; on the way notes where each stands, and what is wrong with the others."""
            for i, (ann, start, stop) in enumerate(_objects(data)):
                if problem := problem_of(ann):
                    bad.append((str(ann.get("split", "train")), BadSample(f"annotation {i}", str(path), problem)))
                    continue
                spans.append(start)
                spans.append(stop)
                split.append(splits.setdefault(ann.get("split", "train"), len(splits)))
                numbers.append(seen.setdefault(ann["image_id"], len(seen)))
                yield ann

        try:
            words = divided(good())
        except ValueError:
            return None
        if len(splits) > np.iinfo(np.uint8).max:
            return None
        return cls(
            np.array(spans, np.int64).reshape(-1, 2), np.array(split, np.uint8), np.array(numbers, np.int32), list(splits), bad, words
        )

    def save(self, path: Path, sha256: str) -> None:
        """Write it, whole or not at all."""
        about = {"format": _FORMAT, "sha256": sha256, "splits": self.splits, "divided": self.divided}
        about["bad"] = [(name, asdict(sample)) for name, sample in self.bad]
        with atomic_path(path) as temporary, open(temporary, "r+b") as handle:
            words = np.frombuffer(json.dumps(about).encode(), np.uint8)
            np.savez(handle, spans=self.spans, split=self.split, number=self.number, about=words)

    @classmethod
    def load(cls, path: Path, sha256: str) -> "AnnotationIndex | None":
        """Read what `save` wrote for a file of this content; None if there is none."""
        try:
            if not _holds_its_arrays(path):
                return None
            with np.load(path, allow_pickle=False) as stored:
                about = json.loads(stored["about"].tobytes())
                if about["format"] != _FORMAT or about["sha256"] != sha256:
                    return None
                bad = [(name, BadSample(**sample)) for name, sample in about["bad"]]
                spans, split, number = stored["spans"], stored["split"], stored["number"]
        except (OSError, ValueError, KeyError, TypeError, EOFError, RecursionError, zipfile.BadZipFile):
            return None
        found = [(array.dtype, array.shape) for array in (spans, split, number)]
        expected = [(np.int64, (len(spans), 2)), (np.uint8, (len(spans),)), (np.int32, (len(spans),))]
        return cls(spans, split, number, about["splits"], bad, about["divided"]) if found == expected else None


def _holds_its_arrays(path: Path) -> bool:
    """Whether an .npz file has the bytes of the arrays that it names: numpy makes room for them before it looks."""
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            if member.compress_type != zipfile.ZIP_STORED or member.file_size > path.stat().st_size:
                return False
            with archive.open(member) as handle:
                if np.lib.format.read_magic(handle) != (1, 0):
                    return False
                shape, _, dtype = np.lib.format.read_array_header_1_0(handle)
                if handle.tell() + math.prod(shape) * dtype.itemsize != member.file_size:
                    return False
    return True


def _objects(data: bytes | mmap.mmap) -> Iterator[tuple[Any, int, int]]:
    """Each object of the list "annotations" with where it stands; integers beyond 64 bits are rounded.

    ValueError: the file is not of that form.
    """
    if (begin := _BEGIN.search(data)) is None:
        raise ValueError("no list")
    orjson.loads(data[: begin.start()] + b'"annotations": []}')  # what comes before the list is JSON
    view, place = memoryview(data), begin.end()
    if (end := _END.match(data, place)) is None:
        while True:
            stop = data.find(b"}", place) + 1
            try:
                value = orjson.loads(view[place:stop])
            except orjson.JSONDecodeError:
                value, stop = _object_with_braces(data, place)
            yield value, place, stop
            if (comma := _COMMA.match(data, stop)) is None:
                break
            place = comma.end()
        if (end := _END.match(data, stop)) is None:
            raise ValueError(f"] expected at {stop}")
    # What comes after the list is JSON too; a second list would take the place of the first.
    if orjson.loads(b'{"annotations": null' + data[end.end() :])["annotations"] is not None:
        raise ValueError("two lists")


def _object_with_braces(data: bytes | mmap.mmap, place: int) -> tuple[Any, int]:
    """The object that begins there, and where it stops: at the first brace up to which it is JSON."""
    stop = place
    for _ in range(_MOST_BRACES):
        if not (stop := data.find(b"}", stop) + 1):
            break
        with suppress(orjson.JSONDecodeError):
            return orjson.loads(data[place:stop]), stop
    raise ValueError(f"no object at {place}")


def _mapped(path: Path) -> mmap.mmap:
    with open(path, "rb") as handle:
        return mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ)


class AnnotationTable(Sequence[dict[str, Any]]):
    """Annotations of a file, made into dictionaries as they are asked for, each with an "instance_id", its number.

    Args:
        path: the JSON file.
        spans: see `AnnotationIndex`, of the chosen annotations.
        numbers: int32 [N], dense numbers of their images.
    """

    def __init__(self, path: Path, spans: NDArray[np.int64], numbers: NDArray[np.int32]) -> None:
        self.path, self.spans, self.numbers = path, spans, numbers
        self._open()

    def _open(self) -> None:
        self._data = _mapped(self.path)

    def __getstate__(self) -> dict[str, Any]:
        """What a loading process needs; it maps the file by itself."""
        return {key: value for key, value in self.__dict__.items() if key != "_data"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._open()

    def __len__(self) -> int:
        return len(self.spans)

    @overload
    def __getitem__(self, index: int) -> dict[str, Any]: ...
    @overload
    def __getitem__(self, index: slice) -> list[dict[str, Any]]: ...
    def __getitem__(self, index: int | slice) -> dict[str, Any] | list[dict[str, Any]]:
        """The annotation; a changed one is not kept."""
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        index = range(len(self))[index]
        start, stop = self.spans[index].tolist()
        return {**json.loads(self._data[start:stop]), "instance_id": str(index)}

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]


def read_tables(
    path: Path, index: AnnotationIndex, *, bad: dict[str, list[BadSample]], tolerates: Callable[[str], bool]
) -> dict[str, AnnotationTable]:
    """Split → its annotations.

    Args:
        bad: gets those that cannot be used, by split.
        tolerates: whether those of a split are left out, rather than an error.

    Raises:
        DataError: an annotation cannot be used, or a subject or study stands in several splits.
    """
    refused = [sample for name, sample in index.bad if not tolerates(name)]
    if refused:
        total = len(index.spans) + len(index.bad)
        listed = "\n  ".join(f"{sample.sample_id}: {sample.reason}" for sample in refused[:10])
        raise DataError(f"{path}: {len(refused)} of {total} annotations cannot be used:\n  {listed}")
    if index.divided:
        raise DataError(index.divided)
    for name, sample in index.bad:
        bad.setdefault(name, []).append(sample)
    tables = {}
    for code, name in enumerate(index.splits):
        chosen = index.split == code
        numbers = np.unique(index.number[chosen], return_inverse=True)[1].astype(np.int32)
        tables[name] = AnnotationTable(path, index.spans[chosen], numbers)
    return tables


def index_of(path: Path, build: Callable[[], AnnotationIndex | None]) -> AnnotationIndex | None:
    """The index that is kept beside a file; else the one that is built now, and kept where the folder lets it be written."""
    beside, sha256 = path.with_suffix(_INDEX_SUFFIX), sha256_file(path)
    if (index := AnnotationIndex.load(beside, sha256)) is not None:
        return index
    if (index := build()) is not None and len(index.spans) >= _KEPT_FROM:
        try:
            index.save(beside, sha256)
        except OSError as error:
            logger.info("%s cannot be kept (%s): every start reads all annotations.", beside, error)
    return index
