"""The answers on disk."""

import os
import sqlite3
from pathlib import Path

import pytest

from xraygpt.common.errors import DataError
from xraygpt.datasets.preparation.rewriting_cache import AnswerCache, answer_key


def test_two_processes_share_a_cache_and_the_first_answer_stays(tmp_path: Path) -> None:
    path = tmp_path / "new folder" / "answers.sqlite"
    with AnswerCache(path) as one, AnswerCache(path) as other:
        assert one.get("a") is None
        one.put("a", "first")
        other.put("a", "second")
        other.put("b", "third")
        assert (one.get("a"), other.get("a"), one.get("b")) == ("first", "first", "third")
    with AnswerCache(path) as again:
        assert again.get("b") == "third"


def test_an_answer_is_on_disk_at_once(tmp_path: Path) -> None:
    with AnswerCache(tmp_path / "answers.sqlite") as cache:
        cache.put("a", "answer")
        copy = tmp_path / "copy"
        copy.mkdir()
        for path in tmp_path.glob("answers.sqlite*"):  # as a killed process leaves them
            (copy / path.name).write_bytes(path.read_bytes())
    with AnswerCache(copy / "answers.sqlite") as found:
        assert found.get("a") == "answer"


def test_a_key_tells_requests_apart() -> None:
    requests = [("m", "p", "t"), ("n", "p", "t"), ("m", "q", "t"), ("m", "p", "u"), ("mp", "", "t")]
    assert len({answer_key(model=model, prompt=prompt, text=text) for model, prompt, text in requests}) == len(requests)


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "answers.sqlite"
    path.write_bytes(b"this is no database, but it is long enough to be one" * 100)
    with pytest.raises(DataError, match=r"answers\.sqlite: the cache of rewrites cannot be used"):
        AnswerCache(path)


def test_damage_inside_the_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "answers.sqlite"
    with AnswerCache(path) as cache:
        for number in range(200):
            cache.put(str(number), "x" * 500)
    content = path.read_bytes()
    path.write_bytes(content[:8192] + b"\xff" * (len(content) - 8192))
    with AnswerCache(path) as cache, pytest.raises(DataError, match=r"answers\.sqlite"):
        for number in range(200):
            cache.get(str(number))


def test_a_folder_in_its_place_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be used"):
        AnswerCache(tmp_path)


def test_another_programs_database_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "patients.sqlite"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE patients (name TEXT)")
    connection.close()
    with pytest.raises(DataError, match="another program"):
        AnswerCache(path)


def test_nobody_else_can_read_the_answers(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        with AnswerCache(tmp_path / "new" / "answers.sqlite") as cache:
            cache.put("a", "answer")
            paths = [tmp_path / "new", *(tmp_path / "new").iterdir()]
            assert len(paths) > 2  # the answers that are not in the file yet lie beside it
            assert not [path for path in paths if path.stat().st_mode & 0o077]
    finally:
        os.umask(before)
