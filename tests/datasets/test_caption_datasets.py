"""One item: its keys and types, and that chance comes from its seed alone."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import default_collate

from xraygpt.common.errors import DataError
from xraygpt.datasets.data_utils import Draw
from xraygpt.datasets.datasets import CaptionDataset, MIMICDataset, OpenIDataset
from xraygpt.processors import Blip2ImageEvalProcessor, Blip2ImageTrainProcessor, ReportTextProcessor


def make_dataset(folder: Path, cls: type[CaptionDataset] = CaptionDataset, *, vis_processor: Any = None) -> CaptionDataset:
    """Three annotations of two images."""
    for i, name in enumerate(("a", "p10/b")):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(i).integers(0, 256, (40, 32), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{name}.png")
    return cls(
        vis_processor=vis_processor or Blip2ImageTrainProcessor(image_size=28),
        text_processor=ReportTextProcessor(),
        vis_root=folder,
        annotations=[{"image_id": name, "caption": f"Seen in \n {name}."} for name in ("a", "p10/b", "a")],
    )


def test_an_item(tmp_path: Path) -> None:
    item = make_dataset(tmp_path)[Draw(0, 2, 77)]
    assert (item["image"].dtype, item["image"].shape) == (torch.float32, (3, 28, 28))
    assert (item["caption"], item["image_id"], item["sample_id"], item["prompt_seed"]) == ("Seen in a.", 0, "a", 77)


def test_a_batch_is_the_documented_one(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path)
    batch = default_collate([dataset[i] for i in range(3)])
    assert (batch["image"].dtype, batch["image"].shape) == (torch.float32, (3, 3, 28, 28))
    assert batch["image_id"].tolist() == [0, 1, 0]
    assert batch["prompt_seed"].dtype == torch.int64
    assert batch["sample_id"] == ["a", "p10/b", "a"]


def test_the_crop_depends_on_the_seed_alone(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path)
    first = dataset[Draw(0, 0, 5)]["image"]
    torch.manual_seed(999)
    assert torch.equal(dataset[Draw(0, 0, 5)]["image"], first)
    assert not torch.equal(dataset[Draw(0, 0, 6)]["image"], first)


def test_the_global_generator_is_left_alone(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path)
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    dataset[Draw(0, 0, 5)]
    assert torch.equal(torch.rand(3), expected)


def test_an_index_gives_the_same_item_each_time(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path, vis_processor=Blip2ImageEvalProcessor(image_size=28))
    assert torch.equal(dataset[1]["image"], dataset[1]["image"])
    assert dataset[1]["prompt_seed"] == dataset[1]["prompt_seed"] != dataset[0]["prompt_seed"]


def pixels_handed_to(vis_processor: Any, folder: Path) -> tuple[int, int]:
    """The size in which a JPEG of 640 x 480 reaches a processor."""
    dataset = make_dataset(folder, vis_processor=vis_processor)
    Image.new("L", (640, 480), 90).save(folder / "a.jpg")
    (folder / "a.png").unlink()
    return dataset[0]["image"]


class Remembering(Blip2ImageEvalProcessor):
    """Returns the size of its image instead of a tensor."""

    def __call__(self, item: Image.Image) -> Any:
        return item.size


class DemandingAll(Remembering):
    """A processor that needs every pixel."""

    min_image_side = None

    def __init__(self) -> None:
        """Needs nothing else."""


@pytest.mark.parametrize(
    ("vis_processor", "size"),
    [
        (Remembering(image_size=100), (320, 240)),
        (Remembering(image_size=200), (640, 480)),
        (DemandingAll(), (640, 480)),
        (lambda image: image.size, (640, 480)),  # a plain callable, which says nothing
    ],
    ids=["small output", "large output", "all pixels", "plain callable"],
)
def test_a_jpeg_is_decoded_as_large_as_the_processor_needs(vis_processor: Any, size: tuple[int, int], tmp_path: Path) -> None:
    assert pixels_handed_to(vis_processor, tmp_path) == size


@pytest.mark.parametrize(("cls", "suffix"), [(MIMICDataset, ".jpg"), (OpenIDataset, ".png")])
def test_the_usual_suffix_comes_first(cls: type[CaptionDataset], suffix: str, tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path, cls)
    for name in ("x.jpg", "x.png"):
        (tmp_path / name).touch()
    assert dataset.image_path("x").suffix == suffix


def test_a_missing_image_is_named(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path)
    (tmp_path / "a.png").unlink()
    with pytest.raises(DataError, match=r"no image 'a' in .* \(tried \.jpg, \.png"):
        dataset[0]
