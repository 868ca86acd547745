"""`xraygpt generate`: a report for each image of a folder, in one file: JSON lines, CSV or text.

    {"id", "image", "report", "flags", "confidence", "truncated", "repeated", "concerns", "prompt", "decoding", "model", "notice"}
    {"id", "image", "error", "concerns", "notice"}     an image that cannot be used, and why

The fields are explained in `xraygpt.serving.report_files`.

The file appears when all images are done. Until then finished batches go to a hidden folder beside it, and the same command continues
where an interrupted one stood, with another --batch-size too. On several GPUs:

    torchrun --nproc_per_node=2 -m xraygpt.cli.main generate --cfg-path …
"""

import argparse
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

import xraygpt.runners  # noqa: F401  registers the runner that a configuration names
from xraygpt import __version__
from xraygpt.common.config import Config, add_config_arguments
from xraygpt.common.dist_utils import (
    all_gather_objects,
    among_ranks,
    barrier,
    broadcast_object,
    get_rank,
    get_world_size,
    is_main_process,
)
from xraygpt.common.errors import DataError
from xraygpt.common.files import ANNOTATIONS_NAME
from xraygpt.common.journal import Journal, weights_sha256
from xraygpt.common.logger import setup_logger
from xraygpt.common.printable import printable_line, utf8_name
from xraygpt.common.seed import seed_everything
from xraygpt.datasets.builders import load_annotations
from xraygpt.datasets.datasets import CaptionDataset
from xraygpt.serving import ReportPipeline
from xraygpt.serving.report_batches import Row, write_batches
from xraygpt.serving.report_files import FORMATS, format_of, write_report_file
from xraygpt.tasks.feature_caching import open_cache

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".dcm")
MAX_LISTED = 20  # images that the summary names

Images = list[tuple[str, Path]]
"""(identifier, file) of each image."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `xraygpt generate`."""
    add_config_arguments(parser)
    parser.add_argument(
        "--images", nargs="+", type=Path, required=True, metavar="PATH", help="prepared folders, other folders (searched whole), or files"
    )
    parser.add_argument("--split", choices=("train", "val", "test"), help="only this split of a prepared folder")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="gets the reports: .jsonl, .csv or .txt")
    parser.add_argument("--format", choices=list(FORMATS), help="of --out (default: what its ending says)")
    parser.add_argument("--batch-size", type=int, default=8, metavar="N", help="images at a time (default: %(default)s)")
    parser.add_argument("--strict", action="store_true", help="no report for an image that the input gate has a concern about")
    parser.add_argument("--overwrite", action="store_true", help="replace --out")


def run(args: argparse.Namespace) -> int:
    """Write the reports. Returns 1 if not one image could be used."""
    format_name = format_of(args.out, args.format)
    if args.out.exists() and not args.overwrite:
        raise DataError(f"{args.out} exists already. Choose another --out, or replace it with --overwrite.")
    if args.batch_size < 1:
        raise DataError(f"--batch-size must be at least 1, got {args.batch_size}.")
    cfg = Config(args, needs=("run", "model"))
    images = find_images(args.images, split=args.split)
    try:
        with among_ranks(cfg.run_cfg):
            setup_logger()
            rows = _generate(args, cfg, images, format_name)
    except KeyboardInterrupt:
        print(f"\n{printable_line(args.out)} is not there yet. The finished batches are kept: the same command continues.")
        raise
    return 1 if all("error" in row for row in rows) else 0


def _generate(args: argparse.Namespace, cfg: Config, images: Images, format_name: str) -> list[Row]:
    """Write the file, on rank 0, and return its rows."""
    seed_everything(cfg.run_cfg.seed)
    cache = open_cache(cfg)[0] if cfg.run_cfg.feature_cache.path else None
    pipeline = ReportPipeline.from_config(cfg, cache=cache)
    about = {
        "prompt": pipeline.full_prompt,
        "decoding": {**pipeline.settings, "seed": cfg.run_cfg.seed},
        "model": {"config": cfg.cfg_path, "arch": cfg.model_cfg.arch, "ckpt": cfg.to_dict()["model"].get("ckpt")},
    }
    journal = _open_journal(args, cfg, pipeline, about)
    try:
        rows = _write_rows(pipeline, images, journal, seed=cfg.run_cfg.seed, batch_size=args.batch_size, strict=args.strict)
    finally:
        if pipeline.cache:
            pipeline.cache.close()
    if is_main_process():
        write_report_file(args.out, rows, about, format_name=format_name)
        _summarise(args.out, rows)
    _discard(journal)
    return rows


def _open_journal(args: argparse.Namespace, cfg: Config, pipeline: ReportPipeline, about: dict[str, Any]) -> Journal:
    """The reports that an interrupted run with the same model and settings has finished."""
    identity = None
    if is_main_process():
        identity = about | {
            "weights": weights_sha256(pipeline.model),
            "features": getattr(pipeline.model, "vision_key", ""),
            "configuration": {key: cfg.to_dict()[key] for key in ("model", "datasets")},
            "strict": args.strict,
            "device": pipeline.model.device.type,
            "versions": [__version__, torch.__version__],
        }
    return Journal(args.out.with_name(f".{args.out.name}.unfinished"), broadcast_object(identity))


