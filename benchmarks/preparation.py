"""Smaller copies of films beside plain Pillow: python benchmarks/preparation.py [--images 60] [--resize 512] [--repeats 3]

Baseline: each JPEG decoded in full as RGB, resized, and saved, the way a script does it. Ours: `xraygpt prepare --resize`, which also
hashes, verifies and journals each file. Both on one core, in turn, in the same run; then ours once more over ten times as many images,
to see whether memory grows. The images are phantom films of 2,500 x 3,000 pixels with noise, as JPEG of quality 95.
"""

import argparse
import os
import resource
import shutil
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from xraygpt.datasets.preparation.image_files import ImageOptions, num_cores, place_images
from xraygpt.datasets.preparation.phantom_film import render_film
from xraygpt.datasets.preparation.study import StudyImage

MIMIC_IMAGES = 377_110


def write_films(folder: Path, number: int) -> list[StudyImage]:
    """Films that differ in every byte: 8 drawn ones, each with a bright stripe of its own."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    films = []
    for seed in range(8):
        film = Image.fromarray(render_film([], size=512, seed=[seed])).resize((2500, 3000), Image.Resampling.BICUBIC)
        noisy = np.asarray(film, dtype=np.float32) + rng.normal(0, 3, (3000, 2500))
        films.append(noisy.clip(0, 255).astype(np.uint8))
    images = []
    for index in range(number):
        pixels = films[index % len(films)].copy()
        pixels[: 1 + index // len(films)] = 255
        path = folder / f"{index}.jpg"
        Image.fromarray(pixels).save(path, quality=95)
        images.append(StudyImage(image_id=str(index), path=path))
    return images


def plain_pillow(images: Sequence[StudyImage], out: Path, side: int) -> float:
    """Seconds for the baseline."""
    started = time.perf_counter()
    out.mkdir()
    for image in images:
        film = Image.open(image.path).convert("RGB")
        scale = side / min(film.size)
        film.resize((round(film.width * scale), round(film.height * scale)), Image.Resampling.BICUBIC).save(
            out / image.path.name, quality=95, subsampling=0
        )
    shutil.rmtree(out)
    return time.perf_counter() - started


def ours(images: Sequence[StudyImage], out: Path, side: int, workers: int) -> float:
    """Seconds for the preparation's own way."""
    started = time.perf_counter()
    out.mkdir()
    place_images(images, out, ImageOptions(resize=side), workers=workers)
    shutil.rmtree(out)
    return time.perf_counter() - started


def peak_mib() -> tuple[float, float]:
    """Peak resident memory in MiB of this process, and of the largest of its finished workers."""
    return tuple(resource.getrusage(who).ru_maxrss / 1024 for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))  # type: ignore[return-value]


def main() -> None:
    """Measure, and print rates, ratio and memory."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=60)
    parser.add_argument("--resize", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with tempfile.TemporaryDirectory() as name:
        images = write_films(Path(name) / "films", args.images)
        out, ratios, rates = Path(name) / "out", [], []
        for repeat in range(args.repeats):
            baseline, mine = plain_pillow(images, out, args.resize), ours(images, out, args.resize, 1)
            ratios.append(baseline / mine)
            rates.append(len(images) / mine)
            print(f"repeat {repeat}: plain Pillow {len(images) / baseline:.1f} images/s, prepare {rates[-1]:.1f} images/s, one core")
        rate = statistics.median(rates)
        print(f"ratio (median of {args.repeats}): {statistics.median(ratios):.2f} x, spread {max(ratios) - min(ratios):.2f}")
        print(f"all of MIMIC-CXR ({MIMIC_IMAGES:,} images) at this rate: {MIMIC_IMAGES / rate / 3600:.1f} core hours")
        for times in (1, 10):
            many = [StudyImage(image_id=f"{turn}-{image.image_id}", path=image.path) for turn in range(times) for image in images]
            seconds = ours(many, out, args.resize, num_cores())
            mine_mib, worker_mib = peak_mib()
            print(
                f"{len(many)} images in {num_cores()} processes: {len(many) / seconds:.1f} images/s; "
                f"peak memory so far {mine_mib:.0f} MiB, of a worker {worker_mib:.0f} MiB"
            )


if __name__ == "__main__":
    main()
