"""Open-i's archives, from a local server to the folders that `xraygpt prepare openi` reads."""

import hashlib
import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from tests.datasets.preparation.broken_server import Answer, BrokenServer
from tests.datasets.preparation.made_archives import make_tgz, member, read_folder, tgz_of
from xraygpt.common.errors import DataError
from xraygpt.datasets.preparation.download import OPENI_ARCHIVES, OPENI_COLLECTION, Archive, fetch_archives

FILMS = {"CXR1_1_IM-0001-3001.png": os.urandom(40_000), "CXR2_IM-0652-1001.png": os.urandom(30_000)}
REPORTS = {"1.xml": b"<eCitation>1</eCitation>", "2.xml": b"<eCitation>2</eCitation>"}
PNG = OPENI_ARCHIVES["png"]
PNG_TGZ = tgz_of(FILMS)
SHA256 = hashlib.sha256(PNG_TGZ).hexdigest()


@pytest.fixture(autouse=True)
def published(server: BrokenServer) -> None:
    """The server holds the collection."""
    server.files["NLMCXR_reports.tgz"] = tgz_of({f"ecgen-radiology/{name}": text for name, text in REPORTS.items()})
    server.files["NLMCXR_png.tgz"] = PNG_TGZ
    server.files["NLMCXR_dcm.tgz"] = tgz_of({"NLMCXR_dcm/1/1_IM-0001-3001.dcm": os.urandom(900), "NLMCXR_dcm/2/2_IM-0652-1001.dcm": b"x"})


def fetch(server: BrokenServer, folder: Path, archives: Sequence[Archive] = (PNG,), waits: Sequence[float] = (0.0, 0.0)) -> list[Path]:
    return fetch_archives(archives, folder, base_url=server.url, waits=waits)


def record(folder: Path, name: str = "NLMCXR_png.tgz") -> dict[str, object]:
    return json.loads((folder / "downloads.json").read_text())[name]


def test_the_collection(server: BrokenServer, tmp_path: Path) -> None:
    source = tmp_path / "new" / "openi"
    folders = fetch(server, source, list(OPENI_ARCHIVES.values()))
    assert folders == [source / "ecgen-radiology", source / "NLMCXR_png", source / "NLMCXR_dcm"]
    assert read_folder(folders[0]) == REPORTS
    assert read_folder(folders[1]) == FILMS
    assert list(read_folder(folders[2])) == ["1/1_IM-0001-3001.dcm", "2/2_IM-0652-1001.dcm"]
    archives = [archive.name for archive in OPENI_ARCHIVES.values()]
    assert {path.name for path in source.iterdir()} == {*archives, "downloads.json", *(folder.name for folder in folders)}
    assert record(source) == {
        "url": f"{server.url}NLMCXR_png.tgz",
        "bytes": len(PNG_TGZ),
        "etag": '"1"',
        "last_modified": "Mon, 05 May 2025 10:00:00 GMT",
        "sha256": SHA256,
        "files": 2,
    }


def test_the_official_addresses() -> None:
    assert OPENI_COLLECTION == "https://openi.nlm.nih.gov/imgs/collections/"
    assert {key: archive.name for key, archive in OPENI_ARCHIVES.items()} == {
        "reports": "NLMCXR_reports.tgz",
        "png": "NLMCXR_png.tgz",
        "dcm": "NLMCXR_dcm.tgz",
    }


def test_the_address_of_a_mirror_may_lack_its_last_slash(server: BrokenServer, tmp_path: Path) -> None:
    fetch_archives([PNG], tmp_path, base_url=server.url.rstrip("/"))
    assert read_folder(tmp_path / "NLMCXR_png") == FILMS


def test_what_is_there_is_not_fetched_again(server: BrokenServer, tmp_path: Path) -> None:
    """Neither with the archive nor, where room was needed, without it."""
    fetch(server, tmp_path)
    server.asked.clear()
    assert fetch(server, tmp_path) == [tmp_path / "NLMCXR_png"]
    (tmp_path / "NLMCXR_png.tgz").unlink()
    assert fetch(server, tmp_path, [replace(PNG, sha256=SHA256)]) == [tmp_path / "NLMCXR_png"]
    assert not server.asked


