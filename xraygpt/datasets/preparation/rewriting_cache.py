"""The answers that a language model gave, in one SQLite file, so that nothing is asked twice.

A key is a hash of model, prompt and text; the text itself is not stored. The answers say what the reports say: the file is as confidential
as the reports. It belongs on a local disk; several processes of one machine may use it at once.
"""

import hashlib
import json
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from xraygpt.common.errors import DataError, first_line
from xraygpt.common.files import make_folder, private

BUSY_TIMEOUT_SECONDS = 60
"""How long to wait while another process writes."""


def answer_key(*, model: str, prompt: str, text: str) -> str:
    """The hexadecimal SHA-256 of a request, the same for equal requests alone."""
    return hashlib.sha256(json.dumps([model, prompt, text]).encode()).hexdigest()


class AnswerCache:
    """Key → answer, on disk as soon as it is put. Used in the thread that opened it.

    Args:
        path: the file; it is made if need be, with its folder.

    Raises:
        DataError: here and in every method, when the file is damaged, is no cache of answers, or cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with self._explained():
            make_folder(path.parent)
            open(path, "ab", opener=private).close()  # SQLite gives its other files the mode of this one
            self._connection = sqlite3.connect(path, timeout=BUSY_TIMEOUT_SECONDS, isolation_level=None)  # each statement commits
            try:
                self._prepare()
            except BaseException:
                self._connection.close()
                raise

    def _prepare(self) -> None:
        tables = {name for (name,) in self._connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        if tables - {"answers"}:
            raise DataError(f"{self.path} is the database of another program. Name another file for the cache of rewrites.")
        self._connection.execute("PRAGMA journal_mode = WAL")
        self._connection.execute("PRAGMA synchronous = NORMAL")  # outlives a crash of the program; of the machine, but for the last answers
        self._connection.execute("CREATE TABLE IF NOT EXISTS answers (key TEXT PRIMARY KEY, answer TEXT NOT NULL) WITHOUT ROWID")

    def __enter__(self) -> "AnswerCache":
        return self

    def __exit__(self, *error: object) -> None:
        self._connection.close()

    def get(self, key: str) -> str | None:
        """The answer to a request, None if there is none yet."""
        with self._explained():
            row = self._connection.execute("SELECT answer FROM answers WHERE key = ?", (key,)).fetchone()
        return row[0] if row else None

    def put(self, key: str, answer: str) -> None:
        """Keep an answer; the first one to a request stays."""
        with self._explained():
            self._connection.execute("INSERT INTO answers VALUES (?, ?) ON CONFLICT DO NOTHING", (key, answer))

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise DataError(
                f"{self.path}: the cache of rewrites cannot be used ({first_line(error)}). "
                "It is a file that this program can write on a local disk; if it is damaged, remove it or name another."
            ) from error
