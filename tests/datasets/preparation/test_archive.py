"""What comes out of an archive, and what must never come out of one."""

import errno
import gzip
import io
import logging
import os
import shutil
import struct
import tarfile
import tracemalloc
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.datasets.preparation.made_archives import BLOCK, make_tar, make_tgz, member, read_folder, tgz_of
from xraygpt.common.errors import DataError
from xraygpt.datasets.preparation import archive as archive_module
from xraygpt.datasets.preparation.archive import MAX_EXPANSION, Archive, unpack

PNG = Archive(name="films.tgz", folder="films", suffixes=(".png",))
DCM = Archive(name="films.tgz", folder="films", suffixes=(".dcm",), subfolders=True)
NOISE = os.urandom(5000)


def unpack_bytes(tmp_path: Path, content: bytes, archive: Archive = PNG) -> dict[str, bytes]:
    (tmp_path / archive.name).write_bytes(content)
    files = unpack(archive, tmp_path)
    unpacked = read_folder(tmp_path / archive.folder)
    assert files == len(unpacked)
    return unpacked


def refuse(tmp_path: Path, content: bytes, reason: str, archive: Archive = PNG) -> None:
    """Unpacking is an error that names the archive and the reason, and leaves nothing but the archive."""
    source = tmp_path / "inside" / "source"
    source.mkdir(parents=True)
    (source / archive.name).write_bytes(content)
    with pytest.raises(DataError, match=reason) as error:
        unpack(archive, source)
    assert archive.name in str(error.value)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [source / archive.name]


@pytest.mark.parametrize(
    ("archive", "names", "places"),
    [
        (PNG, ["a.png", "b.PNG"], ["a.png", "b.PNG"]),
        (PNG, ["films/a.png", "films/b.png"], ["a.png", "b.png"]),
        (PNG, ["./a.png", "./other/deep/b.png"], ["a.png", "b.png"]),
        (DCM, ["1/a.dcm", "2/a.dcm", "c.dcm"], ["1/a.dcm", "2/a.dcm", "c.dcm"]),
        (DCM, ["films/1/a.dcm", "./films/2/a.dcm"], ["1/a.dcm", "2/a.dcm"]),
        (DCM, ["films/films/a.dcm"], ["films/a.dcm"]),
    ],
)
def test_where_files_come_to_lie(tmp_path: Path, archive: Archive, names: list[str], places: list[str]) -> None:
    contents = [name.encode() + NOISE for name in names]
    unpacked = unpack_bytes(tmp_path, tgz_of(dict(zip(names, contents, strict=True))), archive)
    assert unpacked == dict(zip(places, contents, strict=True))


def test_other_and_hidden_files_stay_in_the_archive_and_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    folder = member("films", kind=tarfile.DIRTYPE)
    others = [member("films/readme.txt", b"x"), member("films/._a.png", b"x"), member("films/a.png.exe", b"x"), member("films/png", b"x")]
    assert list(unpack_bytes(tmp_path, make_tgz(folder, *others, member("films/a.png", NOISE)))) == ["a.png"]
    assert "unpacked 1 files into films/; left out 4 that are no .png" in caplog.text


def test_unpacked_files_carry_no_rights_from_the_archive(tmp_path: Path) -> None:
    unpack_bytes(tmp_path, make_tgz(member("a.png", NOISE, mode=0o6777)))
    assert not (tmp_path / "films" / "a.png").stat().st_mode & 0o6111


def test_large_files_and_long_names(tmp_path: Path) -> None:
    files = {f"{'n' * 150}.png": os.urandom(3_000_000), "b.png": NOISE}
    assert unpack_bytes(tmp_path, tgz_of(files)) == files
    shutil.rmtree(tmp_path / "films")
    tar = make_tar([member(name, content) for name, content in files.items()], tar_format=tarfile.GNU_FORMAT)
    assert unpack_bytes(tmp_path, gzip.compress(tar)) == files


