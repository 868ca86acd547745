"""From a source to a prepared folder, whatever the source."""

import csv
import dataclasses
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.datasets.preparation.made_source import ListSource, make_study, write_noise
from xraygpt.common.errors import DataError
from xraygpt.datasets.builders import load_annotations
from xraygpt.datasets.preparation import pipeline
from xraygpt.datasets.preparation.image_files import ImageOptions
from xraygpt.datasets.preparation.pipeline import PrepareOptions, prepare
from xraygpt.datasets.preparation.study import Study, StudyImage

Run = Callable[..., dict[str, Any]]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A function from studies and options to the manifest of tmp_path/out."""

    def run_prepare(*studies: Study, out: str = "out", **options: Any) -> dict[str, Any]:
        source = ListSource(tmp_path / "source", list(studies), options={"layout": "list"})
        return prepare(source, PrepareOptions(**{"out": tmp_path / out, "text": "as-is", "views": ("all",), "workers": 1} | options))

    return run_prepare


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return tmp_path / "source"


def annotations(out: Path) -> list[dict[str, Any]]:
    return json.loads((out / "filter_cap.json").read_text())["annotations"]


def table(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as handle:
        return list(csv.DictReader(handle))


def test_annotations(run: Run, source: Path, tmp_path: Path) -> None:
    run(make_study(source, 1, images=2, subject_id="p1", split="val", extra={"labels": [1]}), make_study(source, 2, view=""))
    assert annotations(tmp_path / "out") == [
        *(
            {
                "image_id": f"s1-{i}", "caption": "Report 1.", "study_id": "s1", "subject_id": "p1", "split": "val",
                "view": "frontal", "labels": [1],
            }
            for i in range(2)
        ),
        {"image_id": "s2-0", "caption": "Report 2.", "study_id": "s2", "split": "train"},
    ]  # fmt: skip
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "image", "filter_cap.json", "manifest.json", "sources.csv", "dropped.csv", "README.md",
    }  # fmt: skip


def test_every_drop_is_counted_and_listed(run: Run, source: Path, tmp_path: Path) -> None:
    missing = StudyImage(image_id="gone", path=source / "gone.png", view="frontal", where="list, line 9")
    damaged = StudyImage(image_id="bad", path=source / "bad.png", view="frontal")
    studies = [
        make_study(source, 1),
        make_study(source, 2, text=" "),
        Study(study_id="s3", images=(), text="Text."),
        make_study(source, 4, view="lateral"),
        make_study(source, 5, view=""),
        Study(study_id="s6", images=(missing, damaged), text="Text."),
        Study(study_id="s7", images=(StudyImage(image_id="s1-0", path=source / "films/s1-0.png", view="frontal"),), text="Other."),
        Study(study_id="s8", images=(StudyImage(image_id="copy", path=source / "films/copy.png", view="frontal"),), text="Other."),
    ]
    (source / "bad.png").write_bytes(b"")
    write_noise(source / "films/copy.png", seed=100, size=(60, 48))  # the pixels of s1-0
    manifest = run(*studies, views=("frontal",))
    assert list(manifest["counts"].items()) == [
        ("reports", 8), ("empty text", 1), ("without images", 1), ("images of lateral view", 1), ("images of unknown view", 1),
        ("image named twice", 1), ("images missing", 1), ("images unreadable", 1), ("copies of another image", 1), ("images kept", 1),
    ]  # fmt: skip
    rows = table(tmp_path / "out/dropped.csv")
    assert [(row["kind"], row["id"]) for row in rows] == [
        ("report", "s2"), ("report", "s3"), ("image", "s4-0"), ("image", "s5-0"),
        ("image", "gone"), ("image", "s1-0"), ("image", "bad"), ("image", "copy"),
    ]  # fmt: skip
    assert rows[4]["reason"] == "list, line 9: there is no image gone.png."
    assert [row["id"] for row in manifest["skipped"]] == ["gone", "s1-0", "bad", "copy"]
    assert str(tmp_path) not in (tmp_path / "out/manifest.json").read_text() + (tmp_path / "out/dropped.csv").read_text()
    assert [path.name for path in (tmp_path / "out/image").iterdir()] == ["s1-0.png"]


@pytest.mark.parametrize(
    ("views", "kept"),
    [
        (("frontal",), ["s1-0"]),
        (("lateral",), ["s2-0"]),
        (("PA",), ["pa"]),
        (("frontal", "PA"), ["pa", "s1-0"]),
        (("all",), ["pa", "s1-0", "s2-0", "s3-0"]),
    ],
)
def test_views(run: Run, source: Path, tmp_path: Path, views: tuple[str, ...], kept: list[str]) -> None:
    film = StudyImage(image_id="pa", path=write_noise(source / "pa.png", seed=9), view_position="PA")
    studies = [make_study(source, 1), make_study(source, 2, view="lateral"), make_study(source, 3, view="")]
    run(*studies, Study(study_id="s4", images=(film,), text="Text."), views=views)
    assert sorted(row["image_id"] for row in annotations(tmp_path / "out")) == kept


def test_stop_ends_at_what_skip_lists(run: Run, source: Path, tmp_path: Path) -> None:
    study = make_study(source, 1)
    (source / "films/s1-0.png").write_bytes(b"GIF89a")
    with pytest.raises(DataError, match=r"s1-0\.png: not a PNG, JPEG or DICOM.*--on-error skip"):
        run(study, make_study(source, 2), on_error="stop")
    assert not (tmp_path / "out").exists()
    assert run(study, make_study(source, 2))["counts"]["images unreadable"] == 1


def test_a_subject_in_two_splits_is_refused(run: Run, source: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"subject p1: test, train"):
        run(make_study(source, 1, subject_id="p1", split="train"), make_study(source, 2, subject_id="p1", split="test"))
    assert not (tmp_path / "out").exists()


def test_a_subject_stays_in_one_split(run: Run, source: Path, tmp_path: Path) -> None:
    run(*(make_study(source, number, subject_id=f"p{number // 3}") for number in range(30)))
    splits = {(row["subject_id"], row["split"]) for row in annotations(tmp_path / "out")}
    assert len(splits) == 10


def test_added_data_change_no_split(run: Run, source: Path, tmp_path: Path) -> None:
    run(*(make_study(source, number) for number in range(10, 20)), out="few")
    run(*(make_study(source, number) for number in range(5, 30)), out="more")
    few, more = ({row["image_id"]: row["split"] for row in annotations(tmp_path / name)} for name in ("few", "more"))
    assert few.items() <= more.items()


def test_nothing_left_is_an_error_that_says_why(run: Run, source: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"images of unknown view: 1.*--views all"):
        run(make_study(source, 1, view=""), views=("frontal",))
    with pytest.raises(DataError, match=r"The first problem: .*there is no image"):
        run(Study(study_id="a", images=(StudyImage(image_id="a", path=source / "a.png"),), text="Text."))
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_the_manifest_is_the_same_wherever_and_however_it_is_made(run: Run, source: Path, tmp_path: Path) -> None:
    studies = [make_study(source, number, images=2, suffix=".jpg") for number in range(8)]
    first = run(*studies, out="a", images=ImageOptions(resize=32))
    again = run(*studies, out="elsewhere/b", images=ImageOptions(resize=32), workers=2)
    assert first == again
    assert (tmp_path / "a/manifest.json").read_bytes() == (tmp_path / "elsewhere/b/manifest.json").read_bytes()
    assert first["options"] | {"layout": "list", "text": "as-is", "views": ["all"]} == first["options"]
    assert {name: entry["count"] for name, entry in first["sources"].items()} == {"reports": 0, "tables": 0, "images": 16}
    other = run(*studies, out="c", images=ImageOptions(resize=32, format="png"))
    assert other["fingerprint"] != first["fingerprint"]
    assert other["sources"] == first["sources"]


def test_interrupted_and_continued_is_the_same_as_uninterrupted(
    run: Run, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    studies = [make_study(source, number, images=2) for number in range(20)]
    whole = run(*studies, out="whole", images=ImageOptions(resize=32))
    placed: list[str] = []

    def interrupt(self: Any, *args: Any) -> None:
        placed.append("x")
        if len(placed) == 17:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("xraygpt.datasets.preparation.image_files.tqdm.update", interrupt)
        with pytest.raises(KeyboardInterrupt):
            run(*studies, images=ImageOptions(resize=32))
    assert not (tmp_path / "out").exists()
    with pytest.raises(DataError):  # what is there is nothing that trains
        load_annotations(tmp_path / ".out.unfinished/filter_cap.json")
    assert len(list((tmp_path / ".out.unfinished/image").iterdir())) >= 16
    assert run(*studies, images=ImageOptions(resize=32)) == whole
    assert (tmp_path / "out/manifest.json").read_bytes() == (tmp_path / "whole/manifest.json").read_bytes()


def test_what_other_options_left_is_not_in_the_result(run: Run, source: Path, tmp_path: Path) -> None:
    studies = [make_study(source, 1, subject_id="p"), make_study(source, 2, view="lateral", subject_id="p", split="test")]
    with pytest.raises(DataError, match="more than one split"):
        run(*studies)
    assert len(list((tmp_path / ".out.unfinished/image").iterdir())) == 2
    run(*studies, views=("frontal",))
    assert [path.name for path in (tmp_path / "out/image").iterdir()] == ["s1-0.png"]


def test_images_alone_have_no_text_and_no_split(run: Run, source: Path, tmp_path: Path) -> None:
    manifest = run(make_study(source, 1), text="none")
    assert annotations(tmp_path / "out") == [{"image_id": "s1-0", "study_id": "s1", "view": "frontal"}]
    assert manifest["splits"] == {}
    path = tmp_path / "out/filter_cap.json"
    assert load_annotations(path, captions_required=False)
    with pytest.raises(DataError, match=r"images without texts.*xraygpt generate"):
        load_annotations(path)


def test_the_datasheet_tells_what_the_manifest_knows(run: Run, source: Path, tmp_path: Path) -> None:
    manifest = run(make_study(source, 1), make_study(source, 2, text=""))
    sheet = (tmp_path / "out/README.md").read_text()
    for line in ("# A list", "| reports | 2 |", "| empty text | 1 |", f"`{manifest['fingerprint']}`", "- Made here.", "type: folder"):
        assert line in sheet


def test_a_burned_in_annotation_is_noted(run: Run, source: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any) -> None:
    real = pipeline.place_images

    def flagged(*args: Any, **kwargs: Any) -> Any:
        return {key: dataclasses.replace(result, burned_in=True) for key, result in real(*args, **kwargs).items()}

    monkeypatch.setattr(pipeline, "place_images", flagged)
    with caplog.at_level(logging.WARNING):
        assert run(make_study(source, 1))["notes"] == {"burned-in annotation": 1}
    assert "s1-0.png: the DICOM file says that text is burned into the image." in caplog.text
