"""The pipeline from a configuration to reports."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image

import xraygpt.runners  # noqa: F401  registers the runner
from xraygpt.common.config import Config
from xraygpt.common.errors import ConfigError, DataError
from xraygpt.models.known_images import FILE_NAME, KnownImages, probe_image
from xraygpt.serving import ReportPipeline
from xraygpt.serving.pipeline import UNFAMILIAR
from xraygpt.serving.report_batches import write_batches
from xraygpt.serving.session import ChatSession

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


# Images unlike the training images -----------------------------------------------------------------------------------


def made_model(cfg: Config, seed: int = 0) -> ReportPipeline:
    """The pipeline of a configuration, whose weights are the same each time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return ReportPipeline.from_config(cfg)


@pytest.fixture
def known_config(load_config: Callable[..., Config], tmp_path: Path) -> Config:
    """A configuration whose model knows images of noise, and the file of them."""
    model = made_model(load_config()).model
    noise = torch.randn(200, 3, 28, 28, generator=torch.Generator().manual_seed(0))
    features = model.image_features(noise).numpy()
    KnownImages.of(features, model.image_features(probe_image(28)).numpy()[0]).save(tmp_path / FILE_NAME)
    return load_config(f"run.known_images={tmp_path / FILE_NAME}")


def test_an_image_unlike_the_training_images_is_doubted(known_config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("xraygpt.serving.pipeline.check_image", lambda image: [])
    pipeline = made_model(known_config)
    noise = torch.randn(3, 28, 28, generator=torch.Generator().manual_seed(1))
    film = Image.new("L", (28, 28), 255)
    assert pipeline.doubts(film, noise) == []
    (concern,) = pipeline.doubts(film, pipeline.load_image(film))
    assert (concern.kind, concern.message) == ("unfamiliar", UNFAMILIAR)
    assert concern.score > 1
    assert ChatSession(pipeline).open_image(film) == [concern]


def test_many_images_are_doubted_together_and_refused_if_asked(
    known_config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("xraygpt.serving.report_batches.check_image", lambda image: [])
    pipeline = made_model(known_config)
    Image.new("L", (28, 28), 255).save(tmp_path / "white.png")
    batches = [[("white", tmp_path / "white.png")]]
    ((warned,),), ((refused,),) = (list(write_batches(pipeline, batches, seed=1, strict=strict)) for strict in (False, True))
    assert [concern["kind"] for concern in warned["concerns"]] == ["unfamiliar"]
    assert "report" in warned
    assert "unlike those that it was trained with" in refused["error"]


def test_known_images_of_another_model_are_an_error(known_config: Config) -> None:
    with pytest.raises(ConfigError, match="another ViT"):
        made_model(known_config, seed=1)


def test_a_missing_file_of_known_images_names_the_option_that_goes_without(load_config: Callable[..., Config], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"is missing .* run\.known_images= goes without it"):
        ReportPipeline.from_config(load_config(f"run.known_images={tmp_path / 'none'}"))
    assert ReportPipeline.from_config(load_config("run.known_images=", known_images="nowhere")).known is None
