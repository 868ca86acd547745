"""Open-i in both layouts → prepared folder, on small downloads made here and on the real ones."""

import csv
import hashlib
import json
import logging
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.datasets.preparation.chat_server import Reply, chat_server
from xraygpt import __version__
from xraygpt.cli.main import main
from xraygpt.common.errors import DataError
from xraygpt.datasets.preparation.account import Account
from xraygpt.datasets.preparation.openi import OpenISource
from xraygpt.datasets.preparation.openi_reports import canonical_id, parse_xml_report, read_projections
from xraygpt.datasets.preparation.pipeline import PrepareOptions, prepare

FINDINGS = "The heart is normal in size. The lungs are clear. No pleural effusion is seen."
IMPRESSION = "No acute disease."
CAPTION = f"{FINDINGS} {IMPRESSION}"


def write_report(source: Path, study: str, *, findings: str = FINDINGS, impression: str = IMPRESSION, images: tuple[str, ...] = ()) -> None:
    folder = source / "ecgen-radiology"
    folder.mkdir(parents=True, exist_ok=True)
    parents = "".join(f'<parentImage id="{image}"><caption>PA and lateral</caption></parentImage>' for image in images)
    (folder / f"{study.removeprefix('CXR')}.xml").write_text(
        f'<?xml version="1.0" encoding="utf-8"?><eCitation><uId id="{study}"/><MedlineCitation><Article><Abstract>'
        f'<AbstractText Label="COMPARISON">None.</AbstractText><AbstractText Label="FINDINGS">{findings}</AbstractText>'
        f'<AbstractText Label="IMPRESSION">{impression}</AbstractText></Abstract></Article></MedlineCitation>{parents}</eCitation>'
    )