def test_a_broken_connection_and_a_later_call(server: BrokenServer, tmp_path: Path) -> None:
    server.answers.append(Answer(cut=20_000))
    with pytest.raises(DataError, match="goes on from byte 20,000"):
        fetch(server, tmp_path, waits=())
    assert not (tmp_path / "NLMCXR_png").exists()
    fetch(server, tmp_path)
    assert [asked.range for asked in server.asked] == [None, "bytes=20000-"]
    assert read_folder(tmp_path / "NLMCXR_png") == FILMS


def test_one_missing_archive_does_not_cost_the_others(server: BrokenServer, tmp_path: Path) -> None:
    del server.files["NLMCXR_png.tgz"]
    with pytest.raises(DataError, match=r"NLMCXR_png\.tgz: the server answered 404"):
        fetch(server, tmp_path, [OPENI_ARCHIVES["reports"], PNG])
    assert read_folder(tmp_path / "ecgen-radiology") == REPORTS
    assert record(tmp_path, "NLMCXR_reports.tgz")["files"] == 2


def test_an_archive_put_there_by_hand(server: BrokenServer, tmp_path: Path) -> None:
    (tmp_path / PNG.name).write_bytes(PNG_TGZ)
    fetch(server, tmp_path)
    assert not server.asked
    assert record(tmp_path) == {"url": "", "bytes": len(PNG_TGZ), "etag": "", "last_modified": "", "sha256": SHA256, "files": 2}


# Checksums -------------------------------------------------------------------------------------------------------------


def test_the_sha256_that_is_asked_for(server: BrokenServer, tmp_path: Path) -> None:
    fetch(server, tmp_path / "right", [replace(PNG, sha256=SHA256)])
    with pytest.raises(DataError, match=rf"NLMCXR_png\.tgz has SHA-256 {SHA256}, and {'0' * 64} was asked for"):
        fetch(server, tmp_path / "wrong", [replace(PNG, sha256="0" * 64)])
    assert not (tmp_path / "wrong" / "NLMCXR_png").exists()
    with pytest.raises(DataError, match=rf"unpacked from an archive with SHA-256 {SHA256}, and {'0' * 64} was asked for"):
        fetch(server, tmp_path / "right", [replace(PNG, sha256="0" * 64)])


def test_a_later_download_that_differs(server: BrokenServer, tmp_path: Path) -> None:
    """It is an error with both values, again and again, until the user decides."""
    fetch(server, tmp_path)
    shutil.rmtree(tmp_path / "NLMCXR_png")
    (tmp_path / PNG.name).unlink()
    changed = {"CXR1_1_IM-0001-3001.png": os.urandom(1000)}
    server.files[PNG.name] = tgz_of(changed)
    sha256 = hashlib.sha256(server.files[PNG.name]).hexdigest()
    for _ in range(2):
        with pytest.raises(DataError, match=rf"has SHA-256 {sha256}, and {SHA256} is what downloads\.json holds"):
            fetch(server, tmp_path)
    assert not (tmp_path / "NLMCXR_png").exists()
    (tmp_path / "downloads.json").unlink()
    fetch(server, tmp_path)
    assert read_folder(tmp_path / "NLMCXR_png") == changed


def test_an_existing_archive_that_differs(server: BrokenServer, tmp_path: Path) -> None:
    fetch(server, tmp_path)
    shutil.rmtree(tmp_path / "NLMCXR_png")
    (tmp_path / PNG.name).write_bytes(PNG_TGZ[:-1] + b"x")
    with pytest.raises(DataError, match=SHA256):
        fetch(server, tmp_path)
    (tmp_path / PNG.name).unlink()
    fetch(server, tmp_path)
    assert read_folder(tmp_path / "NLMCXR_png") == FILMS


