"""The input gate: is this image an upright frontal chest film at all? A model would describe a cat as confidently.

`check_image` names what speaks against it; an empty list says that nothing was found, not that the film is good. In order:

| kind      | seen when                                                                        | score                              |
| --------- | -------------------------------------------------------------------------------- | ---------------------------------- |
| too_small | the shorter side is below `MIN_SIDE`; nothing else is looked at then             | shorter side, pixels               |
| colour    | more than `MAX_COLOURED_SHARE` of the pixels are coloured                        | share of coloured pixels           |
| blank     | 5th and 95th percentile lie within `MIN_SPREAD`; nothing else is looked at then  | their distance, grey levels        |
| not_chest | one side is more than `MAX_ELONGATION` times the other, bars left out            | ratio of the sides                 |
|           | the variance is that of fine structure: noise, text, fabric                      | variance left at 32 x 32, share    |
|           | none of 16 readings fits                                                         | log-odds of none beside the best   |
| inverted, rotated, lateral | a reading beats "upright frontal film" by `MARGIN`; several may go together | log-odds against that |

The 16 readings: frontal or lateral, turned by 0, 90, 180 or 270 degrees, grey levels right or inverted. The image is brought to 32 x 32
pixels, each replaced by its rank (so that exposure, window and gamma do not matter), and of its cosine transform the 6 x 6 lowest
frequencies are kept. A reading's logit is a weighted sum of them; there are 36 weights for "frontal", 36 for "lateral", and turning and
inverting the image only swaps the coefficients and their signs. `input_gate.yaml` holds the weights and says how they were made,
`scripts/fit_input_gate.py` makes them, `benchmarks/input_gate.py` measures the gate.

Limits: a mirrored film passes (the side marker would have to be read), and so does one that is tilted a little, over-exposed or cut short,
and a good phantom. False alarms come from tight crops and from films whose collimated border is dim rather than black. The weights come
from one collection, Open-i; how often the gate errs on bedside films and on children was not measured.

Where a model's features are at hand, their distance to those of the training images says more about strange images: a concern of the kind
"unfamiliar", which `xraygpt.serving.pipeline` adds.
"""

import functools
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import yaml
from numpy.typing import NDArray
from PIL import Image, ImageOps

from xraygpt.common.errors import ConfigError, DataError

Kind = Literal["too_small", "colour", "blank", "not_chest", "inverted", "rotated", "lateral", "unfamiliar"]
Floats = NDArray[np.floating]

WEIGHTS_FILE = Path(__file__).with_name("input_gate.yaml")

MIN_SIDE = 128
"""Pixels of the shorter side. Fewer do not show a rib; the models read 224."""

MIN_SPREAD = 16
"""Grey levels of 255 between the 5th and the 95th percentile of the 128 x 128 image. The frontal films of the fit have 85 at least."""

MIN_COARSE_SHARE = 0.75
"""Of the variance at 128 x 128 pixels, what is left at 32 x 32. The frontal films of the fit keep 0.82 at least, noise 0.06."""

MAX_COLOURED_SHARE = 0.02
"""Of the pixels; a coloured arrow or marker covers less."""

MAX_ELONGATION = 1.75
"""Longer side : shorter side. Open-i's films stay below 1.71; two side by side have about 2."""

MARGIN = 2.0
"""Log-odds (natural) by which a reading beats a plainer one: 7 to 1. "Upright frontal film" is the plainest."""

VIEWS = ("frontal", "lateral")
GRID = 32
FINE_GRID = 128
NUM_FREQUENCIES = 6
_COLOURED = 16  # grey levels between the largest and the smallest channel; the noise of JPEG stays below
_WORKING_SIDE = 256  # pixels; larger films are averaged down first, by a whole number
_BAR_DEVIATION = 3.0  # grey levels; a row or column of a flat bar has less, its JPEG noise included

# The lowest rows of the orthonormal type-II cosine transform of GRID values: row k is cos(pi k (n + 1/2) / GRID), of norm 1.
_COSINES = np.cos(np.pi / GRID * np.outer(np.arange(NUM_FREQUENCIES), np.arange(GRID) + 0.5)) * np.sqrt(2 / GRID)
_COSINES[0] /= np.sqrt(2)


@dataclass(frozen=True)
class Concern:
    """One thing that speaks against an image.

    Attributes:
        kind: what is wrong.
        message: what was seen and what to do, a sentence or two for the user.
        score: the measured quantity; the module's table says which.
        turn: of a rotated film, the degrees counter-clockwise that put it upright: `image.rotate(turn, expand=True)`. Else 0.
    """

    kind: Kind
    message: str
    score: float
    turn: int = 0


