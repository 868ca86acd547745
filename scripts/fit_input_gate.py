"""Makes the weights of the input gate: python scripts/fit_input_gate.py OPENI [--out FILE]

OPENI is a folder with `images.csv` (image, uid, projection) and `NLMCXR_png/`. Used are the films of two thirds of the patients (SHA-256
of the uid, modulo 3, not 0); `benchmarks/input_gate.py` measures on the rest. Each film comes as it is, and `NUM_ALTERED` times framed,
cropped or tilted. Against them stand drawn images that are no chest films: cloudy fields of power-law spectrum, shapes, patterns, limbs,
discs. No photograph, text page or noise is used, so those measure the gate fairly.

The fit is a maximum-likelihood choice between 17 answers, the 16 readings of `xraygpt.processors.input_gate` and "none" (logit 0), with
a quadratic penalty. Frontal, lateral and drawn images weigh as 1 : 1 : 2. Everything is seeded; on one core it takes about a minute.
"""

import argparse
import csv
import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from scipy.optimize import minimize

from xraygpt.processors.input_gate import GRID, NUM_FREQUENCIES, VIEWS, WEIGHTS_FILE, candidates, grids, low_frequencies, without_bars

NUM_DRAWN = 15_000
NUM_ALTERED = 2  # of each film
PENALTY = 1e-4  # on the squared weights of coefficients times SCALE
SCALE = 10.0  # a coefficient is about 0.1
NONE = -1

HEAD = """\
# The weights of xraygpt/processors/input_gate.py, made by scripts/fit_input_gate.py from {frontal} frontal and {lateral} lateral films
# of Open-i and {drawn} drawn images that are no chest films. Do not edit by hand.
#
# Row: vertical frequency 0 to 5 of the cosine transform of the ranks; column: horizontal frequency. The upper left number is the
# constant. Even columns weigh the coefficient, odd columns its absolute value, so that a mirrored film scores the same.
weights:
"""


def is_held_out(uid: str) -> bool:
    """True for the third of the patients that only the benchmark may look at."""
    return int(hashlib.sha256(uid.encode()).hexdigest(), 16) % 3 == 0


def fitting_films(folder: Path) -> Iterator[tuple[Image.Image, int]]:
    """Each film with the index of its view."""
    paths = {path.stem: path for path in (folder / "NLMCXR_png").iterdir()}
    with open(folder / "images.csv", newline="", encoding="utf-8") as handle:
        for row in csv.DictReader(handle):
            if not is_held_out(row["uid"]):
                yield Image.open(paths[row["image"]]).convert("L"), VIEWS.index(row["projection"].lower())


