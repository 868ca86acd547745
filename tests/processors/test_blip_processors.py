"""The numbers of the original's processors, and the text rules as worked cases."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from xraygpt.common.errors import ConfigError, DataError, RegistryError
from xraygpt.processors import (
    Blip2ImageEvalProcessor,
    Blip2ImageTrainProcessor,
    BlipCaptionProcessor,
    ReportTextProcessor,
    load_processor,
    open_image,
)

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
REFERENCE_TOLERANCE = 1e-5  # the reference multiplies and divides in another order: float32 rounding only


def noise(mode: str = "L", size: tuple[int, int] = (300, 400)) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, size[::-1], dtype=np.uint8)).convert(mode)


@pytest.fixture
def reference(test_data: Path) -> dict:
    return torch.load(test_data / "reference" / "inputs.pt", weights_only=True)


@pytest.fixture
def cxr0(test_data: Path) -> Image.Image:
    return open_image(test_data / "reference" / "CXR0.png")


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_eval_image_equals_the_original(reference: dict, cxr0: Image.Image, mode: str) -> None:
    image = Blip2ImageEvalProcessor()(cxr0.convert(mode))
    torch.testing.assert_close(image, reference["image"][0], rtol=0, atol=REFERENCE_TOLERANCE)


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_train_crop_of_a_seed_equals_the_original(reference: dict, cxr0: Image.Image, mode: str) -> None:
    processor = Blip2ImageTrainProcessor()
    torch.manual_seed(7)
    image = processor(cxr0.convert(mode))
    torch.testing.assert_close(image[:, 80:144, 80:144], reference["train_crop_seed7_centre"], rtol=0, atol=REFERENCE_TOLERANCE)
    torch.testing.assert_close(image.mean((1, 2)), reference["train_crop_seed7_channel_mean"], rtol=0, atol=REFERENCE_TOLERANCE)


@pytest.mark.parametrize("processor_class", [Blip2ImageEvalProcessor, Blip2ImageTrainProcessor])
def test_grey_gives_the_numbers_of_rgb(processor_class: type) -> None:
    processor = processor_class(image_size=32)
    torch.manual_seed(1)
    grey = processor(noise("L"))
    torch.manual_seed(1)
    colour = processor(noise("RGB"))
    assert torch.equal(grey, colour)
    assert grey.shape == (3, 32, 32)
    assert grey.dtype == torch.float32
    assert grey.is_contiguous()


def test_normalisation_of_a_white_image() -> None:
    image = Blip2ImageEvalProcessor(image_size=4)(Image.new("L", (9, 5), 255))
    expected = torch.tensor([(1 - mean) / std for mean, std in zip(MEAN, STD, strict=True)])
    torch.testing.assert_close(image[:, 0, 0], expected)


def test_eval_keeps_the_whole_image() -> None:
    half = Image.new("L", (100, 50))
    half.paste(255, (50, 0, 100, 50))
    image = Blip2ImageEvalProcessor(image_size=20)(half)
    assert (image[0, :, 0] < 0).all()
    assert (image[0, :, -1] > 0).all()


def test_train_never_flips() -> None:
    half = Image.new("L", (100, 100))
    half.paste(255, (50, 0, 100, 100))
    processor = Blip2ImageTrainProcessor(image_size=16)
    assert all((image := processor(half))[0, :, 0].mean() <= image[0, :, -1].mean() for _ in range(50))


def noisy_film(height: int, width: int) -> Image.Image:
    """Broad shadows, fine ribs and the noise of a detector."""
    y, x = np.mgrid[0:height, 0:width] / 1000.0
    film = (
        128 + 60 * np.sin(2.1 * x) * np.cos(1.7 * y) + 20 * np.sin(60 * y + 8 * x) + np.random.default_rng(0).normal(0, 10, (height, width))
    )
    return Image.fromarray(np.clip(film, 0, 255).astype(np.uint8))


def grey_levels(processor_class: type, image: Image.Image) -> torch.Tensor:
    return processor_class(mean=(0, 0, 0), std=(1, 1, 1))(image)[0] * 255


@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize(("full", "reduced"), [((1500, 1800), (750, 900)), ((1841, 1955), (461, 489))])  # 1841 and 1955 do not divide by 4
def test_a_jpeg_decoded_to_the_least_side_gives_the_same_image(
    tmp_path: Path, mode: str, full: tuple[int, int], reduced: tuple[int, int]
) -> None:
    path = tmp_path / "film.jpg"
    noisy_film(*reversed(full)).convert(mode).save(path, quality=90)
    assert_same_when_decoded_smaller(path, full=full, reduced=reduced)


@pytest.mark.parametrize(("full", "reduced"), [((2500, 3000), (625, 750)), ((2501, 3003), (626, 751))])
def test_a_real_jpeg_decoded_to_the_least_side_gives_the_same_image(
    test_data: Path, tmp_path: Path, full: tuple[int, int], reduced: tuple[int, int]
) -> None:
    path = tmp_path / "film.jpg"
    open_image(test_data / "dicom" / "txrv_jpeg_baseline_chest.dcm").resize(full, Image.Resampling.BICUBIC).save(path, quality=90)
    assert_same_when_decoded_smaller(path, full=full, reduced=reduced)


def assert_same_when_decoded_smaller(path: Path, *, full: tuple[int, int], reduced: tuple[int, int]) -> None:
    whole, smaller = open_image(path), open_image(path, min_side=Blip2ImageEvalProcessor().min_image_side)
    assert (whole.size, smaller.size) == (full, reduced)
    difference = (grey_levels(Blip2ImageEvalProcessor, whole) - grey_levels(Blip2ImageEvalProcessor, smaller)).abs()
    assert difference.mean() < 0.5  # promised: 1
    assert difference.max() < 12  # no edge has moved


def test_the_least_side_of_a_processor() -> None:
    assert Blip2ImageEvalProcessor(image_size=224).min_image_side == 448
    assert Blip2ImageTrainProcessor(image_size=224, min_scale=0.5).min_image_side == 732  # 448 / sqrt(0.75 * 0.5), rounded up
    assert ReportTextProcessor().min_image_side is None
    assert load_processor("blip2_image_eval", {"image_size": 100}).min_image_side == 200


@pytest.mark.parametrize("long_side", [1.0, 1.25, 3.0])
def test_every_training_crop_of_the_smallest_image_has_twice_the_outputs_side(long_side: float) -> None:
    processor = Blip2ImageTrainProcessor(image_size=40, min_scale=0.5)
    side = processor.min_image_side
    torch.manual_seed(0)
    crops = [processor.geometry.draw_box(side, round(long_side * side)) for _ in range(300)]
    assert min(min(right - left, lower - upper) for left, upper, right, lower in crops) >= 2 * 40


def torchvision_pixels(geometry: v2.Transform, image: Image.Image) -> torch.Tensor:
    """What torchvision makes of an image: the transforms that this project used before it had its own."""
    pixels = v2.Compose([geometry, v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True)])(image)
    return v2.Normalize(mean=list(MEAN), std=list(STD))(pixels.expand(3, -1, -1))


SIZES = [(300, 400), (400, 300), (64, 64), (24, 24), (90, 10), (10, 90), (1, 50), (3, 2)]  # the last ones have no crop of the right aspect


@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize("size", SIZES)
def test_training_crops_are_torchvisions(mode: str, size: tuple[int, int]) -> None:
    image, processor = noise(mode, size), Blip2ImageTrainProcessor(image_size=24)
    theirs = v2.RandomResizedCrop(24, scale=(0.5, 1.0), interpolation=v2.InterpolationMode.BICUBIC)
    for seed in range(20):
        torch.manual_seed(seed)
        ours = processor(image)
        drawn = torch.get_rng_state()
        torch.manual_seed(seed)
        assert torch.equal(ours, torchvision_pixels(theirs, image))
        assert torch.equal(drawn, torch.get_rng_state())


@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize("size", SIZES)
def test_the_resized_image_is_torchvisions(mode: str, size: tuple[int, int]) -> None:
    image = noise(mode, size)
    theirs = v2.Resize((24, 24), interpolation=v2.InterpolationMode.BICUBIC)
    assert torch.equal(Blip2ImageEvalProcessor(image_size=24)(image), torchvision_pixels(theirs, image))


@pytest.mark.parametrize("mode", ["I;16", "RGBA", "P", "CMYK"])
def test_other_modes_are_refused(mode: str) -> None:
    with pytest.raises(DataError, match="mode L or RGB"):
        Blip2ImageEvalProcessor()(Image.new(mode, (4, 4)))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The heart is NORMAL.", "the heart is normal"),
        ("No effusion; lungs clear!", "no effusion lungs clear"),
        ('a.b!c"d(e)f*g#h:i;j~k', "a b c d e f g h i j k"),
        ("well-expanded, patient's 2nd rib", "well-expanded, patient's 2nd rib"),
        ("two  spaces \n and a line\n", "two spaces and a line"),
        (" outer spaces ", "outer spaces"),
        ("single\ttab", "single\ttab"),
        ("", ""),
    ],
)
def test_blip_caption(text: str, expected: str) -> None:
    assert BlipCaptionProcessor()(text) == expected


def test_blip_caption_keeps_fifty_words_after_its_prompt() -> None:
    assert BlipCaptionProcessor()("word " * 60).split() == ["word"] * 50
    assert BlipCaptionProcessor(prompt="A photo of: ", max_words=2)("One two three.") == "A photo of: one two"


@pytest.mark.parametrize(
    ("max_words", "text", "expected"),
    [
        (0, "The heart is  normal.\n\nLungs: clear.", "The heart is normal. Lungs: clear."),
        (0, "word " * 60, " ".join(["word"] * 60)),
        (2, "The heart is normal.", "The heart"),
    ],
)
def test_report_text(max_words: int, text: str, expected: str) -> None:
    assert ReportTextProcessor(max_words=max_words)(text) == expected


@pytest.mark.parametrize(
    ("name", "cls"),
    [
        ("blip2_image_train", Blip2ImageTrainProcessor),
        ("blip2_image_eval", Blip2ImageEvalProcessor),
        ("blip_caption", BlipCaptionProcessor),
        ("report_text", ReportTextProcessor),
    ],
)
def test_load_by_name(name: str, cls: type) -> None:
    assert type(load_processor(name)) is cls
    assert type(load_processor(name, {"name": name})) is cls


def test_load_passes_the_configuration_on() -> None:
    processor = load_processor("blip2_image_eval", {"name": "blip2_image_eval", "image_size": 28, "mean": [0, 0, 0], "std": [1, 1, 1]})
    image = processor(Image.new("L", (8, 8), 51))
    assert image.shape == (3, 28, 28)
    torch.testing.assert_close(image, torch.full_like(image, 0.2))


@pytest.mark.parametrize(
    ("name", "cfg", "message"),
    [
        ("blip2_image_train", {"img_size": 224}, "unknown key 'img_size'. Did you mean 'image_size'?"),
        ("blip2_image_train", {"image_size": "224"}, "image_size must be of type int, not '224'"),
        ("blip2_image_train", {"image_size": True}, "image_size must be of type int, not True"),
        ("blip2_image_train", {"min_scale": "half", "maxscale": 1}, "maxscale"),
        ("blip2_image_train", {"min_scale": 0.9, "max_scale": 0.5}, "min_scale=0.9, max_scale=0.5"),
        ("blip2_image_eval", {"mean": 0.5}, "mean must be a list of numbers"),
        ("blip2_image_eval", {"mean": "0.5"}, "mean must be a list of numbers"),
        ("blip2_image_eval", {"mean": [0.5]}, "three numbers each"),
        ("blip2_image_eval", {"std": [1, 1, 0]}, "those of std above 0"),
        ("blip2_image_eval", {"image_size": 0}, "at least 1 pixel"),
        ("blip_caption", {"max_words": 0}, "at least 1"),
        ("report_text", {"max_words": -1}, "0 (all) or more"),
    ],
)
def test_a_bad_configuration_is_explained(name: str, cfg: dict, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        load_processor(name, cfg)
    assert message in str(error.value)


def test_an_unknown_name_lists_the_choices() -> None:
    with pytest.raises(RegistryError, match="blip2_image_eval"):
        load_processor("blip2_image_evl")
