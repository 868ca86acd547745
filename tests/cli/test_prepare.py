"""`xraygpt prepare`: the command lines that the documentation shows, on small sources made here."""

import csv
import functools
import http.server
import json
import os
import re
import subprocess
import sys
import tarfile
import threading
from pathlib import Path
from typing import Any

import pytest

from tests.datasets.preparation.made_source import write_noise
from xraygpt.cli.main import main
from xraygpt.common.files import sha256_file


@pytest.fixture
def hospital(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """my_hospital/ with a table and two films, in the working directory."""
    monkeypatch.chdir(tmp_path)
    folder = Path("my_hospital")
    for number in (1, 2):
        write_noise(folder / f"films/{number:04d}.png", seed=number, size=(90, 80))
    (folder / "reports.csv").write_text(
        "file,patient,report\n"
        'films/0001.png,P17,"Heart size is normal. The lungs are clear."\n'
        'films/0002.png,P17,"Small left pleural effusion."\n'
        "films/0003.png,P18,Normal.\n"
        'films/0001.png,P19,"The same film again."\n'
        "films/0002.png,P20,\n"
    )
    return folder


def prepare(*arguments: str) -> int:
    return main(["prepare", *arguments, "--workers", "1"])


def manifest(folder: str) -> dict[str, Any]:
    return json.loads(Path(folder, "manifest.json").read_text())


TABLE = ("table", "--source", "my_hospital/reports.csv", "--image-column", "file", "--report-column", "report", "--group-column", "patient")


def test_own_data(hospital: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert prepare(*TABLE, "--out", "data/my_hospital") == 0
    rows = json.loads(Path("data/my_hospital/filter_cap.json").read_text())["annotations"]
    assert [(row["image_id"], row["subject_id"], row["caption"]) for row in rows] == [
        ("films/0001", "P17", "Heart size is normal. The lungs are clear."),
        ("films/0002", "P17", "Small left pleural effusion."),
    ]
    assert len({row["split"] for row in rows}) == 1
    reasons = " ".join(row["reason"] for row in manifest("data/my_hospital")["skipped"])
    assert all(f"line {line}" in reasons for line in (4, 5))
    assert "Written to data/my_hospital" in capsys.readouterr().out


def test_own_data_trains_by_yaml_alone(hospital: Path) -> None:
    from xraygpt.common.schema import check_section
    from xraygpt.datasets.builders import DatasetConfig, FolderBuilder

    prepare(*TABLE, "--out", "data/my_hospital")
    processor = {"train": {"name": "blip2_image_eval", "image_size": 28}, "eval": {"name": "blip2_image_eval", "image_size": 28}}
    text = {"train": {"name": "report_text"}, "eval": {"name": "report_text"}}
    block = {"type": "folder", "storage": "data/my_hospital", "vis_processor": processor, "text_processor": text}
    cfg, problems = check_section(DatasetConfig, block, "datasets.my_hospital")
    assert problems == []
    (dataset,) = FolderBuilder(cfg).build_datasets().values()
    assert tuple(dataset[0]["image"].shape) == (3, 28, 28)
    assert dataset[0]["caption"] == "Heart size is normal. The lungs are clear."


def test_images_alone(hospital: Path) -> None:
    assert prepare("images", "--source", "my_hospital/films", "--out", "data/films", "--resize", "64", "--format", "png") == 0
    assert [row["image_id"] for row in json.loads(Path("data/films/filter_cap.json").read_text())["annotations"]] == ["0001", "0002"]
    assert manifest("data/films")["options"]["images"] == {"resize": 64, "format": "png", "window": 0, "force_modality": False}


def test_the_dicom_options_reach_the_images(hospital: Path) -> None:
    prepare("images", "--source", "my_hospital/films", "--out", "a", "--window", "BONE", "--force-modality")
    prepare("images", "--source", "my_hospital/films", "--out", "b", "--window", "2")
    assert manifest("a")["options"]["images"] == {"resize": 0, "format": "jpeg", "window": "BONE", "force_modality": True}
    assert manifest("b")["options"]["images"]["window"] == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--rewriter", "openai", "--text", "summary"), "needs --base-url"),
        (("--rewriter", "openai", "--base-url", "http://127.0.0.1:1/v1", "--model", "m"), "add --text summary"),
        (("--resize", "7"), "--resize must be 32 to 8192"),
        (("--workers", "0"), "--workers must be at least 1, got 0"),
        (("--on-error", "stop"), "line 5"),
        (("--image-column", "fil"), "Did you mean 'file'"),
    ],
)
def test_what_cannot_work_is_told(hospital: Path, arguments: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["prepare", *TABLE, "--out", "out", "--workers", "1", *arguments]) == 1
    assert message in capsys.readouterr().err
    assert not Path("out").exists()


