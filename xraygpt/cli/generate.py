"""`xraygpt generate`: a report for each image, one JSON line each.

    {"id", "image", "report", "prompt", "decoding", "model", "notice"}     a report
    {"id", "image", "error"}                                               an image that cannot be used, and why

The file appears when all images are done.
"""

import argparse
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from torch import Tensor
from tqdm import tqdm

import xraygpt.runners  # noqa: F401  registers the runner that a configuration names
from xraygpt.common.config import Config, add_config_arguments
from xraygpt.common.errors import DataError
from xraygpt.common.files import ANNOTATIONS_NAME, atomic_path
from xraygpt.common.seed import seed_everything
from xraygpt.datasets.builders import load_annotations
from xraygpt.datasets.datasets import CaptionDataset
from xraygpt.serving import RESEARCH_NOTICE, ReportPipeline

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".dcm")

Images = list[tuple[str, Path]]
"""(identifier, file) of each image."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `xraygpt generate`."""
    add_config_arguments(parser)
    parser.add_argument(
        "--images", nargs="+", type=Path, required=True, metavar="PATH", help="prepared folders, other folders (searched whole), or files"
    )
    parser.add_argument("--split", choices=("train", "val", "test"), help="only this split of a prepared folder")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="gets the reports, one JSON object a line")
    parser.add_argument("--batch-size", type=int, default=8, metavar="N", help="images at a time (default: %(default)s)")
    parser.add_argument("--overwrite", action="store_true", help="replace --out")


def run(args: argparse.Namespace) -> int:
    """Write the reports. Returns 1 if not one image could be used."""
    if args.out.exists() and not args.overwrite:
        raise DataError(f"{args.out} exists already. Choose another --out, or replace it with --overwrite.")
    if args.batch_size < 1:
        raise DataError(f"--batch-size must be at least 1, got {args.batch_size}.")
    cfg = Config(args, needs=("run", "model"))
    images = find_images(args.images, split=args.split)
    seed_everything(cfg.run_cfg.seed)
    pipeline = ReportPipeline.from_config(cfg)
    about = {
        "prompt": pipeline.full_prompt,
        "decoding": {**pipeline.settings, "seed": cfg.run_cfg.seed},
        "model": {"config": cfg.cfg_path, "arch": cfg.model_cfg.arch, "ckpt": cfg.to_dict()["model"].get("ckpt")},
        "notice": RESEARCH_NOTICE,
    }
    errors: list[str] = []
    with atomic_path(args.out) as temporary, open(temporary, "w", encoding="utf-8") as handle:
        for row in write_rows(pipeline, images, batch_size=args.batch_size):
            if "error" in row:
                errors.append(row["error"])
            handle.write(json.dumps(row if "error" in row else row | about, ensure_ascii=False) + "\n")
    print(f"{args.out}: {len(images) - len(errors)} reports.")
    if errors:
        print(f"warning: {len(errors)} of {len(images)} images could not be used:", *errors, sep="\n  ")
    return 1 if len(errors) == len(images) else 0


def write_rows(pipeline: ReportPipeline, images: Images, *, batch_size: int) -> Iterator[dict[str, str]]:
    """{"id", "image", "report" or "error"} of each image, in order."""

    def load(image: tuple[str, Path]) -> Tensor | DataError:
        try:
            return pipeline.load_image(image[1])
        except DataError as error:
            return error

    with ThreadPoolExecutor() as pool, tqdm(total=len(images), desc="reports", unit="image", disable=None) as progress:
        for start in range(0, len(images), batch_size):
            batch = images[start : start + batch_size]
            loaded = list(pool.map(load, batch))
            reports = iter(pipeline.write_reports([image for image in loaded if isinstance(image, Tensor)]))
            for (image_id, path), image in zip(batch, loaded, strict=True):
                result = {"error": str(image)} if isinstance(image, DataError) else {"report": next(reports)}
                yield {"id": image_id, "image": path.as_posix(), **result}
            progress.update(len(batch))


def find_images(paths: Sequence[Path], *, split: str | None) -> Images:
    """The images of prepared folders (of one split, if given), all images below other folders, and single files.

    An identifier is the annotation's image_id, or the path below the folder without its suffix; the whole path where two would
    be the same.

    Raises:
        DataError: a path does not exist, a split is asked of what has none, or there are no images.
    """
    images = list(dict.fromkeys(image for path in paths for image in _images_at(path, split)))
    if not images:
        raise DataError(f"There are no images in {', '.join(map(str, paths))}" + (f" of the split {split!r}." if split else "."))
    counts = Counter(image_id for image_id, _ in images)
    return [(image_id if counts[image_id] == 1 else path.as_posix(), path) for image_id, path in images]


def _images_at(path: Path, split: str | None) -> Images:
    if (path / ANNOTATIONS_NAME).is_file():
        every = load_annotations(path / ANNOTATIONS_NAME, captions_required=False)
        annotations = [ann for ann in every if split in (None, ann.get("split", "train"))]
        return [(ann["image_id"], _image_file(path / "image", ann["image_id"])) for ann in annotations]
    if split:
        raise DataError(f"--split {split}: {path} has no splits, because it is no prepared folder (no {ANNOTATIONS_NAME}).")
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.suffix.lower() in IMAGE_SUFFIXES and not file.name.startswith("."))
        return [(file.relative_to(path).with_suffix("").as_posix(), file) for file in files]
    if not path.exists():
        raise DataError(f"--images: {path} does not exist (looked for {path.absolute()}).")
    return [(path.stem if path.suffix.lower() in IMAGE_SUFFIXES else path.name, path)]


def _image_file(folder: Path, image_id: str) -> Path:
    """The file of an image_id; if there is none, the name that is then reported as missing."""
    candidates = [folder / f"{image_id}{suffix}" for suffix in CaptionDataset.suffixes]
    return next((file for file in candidates if file.exists()), candidates[0])
