"""From a prepared folder to datasets, one a split; what is wrong in the folder is named."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from xraygpt.common.config import load_yaml
from xraygpt.common.errors import ConfigError, DataError
from xraygpt.common.schema import check_section
from xraygpt.datasets.builders import DatasetConfig, MIMICBuilder, OpenIBuilder, load_annotations
from xraygpt.datasets.datasets import MIMICDataset, OpenIDataset
from xraygpt.processors import Blip2ImageEvalProcessor, Blip2ImageTrainProcessor, BlipCaptionProcessor, ReportTextProcessor

PROCESSORS = {
    "vis_processor": {"train": {"name": "blip2_image_train", "image_size": 28}, "eval": {"name": "blip2_image_eval", "image_size": 28}},
    "text_processor": {"train": {"name": "blip_caption"}, "eval": {"name": "report_text"}},
}
Write = Callable[[Any], Path]


def config(storage: Path, **values: Any) -> Any:
    """A dataset's block, checked."""
    section, problems = check_section(DatasetConfig, {"storage": str(storage)} | PROCESSORS | values, "datasets.mimic")
    assert problems == []
    return section


def annotation(number: int, **more: Any) -> dict[str, Any]:
    return {"image_id": f"p{number}/film", "caption": f"Text {number}."} | more


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """A function that writes filter_cap.json and returns its folder."""

    def write_annotations(annotations: Any) -> Path:
        (tmp_path / "filter_cap.json").write_text(json.dumps({"annotations": annotations}))
        return tmp_path

    return write_annotations


@pytest.mark.parametrize(("builder", "dataset_class"), [(MIMICBuilder, MIMICDataset), (OpenIBuilder, OpenIDataset)])
def test_one_dataset_a_split(builder: type, dataset_class: type, write: Write) -> None:
    splits = ["train", "train", "val", "test", "train"]
    datasets = builder(config(write([annotation(i, split=split) for i, split in enumerate(splits)]))).build_datasets()
    assert {split: len(dataset) for split, dataset in datasets.items()} == {"train": 3, "val": 1, "test": 1}
    assert {type(dataset) for dataset in datasets.values()} == {dataset_class}


def test_train_processors_are_for_training_alone(write: Write) -> None:
    datasets = MIMICBuilder(config(write([annotation(0, split="train"), annotation(1, split="test")]))).build_datasets()
    assert isinstance(datasets["train"].vis_processor, Blip2ImageTrainProcessor)
    assert isinstance(datasets["train"].text_processor, BlipCaptionProcessor)
    assert isinstance(datasets["test"].vis_processor, Blip2ImageEvalProcessor)
    assert isinstance(datasets["test"].text_processor, ReportTextProcessor)


def test_the_originals_layout_without_splits_is_for_training(write: Write) -> None:
    datasets = MIMICBuilder(config(write([annotation(0), annotation(1)]), sample_ratio=2)).build_datasets()
    assert datasets.keys() == {"train"}
    assert datasets["train"].sample_ratio == 2.0


def test_extra_keys_are_kept(write: Write) -> None:
    (dataset,) = MIMICBuilder(config(write([annotation(0, findings=[])]))).build_datasets().values()
    assert dataset.annotation == [{**annotation(0, findings=[]), "instance_id": "0"}]


@pytest.mark.parametrize(
    ("bad", "problem"),
    [
        ("text", "expected an object, got a str"),
        ({"caption": "x"}, '"image_id" must be a non-empty text, got nothing'),
        ({"image_id": 3, "caption": "x"}, '"image_id" must be a non-empty text, got a int'),
        ({"image_id": "a", "caption": "  "}, '"caption" must be a non-empty text, got an empty one'),
        ({"image_id": "a\ud800", "caption": "x"}, '"image_id" holds half of a surrogate pair'),
        ({"image_id": "a", "caption": "\udcff"}, '"caption" holds half of a surrogate pair'),
        ({"image_id": "../a", "caption": "x"}, "leaves the image folder"),
        ({"image_id": "/etc/a", "caption": "x"}, "leaves the image folder"),
        ({"image_id": "p1/../../a", "caption": "x"}, "leaves the image folder"),
        ({"image_id": "a/../../b", "caption": "x"}, "leaves the image folder"),
    ],
)
def test_a_bad_annotation_is_named(bad: Any, problem: str, write: Write) -> None:
    with pytest.raises(DataError) as error:
        load_annotations(write([annotation(0), bad, annotation(2), bad]) / "filter_cap.json")
    assert "2 of 4 annotations" in str(error.value)
    lines = str(error.value).splitlines()[1:]
    assert [line.split(":")[0].strip() for line in lines] == ["annotation 1", "annotation 3"]
    assert all(problem in line for line in lines)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"annotations": 3}', '{"annotations": {}}', "{"])
def test_a_file_of_another_form_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "filter_cap.json").write_text(text)
    with pytest.raises(DataError, match=r"filter_cap\.json"):
        load_annotations(tmp_path / "filter_cap.json")


def test_a_folder_that_is_not_prepared(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"not a prepared folder.*docs/data\.md"):
        MIMICBuilder(config(tmp_path)).build_datasets()


def test_types_and_their_default_files() -> None:
    for builder in (MIMICBuilder, OpenIBuilder):
        for name in builder.DATASET_CONFIG_DICT:
            defaults: Any = OmegaConf.to_container(load_yaml(builder.default_config_path(name) or ""))
            ((dataset, block),) = defaults["datasets"].items()
            assert dataset == {"MIMICBuilder": "mimic", "OpenIBuilder": "openi"}[builder.__name__]
            assert check_section(DatasetConfig, block, "x")[1] == []
    with pytest.raises(ConfigError, match=r"OpenIBuilder has no type 'phantim'. Did you mean 'phantom'\?"):
        OpenIBuilder.default_config_path("phantim")


def test_a_processor_without_a_name(write: Write) -> None:
    with pytest.raises(ConfigError, match=r"vis_processor\.train needs a name\. Choices: .*blip2_image_train"):
        MIMICBuilder(config(write([annotation(0)]), vis_processor={})).build_datasets()