def test_download_then_prepare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The archives come from a mirror on this machine, and are prepared at once."""
    monkeypatch.chdir(tmp_path)
    parent = '<parentImage id="CXR7_IM-0007-1001"/>'
    sections = {"FINDINGS": "The heart is normal in size. The lungs are clear of effusion.", "IMPRESSION": "No acute disease."}
    texts = "".join(f'<AbstractText Label="{label}">{text}</AbstractText>' for label, text in sections.items())
    Path("made/ecgen-radiology").mkdir(parents=True)
    Path("made/ecgen-radiology/7.xml").write_text(f'<eCitation><uId id="CXR7"/>{texts}{parent}</eCitation>')
    write_noise(Path("made/CXR7_IM-0007-1001.png"), seed=7)
    Path("www").mkdir()
    for name, member in (("NLMCXR_reports.tgz", "ecgen-radiology"), ("NLMCXR_png.tgz", "CXR7_IM-0007-1001.png")):
        with tarfile.open(f"www/{name}", "w:gz") as archive:
            archive.add(f"made/{member}", arcname=member)
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory="www")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        mirror = f"http://127.0.0.1:{server.server_address[1]}/"
        arguments = ["openi", "--source", "raw", "--download", "--mirror", mirror, "--views", "all", "--out", "data/openi"]
        assert prepare(*arguments, "--sha256", "NLMCXR_gif.tgz=0") == 1
        assert "NLMCXR_gif.tgz is not fetched" in capsys.readouterr().err
        assert prepare(*arguments, "--sha256", f"NLMCXR_png.tgz={'0' * 64}") == 1
        assert "0" * 64 in capsys.readouterr().err
        assert prepare(*arguments, "--sha256", f"NLMCXR_png.tgz={sha256_file('www/NLMCXR_png.tgz').upper()}") == 0
        server.shutdown()
    (row,) = json.loads(Path("data/openi/filter_cap.json").read_text())["annotations"]
    assert row["image_id"] == "CXR7_IM-0007-1001"


def test_names_of_images_neither_command_the_terminal_nor_forge_lines(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write_noise(tmp_path / "films" / "a.png", seed=1, size=(90, 80))
    for name in (b"=b\x1b[2J\n2026 [INFO] forged.png", "c\u202egnp.png".encode(), b"d\xff.png"):
        try:
            Path(os.fsdecode(os.fsencode(tmp_path / "films") + b"/" + name)).write_bytes(b"damaged")
        except OSError:
            pytest.skip("this file system takes no such names")
    words = ["prepare", "images", "--source", str(tmp_path / "films"), "--out", str(tmp_path / "out"), "--workers", "1"]
    done = subprocess.run([sys.executable, "-m", "xraygpt.cli.main", *words], capture_output=True)
    assert done.returncode == 0, done.stderr
    shown = (done.stdout + done.stderr).decode()
    assert shown.count("Left out: ") == 3 and r"=b\x1b[2J\n2026 [INFO] forged.png" in shown and r"d\xff.png" in shown
    assert not {"\x1b", "\u202e"} & set(shown)
    assert not re.search(r"^2026 \[INFO\] forged", shown, re.MULTILINE)
    for name in ("dropped.csv", "sources.csv", "manifest.json", "README.md"):
        (tmp_path / "out" / name).read_text(encoding="utf-8")
    with open(tmp_path / "out" / "dropped.csv", newline="", encoding="utf-8") as handle:
        cells = [cell for row in csv.reader(handle) for cell in row]
    assert r"d\xff.png" in cells and not [cell for cell in cells if cell[:1] in set("=+-@")]
