"""Writes phantom data: two prepared folders of synthetic frontal chest films with reports and known findings.

`mimic/` and `openi/` imitate the layout and the habits of the two collections that XrayGPT is trained on, so that the whole
path from preparation to a written report can be run where the real data is not at hand. A phantom is no patient: nothing
learnt from phantoms holds for people.
"""

import hashlib
import json
import math
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from xraygpt import __version__
from xraygpt.common.errors import DataError
from xraygpt.common.files import atomic_folder, make_folder, sha256_file
from xraygpt.datasets.preparation.phantom_film import render_film
from xraygpt.datasets.preparation.phantom_findings import FINDING_KINDS, sample_findings
from xraygpt.datasets.preparation.phantom_report import REPORT_STYLES, write_report
from xraygpt.datasets.preparation.prepared_folder import MANIFEST_NAME, require_replaceable, write_annotations, write_manifest
from xraygpt.datasets.preparation.splits import SPLITS

MIN_STUDIES = 5  # two studies a subject, and a subject for each split
_SPLIT_SHARES = {"test": 0.10, "val": 0.05}  # the rest is "train"
_FINDINGS_STREAM, _REPORT_STREAM = 100, 101  # beside the streams that render_film draws from the same seed


@dataclass(frozen=True)
class PhantomOptions:
    """What one folder of phantoms is made from; equal options make equal bytes.

    Attributes:
        collection: "mimic" or "openi".
        num_studies: number of studies, one frontal film each.
        image_size: side of the square films in pixels.
        seed: any non-negative integer.
    """

    collection: str
    num_studies: int
    image_size: int = 256
    seed: int = 0

    def __post_init__(self) -> None:
        if self.num_studies < MIN_STUDIES:
            raise DataError(f"Phantoms need at least {MIN_STUDIES} studies a folder, got {self.num_studies}: no split may be empty.")
        if not 32 <= self.image_size <= 2048:
            raise DataError(f"The phantoms' image size must be 32 to 2048 pixels, got {self.image_size}.")
        if self.seed < 0:
            raise DataError(f"The phantoms' seed must not be negative, got {self.seed}.")


def generate_phantoms(storage: str | Path, options: PhantomOptions, *, workers: int = 1, overwrite: bool = False) -> bool:
    """Write one prepared folder, whole or not at all.

    Args:
        storage: the folder to make.
        options: what to make.
        workers: processes; they do not change the result.
        overwrite: replace phantoms made with other options.

    Returns:
        False if `storage` already holds exactly these phantoms and nothing was done.

    Raises:
        DataError: `storage` holds something else.
    """
    storage = Path(storage)
    if storage.exists():
        made_with = _manifest_of_phantoms(storage)
        if made_with["options"] == asdict(options) and made_with["versions"] == {"xraygpt": __version__}:
            return False
        if not overwrite:
            raise DataError(f"{storage} holds phantoms made with other options. Give another --out, or --overwrite to replace them.")
    require_replaceable(storage, overwrite=overwrite)
    with atomic_folder(storage) as folder:
        make_folder(folder / "image")
        annotations = list(_write_studies(folder, options, workers))
        manifest = {
            "dataset": f"phantom/{options.collection}",
            "versions": {"xraygpt": __version__},
            "options": asdict(options),
            "counts": _count_findings(annotations),
        }
        write_annotations(folder, annotations)
        images = ((path.stem, sha256_file(path)) for path in (folder / "image").iterdir())
        write_manifest(folder, manifest, annotations, images)
    return True


def _manifest_of_phantoms(storage: Path) -> dict[str, Any]:
    path = storage / MANIFEST_NAME
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        manifest = {}
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not valid JSON: {error}. Give another --out.") from error
    if not str(manifest.get("dataset")).startswith("phantom/"):
        raise DataError(f"{storage} exists and holds no phantoms; it is never overwritten. Give another --out.")
    return manifest


def _write_studies(folder: Path, options: PhantomOptions, workers: int) -> Iterator[dict[str, Any]]:
    studies = [identify(options, index) for index in range(options.num_studies)]
    splits = assign_splits([study["subject_id"] for study in studies], seed=options.seed)
    jobs = [study | {"split": splits[study["subject_id"]]} for study in studies]
    write = partial(_write_study, folder, options)
    progress = partial(tqdm, total=len(jobs), desc=f"{options.collection} phantoms", unit="film", disable=None)
    if workers <= 1:
        yield from progress(map(write, range(len(jobs)), jobs))
        return
    with ProcessPoolExecutor(workers) as pool:
        yield from progress(pool.map(write, range(len(jobs)), jobs, chunksize=16))


def _write_study(folder: Path, options: PhantomOptions, index: int, identity: dict[str, str]) -> dict[str, Any]:
    """Draw and save one film; return its annotation."""
    seed = [options.seed, list(REPORT_STYLES).index(options.collection), index]
    findings = sample_findings(np.random.default_rng([*seed, _FINDINGS_STREAM]))
    caption = write_report(findings, style=REPORT_STYLES[options.collection], rng=np.random.default_rng([*seed, _REPORT_STREAM]))
    film = Image.fromarray(render_film(findings, size=options.image_size, seed=seed))
    name = identity["image_id"]
    if options.collection == "mimic":
        film.save(folder / "image" / f"{name}.jpg", quality=92)
    else:
        film.save(folder / "image" / f"{name}.png")
    return {"image_id": name, "caption": caption, **identity, "view": "frontal", "findings": [item.to_dict() for item in findings]}


def identify(options: PhantomOptions, index: int) -> dict[str, str]:
    """Names in the collection's own form: image_id, study_id, subject_id. Two MIMIC studies in a row are of one subject."""
    if options.collection == "openi":
        number = index + 1
        return {"image_id": f"CXR{number}_IM-{number + 1:04d}-1001", "study_id": f"CXR{number}", "subject_id": f"CXR{number}"}
    digest = hashlib.sha256(f"{options.seed}/{index}".encode()).hexdigest()
    return {
        "image_id": "-".join(digest[start : start + 8] for start in range(0, 40, 8)),
        "study_id": str(50_000_000 + index * 7_919 % 10_000_000),  # 7919 is prime to 10 million: no number comes twice
        "subject_id": str(10_000_000 + index // 2 * 7_919 % 10_000_000),
    }


def assign_splits(subject_ids: list[str], *, seed: int) -> dict[str, str]:
    """Split by subject: of the subjects in the order of a seeded hash the first tenth is test, the next twentieth val."""
    ranked = sorted(set(subject_ids), key=lambda subject: hashlib.sha256(f"{seed}/{subject}".encode()).digest())
    splits = dict.fromkeys(ranked, "train")
    start = 0
    for split, share in _SPLIT_SHARES.items():
        stop = start + max(1, math.floor(share * len(ranked)))
        splits.update(dict.fromkeys(ranked[start:stop], split))
        start = stop
    return splits


def _count_findings(annotations: list[dict[str, Any]]) -> dict[str, int]:
    """Studies with each finding, and without any, in each split."""
    counts = Counter(
        f"{annotation['split']}: {name}"
        for annotation in annotations
        for name in [item["finding"] for item in annotation["findings"]] or ["normal"]
    )
    return {f"{split}: {name}": counts[f"{split}: {name}"] for split in SPLITS for name in ["normal", *FINDING_KINDS]}
