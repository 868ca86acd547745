"""The account of a preparation: what came in, what was dropped and why, what could not be read."""

import hashlib
import logging
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xraygpt.common.errors import DataError
from xraygpt.common.printable import printable_line, utf8_name

ON_ERROR = ("skip", "stop")

MAX_LOGGED = 20
"""Problems of one kind that are logged one by one; all are listed."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Dropped:
    """One report or image that is not in the prepared folder.

    Attributes:
        kind: "report" or "image".
        id: study_id or image_id, "" where the source gave none.
        reason: the filter that dropped it, or what is wrong with it.
        where: file and line in the source.
    """

    kind: str
    id: str
    reason: str
    where: str


@dataclass(frozen=True, slots=True)
class SourceFile:
    """What identifies the content of one source file.

    Attributes:
        kind: "report", "image" or "table".
        id: study_id, image_id, or "" for a table.
        file: its path within the source.
        bytes: its size.
        sha256: of its content, hexadecimal.
    """

    kind: str
    id: str
    file: str
    bytes: int
    sha256: str


class Account:
    """Collects counts, drops, problems and source files while a preparation runs.

    A *drop* is a decision of a filter. A *problem* is something that should not be in the source: a damaged file, a missing image, a line
    that cannot be read. With `on_error="stop"` the first problem ends the preparation, with "skip" it is listed.

    Args:
        roots: the source's folders; what is kept names files relative to them, so that it is the same on every machine.
        on_error: one of `ON_ERROR`.
    """

    def __init__(self, *, roots: Sequence[Path] = (), on_error: str = "skip") -> None:
        if on_error not in ON_ERROR:
            raise DataError(f"on_error must be one of {', '.join(ON_ERROR)}, not {on_error!r}.")
        self.roots, self.on_error = tuple(roots), on_error
        self.counts: dict[str, int] = {}
        self.dropped: list[Dropped] = []
        self.problems: list[Dropped] = []
        self.notes: Counter[str] = Counter()
        self.source_files: list[SourceFile] = []

    def declare(self, names: Iterable[str]) -> None:
        """Filters that may drop something, in their order; a name is counted even if nothing falls to it."""
        for name in names:
            self.counts.setdefault(name, 0)

    def count(self, name: str, number: int = 1) -> None:
        """Add to a count."""
        self.counts[name] = self.counts.get(name, 0) + number

    def drop(self, reason: str, *, kind: str, id: str, where: str = "") -> None:
        """A filter leaves something out."""
        self.count(reason)
        self.dropped.append(Dropped(kind, id, reason, self._portable(where)))

    def problem(self, name: str, message: str, *, kind: str, id: str = "", where: str = "") -> None:
        """Something is wrong with the source: counted under `name` and listed, or the end.

        Args:
            name: the count that it belongs to.
            message: a whole sentence that names the file and says what is wrong.
            kind: "report" or "image".
            id: study_id or image_id.
            where: file and line.

        Raises:
            DataError: with `on_error="stop"`.
        """
        if self.on_error == "stop":
            raise DataError(f"{printable_line(message)} (Leave such things out, and have them listed, with --on-error skip.)")
        self.count(name)
        self.problems.append(Dropped(kind, id, self._portable(message), self._portable(where)))
        if self.counts[name] <= MAX_LOGGED:
            logger.warning("Left out: %s", printable_line(message))
        if self.counts[name] == MAX_LOGGED:
            logger.warning("More of this kind (%s) are only listed, in dropped.csv.", name)

    def note(self, name: str, message: str) -> None:
        """Something to know about what was kept: logged, and counted in the manifest."""
        self.notes[name] += 1
        if self.notes[name] <= MAX_LOGGED:
            logger.warning("%s", printable_line(message))

    def source_file(self, kind: str, id: str, path: Path, *, bytes: int, sha256: str) -> None:
        """Record the identity of a source file."""
        self.source_files.append(SourceFile(kind, id, self.relative_name(path), bytes, sha256))

    def source_content(self, kind: str, id: str, path: Path, content: bytes) -> None:
        """Record the identity of a source file that was read whole."""
        self.source_file(kind, id, path, bytes=len(content), sha256=hashlib.sha256(content).hexdigest())

    def relative_name(self, path: Path) -> str:
        """A file's path within the source, with forward slashes, as `utf8_name` writes it; its name alone if it lies elsewhere."""
        return utf8_name(next((path.relative_to(root).as_posix() for root in self.roots if path.is_relative_to(root)), path.name))

    def _portable(self, text: str) -> str:
        for root in self.roots:
            text = text.replace(f"{root}{os.sep}", "")
        return text

    def fingerprints(self) -> dict[str, Any]:
        """For each kind of source file: how many, their bytes, and one SHA-256 over their sorted (file, bytes, sha256) lines."""
        prints = {}
        for kind in ("report", "table", "image"):
            files = [file for file in self.source_files if file.kind == kind]
            lines = sorted(f"{file.file}\t{file.bytes}\t{file.sha256}\n" for file in files)
            prints[f"{kind}s"] = {
                "count": len(files),
                "bytes": sum(file.bytes for file in files),
                "sha256": hashlib.sha256("".join(lines).encode()).hexdigest(),
            }
        return prints
