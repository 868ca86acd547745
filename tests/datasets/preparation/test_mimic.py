"""MIMIC-CXR → studies → a prepared folder, on a made data set and the one published report."""

import json
import shutil
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tests.datasets.preparation.mimic_cases import read, read_table, write_rows
from tests.datasets.preparation.mimic_text import PLAIN_SHAPES
from tests.datasets.preparation.mimic_tree import MadeTree, write_mimic_tree
from xraygpt.common.errors import DataError
from xraygpt.datasets.preparation.mimic import MIMICSource
from xraygpt.datasets.preparation.pipeline import PrepareOptions, prepare

SPLITS = {"train": "train", "validate": "val", "test": "test"}
VIEWS = {"PA": "frontal", "AP": "frontal", "LATERAL": "lateral", "LL": "lateral"}
EXAMPLE = (10000032, 50414267, "02aa804e-bde0afdd-112c0b34-7bc16630-4e384014")


@pytest.fixture
def tree(tmp_path: Path) -> MadeTree:
    """JPEG files and reports as files, of 12 subjects."""
    return write_mimic_tree(tmp_path / "data", num_subjects=12, seed=3)


@pytest.mark.parametrize("dicom", [False, True])
@pytest.mark.parametrize("zipped", [False, True])
def test_a_study_is_read_as_it_was_made(tmp_path: Path, dicom: bool, zipped: bool) -> None:
    tree = write_mimic_tree(tmp_path, num_subjects=12, seed=3, dicom=dicom, zipped_reports=zipped)
    studies, account = read(tree.root)
    assert not account.problems
    assert not account.notes
    assert len(studies) == len(tree.studies)
    for study, made in zip(studies, tree.studies, strict=True):
        assert (study.subject_id, study.study_id) == (str(made.subject_id), str(made.study_id))
        if made.report.shape in PLAIN_SHAPES:
            assert (study.findings, study.impression) == (made.report.findings, made.report.impression)
        assert study.text == made.report.text
        expected = {image.dicom_id: image.view_position for image in made.images}
        assert {image.image_id: image.view_position for image in study.images} == expected
        for image in study.images:
            assert image.view == VIEWS.get(image.view_position, "")
            assert image.path == tree.images / made.folder / f"{image.image_id}{'.dcm' if dicom else '.jpg'}"
            assert image.path.is_file()
        if made.images:
            assert study.split == SPLITS[made.split]
            assert study.extra["chexpert"] == made.report.labels
    assert {name for made in tree.studies for name in [made.report.shape]} > {"sections", "no findings", "short impression"}


def test_the_two_label_tables_are_kept_apart(tree: MadeTree) -> None:
    doubtful = [str(made.study_id) for made in tree.studies if made.images and made.report.labels.get("Fracture") == -1]
    studies = {study.study_id: study for study in read(tree.root)[0]}
    assert doubtful
    for study_id in doubtful:
        assert studies[study_id].extra["chexpert"]["Fracture"] == -1
        assert studies[study_id].extra["negbio"]["Fracture"] == 1


def test_studies_come_by_number_whatever_the_order_of_the_table(tree: MadeTree) -> None:
    header, *rows = read_table(tree.table("metadata"))
    write_rows(tree.table("metadata"), [header, *reversed(rows)])
    studies, _ = read(tree.root)
    order = [(int(study.subject_id), int(study.study_id)) for study in studies]
    assert order == sorted(order)
    assert all([image.image_id for image in study.images] == sorted(image.image_id for image in study.images) for study in studies)


def test_the_published_report_in_its_tree(test_data: Path, tmp_path: Path) -> None:
    subject_id, study_id, dicom_id = EXAMPLE
    folder = tmp_path / "files" / "p10" / f"p{subject_id}"
    (folder / f"s{study_id}").mkdir(parents=True)
    shutil.copy(test_data / "mimic_format" / "s_example.txt", folder / f"s{study_id}.txt")
    (folder / f"s{study_id}" / f"{dicom_id}.jpg").write_bytes(b"")
    (tmp_path / "mimic-cxr-2.0.0-metadata.csv").write_text(
        f"dicom_id,subject_id,study_id,ViewPosition\n{dicom_id},{subject_id},{study_id},PA\n"
    )
    (study,), account = read(tmp_path)
    sections = json.loads((test_data / "mimic_format" / "s_example.sections.json").read_text())
    published = dict(zip(sections["section_names"], sections["sections"], strict=True))
    assert (study.findings, study.impression) == tuple(" ".join(published[name].split()) for name in ("findings", "impression"))
    assert [(image.image_id, image.view) for image in study.images] == [(dicom_id, "frontal")]
    assert not account.problems


# The prepared folder ----------------------------------------------------------------------------------------------------


