"""A download arrives whole, through every kind of bad connection, or says where it stands."""

import errno
import io
import os
import shutil
import signal
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.datasets.preparation.broken_server import Answer, Asked, BrokenServer, wait_until
from xraygpt.common.errors import DataError
from xraygpt.datasets.preparation import transfer
from xraygpt.datasets.preparation.transfer import RemoteFile, check_web_address, download_file

CONTENT = os.urandom(300_000)
SIZE = len(CONTENT)
OTHER = os.urandom(250_000)
NO_WAITS = (0.0, 0.0, 0.0)
DATE = "Mon, 05 May 2025 10:00:00 GMT"


@pytest.fixture
def url(server: BrokenServer) -> str:
    server.files["a.tgz"] = CONTENT
    return f"{server.url}a.tgz"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "a.tgz"


@pytest.fixture
def part(path: Path) -> Path:
    return path.with_name("a.tgz.part")


def asked_ranges(server: BrokenServer) -> list[str | None]:
    return [asked.range for asked in server.asked]


def leave_part(server: BrokenServer, url: str, path: Path, size: int, **answer: Any) -> None:
    """A download that broke off after `size` bytes, and was not taken up again."""
    server.answers.append(Answer(cut=size, **answer))
    with pytest.raises(DataError):
        download_file(url, path, waits=())
    assert path.with_name("a.tgz.part").read_bytes() == CONTENT[:size]
    server.asked.clear()


def test_a_good_connection(server: BrokenServer, url: str, path: Path) -> None:
    assert download_file(url, path) == RemoteFile(url=url, bytes=SIZE, etag='"1"', last_modified=DATE)
    assert path.read_bytes() == CONTENT
    assert list(path.parent.iterdir()) == [path]
    assert server.asked == [Asked("a.tgz", None, None)]


def test_a_connection_that_breaks_off_is_taken_up_again(server: BrokenServer, url: str, path: Path) -> None:
    server.answers.extend([Answer(cut=100_000), Answer(cut=50_000), Answer(cut=0), Answer(cut=149_999)])
    remote = download_file(url, path, waits=NO_WAITS)
    assert path.read_bytes() == CONTENT
    assert remote.bytes == SIZE
    assert asked_ranges(server) == [None, "bytes=100000-", "bytes=150000-", "bytes=150000-", "bytes=299999-"]
    assert {asked.if_range for asked in server.asked[1:]} == {'"1"'}
    assert list(path.parent.iterdir()) == [path]


