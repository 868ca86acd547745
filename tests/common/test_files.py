"""A file is there whole, or as it was before."""

import errno
import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest

from xraygpt.common.files import atomic_file, atomic_path, disk, read_small_json, sha256_file, write_json, write_json_lines, write_text


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "report.txt"
    write_text(path, "old")

    def fail() -> None:
        with atomic_path(path) as temporary:
            temporary.write_text("half")
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        fail()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_the_file_appears_only_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "report.txt"
    with atomic_path(path) as temporary:
        temporary.write_text("whole")
        assert not path.exists() and temporary.parent == path.parent
    assert path.read_text() == "whole"
    assert list(path.parent.iterdir()) == [path]


def test_a_short_write_is_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk, "write", lambda handle, data: handle.write(data[:3]))
    with atomic_file(tmp_path / "a") as file:
        file.write(b"0123456789")
    assert (tmp_path / "a").read_bytes() == b"0123456789" and file.sha256 == sha256_file(tmp_path / "a")


@pytest.mark.parametrize("lie", [lambda handle, data: 0, lambda handle, data: handle.write(data[:-1]) + 1])
def test_bytes_that_do_not_arrive_are_an_error(lie: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk, "write", lie)
    with pytest.raises(OSError, match=r"takes no more bytes|9 of 10 bytes have arrived"), atomic_file(tmp_path / "a") as file:
        file.write(b"0123456789")
    assert list(tmp_path.iterdir()) == []


def test_a_network_folder_that_cannot_be_flushed_will_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fsync(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(number, "x")

    monkeypatch.setattr(disk, "fsync", fsync)
    number = errno.EINVAL
    write_text(tmp_path / "a", "b")
    number = errno.EIO
    with pytest.raises(OSError, match="x"):
        write_text(tmp_path / "a", "b")


def test_json_keeps_letters_and_order(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"b": "Ödem", "a": 1})
    text = (tmp_path / "a.json").read_text(encoding="utf-8")
    assert text.endswith("}\n") and "Ödem" in text and text.index("b") < text.index('"a"')


def test_small_json_has_bounds(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('{"a": [1, "ä"]}', encoding="utf-8")
    assert read_small_json(path) == {"a": [1, "ä"]}
    with pytest.raises(ValueError, match="larger than 10 bytes"):
        read_small_json(path, max_bytes=10)
    path.write_text("[" * 100_000)
    with pytest.raises(ValueError, match="nested too deeply"):
        read_small_json(path)
    path.write_bytes(b'"\xff"')
    with pytest.raises(ValueError, match="utf-8"):
        read_small_json(path)


def test_json_lines(tmp_path: Path) -> None:
    rows = [{"id": "a", "report": "line\nbreak"}, {"id": "b"}]
    write_json_lines(tmp_path / "a.jsonl", rows)
    assert [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()] == rows


def test_sha256(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    assert sha256_file(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
