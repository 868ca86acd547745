"""What the input gate stops, what it lets through, and what it advises."""

import csv
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont, ImageOps
from scipy.fft import dctn
from scipy.stats import rankdata

from xraygpt.common.errors import ConfigError, DataError
from xraygpt.datasets.preparation.phantom_film import render_film
from xraygpt.datasets.preparation.phantom_findings import sample_findings
from xraygpt.processors import open_image
from xraygpt.processors.input_gate import (
    MAX_ELONGATION,
    MIN_COARSE_SHARE,
    MIN_SIDE,
    candidates,
    check_image,
    invert,
    load_weights,
    low_frequencies,
    refusal,
    without_bars,
)

NUM_PHANTOMS = 10


@pytest.fixture(scope="module")
def phantoms() -> list[Image.Image]:
    """Synthetic frontal films of 160 pixels with findings."""
    return [Image.fromarray(render_film(sample_findings(np.random.default_rng(n)), size=160, seed=[n])) for n in range(NUM_PHANTOMS)]


def kinds(image: Image.Image) -> list[str]:
    return [concern.kind for concern in check_image(image)]


def from_array(values: np.ndarray) -> Image.Image:
    return Image.fromarray(np.clip(values, 0, 255).astype(np.uint8))


def text_page(size: int = 14) -> Image.Image:
    image = Image.new("L", (500, 640), 255)
    for top in range(40, 600, size * 3 // 2):
        ImageDraw.Draw(image).text((40, top), "The lungs are clear. The heart is of normal size. " * 2, font=ImageFont.load_default(size))
    return image


def ramp() -> Image.Image:
    return from_array(np.tile(np.linspace(0, 255, 300), (300, 1)))


def board(fields: int) -> Image.Image:
    down, across = np.mgrid[0:320, 0:320] * fields // 320
    return from_array(255 * ((down + across) % 2))


RNG = np.random.default_rng(0)
NO_FILMS = {
    "black": (Image.new("L", (300, 300), 0), "blank"),
    "white with detector noise": (from_array(250 + RNG.normal(0, 2, (400, 300))), "blank"),
    "noise": (from_array(RNG.integers(0, 256, (300, 300))), "not_chest"),
    "black and white noise": (from_array(255 * RNG.integers(0, 2, (200, 260))), "not_chest"),
    "small print": (text_page(), "not_chest"),
    "large print": (text_page(36), "not_chest"),
    "white print": (invert(text_page()), "not_chest"),
    "coarse board": (board(4), "not_chest"),
    "fine board": (board(40), "not_chest"),
    "ramp": (ramp(), "not_chest"),
}


@pytest.mark.parametrize("name", NO_FILMS)
def test_what_is_no_film_is_named(name: str) -> None:
    image, kind = NO_FILMS[name]
    assert kinds(image) == [kind]
    assert kinds(image.convert("RGB")) == [kind]  # grey stored as colour is no colour


@pytest.mark.parametrize("name", ["noise", "black and white noise", "small print", "fine board"])
def test_fine_structure_is_named_as_such(name: str) -> None:
    (concern,) = check_image(NO_FILMS[name][0])
    assert "fine structure" in concern.message
    assert 0 <= concern.score < MIN_COARSE_SHARE


def test_phantoms_pass_in_any_size_shape_and_exposure(phantoms: list[Image.Image]) -> None:
    harmless: list[Callable[[Image.Image], Image.Image]] = [
        lambda film: film,
        lambda film: film.convert("RGB"),
        lambda film: film.resize((MIN_SIDE, MIN_SIDE)),
        lambda film: film.resize((1000, 1200)),
        lambda film: film.point([round(255 * (level / 255) ** 2) for level in range(256)]),
        lambda film: film.point([64 + level // 2 for level in range(256)]),
        ImageOps.mirror,
        lambda film: ImageOps.expand(film, border=(60, 0), fill=0),
    ]
    assert [kinds(alter(film)) for alter in harmless for film in phantoms] == [[]] * len(harmless) * NUM_PHANTOMS


@pytest.mark.parametrize("turn", [90, 180, 270])
def test_a_turned_film_comes_with_the_turn_that_puts_it_upright(phantoms: list[Image.Image], turn: int) -> None:
    for film in phantoms:
        turned = film.rotate(-turn, expand=True)
        (concern,) = check_image(turned)
        assert (concern.kind, concern.turn) == ("rotated", turn)
        assert f"{turn} degrees counter-clockwise" in concern.message
        assert turned.rotate(concern.turn, expand=True).tobytes() == film.tobytes()


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_an_inverted_film_is_named_and_invert_mends_it(phantoms: list[Image.Image], mode: str) -> None:
    for film in phantoms:
        inverted = ImageOps.invert(film.convert(mode))
        assert kinds(inverted) == ["inverted"]
        assert invert(inverted).tobytes() == film.convert(mode).tobytes()


def test_two_faults_of_one_film_are_both_named(phantoms: list[Image.Image]) -> None:
    concerns = check_image(invert(phantoms[0]).rotate(180))
    assert [(concern.kind, concern.turn) for concern in concerns] == [("inverted", 0), ("rotated", 180)]


def test_small_images_are_not_judged_further(phantoms: list[Image.Image]) -> None:
    (concern,) = check_image(phantoms[0].resize((400, MIN_SIDE - 1)))
    assert (concern.kind, concern.score) == ("too_small", MIN_SIDE - 1)
    assert f"400 x {MIN_SIDE - 1}" in concern.message


def test_elongated_images_are_no_film_but_bars_do_not_count(phantoms: list[Image.Image]) -> None:
    wide = ImageOps.expand(phantoms[0], border=(70, 0), fill=0)
    assert wide.width / wide.height > MAX_ELONGATION
    assert kinds(wide) == []
    pair = Image.new("L", (320, 160))
    pair.paste(phantoms[0], (0, 0))
    pair.paste(phantoms[1], (160, 0))
    assert kinds(pair) == ["not_chest"]


def test_colour_is_a_concern_and_a_small_coloured_mark_is_none(phantoms: list[Image.Image]) -> None:
    film = phantoms[0].convert("RGB")
    ImageDraw.Draw(film).rectangle((10, 10, 25, 20), fill=(255, 0, 0))
    assert kinds(film) == []
    ImageDraw.Draw(film).rectangle((10, 10, 50, 30), fill=(255, 0, 0))
    (concern,) = check_image(film)
    assert concern.kind == "colour"
    assert concern.score == pytest.approx(41 * 21 / 160**2)


def test_a_refusal_names_the_file_and_every_concern(phantoms: list[Image.Image]) -> None:
    said = refusal("a.png", check_image(invert(phantoms[0]).rotate(180)))
    assert re.search(r"^a\.png: refused .*inverted.*turned", said)


@pytest.mark.parametrize("mode", ["I;16", "F", "RGBA", "1"])
def test_other_modes_are_refused(mode: str) -> None:
    with pytest.raises(DataError, match=f"not {mode}"):
        check_image(Image.new(mode, (200, 200)))


# The arithmetic -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", range(8))
def test_a_candidate_is_what_the_altered_image_gives(number: int) -> None:
    grid = np.random.default_rng(1).normal(size=(32, 32))
    altered = np.rot90(grid, number % 4) * (-1 if number >= 4 else 1)
    expected = low_frequencies(altered)
    expected[:, 1::2] = np.abs(expected[:, 1::2])
    expected[0, 0] = 1
    np.testing.assert_allclose(candidates(low_frequencies(grid))[number], expected, atol=1e-12)


def test_low_frequencies_see_ranks_only() -> None:
    grid = np.random.default_rng(2).normal(size=(32, 32))
    np.testing.assert_allclose(low_frequencies(np.exp(grid)), low_frequencies(grid), atol=1e-12)
    down = np.repeat(np.arange(32.0), 32).reshape(32, 32)  # a ramp: ranks rise evenly, from -31/32 to 31/32 by 2/32
    wave = np.cos(np.pi * (np.arange(32) + 0.5) / 32) * np.sqrt(2 / 32)
    assert low_frequencies(down)[1, 0] == pytest.approx((np.arange(-31, 32, 2) / 32) @ wave * np.sqrt(32) / 32)
    assert np.abs(low_frequencies(down)[:, 1:]).max() < 1e-12


@pytest.mark.parametrize("levels", [4, 256, 10**6])  # with few levels most ranks are shared
def test_low_frequencies_are_scipys(levels: int) -> None:
    """The gate's weights were fitted to these; importing scipy takes longer than judging a film."""
    grid = np.random.default_rng(levels).integers(0, levels, (32, 32)).astype(np.float64)
    ranks = (rankdata(grid).reshape(grid.shape) - 0.5) * (2 / grid.size) - 1
    np.testing.assert_allclose(low_frequencies(grid), dctn(ranks, norm="ortho")[:6, :6] / 32, atol=1e-14)


def test_bars_are_cut_but_not_a_large_flat_background() -> None:
    values = np.zeros((100, 200))
    values[10:90, 30:180] = np.random.default_rng(3).integers(0, 256, (80, 150))
    assert without_bars(from_array(values)).size == (150, 80)
    values[:, 80:] = 0
    assert without_bars(from_array(values)).size == (200, 80)


@pytest.mark.parametrize("text", ["other: 1", "weights: {frontal: [[1, 2]], lateral: [[1, 2]]}", "weights: {frontal: [[1, 2]]}"])
def test_a_damaged_table_of_weights_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "weights.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"weights\.yaml: expected"):
        load_weights(path)


# Real films -----------------------------------------------------------------------------------------------------------


def films(test_data: Path, view: str, number: int) -> Iterator[Image.Image]:
    """Every 12th film of a view, squashed to 256 x 256 as they lie there."""
    paths = {path.stem: path for path in (test_data / "openi" / "NLMCXR_png").iterdir()}
    with open(test_data / "openi" / "images.csv", newline="", encoding="utf-8") as handle:
        names = [row["image"] for row in csv.DictReader(handle) if row["projection"] == view]
    yield from (open_image(paths[name]) for name in names[::12][:number])


def test_real_frontal_films(test_data: Path) -> None:
    """At most 2 in 100 false alarms, and the same films inverted or turned are named."""
    frontal = list(films(test_data, "Frontal", 200))
    assert sum(kinds(film) != [] for film in frontal) <= 4
    assert sum("inverted" in kinds(invert(film)) for film in frontal) >= 190
    assert all(sum("rotated" in kinds(film.rotate(turn)) for film in frontal) >= 190 for turn in (90, 180, 270))


def test_real_lateral_films(test_data: Path) -> None:
    """They are named, and seldom called turned as well: the plainer reading is preferred."""
    found = [kinds(film) for film in films(test_data, "Lateral", 200)]
    assert sum(each != [] for each in found) >= 194
    assert sum("lateral" in each for each in found) >= 180
    assert sum("rotated" in each for each in found) <= 12


@pytest.mark.parametrize("name", ["RG1_J2KI", "fodicom-CR-MONO1-10-chest", "txrv_jpeg_baseline_chest"])
def test_dicom_chest_films_pass_and_are_named_when_inverted(test_data: Path, name: str) -> None:
    film = open_image(test_data / "dicom" / f"{name}.dcm")
    assert kinds(film) == []
    assert kinds(invert(film)) == ["inverted"]


def test_a_dicom_limb_is_no_chest(test_data: Path) -> None:
    assert kinds(open_image(test_data / "dicom" / "RG3_RLE.dcm")) == ["not_chest"]
