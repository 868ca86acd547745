"""The pipeline from a configuration to reports."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf
from PIL import Image

import xraygpt.runners  # noqa: F401  registers the runner
from xraygpt.common.config import Config
from xraygpt.common.errors import ConfigError, DataError
from xraygpt.serving import ReportPipeline

pytestmark = pytest.mark.usefixtures("no_default_files")


@pytest.fixture
def load_config(tmp_path: Path, tiny_config: Callable[..., dict[str, Any]]) -> Callable[..., Config]:
    def load(*options: str, drop: str = "", **run: Any) -> Config:
        config = tiny_config(**run)
        config["model"]["model_type"] = "tiny"
        config.pop(drop, None)
        OmegaConf.save(OmegaConf.create(config), tmp_path / "config.yaml")
        return Config(argparse.Namespace(cfg_path=tmp_path / "config.yaml", options=list(options)), needs=("run", "model"))

    return load


def test_reports_of_files_and_images(load_config: Callable[..., Config], tiny_storage: Path) -> None:
    pipeline = ReportPipeline.from_config(load_config())
    paths = [tiny_storage / "image" / f"x{i}.png" for i in range(3)]
    reports = pipeline.write_reports([paths[0], str(paths[1]), Image.open(paths[2])])
    assert reports == [report for path in paths for report in pipeline.write_reports([path])]
    assert pipeline.write_reports([]) == []


def test_settings_come_from_the_run_block(load_config: Callable[..., Config]) -> None:
    pipeline = ReportPipeline.from_config(load_config(generation={"prompt": "Why?", "max_new_tokens": 5}))
    assert pipeline.full_prompt == "###Patient: <Img><ImageHere></Img> Why? ###Doctor: "
    assert pipeline.settings["max_new_tokens"] == 5
    assert not pipeline.model.training
    assert ReportPipeline.from_config(load_config()).full_prompt == pipeline.model.prompt_list[0]


def test_the_data_need_not_be_there(load_config: Callable[..., Config]) -> None:
    assert ReportPipeline.from_config(load_config("datasets.mimic.storage=nowhere"))


def test_a_missing_image_is_named(load_config: Callable[..., Config]) -> None:
    with pytest.raises(DataError, match=r"nowhere\.png"):
        ReportPipeline.from_config(load_config()).write_reports(["nowhere.png"])


@pytest.mark.parametrize(
    ("options", "drop", "message"),
    [
        ((), "datasets", "name a dataset under datasets:"),
        (("datasets.mimic.vis_processor.eval={}",), "", r"datasets\.mimic\.vis_processor\.eval needs a name"),
        (("datasets.mimic.vis_processor.eval.image_size=56",), "", r"image_size is 56, but model.image_size is 28"),
    ],
)
def test_unusable_image_processors_are_refused(
    load_config: Callable[..., Config], options: tuple[str, ...], drop: str, message: str
) -> None:
    cfg = load_config(*options, drop=drop)
    if "={}" in "".join(options):
        cfg.config.datasets.mimic.vis_processor.eval = {}
    with pytest.raises(ConfigError, match=message):
        ReportPipeline.from_config(cfg)
