"""The annotations of a prepared folder without a Python object for each: the JSON file stays on the disk, mapped into memory, and an index
says where in it each annotation stands. A million of them take 20 MB, shared by all loading processes.

The index is kept beside the file (`filter_cap.index.npz`) and belongs to its content, by SHA-256: a file that has changed is read anew. It
also holds what was found when every annotation was checked.
"""

import json
import logging
import mmap
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from xraygpt.common.errors import DataError
from xraygpt.common.files import atomic_path, sha256_file
from xraygpt.datasets.bad_samples import BadSample

logger = logging.getLogger(__name__)

_FORMAT = 1
_INDEX_SUFFIX = ".index.npz"
_SPACE = " \t\n\r"
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
        text = path.read_text(encoding="utf-8")
        is_ascii = text.isascii()  # then characters are bytes
        spans: list[tuple[int, int]] = []
        split: list[int] = []
        numbers: list[int] = []
        splits: dict[str, int] = {}
        seen: dict[str, int] = {}
        bad: list[tuple[str, BadSample]] = []

        def good() -> Annotations:
            """Those that can be used; on the way notes where each stands, and what is wrong with the others."""
            byte = character = 0
            for i, (ann, start, stop) in enumerate(_elements(text)):
                name = str(ann.get("split", "train")) if isinstance(ann, dict) else "train"
                if problem := problem_of(ann):
                    bad.append((name, BadSample(f"annotation {i}", str(path), problem)))
                    continue
                if not is_ascii:
                    byte += len(text[character:start].encode())
                    character, first = stop, byte
                    byte += len(text[start:stop].encode())
                    spans.append((first, byte))
                else:
                    spans.append((start, stop))
                split.append(splits.setdefault(name, len(splits)))
                numbers.append(seen.setdefault(ann["image_id"], len(seen)))
                yield ann

        try:
            words = divided(good())
        except (ValueError, RecursionError):
            return None
        if len(splits) > np.iinfo(np.uint8).max:
            return None
        return cls(
            np.array(spans, dtype=np.int64).reshape(-1, 2), np.array(split, np.uint8), np.array(numbers, np.int32), list(splits), bad, words
        )

    def save(self, path: Path, sha256: str) -> None:
        """Write it, whole or not at all."""
        about = {"format": _FORMAT, "sha256": sha256, "splits": self.splits, "divided": self.divided}
        about["bad"] = [(name, asdict(sample)) for name, sample in self.bad]
        with atomic_path(path) as temporary, open(temporary, "wb") as handle:
            words = np.frombuffer(json.dumps(about).encode(), np.uint8)
            np.savez(handle, spans=self.spans, split=self.split, number=self.number, about=words)

    @classmethod
    def load(cls, path: Path, sha256: str) -> "AnnotationIndex | None":
        """Read what `save` wrote for a file of this content; None if there is none."""
        try:
            with np.load(path, allow_pickle=False) as stored:
                about = json.loads(stored["about"].tobytes())
                if about["format"] != _FORMAT or about["sha256"] != sha256:
                    return None
                bad = [(name, BadSample(**sample)) for name, sample in about["bad"]]
                return cls(stored["spans"], stored["split"], stored["number"], about["splits"], bad, about["divided"])
        except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile):
            return None


def _elements(text: str) -> Iterator[tuple[Any, int, int]]:
    """Each element of the list "annotations" with where it stands. ValueError: the text is not of that form."""
    decode = json.JSONDecoder().raw_decode
    place = _after(text, 0, "{")
    while True:
        key, place = decode(text, _skip(text, place))
        place = _skip(text, _after(text, place, ":"))
        if key == "annotations":
            break
        _, place = decode(text, place)
        place = _after(text, place, ",")
    place = _skip(text, _after(text, place, "["))
    if text[place : place + 1] != "]":
        while True:
            value, stop = decode(text, place)
            yield value, place, stop
            stop = _skip(text, stop)
            if text[stop : stop + 1] == "]":
                place = stop
                break
            place = _skip(text, _after(text, stop, ","))
    place = _skip(text, place + 1)
    # What comes after the list is read as JSON too; a second list would take the place of the first.
    if "annotations" in json.loads("{" + text[place:].lstrip(_SPACE + ",")):
        raise ValueError("two lists")


def _skip(text: str, place: int) -> int:
    while text[place : place + 1] in _SPACE and place < len(text):
        place += 1
    return place


def _after(text: str, place: int, wanted: str) -> int:
    place = _skip(text, place)
    if text[place : place + 1] != wanted:
        raise ValueError(f"{wanted} expected at {place}")
    return place + 1


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
        with open(self.path, "rb") as handle:
            self._data = mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ)

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