@dataclass(frozen=True)
class Reading:
    """A way to see the image, and its logit beside "no chest film", which has 0."""

    view: str
    turn: int
    inverted: bool
    logit: float

    @property
    def num_concerns(self) -> int:
        """How many things are wrong with the image, seen this way."""
        return (self.view != VIEWS[0]) + (self.turn != 0) + self.inverted


def check_image(image: Image.Image) -> list[Concern]:
    """Say what speaks against an image as an upright frontal chest film.

    Args:
        image: mode "L" or "RGB" of any size, as `open_image` returns it.

    Returns:
        The concerns, in the order of the module's table; empty if there are none.

    Raises:
        DataError: another mode, of which the grey levels are not known.
    """
    if image.mode not in ("L", "RGB"):
        raise DataError(f"The input gate reads images of mode L or RGB, 8 bits a channel, not {image.mode}. Open the file with open_image.")
    if min(image.size) < MIN_SIDE:
        seen = f"The image has {image.width} x {image.height} pixels; a film needs {MIN_SIDE} on its shorter side to show anything."
        return [Concern("too_small", f"{seen} Use the original instead of a preview.", float(min(image.size)))]
    small = image.reduce(max(1, min(image.size) // _WORKING_SIDE))
    film = without_bars(small.convert("L"))
    fine, coarse = grids(film)
    low, high = np.percentile(fine, (5, 95))
    concerns = _colour(small)
    if high - low < MIN_SPREAD:
        seen = f"The image is almost blank: 90 % of it lies within {high - low:.0f} of 255 grey levels."
        return [*concerns, Concern("blank", f"{seen} Check the exposure, the window, and that it is the right file.", float(high - low))]
    not_chest = _elongation(film) or _fine_structure(fine, coarse)
    return concerns + ([not_chest] if not_chest else _misreadings(readings(low_frequencies(coarse))))


def refusal(name: str, concerns: Iterable[Concern]) -> str:
    """What to say when an image is refused for what speaks against it; `name` is what to call it."""
    return f"{name}: refused by the input gate. {' '.join(concern.message for concern in concerns)}"


def invert(image: Image.Image) -> Image.Image:
    """The image with its grey levels turned round, which is what an inverted film needs."""
    return ImageOps.invert(image)


def without_bars(image: Image.Image) -> Image.Image:
    """Cut away the flat bars that a square frame or a collimator leaves at the edges of a grey image.

    A side of which less than half would be left stays as it is: then the flat part is no frame.
    """
    values = np.asarray(image, dtype=np.float32)
    left, right = _span(values.std(axis=0))
    top, bottom = _span(values.std(axis=1))
    return image.crop((left, top, right, bottom))


def _span(deviations: Floats) -> tuple[int, int]:
    used = np.flatnonzero(deviations > _BAR_DEVIATION)
    if len(used) == 0 or used[-1] + 1 - used[0] < len(deviations) / 2:
        return 0, len(deviations)
    return int(used[0]), int(used[-1]) + 1


def grids(film: Image.Image) -> tuple[Floats, Floats]:
    """A grey image averaged down to [128, 128] and [32, 32]; its aspect ratio is given up, as for the model."""
    fine = np.asarray(film.resize((FINE_GRID, FINE_GRID), Image.Resampling.BOX), dtype=np.float64)
    cell = FINE_GRID // GRID
    return fine, fine.reshape(GRID, cell, GRID, cell).mean(axis=(1, 3))


def low_frequencies(coarse: Floats) -> Floats:
    """The lowest frequencies of the ranks.

    Args:
        coarse: [32, 32] grey values in any unit.

    Returns:
        [6, 6] coefficients of the orthonormal type-II cosine transform, divided by 32, of the ranks in -1..1. Row: vertical frequency;
        column: horizontal. [0, 0] is 0, the ranks' mean.
    """
    ranks = (_average_ranks(coarse) - 0.5) * (2 / coarse.size) - 1
    return _COSINES @ ranks @ _COSINES.T / GRID


def _average_ranks(values: Floats) -> Floats:
    """1 for the smallest value to the number of values for the largest; equal values share the mean of their ranks."""
    _, place, count = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(count) - (count - 1) / 2)[place].reshape(values.shape)


def candidates(block: Floats) -> Floats:
    """What `low_frequencies` gives of the image turned counter-clockwise by 0, 90, 180, 270 degrees, then of the same four inverted.

    Args:
        block: [..., 6, 6].

    Returns:
        [..., 8, 6, 6], made ready for the weights: a mirror image changes the sign of the odd columns, so these lose it, and [0, 0] is 1,
        for the constant.
    """
    sign = (-1.0) ** np.arange(NUM_FREQUENCIES)
    across = np.swapaxes(block, -1, -2)
    turned = np.stack([block, sign[:, None] * across, sign[:, None] * sign * block, sign * across], axis=-3)
    every = np.concatenate([turned, -turned], axis=-3)
    every[..., :, 1::2] = np.abs(every[..., :, 1::2])
    every[..., 0, 0] = 1.0
    return every


def readings(block: Floats) -> list[Reading]:
    """The 16 readings of one image; the first is "upright frontal film". `block` is [6, 6], from `low_frequencies`."""
    logits = np.einsum("kuv,wuv->wk", candidates(block), load_weights())
    return [
        Reading(view, turn=90 * (number % 4), inverted=number >= 4, logit=float(logits[row, number]))
        for row, view in enumerate(VIEWS)
        for number in range(8)
    ]


@functools.cache
def load_weights(path: Path = WEIGHTS_FILE) -> Floats:
    """The weights [2, 6, 6] of the two views.

    Raises:
        ConfigError: the file does not hold a 6 x 6 table of numbers for each view.
    """
    try:
        tables = yaml.safe_load(path.read_text(encoding="utf-8"))["weights"]
        weights = np.array([tables[view] for view in VIEWS], dtype=np.float64)
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(f"{path}: expected a table of numbers for each of {', '.join(VIEWS)}; {error!r}. Make it anew.") from error
    if weights.shape != (len(VIEWS), NUM_FREQUENCIES, NUM_FREQUENCIES):
        raise ConfigError(f"{path}: expected {NUM_FREQUENCIES} x {NUM_FREQUENCIES} numbers a view, got {weights.shape[1:]}. Make it anew.")
    return weights


def _colour(small: Image.Image) -> list[Concern]:
    if small.mode == "L":
        return []
    values = np.asarray(small, dtype=np.int16)
    share = float((np.ptp(values, axis=-1) > _COLOURED).mean())
    if share <= MAX_COLOURED_SHARE:
        return []
    seen = f"{share:.0%} of the image is coloured; a radiograph is grey."
    return [
        Concern("colour", f"{seen} If it is a tinted scan or a photograph of a film, use the original; else it is the wrong file.", share)
    ]


def _elongation(film: Image.Image) -> Concern | None:
    ratio = max(film.size) / min(film.size)
    if ratio <= MAX_ELONGATION:
        return None
    seen = f"One side of the image is {ratio:.1f} times as long as the other, which no chest film is."
    return Concern("not_chest", f"{seen} Give the film alone, one a file.", ratio)


def _fine_structure(fine: Floats, coarse: Floats) -> Concern | None:
    share = float(coarse.var() / fine.var())
    if share >= MIN_COARSE_SHARE:
        return None
    seen = "The image consists of fine structure, like noise, text or a pattern, not of the broad shades of a chest film."
    return Concern("not_chest", f"{seen} Check that it is the right file.", share)


def _misreadings(all_readings: list[Reading]) -> list[Concern]:
    """The concerns of the plainest reading that no other one clearly beats."""
    best = max(reading.logit for reading in all_readings)
    if best < -MARGIN:
        seen = "The image does not look like a chest film, however it is turned."
        return [Concern("not_chest", f"{seen} Check that it is the right file.", -best)]
    possible = [reading for reading in all_readings if reading.logit > best - MARGIN]
    plainest = min(possible, key=lambda reading: (reading.num_concerns, -reading.logit))
    score = best - all_readings[0].logit
    concerns = []
    if plainest.inverted:
        message = "The grey levels look inverted: air should be black and bone white. Invert the image, or check the DICOM header."
        concerns.append(Concern("inverted", message, score))
    if plainest.turn:
        message = f"The film looks turned. Turn it by {plainest.turn} degrees counter-clockwise."
        concerns.append(Concern("rotated", message, score, turn=plainest.turn))
    if plainest.view == "lateral":
        message = "This looks like a lateral view; the model was trained on frontal ones. Use the frontal film of the study."
        concerns.append(Concern("lateral", message, score))
    return concerns
