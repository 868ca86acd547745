"""Open-i's download → prepared folder, on a small download made here and on the real one."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from xraygpt import __version__
from xraygpt.cli.main import main
from xraygpt.common.errors import DataError
from xraygpt.datasets.preparation import openi
from xraygpt.datasets.preparation.openi import OpenIOptions, prepare_openi, read_projections, read_report

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


def write_image(source: Path, image_id: str, suffix: str = ".png") -> None:
    folder = source / "NLMCXR_png"
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((8, 8), 90, dtype=np.uint8)).save(folder / f"{image_id}{suffix}")


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


def test_every_filter_is_counted(source: Path, tmp_path: Path) -> None:
    manifest = prepare_openi(OpenIOptions(source=source, out=tmp_path / "out"))
    assert list(manifest["counts"].items()) == [
        ("reports", 10),
        ("without findings", 1),
        ("without impression", 1),
        ("findings under 10 words", 1),
        ("impression under 2 words", 1),
        ("nothing left after cleaning", 1),
        ("without images", 1),
        ("images of lateral view", 1),
        ("images of unknown view", 1),
        ("images missing", 1),
        ("images unreadable", 1),
        ("images kept", 3),
    ]


def test_annotations_and_images(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    prepare_openi(OpenIOptions(source=source, out=out))
    rows = annotations(out)
    assert rows[0] == {"image_id": "CXR1_1", "caption": CAPTION, "study_id": "CXR1", "split": "train", "view": "frontal"}
    assert sorted(path.name for path in (out / "image").iterdir()) == ["CXR1_1.png", "CXR2_1.png", "CXR3_1.jpg"]
    assert {row["image_id"] for row in rows} == {"CXR1_1", "CXR2_1", "CXR3_1"}


@pytest.mark.parametrize(
    ("views", "expected"),
    [
        ("frontal", ["CXR1_1", "CXR2_1", "CXR3_1"]),
        ("lateral", ["CXR1_2"]),
        ("both", ["CXR10_unknown", "CXR1_1", "CXR1_2", "CXR2_1", "CXR3_1"]),
    ],
)
def test_views(source: Path, tmp_path: Path, views: str, expected: list[str]) -> None:
    prepare_openi(OpenIOptions(source=source, out=tmp_path / "out", views=views))
    assert sorted(row["image_id"] for row in annotations(tmp_path / "out")) == expected


def test_an_unknown_view_is_not_claimed(source: Path, tmp_path: Path) -> None:
    prepare_openi(OpenIOptions(source=source, out=tmp_path / "out", views="both"))
    views = {row["image_id"]: row.get("view") for row in annotations(tmp_path / "out")}
    assert views["CXR10_unknown"] is None
    assert views["CXR1_2"] == "lateral"


def test_without_a_table_of_views_the_error_says_what_to_do(source: Path, tmp_path: Path) -> None:
    (source / "images.csv").unlink()
    with pytest.raises(DataError, match=r"--projections, or keep all with --views both"):
        prepare_openi(OpenIOptions(source=source, out=tmp_path / "out"))
    prepare_openi(OpenIOptions(source=source, out=tmp_path / "out", views="both"))


def test_manifest(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    returned = prepare_openi(OpenIOptions(source=source, out=out))
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest == returned
    assert manifest["xraygpt_version"] == __version__
    assert manifest["options"]["views"] == "frontal"
    assert {name: entry["count"] for name, entry in manifest["sources"].items()} == {"reports": 10, "projections": 1, "images": 3}
    assert manifest["sha256"]["filter_cap.json"] == hashlib.sha256((out / "filter_cap.json").read_bytes()).hexdigest()


def test_the_same_source_gives_the_same_folder(source: Path, tmp_path: Path) -> None:
    first, second = (prepare_openi(OpenIOptions(source=source, out=tmp_path / name)) for name in ("a", "b"))
    assert first["sha256"] == second["sha256"]
    assert first["sources"] == second["sources"]
    (source / "NLMCXR_png" / "CXR2_1.png").unlink()
    write_image(source, "CXR2_1", ".jpeg")
    third = prepare_openi(OpenIOptions(source=source, out=tmp_path / "c"))
    assert third["sources"]["images"] != first["sources"]["images"]


def test_an_interrupted_preparation_leaves_nothing(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(openi, "write_annotations", interrupted)
    with pytest.raises(KeyboardInterrupt):
        prepare_openi(OpenIOptions(source=source, out=tmp_path / "out"))
    assert [path.name for path in tmp_path.iterdir()] == ["download"]


def test_a_prepared_folder_is_replaced_only_when_asked(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    prepare_openi(OpenIOptions(source=source, out=out))
    with pytest.raises(DataError, match="exists already"):
        prepare_openi(OpenIOptions(source=source, out=out, views="lateral"))
    prepare_openi(OpenIOptions(source=source, out=out, views="lateral", overwrite=True))
    assert [row["image_id"] for row in annotations(out)] == ["CXR1_2"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["download", "out"]


def test_a_failed_replacement_keeps_the_old_folder(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    prepare_openi(OpenIOptions(source=source, out=out))
    (source / "images.csv").unlink()
    with pytest.raises(DataError):
        prepare_openi(OpenIOptions(source=source, out=out, overwrite=True))
    assert len(annotations(out)) == 3


def test_a_folder_that_is_no_prepared_one_is_never_overwritten(source: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no prepared folder"):
        prepare_openi(OpenIOptions(source=source, out=source, overwrite=True))
    assert (source / "images.csv").exists()


BOMB = '<?xml version="1.0"?><!DOCTYPE a [<!ENTITY b "c">]><eCitation><uId id="CXR1"/>&b;</eCitation>'


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("<eCitation>", "no readable Open-i report"),
        ("", "no readable Open-i report"),
        (BOMB, "no readable Open-i report"),
        ("<eCitation/>", "'' cannot be a study"),
        ('<eCitation><uId id="CXR1"/><parentImage id="../../x"/></eCitation>', "'../../x' cannot be"),
    ],
    ids=["cut", "empty", "entities", "no-study", "path"],
)
def test_a_bad_report_is_named(tmp_path: Path, text: str, reason: str) -> None:
    path = tmp_path / "17.xml"
    path.write_text(text)
    with pytest.raises(DataError, match=rf"17\.xml: {reason}"):
        read_report(path)


def test_a_study_that_occurs_twice_is_an_error(source: Path, tmp_path: Path) -> None:
    reports = source / "ecgen-radiology"
    (reports / "99.xml").write_bytes((reports / "1.xml").read_bytes())
    with pytest.raises(DataError, match=r"99\.xml: the study CXR1 has been read already"):
        prepare_openi(OpenIOptions(source=source, out=tmp_path / "out"))


def test_the_other_table_of_views(tmp_path: Path) -> None:
    path = tmp_path / "indiana_projections.csv"
    path.write_text("uid,filename,projection\n1,1_IM-0001-4001.dcm.png,Frontal\n1,1_IM-0001-3001.dcm.png,Lateral\n")
    assert read_projections(path) == {"CXR1_IM-0001-4001": "frontal", "CXR1_IM-0001-3001": "lateral"}


@pytest.mark.parametrize("text", ["image,projection\nCXR1,Oblique\n", "image,view\nCXR1,Frontal\n", "projection\nFrontal\n"])
def test_a_bad_table_of_views_is_named_with_its_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "views.csv"
    path.write_text(text)
    with pytest.raises(DataError, match=r"views\.csv, line 2"):
        read_projections(path)


@pytest.mark.parametrize("missing", ["ecgen-radiology", "NLMCXR_png"])
def test_a_source_without_its_folders_is_explained(source: Path, tmp_path: Path, missing: str) -> None:
    (source / missing).rename(tmp_path / "elsewhere")
    with pytest.raises(DataError, match=missing):
        prepare_openi(OpenIOptions(source=source, out=tmp_path / "out"))


def test_command_line(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["prepare", "openi", "--source", str(source), "--out", str(tmp_path / "out")]
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    assert "images kept                             3" in printed
    assert "train" in printed
    assert main(arguments) == 1
    assert "exists already" in capsys.readouterr().err


def test_real_download(test_data: Path, tmp_path: Path) -> None:
    """The first 200 reports of the real sample: nearly all kept, every caption free of marks and stray punctuation."""
    source = tmp_path / "download"
    (source / "ecgen-radiology").mkdir(parents=True)
    for path in sorted((test_data / "openi" / "ecgen-radiology").glob("*.xml"))[:200]:
        (source / "ecgen-radiology" / path.name).symlink_to(path)
    (source / "NLMCXR_png").symlink_to(test_data / "openi" / "NLMCXR_png")
    manifest = prepare_openi(OpenIOptions(source=source, out=tmp_path / "out", projections=test_data / "openi" / "images.csv"))
    captions = [row["caption"] for row in annotations(tmp_path / "out")]
    assert manifest["counts"]["images kept"] == len(captions) > 100
    assert manifest["counts"]["images missing"] == manifest["counts"]["images unreadable"] == 0
    assert not [caption for caption in captions if any(mark in caption for mark in ("XXXX", " ,", " .", "..", ",,", "  "))]