def write_image(source: Path, image_id: str, suffix: str = ".png", *, folder: str = "NLMCXR_png") -> None:
    (source / folder).mkdir(parents=True, exist_ok=True)
    seed = zlib.crc32(image_id.encode())
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (8, 8), dtype=np.uint8)).save(source / folder / f"{image_id}{suffix}")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Three good studies (one with a frontal and a lateral image) and one for every way to be left out."""
    source = tmp_path / "download"
    write_report(source, "CXR1", images=("CXR1_1", "CXR1_2"))
    write_report(source, "CXR2", images=("CXR2_1",))
    write_report(source, "CXR3", images=("CXR3_1",))
    write_report(source, "CXR4", findings="", images=("CXR4_1",))
    write_report(source, "CXR5", impression="", images=("CXR5_1",))
    write_report(source, "CXR6", findings="Clear lungs.", images=("CXR6_1",))
    write_report(source, "CXR7", impression="Normal.", images=("CXR7_1",))
    write_report(source, "CXR8", findings="Stable. " * 10, impression="No change.", images=("CXR8_1",))
    write_report(source, "CXR9")
    write_report(source, "CXR10", images=("CXR10_unknown", "CXR10_missing", "CXR10_damaged"))
    for image_id in ("CXR1_1", "CXR1_2", "CXR2_1", "CXR4_1", "CXR10_unknown"):
        write_image(source, image_id)
    write_image(source, "CXR3_1", ".jpg")
    (source / "NLMCXR_png" / "CXR10_damaged.png").write_bytes(b"")
    rows = [
        "CXR1_1,1,Frontal",
        "CXR1_2,1,Lateral",
        "CXR2_1,2,Frontal",
        "CXR3_1,3,Frontal",
        "CXR10_missing,10,Frontal",
        "CXR10_damaged,10,Frontal",
    ]
    (source / "images.csv").write_text("image,uid,projection\n" + "\n".join(rows) + "\n")
    return source


def annotations(out: Path) -> list[dict[str, Any]]:
    return json.loads((out / "filter_cap.json").read_text())["annotations"]


def run(source: Path, out: Path, *, projections: Path | None = None, **options: Any) -> dict[str, Any]:
    return prepare(OpenISource(source, projections=projections), PrepareOptions(**{"out": out, "workers": 1} | options))


def test_every_filter_is_counted(source: Path, tmp_path: Path) -> None:
    manifest = run(source, tmp_path / "out")
    assert list(manifest["counts"].items()) == [
        ("reports", 10),
        ("reports unreadable", 0),
        ("without findings", 1),
        ("without impression", 1),
        ("findings under 10 words", 1),
        ("impression under 2 words", 1),
        ("nothing left after cleaning", 1),
        ("without images", 1),
        ("images of lateral view", 1),
        ("images of unknown view", 1),
        ("image named twice", 0),
        ("images missing", 1),
        ("images unreadable", 1),
        ("copies of another image", 0),
        ("images kept", 3),
    ]


def test_annotations_and_images(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(source, out)
    rows = annotations(out)
    assert rows[0] == {"image_id": "CXR1_1", "caption": CAPTION, "study_id": "CXR1", "split": "train", "view": "frontal"}
    assert sorted(path.name for path in (out / "image").iterdir()) == ["CXR1_1.png", "CXR2_1.png", "CXR3_1.jpg"]
    assert {row["image_id"] for row in rows} == {"CXR1_1", "CXR2_1", "CXR3_1"}


def test_an_unknown_view_is_not_claimed(source: Path, tmp_path: Path) -> None:
    run(source, tmp_path / "out", views=("all",))
    views = {row["image_id"]: row.get("view") for row in annotations(tmp_path / "out")}
    assert views["CXR10_unknown"] is None
    assert views["CXR1_2"] == "lateral"


def test_without_a_table_of_views_the_error_says_what_to_do(source: Path, tmp_path: Path) -> None:
    (source / "images.csv").unlink()
    with pytest.raises(DataError, match=r"give a table of views .*--views all"):
        run(source, tmp_path / "out")
    run(source, tmp_path / "out", views=("all",))


def test_manifest(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    returned = run(source, out)
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest == returned
    assert manifest["versions"]["xraygpt"] == __version__
    assert {key: manifest["options"][key] for key in ("layout", "projections", "views", "text")} == {
        "layout": "xml", "projections": "images.csv", "views": ["frontal"], "text": "summary",
    }  # fmt: skip
    assert {name: entry["count"] for name, entry in manifest["sources"].items()} == {"reports": 10, "tables": 1, "images": 3}
    assert manifest["sha256"]["filter_cap.json"] == hashlib.sha256((out / "filter_cap.json").read_bytes()).hexdigest()


def test_a_failed_replacement_keeps_the_old_folder(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(source, out)
    (source / "images.csv").unlink()
    with pytest.raises(DataError):
        run(source, out, overwrite=True)
    assert len(annotations(out)) == 3


def test_the_source_itself_is_never_overwritten(source: Path) -> None:
    with pytest.raises(DataError, match=r"no prepared folder"):
        run(source, source, overwrite=True)
    assert (source / "images.csv").exists()


# The official XML files -------------------------------------------------------------------------------------------------


BOMB = '<?xml version="1.0"?><!DOCTYPE a [<!ENTITY b "c">]><eCitation><uId id="CXR1"/>&b;</eCitation>'


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("<eCitation>", "no readable Open-i report"),
        ("", "no readable Open-i report"),
        (BOMB, "no readable Open-i report"),
        ("<eCitation/>", "'' cannot be an identifier"),
        ('<eCitation><uId id="CXR1"/><parentImage id="../../x"/></eCitation>', "'../../x' cannot be an identifier"),
    ],
    ids=["cut", "empty", "entities", "no-study", "path"],
)
def test_a_bad_report_is_named_and_does_not_stop_the_rest(source: Path, tmp_path: Path, text: str, reason: str) -> None:
    with pytest.raises(DataError, match=rf"17\.xml: {reason}"):
        parse_xml_report(text.encode(), Path("17.xml"))
    (source / "ecgen-radiology/17.xml").write_text(text)
    manifest = run(source, tmp_path / "out")
    assert manifest["counts"]["reports unreadable"] == 1
    assert manifest["counts"]["images kept"] == 3
    with pytest.raises(DataError, match=r"17\.xml"):
        run(source, tmp_path / "strict", on_error="stop")


def test_a_study_that_occurs_twice_is_read_once(source: Path, tmp_path: Path) -> None:
    reports = source / "ecgen-radiology"
    (reports / "99.xml").write_bytes((reports / "1.xml").read_bytes())
    manifest = run(source, tmp_path / "out")
    assert [row["reason"] for row in manifest["skipped"] if row["kind"] == "report"] == [
        "ecgen-radiology/99.xml: the study CXR1 has been read already, from 1.xml; each study is one file."
    ]


def test_dicom_files_in_folders_of_their_studies(source: Path, tmp_path: Path, test_data: Path) -> None:
    (source / "NLMCXR_png").rename(tmp_path / "away")
    (source / "NLMCXR_dcm/1").mkdir(parents=True)
    (source / "NLMCXR_dcm/1/CXR1_1.dcm").write_bytes((test_data / "dicom/fodicom-CR-MONO1-10-chest.dcm").read_bytes())
    manifest = run(source, tmp_path / "out")
    assert (manifest["counts"]["images kept"], manifest["counts"]["images missing"]) == (1, 4)
    assert [path.name for path in (tmp_path / "out/image").iterdir()] == ["CXR1_1.jpg"]


@pytest.mark.parametrize("missing", ["ecgen-radiology", "NLMCXR_png"])
def test_a_source_without_its_folders_is_explained(source: Path, tmp_path: Path, missing: str) -> None:
    (source / missing).rename(tmp_path / "elsewhere")
    with pytest.raises(DataError, match=missing):
        OpenISource(source)


# The tables -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def tables(tmp_path: Path) -> Path:
    """The same good studies as tables, and a line for what can be wrong in one."""
    folder = tmp_path / "tables"
    for name in ("1_IM-0001-4001.dcm", "1_IM-0001-3001.dcm", "2_IM-0652-1001.dcm"):
        write_image(folder, name, folder="images/images_normalized")
    with open(folder / "indiana_reports.csv", "w", newline="", encoding="utf-8-sig") as handle:
        writer = csv.writer(handle)
        writer.writerow(["uid", "MeSH", "image", "findings", "impression"])
        writer.writerows([["1", "normal", "PA", FINDINGS.replace(". ", ".\n"), IMPRESSION], ["2", "normal", "PA", FINDINGS, IMPRESSION]])
        writer.writerows([["1", "normal", "PA", FINDINGS, IMPRESSION], ["../3", "normal", "PA", FINDINGS, IMPRESSION]])
    (folder / "indiana_projections.csv").write_text(
        "uid,filename,projection\n1,1_IM-0001-4001.dcm.png,Frontal\n1,1_IM-0001-3001.dcm.png,Lateral\n2,2_IM-0652-1001.dcm.png,Frontal\n"
    )
    return folder


def test_the_tables_give_the_same_names_and_texts(tables: Path, tmp_path: Path) -> None:
    manifest = run(tables, tmp_path / "out")
    assert annotations(tmp_path / "out") == [
        {"image_id": name, "caption": CAPTION, "study_id": name.split("_")[0], "split": "train", "view": "frontal"}
        for name in ("CXR1_IM-0001-4001", "CXR2_IM-0652-1001")
    ]
    assert manifest["options"]["layout"] == "csv"
    assert [row["reason"] for row in manifest["skipped"]] == [
        "indiana_reports.csv, line 6: the study CXR1 has been read already, from line 2.",
        "indiana_reports.csv, line 7: the uid must be a number, not '../3'.",
    ]


def test_a_table_without_a_column_is_refused(tables: Path) -> None:
    (tables / "indiana_reports.csv").write_text("uid,findings\n1,x\n")
    with pytest.raises(DataError, match=r"there is no column 'impression'; found uid, findings"):
        list(OpenISource(tables).studies(Account()))


@pytest.mark.parametrize(
    ("name", "identifier"),
    [
        ("CXR4_IM-2050-1001.png", "CXR4_IM-2050-1001"),
        ("4_IM-2050-1001.dcm.png", "CXR4_IM-2050-1001"),
        ("4_IM-2050-1001.dcm", "CXR4_IM-2050-1001"),
        ("CXR1_1_IM-0001-3001", "CXR1_IM-0001-3001"),
        ("1000_IM-0003-3001.dcm.png", "CXR1000_IM-0003-3001"),
        ("something.png", "something"),
    ],
)
def test_an_image_has_one_name_in_every_layout(name: str, identifier: str) -> None:
    assert canonical_id(name) == identifier


@pytest.mark.parametrize("text", ["image,projection\nCXR1,Oblique\n", "image,view\nCXR1,Frontal\n", "projection\nFrontal\n"])
def test_a_bad_table_of_views_is_named_with_its_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "views.csv"
    path.write_text(text)
    with pytest.raises(DataError, match=r"views\.csv, line 2"):
        read_projections(path, Account())


# The command, and the real data -----------------------------------------------------------------------------------------


def test_command_line(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["prepare", "openi", "--source", str(source), "--out", str(tmp_path / "out"), "--workers", "1"]
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    assert "images kept                                     3" in printed
    assert "fingerprint " in printed
    assert main(arguments) == 1
    assert "exists already" in capsys.readouterr().err


def test_real_data_give_the_same_text_in_both_layouts(test_data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The 120 studies that lie here as tables, also read from their XML files; every caption free of marks and stray punctuation."""
    caplog.set_level(logging.ERROR)
    tables = test_data / "openi_kaggle_sample"
    source = tmp_path / "download"
    (source / "ecgen-radiology").mkdir(parents=True)
    with open(tables / "indiana_reports.csv", newline="", encoding="utf-8") as handle:
        for row in csv.DictReader(handle):
            path = test_data / "openi/ecgen-radiology" / f"{row['uid']}.xml"
            (source / "ecgen-radiology" / path.name).symlink_to(path)
    (source / "NLMCXR_png").symlink_to(test_data / "openi/NLMCXR_png")
    run(source, tmp_path / "xml", projections=test_data / "openi/images.csv", views=("all",))
    run(tables, tmp_path / "csv", views=("all",))
    xml, table = ({row["image_id"]: row for row in annotations(tmp_path / name)} for name in ("xml", "csv"))
    assert len(xml.keys() & table.keys()) > 150
    assert all(xml[name] == table[name] for name in xml.keys() & table.keys())
    marks = ("XXXX", " ,", " .", "..", ",,", "  ")
    assert not [row["caption"] for row in xml.values() if any(mark in row["caption"] for mark in marks)]