# Members that are refused ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["../a.png", "films/../../a.png", "/a.png", "//host/a.png", "..\\a.png", "C:\\a.png", "C:a.png", "\\a.png", "../readme.txt"]
)
def test_a_name_that_leaves_the_folder(tmp_path: Path, name: str) -> None:
    content = make_tgz(member("good.png", NOISE), member(name, NOISE))
    refuse(tmp_path, content, r"leaves the folder it is unpacked into")


@pytest.mark.parametrize("archive", [PNG, DCM])
@pytest.mark.parametrize(
    ("kind", "attributes"),
    [
        (tarfile.SYMTYPE, {"linkname": "/etc"}),
        (tarfile.SYMTYPE, {"linkname": "good.png"}),
        (tarfile.LNKTYPE, {"linkname": "good.png"}),
        (tarfile.LNKTYPE, {"linkname": "../films.tgz"}),
        (tarfile.FIFOTYPE, {}),
        (tarfile.CHRTYPE, {"devmajor": 1, "devminor": 3}),
        (tarfile.BLKTYPE, {"devmajor": 8}),
        (b"Z", {}),
    ],
)
def test_links_devices_and_the_unknown(tmp_path: Path, archive: Archive, kind: bytes, attributes: dict[str, Any]) -> None:
    content = make_tgz(member("good.png", NOISE), member("films/bad.png", kind=kind, **attributes))
    refuse(tmp_path, content, r"'films/bad\.png' is neither a file nor a folder", archive)


def test_a_link_is_never_followed(tmp_path: Path) -> None:
    """A link to a folder outside, then a file through it."""
    outside = tmp_path / "outside"
    outside.mkdir()
    link = member("door", kind=tarfile.SYMTYPE, linkname=str(outside))
    refuse(tmp_path, make_tgz(link, member("door/a.dcm", NOISE)), r"'door' is neither", DCM)


def test_a_sparse_file(tmp_path: Path) -> None:
    sparse = {"GNU.sparse.major": "0", "GNU.sparse.minor": "1", "GNU.sparse.size": "99999", "GNU.sparse.map": "0,5000"}
    refuse(tmp_path, make_tgz(member("a.png", NOISE, pax_headers=sparse)), "'a.png' is neither a file nor a folder")


def test_two_members_for_one_place(tmp_path: Path) -> None:
    refuse(tmp_path, make_tgz(member("x/a.png", NOISE), member("y/a.png", NOISE)), r"'y/a\.png' has the place of an earlier one, a\.png")


def test_a_file_where_a_folder_must_be(tmp_path: Path) -> None:
    refuse(tmp_path, make_tgz(member("a.dcm", NOISE), member("a.dcm/b.dcm", NOISE)), r"source: \[Errno \d+\] .+ films\.tgz is kept", DCM)


def test_no_wanted_file(tmp_path: Path) -> None:
    refuse(tmp_path, make_tgz(member("readme.txt", NOISE)), r"holds no \.png file \(1 others\)")


# Expansion bombs -------------------------------------------------------------------------------------------------------


def test_a_bomb_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    refuse(tmp_path, make_tgz(member("a.png", bytes(5_000_000))), f"'a.png' it unpacks to more than .* bytes, {MAX_EXPANSION} times")


def test_a_bomb_of_files_that_are_not_wanted(tmp_path: Path) -> None:
    refuse(tmp_path, make_tgz(member("a.txt", bytes(5_000_000)), member("a.png", b"x")), f"{MAX_EXPANSION} times its size")


def test_a_bomb_of_empty_files(tmp_path: Path) -> None:
    refuse(tmp_path, make_tgz(*(member(f"{i:05}.png") for i in range(5000))), f"{MAX_EXPANSION} times its size")


def header(kind: bytes, size: int) -> bytes:
    """A tar header that claims a content of `size` bytes."""
    return member("x", kind=kind, size=size)[0].tobuf(tarfile.GNU_FORMAT)


