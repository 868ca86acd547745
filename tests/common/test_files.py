"""A file is there whole, or as it was before."""

import errno
import json
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from xraygpt.common.files import (
    atomic_file,
    atomic_folder,
    atomic_path,
    disk,
    make_folder,
    read_small_json,
    sha256_file,
    temporary_name,
    write_json,
    write_json_lines,
    write_text,
)


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


# Who may read --------------------------------------------------------------------------------------------------------


@pytest.fixture
def usual_umask() -> Iterator[None]:
    """The mask of most systems, with which files are made that everybody can read."""
    before = os.umask(0o022)
    yield
    os.umask(before)


def modes(*paths: Path) -> list[int]:
    return [stat.S_IMODE(path.stat().st_mode) for path in paths]


def replace_by_a_new_file(path: Path) -> None:
    """As some libraries write."""
    path.unlink()
    path.write_text("x")


WAYS: dict[str, Callable[[Path], Any]] = {
    "text": lambda path: write_text(path, "x"),
    "json": lambda path: write_json(path, {}),
    "json lines": lambda path: write_json_lines(path, [{}]),
    "appended": lambda path: (make_folder(path.parent), disk.open(path, "ab").close()),
    "by a library": lambda path: write_by(path, lambda temporary: temporary.write_text("x")),
    "by a library that makes a new file": lambda path: write_by(path, replace_by_a_new_file),
}


def write_by(path: Path, library: Callable[[Path], Any]) -> None:
    with atomic_path(path) as temporary:
        assert modes(temporary) == [0o600]
        library(temporary)


@pytest.mark.usefixtures("usual_umask")
@pytest.mark.parametrize("write", WAYS.values(), ids=WAYS)
def test_what_is_made_is_private_with_the_folders_above(tmp_path: Path, write: Callable[[Path], Any]) -> None:
    (tmp_path / "there").mkdir(mode=0o755)
    path = tmp_path / "there" / "new" / "folder" / "a"
    write(path)
    assert modes(path, path.parent, path.parent.parent) == [0o600, 0o700, 0o700]
    assert modes(tmp_path / "there") == [0o755]


@pytest.mark.usefixtures("usual_umask")
def test_what_a_library_leaves_in_a_folder_is_private(tmp_path: Path) -> None:
    with atomic_folder(tmp_path / "new" / "folder") as temporary:
        assert modes(temporary) == [0o700]
        (temporary / "inner").mkdir()
        (temporary / "inner" / "a").write_text("x")
    folder = tmp_path / "new" / "folder"
    assert modes(folder.parent, folder, folder / "inner", folder / "inner" / "a") == [0o700, 0o700, 0o700, 0o600]


@pytest.mark.usefixtures("usual_umask")
def test_a_file_that_is_written_again_is_private_and_one_that_is_appended_to_keeps_its_mode(tmp_path: Path) -> None:
    for name in ("again", "appended"):
        (tmp_path / name).write_text("x")
    write_text(tmp_path / "again", "y")
    disk.open(tmp_path / "appended", "ab").close()
    assert modes(tmp_path / "again", tmp_path / "appended") == [0o600, 0o644]


@pytest.mark.parametrize("write", [WAYS["text"], WAYS["by a library"]])
def test_a_file_that_waits_under_the_temporary_name_is_not_written_to(tmp_path: Path, write: Callable[[Path], Any]) -> None:
    (tmp_path / "other").write_text("mine")
    temporary_name(tmp_path / "a").symlink_to(tmp_path / "other")
    write(tmp_path / "a")
    assert (tmp_path / "other").read_text() == "mine"
    assert not (tmp_path / "a").is_symlink() and sorted(path.name for path in tmp_path.iterdir()) == ["a", "other"]


def test_a_name_that_is_not_utf_8_can_be_written_and_read_back(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"M\udcfcller\u202e": 1})
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == {"M\udcfcller\u202e": 1}
    write_text(tmp_path / "a.txt", "M\udcfcller")
    assert (tmp_path / "a.txt").read_text(encoding="utf-8") == r"M\xfcller"
