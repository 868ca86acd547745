"""What the input gate lets through and what it stops: python benchmarks/input_gate.py [--data FOLDER [--hold-out]] [--photos FOLDER]

Without arguments: drawn images, phantoms and the speed. DATA holds `openi/` (images.csv, NLMCXR_png/) and `dicom/`; its films are split
by patient as in scripts/fit_input_gate.py, and the third that the weights were not made from is only read with --hold-out. PHOTOS is a
folder of PNG or JPEG photographs, of each of which 20 random parts are shown, in colour and in grey.

"Stopped": any concern. "Named": among the concerns is the kind that the row expects.
"""

import argparse
import csv
import hashlib
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from io import BytesIO
from pathlib import Path

import numpy as np
import pydicom
from PIL import Image, ImageDraw, ImageFont, ImageOps

from xraygpt.datasets.preparation.phantom_film import render_film
from xraygpt.datasets.preparation.phantom_findings import sample_findings
from xraygpt.processors.image_io import open_image
from xraygpt.processors.input_gate import MIN_SIDE, check_image, invert

NUM_DRAWN = 500
PARTS_OF_A_PHOTO = 20
WORDS = [
    "the",
    "heart",
    "is",
    "normal",
    "lungs",
    "are",
    "clear",
    "without",
    "effusion",
    "dear",
    "madam",
    "invoice",
    "page",
    "total",
    "2026",
]

Film = tuple[Image.Image, tuple[int, int]]  # as stored, and the size of the original
Alter = Callable[[Image.Image], Image.Image]


def is_held_out(uid: str) -> bool:
    """True for the third of the patients that the weights were not made from."""
    return int(hashlib.sha256(uid.encode()).hexdigest(), 16) % 3 == 0


def read_films(openi: Path, view: str, *, held_out: bool) -> list[Film]:
    """The films of one view of one part."""
    paths = {path.stem: path for path in (openi / "NLMCXR_png").iterdir()}
    with open(openi / "images.csv", newline="", encoding="utf-8") as handle:
        rows = [row for row in csv.DictReader(handle) if row["projection"] == view and is_held_out(row["uid"]) == held_out]
    return [
        (Image.open(paths[row["image"]]).convert("L"), (round(float(row["orig_width"] or 256)), round(float(row["orig_height"] or 256))))
        for row in rows
    ]


# A film, altered ----------------------------------------------------------------------------------------------------


def in_shape(film: Film, side: int) -> Image.Image:
    """The film with the aspect ratio of its original, `side` pixels on the shorter side."""
    image, size = film
    return image.resize((round(size[0] * side / min(size)), round(size[1] * side / min(size))), Image.Resampling.BICUBIC)