def altered(film: Image.Image, rng: np.random.Generator) -> Image.Image:
    """The film in a flat frame, cropped by up to an eighth at each edge, or tilted by up to 7 degrees."""
    way = rng.integers(3)
    if way == 0:
        bars = rng.integers(0, 60, 2) * (rng.random(2) < 0.7)
        frame = Image.new("L", (film.width + 2 * int(bars[0]), film.height + 2 * int(bars[1])), int(rng.choice([0, 0, 255])))
        frame.paste(film, (int(bars[0]), int(bars[1])))
        return frame
    if way == 1:
        left, top, right, bottom = (int(share) for share in rng.integers(0, film.width // 8, 4))
        return film.crop((left, top, film.width - right, film.height - bottom))
    return film.rotate(float(rng.uniform(-7, 7)), Image.Resampling.BILINEAR)


def clouds(rng: np.random.Generator) -> np.ndarray:
    """A random field whose amplitude falls with the frequency to the power of 1 to 2.5, as that of photographs does."""
    size = 2 * GRID
    across, down = np.meshgrid(np.fft.fftfreq(size), np.fft.fftfreq(size) * rng.choice([0.5, 1.0, 1.0, 2.0]))
    frequency = np.hypot(across, down)
    frequency[0, 0] = 1.0
    field = np.fft.ifft2(np.fft.fft2(rng.normal(size=(size, size))) * frequency ** -rng.uniform(1, 2.5))
    return field.real[:GRID, :GRID]


def shapes(rng: np.random.Generator) -> np.ndarray:
    """Up to seven flat ellipses and rectangles."""
    image = Image.new("L", (4 * GRID, 4 * GRID), int((0, 255, rng.integers(256))[rng.integers(3)]))
    draw = ImageDraw.Draw(image)
    for _ in range(rng.integers(1, 8)):
        (left, right), (top, bottom) = (sorted(int(edge) for edge in rng.integers(-20, 4 * GRID + 20, 2)) for _ in range(2))
        (draw.ellipse if rng.random() < 0.5 else draw.rectangle)((left, top, right, bottom), fill=int(rng.integers(256)))
    return np.asarray(image.resize((GRID, GRID), Image.Resampling.BOX)) + rng.normal(0, 1, (GRID, GRID))


def pattern(rng: np.random.Generator) -> np.ndarray:
    """A ramp from dark to bright, or a board of 2 to 8 fields across, with a little cloud."""
    down, across = np.mgrid[0:GRID, 0:GRID] / GRID
    angle, fields = rng.uniform(0, 2 * np.pi), rng.integers(2, 9)
    ramp, centred = down * np.sin(angle) + across * np.cos(angle), np.hypot(down - rng.random(), across - rng.random())
    board = ((down * fields).astype(int) + (across * fields).astype(int)) % 2
    texture = clouds(rng)
    return rng.choice([-1, 1]) * (ramp, centred, board)[rng.integers(3)] + texture / texture.std() * rng.uniform(0, 0.05)


def limb(rng: np.random.Generator) -> np.ndarray:
    """A tapering cylinder of flesh with one or two of bone in it, in any direction."""
    down, across = np.mgrid[0:GRID, 0:GRID] / (GRID - 1) - 0.5
    angle = rng.uniform(0, np.pi)
    side = across * np.cos(angle) + down * np.sin(angle) - rng.uniform(-0.2, 0.2)
    along = down * np.cos(angle) - across * np.sin(angle)
    width = rng.uniform(0.12, 0.4) * (1 + rng.uniform(-0.6, 0.6) * along)
    density = 60 * np.sqrt(np.clip(width**2 - side**2, 0, None))
    for _ in range(rng.integers(1, 3)):
        bone, centre = rng.uniform(0.15, 0.45) * width, rng.uniform(-0.5, 0.5) * width
        density += 40 * np.sqrt(np.clip(bone**2 - (side - centre) ** 2, 0, None))
    return density + rng.normal(0, 0.3, density.shape)


def disc(rng: np.random.Generator) -> np.ndarray:
    """A cloudy ellipse with a brighter rim: a head, a slice."""
    down, across = np.mgrid[0:GRID, 0:GRID] / (GRID - 1) - 0.5
    distance = np.hypot(*((axis - rng.uniform(-0.1, 0.1)) / rng.uniform(0.6, 1) for axis in (across, down)))
    edge = rng.uniform(0.3, 0.5)
    inside, rim = distance < edge, distance > edge * rng.uniform(0.75, 0.95)
    texture = clouds(rng)
    values = inside * (rng.uniform(50, 150) + rim * rng.uniform(0, 100) + texture / texture.std() * rng.uniform(0, 60))
    return values + rng.normal(0, 1, values.shape)


DRAWN: tuple[Callable[[np.random.Generator], np.ndarray], ...] = (clouds, shapes, pattern, limb, disc)


def fit(films: np.ndarray, views: np.ndarray, drawn: np.ndarray) -> np.ndarray:
    """The weights [2, 6, 6] from blocks [N, 6, 6] of films, the index of each film's view [N], and blocks of drawn images [M, 6, 6]."""
    inputs = candidates(np.concatenate([films, drawn])) * SCALE
    inputs[..., 0, 0] = 1.0
    inputs = inputs.reshape(len(inputs), 8, -1)
    true = np.concatenate([views * 8, np.full(len(drawn), NONE)])  # a film as it is stored is upright and not inverted
    answers, counts = np.unique(true, return_counts=True)
    share = {answer: (1.0 if answer == NONE else 0.5) / count for answer, count in zip(answers, counts, strict=True)}
    weight = np.array([share[answer] for answer in true])
    is_film, rows = true != NONE, np.arange(len(true))

    def loss(flat: np.ndarray) -> tuple[float, np.ndarray]:
        table = flat.reshape(len(VIEWS), -1)
        logits = np.einsum("nkd,wd->nwk", inputs, table).reshape(len(inputs), -1)
        top = np.maximum(logits.max(axis=1), 0)
        log_total = top + np.log(np.exp(logits - top[:, None]).sum(axis=1) + np.exp(-top))
        error = np.exp(logits - log_total[:, None])
        error[rows[is_film], true[is_film]] -= 1
        chosen = np.where(is_film, logits[rows, true], 0.0)
        slope = np.einsum("nwk,nkd->wd", (error * weight[:, None]).reshape(len(inputs), len(VIEWS), 8), inputs)
        return float(weight @ (log_total - chosen)) + PENALTY / 2 * float(flat @ flat), (slope + PENALTY * table).ravel()

    start = np.zeros(len(VIEWS) * inputs.shape[-1])
    found = minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": 1000})
    weights = found.x.reshape(len(VIEWS), NUM_FREQUENCIES, NUM_FREQUENCIES) * SCALE
    weights[:, 0, 0] /= SCALE
    return weights


def main() -> None:
    """Fit and write the file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("openi", type=Path, help="the folder of images.csv and NLMCXR_png/")
    parser.add_argument("--out", type=Path, default=WEIGHTS_FILE)
    args = parser.parse_args()
    rng = np.random.default_rng(0)
    blocks, views = [], []
    for film, view in fitting_films(args.openi):
        for image in (film, *(altered(film, rng) for _ in range(NUM_ALTERED))):
            blocks.append(low_frequencies(grids(without_bars(image))[1]))
            views.append(view)
    drawn = [low_frequencies(DRAWN[number % len(DRAWN)](rng)) for number in range(NUM_DRAWN)]
    weights = fit(np.array(blocks), np.array(views), np.array(drawn))
    counts = {name: views.count(number) // (1 + NUM_ALTERED) for number, name in enumerate(VIEWS)}
    lines = [HEAD.format(drawn=NUM_DRAWN, **counts)]
    for name, table in zip(VIEWS, weights, strict=True):
        lines.append(f"  {name}:\n")
        lines += [f"    - [{', '.join(f'{number:.2f}' for number in row)}]\n" for row in table]
    args.out.write_text("".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