def prepared(tree: MadeTree, out: Path, **options: Any) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    manifest = prepare(MIMICSource(roots=[tree.root]), PrepareOptions(out=out, workers=1, **options))
    return manifest, json.loads((out / "filter_cap.json").read_text())["annotations"]


def test_the_counts_of_a_preparation(tree: MadeTree, tmp_path: Path) -> None:
    manifest, annotations = prepared(tree, tmp_path / "out")
    counts = manifest["counts"]
    shapes = [made.report.shape for made in tree.studies]
    assert list(counts)[:6] == ["reports", *MIMICSource.filters]
    assert counts["reports"] == len(shapes)
    assert sum(counts[name] for name in MIMICSource.filters) == 0
    assert counts["without findings"] == shapes.count("no findings") + shapes.count("no headings")
    assert counts["without impression"] == shapes.count("no impression")
    assert counts["impression under 2 words"] == shapes.count("short impression")
    assert counts["images kept"] == len(annotations) > 10
    assert counts["copies of another image"] == counts["images missing"] == 0
    split_of = {str(made.study_id): SPLITS[made.split] for made in tree.studies}
    labels_of = {str(made.study_id): made.report.labels for made in tree.studies}
    for annotation in annotations:
        assert annotation["split"] == split_of[annotation["study_id"]]
        assert annotation["view_position"] in ("PA", "AP")
        assert annotation["chexpert"] == labels_of[annotation["study_id"]]
        assert (tmp_path / "out" / "image" / f"{annotation['image_id']}.jpg").is_file()
    assert {annotation["split"] for annotation in annotations} == {"train", "val", "test"}
    assert manifest["sources"]["tables"]["count"] == 4
    assert manifest["options"]["split"] == "official"


@pytest.mark.parametrize(
    ("views", "positions"),
    [
        (("frontal",), {"PA", "AP"}),
        (("lateral",), {"LATERAL", "LL"}),
        (("PA",), {"PA"}),
        (("AP", "LL"), {"AP", "LL"}),
        (("all",), {"PA", "AP", "LATERAL", "LL", "AP AXIAL", "LAO", "SWIMMERS", "XTABLE LATERAL", ""}),
    ],
)
def test_views(tree: MadeTree, tmp_path: Path, views: tuple[str, ...], positions: set[str]) -> None:
    _, annotations = prepared(tree, tmp_path / "out", views=views, min_findings_words=0, min_impression_words=0)
    kept = {annotation["study_id"] for annotation in annotations}
    expected = [
        image.dicom_id for made in tree.studies for image in made.images if image.view_position in positions and str(made.study_id) in kept
    ]
    assert sorted(annotation["image_id"] for annotation in annotations) == sorted(expected)
    assert {annotation.get("view_position", "") for annotation in annotations} <= positions


def test_packed_and_unpacked_reports_give_the_same_folder(tree: MadeTree, tmp_path: Path) -> None:
    packed = write_mimic_tree(tmp_path / "packed", num_subjects=12, seed=3, zipped_reports=True)
    first_manifest, _ = prepared(tree, tmp_path / "first")
    second_manifest, _ = prepared(packed, tmp_path / "second")
    assert first_manifest["fingerprint"] == second_manifest["fingerprint"]
    assert first_manifest["counts"] == second_manifest["counts"]


def test_dicom_is_prepared_from_the_same_tables(tmp_path: Path) -> None:
    tree = write_mimic_tree(tmp_path / "data", num_subjects=4, seed=3, dicom=True)
    manifest, annotations = prepared(tree, tmp_path / "out")
    assert manifest["counts"]["images unreadable"] == 0
    assert manifest["options"]["image_files"] == "dicom"
    assert annotations
    assert {annotation["view"] for annotation in annotations} == {"frontal"}


def test_without_official_splits_subjects_are_kept_together(tree: MadeTree, tmp_path: Path) -> None:
    tree.table("split").unlink()
    manifest, annotations = prepared(tree, tmp_path / "out")
    assert manifest["options"]["split"] == "hash"
    assert manifest["notes"] == {"no table of splits": 1}
    subjects = {annotation["subject_id"]: annotation["split"] for annotation in annotations}
    assert all(subjects[annotation["subject_id"]] == annotation["split"] for annotation in annotations)


def test_a_subject_in_two_official_splits_is_refused(tree: MadeTree, tmp_path: Path) -> None:
    _, annotations = prepared(tree, tmp_path / "out")
    train = [annotation for annotation in annotations if annotation["split"] == "train"]
    divided = next(b for a, b in pairwise(train) if a["subject_id"] == b["subject_id"] and a["study_id"] != b["study_id"])
    rows = read_table(tree.table("split"))
    write_rows(tree.table("split"), [[*row[:3], "test"] if row[1] == divided["study_id"] else row for row in rows])
    with pytest.raises(DataError, match=f"subject {divided['subject_id']}: "):
        prepared(tree, tmp_path / "again")
