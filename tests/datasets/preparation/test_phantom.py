"""The phantom folders: layout, splits, determinism, and what happens to a folder that is already there."""

import json
from pathlib import Path

import pytest
from PIL import Image

from xraygpt.common.errors import DataError
from xraygpt.datasets.preparation.phantom import PhantomOptions, assign_splits, generate_phantoms, identify

OPTIONS = {"mimic": PhantomOptions("mimic", 24, image_size=64, seed=5), "openi": PhantomOptions("openi", 24, image_size=64, seed=5)}


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory):
    root = tmp_path_factory.mktemp("phantom")
    for collection, options in OPTIONS.items():
        assert generate_phantoms(root / collection, options)
    return root


def read_annotations(storage: Path) -> list[dict]:
    return json.loads((storage / "filter_cap.json").read_text(encoding="utf-8"))["annotations"]


def contents(storage: Path) -> dict[str, bytes]:
    return {str(path.relative_to(storage)): path.read_bytes() for path in storage.rglob("*") if path.is_file()}


@pytest.mark.parametrize(("collection", "suffix"), [("mimic", ".jpg"), ("openi", ".png")])
def test_every_annotation_has_its_grey_square_film(phantoms, collection, suffix):
    annotations = read_annotations(phantoms / collection)
    assert len(annotations) == 24
    assert {path.name for path in (phantoms / collection / "image").iterdir()} == {item["image_id"] + suffix for item in annotations}
    with Image.open(phantoms / collection / "image" / (annotations[0]["image_id"] + suffix)) as film:
        assert (film.size, film.mode) == ((64, 64), "L")


def test_identifiers_look_like_those_of_the_collections(phantoms):
    mimic, openi = (read_annotations(phantoms / collection)[3] for collection in OPTIONS)
    assert [len(part) for part in mimic["image_id"].split("-")] == [8] * 5
    assert len(mimic["study_id"]) == len(mimic["subject_id"]) == 8
    assert (openi["image_id"], openi["study_id"]) == ("CXR4_IM-0005-1001", "CXR4")


def test_study_numbers_are_distinct_in_a_large_folder():
    options = PhantomOptions("mimic", 20_000)
    identities = [identify(options, index) for index in range(options.num_studies)]
    assert len({item["study_id"] for item in identities}) == len({item["image_id"] for item in identities}) == options.num_studies


def test_splits_are_disjoint_by_subject_and_none_is_empty(phantoms):
    for collection in OPTIONS:
        subjects: dict[str, set[str]] = {}
        for item in read_annotations(phantoms / collection):
            subjects.setdefault(item["split"], set()).add(item["subject_id"])
        assert set(subjects) == {"train", "val", "test"}
        assert sum(map(len, subjects.values())) == len(set.union(*subjects.values()))


@pytest.mark.parametrize("collection", OPTIONS)
def test_the_smallest_folder_has_every_split(tmp_path, collection):
    generate_phantoms(tmp_path / collection, PhantomOptions(collection, 5, image_size=32))
    assert {item["split"] for item in read_annotations(tmp_path / collection)} == {"train", "val", "test"}


def test_split_shares_and_their_seed():
    subjects = [str(number) for number in range(1000)]
    splits = assign_splits(subjects, seed=1)
    assert [list(splits.values()).count(name) for name in ("train", "val", "test")] == [850, 50, 100]
    assert splits == assign_splits(subjects[::-1], seed=1)
    assert splits != assign_splits(subjects, seed=2)


def test_the_number_of_workers_does_not_change_a_byte(phantoms, tmp_path):
    for collection, options in OPTIONS.items():
        generate_phantoms(tmp_path / collection, options, workers=2)
        assert contents(tmp_path / collection) == contents(phantoms / collection)


def test_another_seed_makes_other_films_and_reports(phantoms, tmp_path):
    generate_phantoms(tmp_path / "openi", PhantomOptions("openi", 24, image_size=64, seed=6))
    captions = [[item["caption"] for item in read_annotations(root / "openi")] for root in (tmp_path, phantoms)]
    assert sum(one == other for one, other in zip(*captions, strict=True)) < 6


def test_manifest_counts_what_is_there(phantoms):
    manifest = json.loads((phantoms / "mimic" / "manifest.json").read_text(encoding="utf-8"))
    annotations = read_annotations(phantoms / "mimic")
    assert sum(split["studies"] for split in manifest["splits"].values()) == 24
    train = [item for item in annotations if item["split"] == "train"]
    assert manifest["counts"]["train: normal"] == sum(not item["findings"] for item in train)
    assert manifest["counts"]["train: tube"] == sum(finding["finding"] == "tube" for item in train for finding in item["findings"])


def test_a_second_call_does_nothing_and_other_options_are_refused(tmp_path):
    storage, options = tmp_path / "openi", PhantomOptions("openi", 5, image_size=32)
    assert generate_phantoms(storage, options)
    before = contents(storage)
    assert not generate_phantoms(storage, options)
    other = PhantomOptions("openi", 6, image_size=32)
    with pytest.raises(DataError, match="other options"):
        generate_phantoms(storage, other)
    assert contents(storage) == before
    assert generate_phantoms(storage, other, overwrite=True)
    assert len(read_annotations(storage)) == 6


def test_a_folder_of_something_else_is_never_touched(tmp_path):
    (tmp_path / "mine.txt").write_text("precious", encoding="utf-8")
    with pytest.raises(DataError, match="never overwritten"):
        generate_phantoms(tmp_path, PhantomOptions("openi", 5), overwrite=True)
    assert (tmp_path / "mine.txt").exists()


def test_an_interrupted_run_is_not_accepted(tmp_path, monkeypatch):
    storage, options = tmp_path / "openi", PhantomOptions("openi", 5, image_size=32)

    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("xraygpt.datasets.preparation.phantom.write_annotations", interrupt)
        with pytest.raises(KeyboardInterrupt):
            generate_phantoms(storage, options)
    assert not storage.exists()
    assert generate_phantoms(storage, options)
    assert [path.name for path in tmp_path.iterdir()] == ["openi"]


@pytest.mark.parametrize("wrong", [{"num_studies": 4}, {"image_size": 8}, {"seed": -1}])
def test_options_that_cannot_work_are_refused(wrong):
    with pytest.raises(DataError, match=r"must|need"):
        PhantomOptions(**({"collection": "mimic", "num_studies": 10} | wrong))
