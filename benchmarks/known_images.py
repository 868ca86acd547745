"""What the distance to the training images says: python benchmarks/known_images.py [--cfg-path FILE] [--folder FOLDER] [--films FOLDER]

Groups of images, each doubted by the input gate alone (the baseline, in the same run), by the distance alone, and by either. The first
group is what the model was made for: there a doubt is a false alarm. FILMS is a folder of other images, for a model of phantoms real films.
Needs a trained model and its evaluation: make quickstart.
"""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from xraygpt import load_model
from xraygpt.datasets.builders import load_annotations
from xraygpt.processors import check_image, open_image
from xraygpt.serving.pipeline import ReportPipeline


def held_out_films(folder: Path) -> list[Image.Image]:
    """The grey images of the splits val and test."""
    unseen = {ann["image_id"] for ann in load_annotations(folder / "filter_cap.json") if ann["split"] in ("val", "test")}
    return [open_image(path).convert("L") for path in sorted((folder / "image").iterdir()) if path.stem in unseen]


def groups(films: Sequence[Image.Image], other: Path | None, count: int) -> Iterator[tuple[str, list[Image.Image]]]:
    """Name and images of each group."""
    rng = np.random.default_rng(0)
    yield "held-out images of the model's own kind", list(films)
    yield "the same, inverted", [ImageOps.invert(film) for film in films]
    yield "the same, turned by 90 degrees", [film.transpose(Image.Transpose.ROTATE_90) for film in films]
    yield "noise", [Image.fromarray(rng.integers(0, 256, (256, 256), dtype=np.uint8)) for _ in range(count)]
    if other:
        paths = sorted(path for path in other.iterdir() if path.is_file())
        yield f"images of {other.name}", [open_image(path) for path in paths[:: max(1, len(paths) // count)][:count]]


def main() -> None:
    """Print one line for each group."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cfg-path", default="eval_configs/quickstart.yaml")
    parser.add_argument("--folder", type=Path, default=Path("data/phantom/openi"))
    parser.add_argument("--films", type=Path)
    parser.add_argument("--count", type=int, default=200, help="images of noise, and of --films, evenly spaced")
    args = parser.parse_args()
    pipeline: ReportPipeline = load_model(args.cfg_path).pipeline
    print(f"{'group':<42} images   gate  distance  either   median distance")
    for name, images in groups(held_out_films(args.folder), args.films, args.count):
        gate = np.array([bool(check_image(image)) for image in images])
        features = np.stack(
            [pipeline.model.read_once(pipeline.load_image(image)[None])[0].float().mean(0).cpu().numpy() for image in images]
        )
        distances = pipeline.known.distances(features)
        far = distances > 1
        shares = (gate.mean(), far.mean(), (gate | far).mean())
        print(f"{name:<42} {len(images):>6} {shares[0]:>6.1%} {shares[1]:>9.1%} {shares[2]:>7.1%} {np.median(distances):>17.2f}")


if __name__ == "__main__":
    main()