def test_the_waits_grow_and_begin_again_with_progress(server: BrokenServer, url: str, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []
    monkeypatch.setattr(transfer.time, "sleep", waited.append)
    server.answers.extend([Answer(cut=0), Answer(cut=0), Answer(cut=10), Answer(cut=0), Answer(cut=0), Answer(cut=0)])
    with pytest.raises(DataError, match=r"a\.tgz: .+ 299,990 bytes before the end .* The same command goes on from byte 10\."):
        download_file(url, path, waits=(1, 2, 3))
    assert waited == [1, 2, 1, 2, 3]


def test_a_later_call_goes_on(server: BrokenServer, url: str, path: Path) -> None:
    leave_part(server, url, path, 70_000)
    download_file(url, path)
    assert path.read_bytes() == CONTENT
    assert server.asked == [Asked("a.tgz", "bytes=70000-", '"1"')]


def test_a_server_that_is_gone(url: str, path: Path, server: BrokenServer) -> None:
    leave_part(server, url, path, 70_000)
    server.close()
    with pytest.raises(DataError, match=r"no answer came \(.*refused.*\)\. The same command goes on from byte 70,000\."):
        download_file(url, path, waits=NO_WAITS)


def test_a_server_that_falls_silent(server: BrokenServer, url: str, path: Path) -> None:
    server.answers.append(Answer(cut=100_000, stall=True))
    download_file(url, path, timeout=0.2, waits=NO_WAITS)
    assert path.read_bytes() == CONTENT
    assert asked_ranges(server) == [None, "bytes=100000-"]


def test_a_server_that_never_answers(server: BrokenServer, url: str, path: Path) -> None:
    server.answers.extend([Answer(before=server.released.wait)] * 2)
    with pytest.raises(DataError, match=r"no answer came \(timed out\)\. The same command goes on from byte 0\."):
        download_file(url, path, timeout=0.2, waits=(0.0,))
    assert len(server.asked) == 2


# Which bytes may be put together ---------------------------------------------------------------------------------------


def test_a_server_that_ignores_range(server: BrokenServer, url: str, path: Path) -> None:
    server.answers.extend([Answer(cut=100_000), Answer(ignore_range=True)])
    download_file(url, path, waits=NO_WAITS)
    assert path.read_bytes() == CONTENT


def test_a_server_that_ignores_range_and_always_breaks_off_ends(server: BrokenServer, url: str, path: Path) -> None:
    server.answers.extend([Answer(cut=100_000, ignore_range=True)] * 10)
    with pytest.raises(DataError, match="goes on from byte 100,000"):
        download_file(url, path, waits=NO_WAITS)
    assert len(server.asked) == 4


@pytest.mark.parametrize("heeds_if_range", [True, False])
@pytest.mark.parametrize("changed", [OTHER, OTHER + CONTENT, CONTENT[::-1]], ids=["shorter", "longer", "same size"])
def test_a_file_that_changes_in_between(server: BrokenServer, url: str, path: Path, heeds_if_range: bool, changed: bytes) -> None:
    leave_part(server, url, path, 100_000)
    server.files["a.tgz"], server.etag, server.last_modified = changed, '"2"', "Tue, 06 May 2025 10:00:00 GMT"
    server.answers.append(Answer(ignore_if_range=not heeds_if_range))
    remote = download_file(url, path, waits=NO_WAITS)
    assert path.read_bytes() == changed
    assert (remote.etag, remote.bytes) == ('"2"', len(changed))


@pytest.mark.parametrize("changed", [OTHER, OTHER + CONTENT], ids=["shorter", "longer"])
def test_a_file_that_changes_only_its_size(server: BrokenServer, url: str, path: Path, changed: bytes) -> None:
    leave_part(server, url, path, 100_000)
    server.files["a.tgz"] = changed
    download_file(url, path, waits=NO_WAITS)
    assert path.read_bytes() == changed
    assert asked_ranges(server) == ["bytes=100000-", None]


@pytest.mark.parametrize(
    ("etag", "last_modified", "range_asked", "if_range"),
    [
        ('"1"', "", "bytes=100000-", '"1"'),
        ('W/"1"', DATE, "bytes=100000-", DATE),
        ("", DATE, "bytes=100000-", DATE),
        ('W/"1"', "", None, None),
        ("", "", None, None),
    ],
)
def test_what_the_rest_is_asked_with(
    server: BrokenServer, url: str, path: Path, etag: str, last_modified: str, range_asked: str | None, if_range: str | None
) -> None:
    """Without a strong ETag or a date nobody can tell whether the rest belongs to the part, so all is fetched again."""
    server.etag, server.last_modified = etag, last_modified
    leave_part(server, url, path, 100_000)
    download_file(url, path)
    assert server.asked == [Asked("a.tgz", range_asked, if_range)]
    assert path.read_bytes() == CONTENT


@pytest.mark.parametrize("state", [None, "", "{", "[]", '{"url": 1, "bytes": 300000}', '{"url": "x", "bytes": true}', '{"bites": 1}'])
def test_a_part_of_unknown_origin_is_not_used(server: BrokenServer, url: str, path: Path, part: Path, state: str | None) -> None:
    part.write_bytes(b"x" * 1000)
    if state is not None:
        part.with_name("a.tgz.part.json").write_text(state)
    download_file(url, path)
    assert path.read_bytes() == CONTENT
    assert asked_ranges(server) == [None]
    assert list(path.parent.iterdir()) == [path]


def test_a_part_that_is_too_long_is_not_used(server: BrokenServer, url: str, path: Path, part: Path) -> None:
    leave_part(server, url, path, 100_000)
    part.write_bytes(CONTENT + b"x")
    download_file(url, path)
    assert path.read_bytes() == CONTENT


def test_a_part_that_is_complete_needs_no_request(server: BrokenServer, url: str, path: Path, part: Path) -> None:
    leave_part(server, url, path, 100_000)
    part.write_bytes(CONTENT)
    assert download_file(url, path).bytes == SIZE
    assert path.read_bytes() == CONTENT
    assert not server.asked


# Answers that cannot be used -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [204, 304, 401, 403, 404, 429, 500, 503])
def test_another_status(server: BrokenServer, url: str, path: Path, status: int) -> None:
    server.answers.append(Answer(status=status))
    with pytest.raises(DataError, match=rf"{url}: the server answered {status} "):
        download_file(url, path, waits=NO_WAITS)
    assert len(server.asked) == 1
    assert not list(path.parent.iterdir())


def test_another_status_keeps_what_there_is(server: BrokenServer, url: str, path: Path) -> None:
    leave_part(server, url, path, 100_000)
    server.answers.append(Answer(status=503))
    with pytest.raises(DataError, match="503"):
        download_file(url, path)
    download_file(url, path)
    assert asked_ranges(server) == ["bytes=100000-", "bytes=100000-"]
    assert path.read_bytes() == CONTENT


def test_a_length_that_promises_too_much(server: BrokenServer, url: str, path: Path, part: Path) -> None:
    server.answers.append(Answer(stated_length=str(SIZE + 1)))
    with pytest.raises(DataError, match=rf"answered 416 .*shorter than {part}: delete that"):
        download_file(url, path, waits=NO_WAITS)
    assert not path.exists()
    part.unlink()
    download_file(url, path)
    assert path.read_bytes() == CONTENT


def test_a_length_that_promises_too_little_is_found_by_what_reads_the_file(server: BrokenServer, url: str, path: Path) -> None:
    server.answers.append(Answer(stated_length="1000"))
    assert download_file(url, path).bytes == 1000
    assert path.read_bytes() == CONTENT[:1000]


@pytest.mark.parametrize("length", ["", "many", "-5"])
def test_no_length(server: BrokenServer, url: str, path: Path, length: str) -> None:
    server.answers.append(Answer(stated_length=length))
    with pytest.raises(DataError, match="states no Content-Length"):
        download_file(url, path, waits=NO_WAITS)


@pytest.mark.parametrize("stated", ["bytes 0-299999/300000", "bytes 99999-299999/300000", "bytes 100000-299999/*", "anything"])
def test_the_wrong_part(server: BrokenServer, url: str, path: Path, stated: str) -> None:
    leave_part(server, url, path, 100_000)
    server.answers.append(Answer(content_range=stated))
    with pytest.raises(DataError, match="bytes from 100000 were asked for"):
        download_file(url, path, waits=NO_WAITS)


def test_a_redirect_to_another_web_address(server: BrokenServer, url: str, path: Path) -> None:
    server.answers.extend([Answer(status=302, location=url), Answer(cut=1000), Answer(status=307, location=url)])
    download_file(f"{server.url}elsewhere", path, waits=NO_WAITS)
    assert path.read_bytes() == CONTENT
    assert asked_ranges(server) == [None, None, "bytes=1000-", "bytes=1000-"]


@pytest.mark.parametrize("location", ["file:///etc/passwd", "ftp://127.0.0.1/a.tgz", "data:text/plain,x", "http://host:port/"])
def test_a_redirect_to_anything_else(server: BrokenServer, url: str, path: Path, location: str) -> None:
    server.answers.append(Answer(status=302, location=location))
    with pytest.raises(DataError, match=r"302|that begins with https://"):
        download_file(url, path, waits=NO_WAITS)
    assert len(server.asked) == 1
    assert not list(path.parent.iterdir())


def test_redirects_without_end(server: BrokenServer, url: str, path: Path) -> None:
    server.answers.extend([Answer(status=302, location=url)] * 30)
    with pytest.raises(DataError, match="302"):
        download_file(url, path, waits=NO_WAITS)


@pytest.mark.parametrize(
    "address",
    [
        "",
        "openi.nlm.nih.gov",
        "file:///etc/passwd",
        "ftp://host/a",
        "https://",
        "https://host:99999/",
        "https://host:port/",
        "https://a..b/",
        "https://[::1/",
        "https://host/ä",
        "https://host/a b",
        "https://host/\n",
    ],
)
def test_what_is_no_web_address(address: str) -> None:
    with pytest.raises(DataError, match="begins with https:// or http:// was expected"):
        check_web_address(address)


@pytest.mark.parametrize("address", ["https://openi.nlm.nih.gov/imgs/collections/", "http://127.0.0.1:8000", "https://[::1]/a?b=c"])
def test_web_addresses(address: str) -> None:
    check_web_address(address)


# The disk, and the keyboard --------------------------------------------------------------------------------------------


def test_too_little_room_is_said_before_the_download(server: BrokenServer, url: str, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What has arrived already is not counted again."""
    leave_part(server, url, path, 100_000)
    for free, enough in ((199_999, False), (200_000, True)):
        monkeypatch.setattr(shutil, "disk_usage", lambda path, free=free: SimpleNamespace(free=free))
        if enough:
            download_file(url, path, waits=NO_WAITS)
        else:
            with pytest.raises(DataError, match=rf"200,000 bytes are needed to download {url}, 199,999 are free"):
                download_file(url, path, waits=NO_WAITS)
    assert path.read_bytes() == CONTENT


def test_a_disk_that_becomes_full(server: BrokenServer, url: str, path: Path, part: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class SmallDisk(io.FileIO):
        def write(self, data: Any) -> int:
            room = 120_000 - self.tell()
            if room <= 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return super().write(memoryview(data)[:room]) or 0

    with monkeypatch.context() as patch:
        patch.setattr(transfer, "open", lambda path, mode, **options: io.BufferedWriter(SmallDisk(path, mode, **options)), raising=False)
        with pytest.raises(DataError, match=r"the disk is full: 180,000 bytes are needed, [\d,]+ are free.*a\.tgz\.part is kept"):
            download_file(url, path, waits=NO_WAITS)
    assert part.read_bytes() == CONTENT[:120_000]
    download_file(url, path)
    assert path.read_bytes() == CONTENT
    assert asked_ranges(server) == [None, "bytes=120000-"]


def test_ctrl_c_keeps_what_has_arrived(server: BrokenServer, url: str, path: Path, part: Path) -> None:
    def press() -> None:
        wait_until(lambda: part.exists() and part.stat().st_size > 0)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    server.answers.append(Answer(cut=200_000, after=press, stall=True))
    with pytest.raises(KeyboardInterrupt):
        download_file(url, path)
    size = part.stat().st_size
    assert part.read_bytes() == CONTENT[:size]
    download_file(url, path)
    assert path.read_bytes() == CONTENT
    assert asked_ranges(server) == [None, f"bytes={size}-"]


@pytest.mark.parametrize("dangling", [True, False])
def test_nothing_is_written_through_a_link(server: BrokenServer, url: str, path: Path, part: Path, dangling: bool) -> None:
    precious = path.with_name("precious")
    if not dangling:
        precious.write_text("precious")
    part.symlink_to(precious)
    with pytest.raises(DataError, match=rf"{part} is a symbolic link"):
        download_file(url, path)
    assert not server.asked
    assert precious.exists() is not dangling
    assert dangling or precious.read_text() == "precious"