@pytest.mark.parametrize("kind", [tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE, tarfile.XGLTYPE])
def test_a_header_does_not_fill_the_memory(tmp_path: Path, kind: bytes) -> None:
    size = 64 << 20
    content = gzip.compress(header(kind, size) + bytes(size), compresslevel=1)
    tracemalloc.start()
    refuse(tmp_path, content, "a header that claims 67108864 bytes")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 << 20


def test_headers_without_end(tmp_path: Path) -> None:
    name = header(tarfile.GNUTYPE_LONGNAME, 2) + b"x".ljust(BLOCK, b"\0")
    refuse(tmp_path, gzip.compress(name * 5000), "is damaged")


def mend_checksum(block: bytearray) -> None:
    """Make a changed tar header valid again."""
    block[148:156] = b"%06o\0 " % (256 + sum(block[:148]) + sum(block[156:]))


@pytest.mark.parametrize("kind", [tarfile.REGTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE, b"Z"])
def test_a_negative_size(tmp_path: Path, kind: bytes) -> None:
    """It would send the reader back to the same header for ever."""
    block = bytearray(header(kind, 0))
    block[124:136] = b"\xff" * 4 + struct.pack(">q", -1024)
    mend_checksum(block)
    refuse(tmp_path, gzip.compress(bytes(block) + bytes(4096)), "is damaged")


# Damage ----------------------------------------------------------------------------------------------------------------

TAR = make_tar([member("a.png", NOISE), member("b.png", NOISE)])
TGZ = gzip.compress(TAR, mtime=0)
TEXT_TGZ = tgz_of({"a.png": " ".join(map(str, range(200_000))).encode()})
SECOND_HEADER = TAR.index(b"b.png")