def test_a_rewriter_writes_the_texts_that_pass_the_audit(source: Path, tmp_path: Path) -> None:
    """The shared report is rewritten faithfully, that of CXR2 with a finding that is not its own."""
    write_report(source, "CXR2", impression="No acute cardiopulmonary disease.", images=("CXR2_1",))
    faithful = "Heart size normal. Lungs clear, no pleural effusion. No acute disease."

    def answer(request: dict[str, Any]) -> Reply:
        is_other = "cardiopulmonary" in request["messages"][-1]["content"]
        return Reply(text=f"{CAPTION} There is a large pneumothorax." if is_other else faithful)

    with chat_server(answer) as server:
        model = ["--rewriter", "openai", "--base-url", server.base_url, "--model", "m"]
        assert main(["prepare", "openi", "--source", str(source), "--workers", "1", *model, "--out", str(tmp_path / "out")]) == 0
    captions = {row["image_id"]: row["caption"] for row in annotations(tmp_path / "out")}
    assert captions["CXR1_1"] == captions["CXR3_1"] == faithful
    assert "pneumothorax" not in captions["CXR2_1"] and "cardiopulmonary" in captions["CXR2_1"]
    manifest = json.loads((tmp_path / "out/manifest.json").read_text())
    rejected = [name for name, number in manifest["counts"].items() if name.startswith("rejected") and number]
    assert (manifest["counts"]["rewritten"], len(rejected)) == (3, 1)
    assert manifest["options"]["rewriter"]["model"] == "m"
    assert (tmp_path / "out.rewrites.sqlite").exists()
