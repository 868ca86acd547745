"""Opening large JPEGs scaled down and in grey beside plain Pillow: python benchmarks/draft_decoding.py [--images 8] [--repeats 7]

The baseline is what most code does: open, convert to RGB, resize to 224 x 224. Both run in turn on the same files on one core. The files
are radiographs enlarged to 2,500 x 3,000 pixels: those of the test data folder (XRAYGPT_TEST_DATA, or ../shared/data), else phantoms.
How far the two results differ, in grey levels of 0..255, is printed too.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torchvision.transforms import v2

from xraygpt.datasets.preparation.phantom_film import render_film
from xraygpt.processors import Blip2ImageEvalProcessor, open_image

FILM_SIZE = (2500, 3000)
DATA = Path(os.environ.get("XRAYGPT_TEST_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))


def radiographs(count: int) -> tuple[str, list[Image.Image]]:
    """Where the films come from, and `count` of them, grey."""
    files = sorted((DATA / "openi" / "NLMCXR_png").glob("*"))
    if files:
        return "Open-i", [open_image(file).convert("L") for file in files[:: max(1, len(files) // count)][:count]]
    return "phantoms", [Image.fromarray(render_film([], size=512, seed=[index])) for index in range(count)]


def write_films(folder: Path, count: int, *, quality: int, noise: float) -> tuple[str, list[Path]]:
    """Write the enlarged films as grey JPEGs, with the noise that enlarging took from them."""
    source, films = radiographs(count)
    rng = np.random.default_rng(0)
    paths = [folder / f"{index}.jpg" for index in range(len(films))]
    for path, film in zip(paths, films, strict=True):
        large = np.asarray(film.resize(FILM_SIZE, Image.Resampling.BICUBIC), dtype=np.float32)
        noisy = large + noise * rng.standard_normal(large.shape, dtype=np.float32)
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(path, quality=quality)
    return source, paths


def plain_pillow(path: Path) -> np.ndarray:
    """[224, 224, 3]"""
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB").resize((224, 224), Image.Resampling.BICUBIC))


def scaled_and_grey(path: Path, geometry: v2.Transform, min_side: int | None) -> np.ndarray:
    """[224, 224]"""
    return np.asarray(geometry(open_image(path, min_side=min_side)))


def images_per_second(work: Callable[[Path], np.ndarray], paths: Sequence[Path]) -> float:
    """How many files one core works through in a second of its own time."""
    start = time.process_time()
    for path in paths:
        work(path)
    return len(paths) / (time.process_time() - start)


def main() -> None:
    """Measure, and print the ratio and the differences."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--quality", type=int, default=90)
    parser.add_argument("--noise", type=float, default=3.0, help="standard deviation in grey levels")
    args = parser.parse_args()
    torch.set_num_threads(1)
    processor = Blip2ImageEvalProcessor()

    def ours(path: Path) -> np.ndarray:
        return scaled_and_grey(path, processor.geometry, processor.min_image_side)

    with tempfile.TemporaryDirectory() as folder:
        source, paths = write_films(Path(folder), args.images, quality=args.quality, noise=args.noise)
        rates = [(images_per_second(plain_pillow, paths), images_per_second(ours, paths)) for _ in range(args.repeats + 1)][1:]
        differences = np.stack([np.abs(plain_pillow(path)[..., 0].astype(int) - ours(path)) for path in paths])
    for repeat, (plain, scaled) in enumerate(rates):
        print(f"repeat {repeat}: {plain:.1f} images/s plain Pillow, {scaled:.1f} scaled and grey: {scaled / plain:.2f} x")
    ratios = [scaled / plain for plain, scaled in rates]
    kind = f"{FILM_SIZE[0]} x {FILM_SIZE[1]}, noise {args.noise:g}, JPEG quality {args.quality}"
    print(f"{len(paths)} films of {source}, {kind}, CPU time of one core")
    print(f"ratio (median of {len(ratios)}): {statistics.median(ratios):.2f} x, spread {max(ratios) - min(ratios):.2f}")
    print(f"difference: {differences.mean():.3f} grey levels on average, {differences.max()} at most")


if __name__ == "__main__":
    main()