def without_checksum(content: bytes) -> bytes:
    return content[:-8] + bytes(4) + content[-4:]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"<html>The collection has moved.</html>",
        TAR,
        TGZ[:5],
        TGZ[: len(TGZ) // 2],
        TGZ[:-4],
        TGZ[: len(TGZ) // 2] + b"\0\0\0\0" + TGZ[len(TGZ) // 2 + 4 :],
        TEXT_TGZ[: len(TEXT_TGZ) // 2] + b"\xff" * 20 + TEXT_TGZ[len(TEXT_TGZ) // 2 + 20 :],
        without_checksum(TGZ),
        TGZ + b"<html>",
        gzip.compress(b""),
        gzip.compress(b"no tar at all" * 100),
        gzip.compress(TAR[:3000]),
        gzip.compress(TAR[:SECOND_HEADER]),
        gzip.compress(TAR[: SECOND_HEADER + 100]),
        gzip.compress(TAR[:SECOND_HEADER] + NOISE[:BLOCK] + TAR[SECOND_HEADER + BLOCK :]),
        gzip.compress(TAR[:SECOND_HEADER] + bytes(1024) + TAR[SECOND_HEADER:]),
        gzip.compress(TAR + bytes(2 << 20)),
        make_tgz(member("a.png", NOISE, pax_headers={"GNU.sparse.major": "0", "GNU.sparse.minor": "1", "GNU.sparse.map": "many"})),
    ],
    ids=[
        "empty",
        "a web page",
        "not compressed",
        "cut in the gzip header",
        "cut in the middle",
        "cut in the checksum",
        "changed in the middle",
        "compression changed in the middle",
        "another checksum",
        "something behind it",
        "gzip of nothing",
        "gzip of something else",
        "tar cut in a file",
        "tar cut between files",
        "tar cut in a header",
        "a header overwritten",
        "an end in the middle",
        "an end too long",
        "a header without sense",
    ],
)
def test_damage(tmp_path: Path, content: bytes) -> None:
    refuse(tmp_path, content, r"films\.tgz is damaged \(.+\)\. Delete it, and the same command downloads it again")


SPARSE = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": "s.png", "GNU.sparse.realsize": "20"}
VARIED = make_tar([member("n" * 120 + ".png", b"a" * 600), member("s", b"1\n0\n9\n", pax_headers=SPARSE), member("b.png", b"b")])
HEADERS = [start for start in range(0, len(VARIED), BLOCK) if VARIED[start:][257:262] == b"ustar"]
OFFSETS = st.one_of(st.integers(0, BLOCK - 1), st.integers(124, 157))  # more often the size, the checksum and the kind


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=st.lists(st.tuples(st.integers(0, len(VARIED) // BLOCK - 1), OFFSETS, st.integers(0, 255)), min_size=1, max_size=12))
def test_any_change_of_the_tar_is_a_data_error_or_harmless(tmp_path: Path, changes: list[tuple[int, int, int]]) -> None:
    """Bytes changed beneath every checksum: an error that says so, or files within the folder."""
    tar = bytearray(VARIED)
    for block, offset, value in changes:
        tar[block * BLOCK + offset] = value
    for start in HEADERS:
        header_block = tar[start : start + BLOCK]
        mend_checksum(header_block)
        tar[start : start + BLOCK] = header_block
    source = tmp_path / "inside" / "source"
    shutil.rmtree(source, ignore_errors=True)
    source.mkdir(parents=True)
    (source / PNG.name).write_bytes(gzip.compress(bytes(tar)))
    try:
        unpack(PNG, source)
    except DataError:
        assert not (source / "films").exists()
    found = [path.relative_to(source).parts for path in tmp_path.rglob("*") if path.is_symlink() or path.is_file()]
    assert {parts[0] for parts in found} <= {"films.tgz", "films"}


# The disk --------------------------------------------------------------------------------------------------------------


def test_too_little_room_is_said_before_unpacking(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=9_999))
    refuse(tmp_path, TGZ, r"10,000 bytes are needed to unpack films\.tgz, 9,999 are free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=10_000))
    assert len(unpack_bytes(tmp_path, TGZ)) == 2


def test_a_disk_that_becomes_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class FullFile(io.FileIO):
        def write(self, data: Any) -> int:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def open_on_full_disk(path: Path, mode: str, **options: Any) -> io.FileIO:
        return (FullFile if path.name == "b.png" else io.FileIO)(path, mode, **options)

    monkeypatch.setattr(archive_module, "open", open_on_full_disk, raising=False)
    refuse(tmp_path, TGZ, r"the disk is full: 10,000 bytes are needed, [\d,]+ are free\..*films\.tgz is kept; the same command unpacks it")


def test_interrupted_while_unpacking(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "films.tgz").write_bytes(TGZ)

    def interrupt(*args: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "copyfileobj", interrupt)
        with pytest.raises(KeyboardInterrupt):
            unpack(PNG, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["films.tgz"]
    assert unpack(PNG, tmp_path) == 2


@pytest.mark.parametrize("sha256", ["abc", "A" * 64, "g" * 64, "0" * 65])
def test_what_is_no_sha256(sha256: str) -> None:
    with pytest.raises(DataError, match=r"films\.tgz: a SHA-256 is 64 digits"):
        Archive(name="films.tgz", folder="films", suffixes=(".png",), sha256=sha256)


def test_the_reports_of_open_i(test_data: Path, tmp_path: Path) -> None:
    """They compress well, and are no bomb: packed as the publisher packs them, 300 come out byte for byte."""
    files = {
        f"ecgen-radiology/{path.name}": path.read_bytes() for path in sorted((test_data / "openi" / "ecgen-radiology").iterdir())[:300]
    }
    archive = Archive(name="NLMCXR_reports.tgz", folder="ecgen-radiology", suffixes=(".xml",))
    content = tgz_of(files)
    assert sum(map(len, files.values())) > 5 * len(content)
    assert unpack_bytes(tmp_path, content, archive) == {name.split("/")[1]: text for name, text in files.items()}