def framed(image: Image.Image) -> Image.Image:
    """On a black square of 4/3 the size."""
    side = max(image.size) * 4 // 3
    return ImageOps.pad(ImageOps.expand(image, border=(side - max(image.size)) // 2), (side, side))


def with_gamma(image: Image.Image, gamma: float) -> Image.Image:
    """Darker for a gamma above 1, lighter below."""
    return image.point([round(255 * (level / 255) ** gamma) for level in range(256)])


def cropped(image: Image.Image) -> Image.Image:
    """Without a tenth at each edge."""
    return ImageOps.crop(image, min(image.size) // 10)


def recompressed(image: Image.Image) -> Image.Image:
    """Through a JPEG of quality 20."""
    buffer = BytesIO()
    image.save(buffer, "JPEG", quality=20)
    return Image.open(buffer).convert("L")


HARMLESS: dict[str, Alter] = {
    "at twice the size": lambda film: film.resize((512, 512), Image.Resampling.BICUBIC),
    "mirrored": ImageOps.mirror,
    "darker (gamma 2)": partial(with_gamma, gamma=2.0),
    "lighter (gamma 0.5)": partial(with_gamma, gamma=0.5),
    "half the contrast": lambda film: film.point([64 + level // 2 for level in range(256)]),
    "on a black square": framed,
    "a tenth cut off at each edge": cropped,
    "tilted by 5 degrees": lambda film: film.rotate(5, Image.Resampling.BILINEAR),
    "JPEG of quality 20": recompressed,
    "stored as RGB": lambda film: film.convert("RGB"),
}
WRONG: dict[str, tuple[str, Alter]] = {
    "inverted": ("inverted", invert),
    "turned by 90": ("rotated", lambda film: film.rotate(90, expand=True)),
    "turned by 180": ("rotated", lambda film: film.rotate(180)),
    "turned by 270": ("rotated", lambda film: film.rotate(270, expand=True)),
    "inverted and turned by 180": ("inverted", lambda film: invert(film).rotate(180)),
    "64 pixels": ("too_small", lambda film: film.resize((64, 64))),
}


# Drawn images that are no films ---------------------------------------------------------------------------------------


def blank(rng: np.random.Generator) -> Image.Image:
    """One grey level, with or without the noise of a detector."""
    noise = rng.normal(0, rng.choice([0.0, 1.0, 4.0]), _size(rng)[::-1])
    return Image.fromarray(np.clip(rng.integers(256) + noise, 0, 255).astype(np.uint8))


def noise(rng: np.random.Generator) -> Image.Image:
    """Uniform, normal, or black and white."""
    shape = _size(rng)[::-1]
    made = (rng.integers(0, 256, shape), rng.normal(128, rng.uniform(20, 60), shape), 255 * rng.integers(0, 2, shape))
    return Image.fromarray(np.clip(made[rng.integers(3)], 0, 255).astype(np.uint8))


def text_page(rng: np.random.Generator) -> Image.Image:
    """Lines of words, black on white or white on black, from small print to large."""
    width, height = _size(rng)
    image = Image.new("L", (width, height), 255)
    draw, size = ImageDraw.Draw(image), int(rng.integers(9, 40))
    font, margin = ImageFont.load_default(size), int(rng.integers(0, width // 6))
    for top in range(margin, height - margin, int(size * rng.uniform(1.1, 2))):
        line = " ".join(rng.choice(WORDS, 1 + width // size)) if rng.random() < 0.85 else ""
        draw.text((margin, top), line, fill=0, font=font)
        draw.rectangle((width - margin, top, width, top + 2 * size), fill=255)
    return invert(image) if rng.random() < 0.3 else image


def checkerboard(rng: np.random.Generator) -> Image.Image:
    """Of 2 to 16 fields across."""
    width, height = _size(rng)
    fields = int(rng.integers(2, 17))
    down, across = np.mgrid[0:height, 0:width]
    return Image.fromarray((255 * ((down * fields // height + across * fields // width) % 2)).astype(np.uint8))


def gradient(rng: np.random.Generator) -> Image.Image:
    """From one grey level to another, in any direction or from a centre."""
    width, height = _size(rng)
    down, across = np.mgrid[0:height, 0:width]
    down, across, angle = down / height - rng.random(), across / width - rng.random(), rng.uniform(0, 2 * np.pi)
    ramp = np.hypot(down, across) if rng.random() < 0.3 else down * np.sin(angle) + across * np.cos(angle)
    return Image.fromarray(np.interp(ramp, (ramp.min(), ramp.max()), rng.permutation([0, 255])).astype(np.uint8))


def coloured_scene(rng: np.random.Generator) -> Image.Image:
    """Sky, ground and coloured things."""
    width, height = _size(rng)
    image = Image.new("RGB", (width, height), (90, 150, 230))
    draw = ImageDraw.Draw(image)
    draw.rectangle((0, int(height * rng.uniform(0.3, 0.8)), width, height), fill=(80, 140, 60))
    for _ in range(rng.integers(2, 9)):
        x, y, size = rng.integers(width), rng.integers(height), rng.integers(10, width // 2)
        draw.ellipse((int(x), int(y), int(x + size), int(y + size)), fill=tuple(int(level) for level in rng.integers(0, 256, 3)))
    return image


def _size(rng: np.random.Generator) -> tuple[int, int]:
    width = int(rng.integers(256, 900))
    return width, int(width * rng.uniform(0.75, 1.35))


DRAWN: dict[str, tuple[str, Callable[[np.random.Generator], Image.Image]]] = {
    "blank": ("blank", blank),
    "noise": ("not_chest", noise),
    "text pages": ("not_chest", text_page),
    "checkerboards": ("not_chest", checkerboard),
    "gradients": ("not_chest", gradient),
    "coloured scenes": ("colour", coloured_scene),
}


def parts_of_photos(folder: Path) -> Iterator[Image.Image]:
    """Random parts, 40 % to 100 % of each side, of every photograph."""
    rng = np.random.default_rng(0)
    for path in sorted(folder.iterdir()):
        photo = Image.open(path).convert("RGB")
        for share in rng.uniform(0.4, 1.0, PARTS_OF_A_PHOTO):
            width, height = int(photo.width * share), int(photo.height * share)
            left, top = int(rng.integers(photo.width - width + 1)), int(rng.integers(photo.height - height + 1))
            if min(width, height) >= MIN_SIDE:
                yield photo.crop((left, top, left + width, top + height))


def phantoms(side: int) -> list[Image.Image]:
    """Synthetic films with findings."""
    numbers = range(NUM_DRAWN // 2)
    return [Image.fromarray(render_film(sample_findings(np.random.default_rng(n)), size=side, seed=[n])) for n in numbers]


# Tables ---------------------------------------------------------------------------------------------------------------


def row(name: str, images: Iterable[Image.Image], expected: str | None = None) -> None:
    """Print one line of a table, with the kinds that came up."""
    found = [{concern.kind for concern in check_image(image)} for image in images]
    kinds = ", ".join(f"{kind} {count}" for kind, count in Counter(kind for each in found for kind in sorted(each)).most_common())
    stopped = sum(map(bool, found)) / len(found)
    named = f"{sum(expected in each for each in found) / len(found):.2%}" if expected else ""
    print(f"| {name} | {len(found)} | {stopped:.2%} | {named} | {kinds} |")


def head(title: str) -> None:
    """Print the head of a table."""
    print(f"\n| {title} | images | stopped | named | kinds |\n| --- | ---: | ---: | ---: | --- |")


def print_films(openi: Path, *, held_out: bool) -> None:
    """False alarms on frontal films, and catches of the wrong ones."""
    part = "held out" if held_out else "the weights' own"
    films = {view: read_films(openi, view, held_out=held_out) for view in ("Frontal", "Lateral")}
    head(f"frontal films, {part}")
    frontal = [image for image, _ in films["Frontal"]]
    row("as stored (256 x 256)", frontal)
    row("in the original's shape", [in_shape(film, 512) for film in films["Frontal"]])
    for name, alter in HARMLESS.items():
        row(name, map(alter, frontal))
    head(f"wrong films, {part}")
    for name, (kind, alter) in WRONG.items():
        row(name, map(alter, frontal), kind)
    row("lateral", [image for image, _ in films["Lateral"]], "lateral")
    row("lateral, in the original's shape", [in_shape(film, 512) for film in films["Lateral"]], "lateral")
    row("lateral, mirrored", [ImageOps.mirror(image) for image, _ in films["Lateral"]], "lateral")
    row("frontal and lateral side by side", map(_side_by_side, films["Frontal"], films["Lateral"]))


def _side_by_side(*films: Film) -> Image.Image:
    """In their original shapes, 256 pixels high."""
    images = [image.resize((round(256 * size[0] / size[1]), 256)) for image, size in films]
    pair = Image.new("L", (sum(image.width for image in images), 256))
    pair.paste(images[0], (0, 0))
    pair.paste(images[1], (images[0].width, 0))
    return pair


def print_dicom(folder: Path) -> None:
    """File by file: a limb, three chests, and a slice of a CT, whose grey levels are stretched."""
    slice_values = pydicom.dcmread(folder / "CT_small.dcm").pixel_array.astype(float)
    ct = Image.fromarray(np.interp(slice_values, (slice_values.min(), slice_values.max()), (0, 255)).astype(np.uint8))
    head("DICOM")
    row("CT_small (a slice)", [ct], "not_chest")
    for name in ("RG3_RLE", "RG1_J2KI", "fodicom-CR-MONO1-10-chest", "txrv_jpeg_baseline_chest"):
        row(name, [open_image(folder / f"{name}.dcm")], "not_chest" if name == "RG3_RLE" else None)


def print_speed(images: Sequence[Image.Image]) -> None:
    """Milliseconds an image on one thread, the median of 50."""
    print("\n| size | ms |\n| --- | ---: |")
    for image in images:
        times = []
        for _ in range(50):
            start = time.perf_counter()
            check_image(image)
            times.append(1000 * (time.perf_counter() - start))
        print(f"| {image.width} x {image.height} {image.mode} | {np.median(times):.1f} |")


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="the folder of openi/ and dicom/")
    parser.add_argument("--hold-out", action="store_true", help="the third that the weights were not made from; count how often you look")
    parser.add_argument("--photos", type=Path, help="a folder of photographs")
    args = parser.parse_args()
    rng = np.random.default_rng(0)
    head("no films")
    for name, (kind, draw) in DRAWN.items():
        row(name, [draw(rng) for _ in range(NUM_DRAWN)], kind)
    if args.photos:
        photos = list(parts_of_photos(args.photos))
        row("photographs in colour", photos, "colour")
        row("photographs in grey", [photo.convert("L") for photo in photos], "not_chest")
    head("phantoms")
    for side in (128, 256):
        made = phantoms(side)
        row(f"{side} x {side}", made)
        for name, (kind, alter) in WRONG.items():
            row(f"{side} x {side}, {name}", map(alter, made), kind)
    if args.data:
        print_films(args.data / "openi", held_out=args.hold_out)
        print_dicom(args.data / "dicom")
    film = made[0]
    print_speed([film.resize((512, 512)), film.resize((512, 512)).convert("RGB"), film.resize((2500, 3000))])


if __name__ == "__main__":
    main()