def test_a_damaged_download_can_be_replaced(server: BrokenServer, tmp_path: Path) -> None:
    """Its SHA-256 is not kept: the right archive must not be held against it."""
    server.answers.append(Answer(stated_length="5000"))
    for _ in range(2):
        with pytest.raises(DataError, match=r"NLMCXR_png\.tgz is damaged .* Delete it, and the same command downloads it again"):
            fetch(server, tmp_path)
    (tmp_path / PNG.name).unlink()
    fetch(server, tmp_path)
    assert read_folder(tmp_path / "NLMCXR_png") == FILMS


# What lies in the folder already ---------------------------------------------------------------------------------------


def test_a_deleted_folder_is_filled_from_the_archive(server: BrokenServer, tmp_path: Path) -> None:
    fetch(server, tmp_path)
    server.asked.clear()
    shutil.rmtree(tmp_path / "NLMCXR_png")
    fetch(server, tmp_path)
    assert read_folder(tmp_path / "NLMCXR_png") == FILMS
    assert not server.asked
    assert record(tmp_path)["url"] == f"{server.url}NLMCXR_png.tgz"


def test_an_incomplete_folder(server: BrokenServer, tmp_path: Path) -> None:
    fetch(server, tmp_path)
    next((tmp_path / "NLMCXR_png").iterdir()).unlink()
    with pytest.raises(DataError, match=r"NLMCXR_png holds 1 files, NLMCXR_png\.tgz 2\. Delete the folder"):
        fetch(server, tmp_path)


@pytest.mark.parametrize("kind", ["folder", "file", "dangling link"])
def test_what_no_download_made_is_left_alone(server: BrokenServer, tmp_path: Path, kind: str) -> None:
    own = tmp_path / "NLMCXR_png"
    if kind == "folder":
        own.mkdir()
        (own / "own.png").write_bytes(b"own")
    elif kind == "file":
        own.write_bytes(b"own")
    else:
        own.symlink_to(tmp_path / "nowhere")
    with pytest.raises(DataError, match="NLMCXR_png exists, but no download made it"):
        fetch(server, tmp_path)
    assert not server.asked
    assert [path.name for path in tmp_path.iterdir()] == ["NLMCXR_png"]


def test_interrupted_between_download_and_unpacking(server: BrokenServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*args: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "copyfileobj", interrupt)
        with pytest.raises(KeyboardInterrupt):
            fetch(server, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["NLMCXR_png.tgz", "downloads.json"]
    assert (record(tmp_path)["sha256"], record(tmp_path)["files"]) == ("", 0)
    fetch(server, tmp_path)
    assert len(server.asked) == 1
    assert record(tmp_path)["sha256"] == SHA256
    assert record(tmp_path)["url"] == f"{server.url}NLMCXR_png.tgz"


@pytest.mark.parametrize(
    "text", ["", "[]", "{", '{"NLMCXR_png.tgz": []}', '{"NLMCXR_png.tgz": {"files": "2"}}', '{"NLMCXR_png.tgz": {"x": 1}}']
)
def test_a_damaged_record(server: BrokenServer, tmp_path: Path, text: str) -> None:
    (tmp_path / "downloads.json").write_text(text)
    with pytest.raises(DataError, match=r"downloads\.json is no record of downloads"):
        fetch(server, tmp_path)
    assert not server.asked


def test_a_destination_that_is_no_folder(server: BrokenServer, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="file: the archives cannot be kept there"):
        fetch(server, tmp_path / "file")


def test_what_is_no_web_address_makes_no_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="begins with https:// or http:// was expected"):
        fetch_archives([PNG], tmp_path / "new", base_url="file:///srv/mirror")
    assert not list(tmp_path.iterdir())


def test_an_archive_that_leaves_its_folder(server: BrokenServer, tmp_path: Path) -> None:
    server.files[PNG.name] = make_tgz(member("../../own.png", b"x" * 500))
    with pytest.raises(DataError, match=r"'\.\./\.\./own\.png' leaves the folder"):
        fetch(server, tmp_path / "a" / "b")
    assert not list(tmp_path.rglob("*.png"))
