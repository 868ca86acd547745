"""A prepared folder: filled under a hidden name, put in its place when it is complete.

    <out>/image/<image_id>.<suffix>    the images
    <out>/filter_cap.json              {"annotations": [{"image_id", "caption", "study_id", "split", …}]}
    <out>/manifest.json                dataset, options, versions, sources, counts, problems, splits, fingerprint
    <out>/sources.csv                  every file that was read: kind, id, file, bytes, sha256
    <out>/dropped.csv                  every report and image that was left out: kind, id, reason, where
    <out>/README.md                    the datasheet

Until then it is `.<name>.unfinished` beside `out`, which no training run accepts. An interrupted preparation leaves it there, and the
next one with the same image options goes on with it.
"""

import hashlib
import json
import logging
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from xraygpt.common.errors import DataError
from xraygpt.common.files import ANNOTATIONS_NAME, PRIVATE_FILE, make_folder, replace_folder, write_json, write_text
from xraygpt.common.printable import csv_table
from xraygpt.datasets.preparation.splits import SPLITS

MANIFEST_NAME = "manifest.json"
SOURCES_NAME = "sources.csv"
DROPPED_NAME = "dropped.csv"
DATASHEET_NAME = "README.md"

_KEY_NAME = "unfinished.json"

logger = logging.getLogger(__name__)


@contextmanager
def unfinished_folder(out: Path, key: Mapping[str, Any], *, overwrite: bool) -> Iterator[Path]:
    """Yield the unfinished folder of `out`; it becomes `out` when the block succeeds, and stays for the next time when it fails.

    Args:
        out: the folder to make.
        key: what must be equal for the content of an interrupted preparation to be of use.
        overwrite: replace a prepared folder that is there.

    Raises:
        DataError: `out` exists and `overwrite` is off, `out` holds no manifest (only a prepared folder is ever replaced), or another
            preparation is writing it.
    """
    out = out.absolute()
    require_replaceable(out, overwrite=overwrite)
    unfinished, lock = (out.with_name(f".{out.name}.{suffix}") for suffix in ("unfinished", "lock"))
    try:
        make_folder(out.parent)
        with FileLock(lock, timeout=0, mode=PRIVATE_FILE):
            _open_unfinished(unfinished, key)
            try:
                yield unfinished
            except BaseException:
                _keep_if_useful(unfinished)
                raise
            finally:
                lock.unlink(missing_ok=True)
            (unfinished / _KEY_NAME).unlink()
            replace_folder(unfinished, out)
    except Timeout:
        raise DataError(f"Another preparation is writing {out} at this moment. Wait for it, or choose another --out.") from None
    except OSError as error:
        raise DataError(f"{error.filename or out}: cannot be written ({error.strerror or error}).") from error


def require_replaceable(out: Path, *, overwrite: bool) -> None:
    """Refuse to write over a folder that is there, unless it is a prepared one and may be replaced.

    Raises:
        DataError: `out` exists and `overwrite` is off, or `out` holds no manifest.
    """
    if out.exists() and not overwrite:
        raise DataError(f"{out} exists already. Choose another --out, or replace it with --overwrite.")
    if out.exists() and not (out / MANIFEST_NAME).is_file():
        raise DataError(f"{out} holds no {MANIFEST_NAME}, so it is no prepared folder and is not overwritten. Choose another --out.")


def _open_unfinished(folder: Path, key: Mapping[str, Any]) -> None:
    text = json.dumps(key, sort_keys=True)
    with suppress(FileNotFoundError):
        if (folder / _KEY_NAME).read_text(encoding="utf-8") != text:
            logger.info("%s was begun with other image options and is begun anew.", folder)
            shutil.rmtree(folder)
    make_folder(folder)
    write_text(folder / _KEY_NAME, text)


def _keep_if_useful(folder: Path) -> None:
    if any((folder / "image").glob("*")):
        logger.info("What is finished is kept in %s; the same command goes on from there.", folder)
    else:
        shutil.rmtree(folder, ignore_errors=True)


def write_annotations(folder: Path, annotations: Sequence[Mapping[str, Any]]) -> None:
    """Write `filter_cap.json`."""
    write_json(folder / ANNOTATIONS_NAME, {"annotations": annotations})


def write_manifest(
    folder: Path, manifest: Mapping[str, Any], annotations: Sequence[Mapping[str, Any]], images: Iterable[tuple[str, str]]
) -> dict[str, Any]:
    """Complete the manifest with splits and checksums, write it, and return it.

    Args:
        folder: holds `filter_cap.json` already.
        manifest: what is known of the preparation.
        annotations: those of `filter_cap.json`.
        images: (image_id, SHA-256 of its file) of each image.

    The key "fingerprint" is one SHA-256 over all that training reads, the annotations and every image: two folders with the same
    fingerprint are the same data.
    """
    content = (folder / ANNOTATIONS_NAME).read_bytes()
    digest = hashlib.sha256(content)
    for image_id, sha256 in sorted(images):
        digest.update(f"{image_id}\t{sha256}\n".encode())
    complete = {
        **manifest,
        "splits": split_counts(annotations),
        "sha256": {ANNOTATIONS_NAME: hashlib.sha256(content).hexdigest()},
        "fingerprint": digest.hexdigest(),
    }
    write_json(folder / MANIFEST_NAME, complete)
    return complete


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write a table, UTF-8, one line feed a row."""
    write_text(path, csv_table(header, rows))


def split_counts(annotations: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, int]]:
    """Count, for each split, its studies, its images, and the images whose caption also stands in the training split.

    Many normal reports are word for word the same, so the last number is not zero even though no study is in two splits. Empty for images
    without captions, which have no splits.
    """
    images = Counter(annotation["split"] for annotation in annotations if "split" in annotation)
    if not images:
        return {}
    studies = Counter(split for split, _ in {(annotation["split"], annotation["study_id"]) for annotation in annotations})
    train_captions = {annotation["caption"] for annotation in annotations if annotation["split"] == "train"}
    repeated = Counter(annotation["split"] for annotation in annotations if annotation["caption"] in train_captions)
    return {
        split: {"studies": studies[split], "images": images[split]}
        | ({} if split == "train" else {"images with a caption of train": repeated[split]})
        for split in SPLITS
    }