def _write_rows(pipeline: ReportPipeline, images: Images, journal: Journal, *, seed: int, batch_size: int, strict: bool) -> list[Row]:
    """The row of each image, in order, on every rank. The ranks take whole batches by turns, so that these do not depend on them."""
    stamps = {image_id: _stamp(path) for image_id, path in images}
    done = {key: row for key, row in journal.rows.items() if key in stamps and row["stamp"] == stamps[key]}
    missing = [image for image in images if image[0] not in done]
    batches = [missing[start : start + batch_size] for start in range(0, len(missing), batch_size)]
    share = batches[get_rank() :: get_world_size()]
    written: dict[str, Row] = {}
    with tqdm(total=sum(map(len, share)), desc="reports", unit="image", disable=None if is_main_process() else True) as progress:
        for rows in write_batches(pipeline, share, seed=seed, strict=strict):
            stamped = [{**row, "stamp": stamps[row["id"]]} for row in rows]
            journal.write(stamped)
            written |= {row["id"]: row for row in stamped}
            progress.update(len(rows))
    for of_rank in all_gather_objects(written):
        done |= of_rank
    return [{key: value for key, value in done[image_id].items() if key != "stamp"} for image_id, _ in images]


def _stamp(path: Path) -> list[Any]:
    """Changes when another image takes a file's place: its report is then written anew."""
    try:
        status = path.stat()
    except OSError:
        return [path.as_posix()]
    return [path.as_posix(), status.st_size, status.st_mtime_ns]


def _summarise(out: Path, rows: Sequence[Row]) -> None:
    errors = [row["error"] for row in rows if "error" in row]
    print(f"{printable_line(out)}: {len(rows) - len(errors)} reports.")
    concerns = Counter(concern["kind"] for row in rows if "error" not in row for concern in row["concerns"])
    if concerns:
        counts = ", ".join(f"{kind} {count}" for kind, count in concerns.most_common())
        print(f"warning: the input gate doubts some of these images: {counts}. The file says which; --strict refuses them.")
    if errors:
        listed = errors if len(errors) <= MAX_LISTED else [*errors[:MAX_LISTED], f"… and {len(errors) - MAX_LISTED} more, in the file"]
        print(f"warning: {len(errors)} of {len(rows)} images could not be used:", *listed, sep="\n  ")


def _discard(journal: Journal) -> None:
    """Delete what the finished file has made needless; reports of other models that were set aside stay."""
    journal.close()
    barrier()
    if is_main_process():
        journal.remove()
        if not any(journal.folder.iterdir()):
            journal.folder.rmdir()


def find_images(paths: Sequence[Path], *, split: str | None) -> Images:
    """The images of prepared folders (of one split, if given), all images below other folders, and single files.

    An identifier is the annotation's image_id, or the path below the folder without its suffix; the whole path where two would
    be the same. A path stands in it as `utf8_name` writes it, so that any file format can hold it.

    Raises:
        DataError: a path does not exist, a split is asked of what has none, or there are no images.
    """
    images = list(dict.fromkeys(image for path in paths for image in _images_at(path, split)))
    if not images:
        raise DataError(f"There are no images in {', '.join(map(str, paths))}" + (f" of the split {split!r}." if split else "."))
    counts = Counter(image_id for image_id, _ in images)
    return [(image_id if counts[image_id] == 1 else utf8_name(path.as_posix()), path) for image_id, path in images]


def _images_at(path: Path, split: str | None) -> Images:
    if (path / ANNOTATIONS_NAME).is_file():
        every = load_annotations(path / ANNOTATIONS_NAME, captions_required=False)
        annotations = [ann for ann in every if split in (None, ann.get("split", "train"))]
        return [(ann["image_id"], _image_file(path / "image", ann["image_id"])) for ann in annotations]
    if split:
        raise DataError(f"--split {split}: {path} has no splits, because it is no prepared folder (no {ANNOTATIONS_NAME}).")
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.suffix.lower() in IMAGE_SUFFIXES and not file.name.startswith("."))
        return [(utf8_name(file.relative_to(path).with_suffix("").as_posix()), file) for file in files]
    if not path.exists():
        raise DataError(f"--images: {path} does not exist (looked for {path.absolute()}).")
    return [(utf8_name(path.stem if path.suffix.lower() in IMAGE_SUFFIXES else path.name), path)]


def _image_file(folder: Path, image_id: str) -> Path:
    """The file of an image_id; if there is none, the name that is then reported as missing."""
    candidates = [folder / f"{image_id}{suffix}" for suffix in CaptionDataset.suffixes]
    return next((file for file in candidates if file.exists()), candidates[0])
