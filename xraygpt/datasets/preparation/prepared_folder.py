"""Writing a prepared folder: built under a temporary name, put in its place when it is complete.

    <out>/image/<image_id>.<extension>     hard links to the source where the file system allows it, else copies
    <out>/filter_cap.json                  {"annotations": [{"image_id", "caption", "study_id", "split", …}]}
    <out>/manifest.json                    sources, options, version, counts, checksums

An interrupted preparation leaves at most a hidden `.<name>.<pid>.tmp` folder, never a half-filled one that training would accept.
"""

import hashlib
import logging
import os
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

import xraygpt
from xraygpt.common.errors import DataError
from xraygpt.common.files import ANNOTATIONS_NAME, atomic_folder, sha256_file, write_json
from xraygpt.processors.image_io import open_image

MANIFEST_NAME = "manifest.json"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class SourceFile:
    """What identifies the content of one source file."""

    name: str
    size: int
    """Bytes."""
    sha256: str

    @classmethod
    def of(cls, path: Path) -> "SourceFile":
        """Read a file's identity."""
        return cls(path.name, path.stat().st_size, sha256_file(path))


@contextmanager
def new_folder(out: Path, *, overwrite: bool) -> Iterator[Path]:
    """Yield an empty temporary folder beside `out`; rename it to `out` when the block succeeds, remove it when it fails.

    Raises:
        DataError: `out` exists and `overwrite` is off, or `out` holds no manifest: only a prepared folder is ever replaced.
    """
    if out.exists() and not overwrite:
        raise DataError(f"{out} exists already. Choose another --out, or replace it with --overwrite.")
    if out.exists() and not (out / MANIFEST_NAME).is_file():
        raise DataError(f"{out} holds no {MANIFEST_NAME}, so it is no prepared folder and is not overwritten. Choose another --out.")
    with atomic_folder(out) as temporary:
        yield temporary


def place_images(sources: Mapping[str, Path], folder: Path) -> tuple[dict[str, SourceFile], list[str]]:
    """Decode every image once, and put those that can be read into `folder` under their identifiers.

    Args:
        sources: image identifier → file.
        folder: where to put them; made if need be.

    Returns:
        Image identifier → what its source is, for the readable ones; one message for each image that cannot be read.
    """
    folder.mkdir(parents=True, exist_ok=True)

    def place(item: tuple[str, Path]) -> SourceFile | DataError:
        image_id, source = item
        try:
            open_image(source)
        except DataError as error:
            return error
        _link_or_copy(source, folder / f"{image_id}{source.suffix.lower()}")
        return SourceFile.of(source)

    # Threads are enough: decoding, hashing and copying all release Python's lock.
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        results = list(tqdm(pool.map(place, sources.items()), total=len(sources), desc="images", unit="image", disable=None))
    placed = {image_id: result for image_id, result in zip(sources, results, strict=True) if isinstance(result, SourceFile)}
    problems = [str(result) for result in results if isinstance(result, DataError)]
    for problem in problems:
        logger.warning("Left out: %s", problem)
    return placed, problems


def _link_or_copy(source: Path, target: Path) -> None:
    try:
        os.link(source.resolve(), target)
    except OSError:  # another file system, or one without hard links
        shutil.copy2(source, target)


def fingerprint(files: Iterable[SourceFile]) -> dict[str, Any]:
    """Return the number of files and one SHA-256 over their sorted (name, size, sha256) lines."""
    lines = sorted(f"{file.name}\t{file.size}\t{file.sha256}\n" for file in files)
    return {"count": len(lines), "sha256": hashlib.sha256("".join(lines).encode()).hexdigest()}


def write_annotations(
    folder: Path,
    annotations: list[dict[str, Any]],
    *,
    dataset: str,
    options: Mapping[str, Any],
    sources: Mapping[str, Any],
    counts: Mapping[str, int],
) -> dict[str, Any]:
    """Write `filter_cap.json` and `manifest.json`; return the manifest."""
    write_json(folder / ANNOTATIONS_NAME, {"annotations": annotations})
    manifest = {
        "dataset": dataset,
        "xraygpt_version": xraygpt.__version__,
        "options": dict(options),
        "sources": dict(sources),
        "counts": dict(counts),
        "splits": split_counts(annotations),
        "sha256": {ANNOTATIONS_NAME: sha256_file(folder / ANNOTATIONS_NAME)},
    }
    write_json(folder / MANIFEST_NAME, manifest)
    return manifest


def split_counts(annotations: list[dict[str, Any]]) -> dict[str, dict[str, int]]:
    """Count, for each split, its studies, its images, and the images whose caption also stands in the training split.

    Many normal reports are word for word the same, so the last number is not zero even though no study is in two splits.
    """
    images = Counter(annotation["split"] for annotation in annotations)
    studies = Counter(split for split, _ in {(annotation["split"], annotation["study_id"]) for annotation in annotations})
    train_captions = {annotation["caption"] for annotation in annotations if annotation["split"] == "train"}
    repeated = Counter(annotation["split"] for annotation in annotations if annotation["caption"] in train_captions)
    return {
        split: {"studies": studies[split], "images": images[split]}
        | ({} if split == "train" else {"images with a caption of train": repeated[split]})
        for split in ("train", "val", "test")
    }
