"""What is wrong, or worth knowing, about a prepared folder: leakage between splits, images without text, texts that were not cleaned.

An error is leakage: a number measured on such a folder means nothing. A warning is worth a look before training. A note is no fault.
Issues name samples by identifier and never hold a text.
"""

import csv
import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from xraygpt.common.errors import DataError
from xraygpt.common.files import ANNOTATIONS_NAME, sha256_file
from xraygpt.common.printable import csv_text
from xraygpt.datasets.datasets import CaptionDataset
from xraygpt.datasets.preparation.folder_summary import TRAIN, Sample
from xraygpt.datasets.preparation.prepared_folder import MANIFEST_NAME, SOURCES_NAME

LEVELS = ("error", "warning", "note")
MAX_EXAMPLES = 5
MIN_WORDS = 3
MAX_WORDS = 300

_SHORT = f"images whose text has fewer than {MIN_WORDS} words"
_LONG = f"images whose text has more than {MAX_WORDS} words"
_MARKED = "images whose text has de-identification marks (___ or XXXX)"
_GARBLED = "images whose text has control or wrongly decoded characters"

_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")  # but for tab and line ends
_WRONGLY_DECODED = "\ufffd"


@dataclass(frozen=True)
class Issue:
    """One kind of problem.

    Attributes:
        level: one of `LEVELS`.
        what: which things, in the plural, and what about them.
        count: how many of them.
        examples: identifiers of at most `MAX_EXAMPLES`.
    """

    level: str
    what: str
    count: int
    examples: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class ImageHashes:
    """What tells images apart.

    Attributes:
        by_image: image_id → hexadecimal SHA-256; an image that can have no twin may be left out.
        origin: where they come from.
        unnamed: images that `sources.csv` should have named but does not.
    """

    by_image: dict[str, str]
    origin: str
    unnamed: tuple[str, ...] = ()


def find_issues(folder: Path, samples: Sequence[Sample], files: Mapping[str, str], hashes: ImageHashes) -> list[Issue]:
    """All issues of a folder, errors first.

    Args:
        folder: the prepared folder.
        samples: all its annotations: leakage cannot be seen in one split.
        files: of `image_files`.
        hashes: of `hash_images`.
    """
    issues = [
        _divided(samples, "subjects", lambda sample: sample.subject_id),
        _divided(samples, "studies", lambda sample: sample.study_id),
        _divided(samples, "image_ids", lambda sample: sample.image_id),
        *_shared_images(samples, hashes.by_image),
        *_image_issues(samples, files),
        _issue("warning", f"images that {SOURCES_NAME} does not name; the files themselves were compared", hashes.unnamed),
        *_text_issues(samples),
        *_manifest_issues(folder),
    ]
    return sorted((issue for issue in issues if issue.count), key=lambda issue: LEVELS.index(issue.level))


# Images ----------------------------------------------------------------------------------------------------------------


def image_files(folder: Path) -> dict[str, str]:
    """image_id → its file, relative to `image/`, of every file there that a dataset would read.

    Raises:
        DataError: there is no folder `image/`.
    """
    root = folder / "image"
    if not root.is_dir():
        raise DataError(f"There is no folder image/ in {folder.absolute()}: it is not a prepared folder. See docs/data.md.")
    files: dict[str, str] = {}
    rank = {suffix: place for place, suffix in enumerate(CaptionDataset.suffixes)}
    for name in _file_names(str(root)):
        image_id, suffix = os.path.splitext(name)
        if suffix in rank and (image_id not in files or rank[suffix] < rank[os.path.splitext(files[image_id])[1]]):
            files[image_id] = name
    return files


def hash_images(folder: Path, samples: Sequence[Sample], files: Mapping[str, str]) -> ImageHashes:
    """The SHA-256 of each image: from `sources.csv` if it names every image, else of the files themselves, with a progress bar.

    `sources.csv` has those of the source's files, before any conversion. Of the files only those are read whose size is not unique.

    Raises:
        DataError: `sources.csv` has other columns, or an image file cannot be read.
    """
    image_ids = dict.fromkeys(sample.image_id for sample in samples)
    unnamed: tuple[str, ...] = ()
    if (folder / SOURCES_NAME).is_file():
        recorded = _recorded_hashes(folder / SOURCES_NAME)
        unnamed = tuple(image_id for image_id in image_ids if image_id not in recorded)
        if not unnamed:
            return ImageHashes(by_image=recorded, origin=SOURCES_NAME)
    there = {image_id: folder / "image" / files[image_id] for image_id in image_ids if image_id in files}
    sizes = {image_id: path.stat().st_size for image_id, path in there.items()}
    frequency = Counter(sizes.values())
    alike = [image_id for image_id in there if frequency[sizes[image_id]] > 1]
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # hashing releases Python's lock
        digests = pool.map(_sha256, (there[image_id] for image_id in alike))
        by_image = dict(zip(alike, tqdm(digests, total=len(alike), desc="comparing images", unit="image", disable=None), strict=True))
    return ImageHashes(by_image=by_image, origin="the files in image/", unnamed=unnamed)


def _file_names(root: str, below: str = "") -> Iterator[str]:
    with os.scandir(root) as entries:
        for entry in entries:
            if entry.is_dir():
                yield from _file_names(entry.path, f"{below}{entry.name}/")
            elif entry.is_file():
                yield below + entry.name


def _recorded_hashes(path: Path) -> dict[str, str]:
    try:
        with open(path, newline="", encoding="utf-8") as handle:
            return {csv_text(row["id"]): row["sha256"] for row in csv.DictReader(handle) if row["kind"] == "image"}
    except KeyError as error:
        raise DataError(f"{path}: the column {error} is missing; expected: kind, id, file, bytes, sha256.") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: the table cannot be read ({error}).") from error


def _sha256(path: Path) -> str:
    try:
        return sha256_file(path)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}).") from error


def _image_issues(samples: Sequence[Sample], files: Mapping[str, str]) -> Iterator[Issue]:
    annotated = Counter(sample.image_id for sample in samples)
    yield _issue("warning", "annotations whose image is missing", _ids(s for s in samples if s.image_id not in files))
    yield _issue("warning", "images without an annotation", sorted(files.keys() - annotated.keys()))
    yield _issue("warning", "image_ids with several annotations", [image_id for image_id, count in annotated.items() if count > 1])


def _shared_images(samples: Sequence[Sample], hashes: Mapping[str, str]) -> Iterator[Issue]:
    """The same image, byte for byte, where it should not be; each group of twins is told once, under the worst that it is."""
    twins: dict[str, list[Sample]] = {}
    frequency = Counter(hashes[sample.image_id] for sample in samples if sample.image_id in hashes)
    for sample in samples:
        if sample.image_id in hashes and frequency[hashes[sample.image_id]] > 1:
            twins.setdefault(hashes[sample.image_id], []).append(sample)
    studies = "studies" if any(sample.study_id for sample in samples) else "image_ids"
    places: tuple[tuple[str, str, Callable[[Sample], str]], ...] = (
        ("error", "groups of identical images in more than one split: leakage", lambda sample: sample.used_in),
        ("warning", "groups of identical images under several subjects", lambda sample: sample.subject_id),
        ("warning", f"groups of identical images under several {studies}", lambda sample: sample.study_key),
    )
    for level, what, place in places:
        found = {digest: group for digest, group in twins.items() if len({place(sample) for sample in group} - {""}) > 1}
        twins = {digest: group for digest, group in twins.items() if digest not in found}
        yield _issue(level, what, [_equation(_ids(group)) for group in found.values()])


def _equation(image_ids: Sequence[str]) -> str:
    return " = ".join(image_ids[:3]) + (f" = … ({len(image_ids)} in all)" if len(image_ids) > 3 else "")


# Splits, texts, manifest -----------------------------------------------------------------------------------------------


def _divided(samples: Iterable[Sample], what: str, key: Callable[[Sample], str]) -> Issue:
    splits: dict[str, set[str]] = {}
    for sample in samples:
        if name := key(sample):
            splits.setdefault(name, set()).add(sample.used_in)
    divided = [f"{name} ({', '.join(sorted(found))})" for name, found in splits.items() if len(found) > 1]
    return _issue("error", f"{what} in more than one split: leakage", divided)


def _text_issues(samples: Sequence[Sample]) -> Iterator[Issue]:
    """Texts that repeat those of training, that are too short or too long, or that hold what no text should."""
    written = [(sample, sample.text) for sample in samples if sample.text is not None]
    if not written:
        return
    train_texts = {text for sample, text in written if sample.used_in == TRAIN}
    faults = {text: _faults(text) for text in {text for _, text in written}}
    yield _issue("warning", "images without a text, which training refuses", _ids(s for s in samples if s.text is None))
    for what in (_SHORT, _LONG, _MARKED, _GARBLED):
        yield _issue("warning", what, [sample.image_id for sample, text in written if what in faults[text]])
    train_studies = {sample.study_key for sample, _ in written if sample.used_in == TRAIN}
    repeated = [s for s, text in written if s.used_in != TRAIN and text in train_texts and s.study_key not in train_studies]
    by_split = Counter(sample.used_in for sample in repeated)
    counted = ", ".join(f"{split} {count:,}" for split, count in by_split.items())
    yield _issue("note", f"images of other splits whose text another study of train has word for word ({counted})", _ids(repeated))
    unsplit = sum(not sample.split for sample in samples)
    yield Issue("note", "annotations without a split: they are for training", unsplit)


def _faults(text: str) -> list[str]:
    """What is wrong with one text. Only what is not printable is searched for control characters: 400,000 texts take a while."""
    num_words = len(text.split())
    garbled = _WRONGLY_DECODED in text or (not text.isprintable() and _CONTROL.search(text) is not None)
    found = {_SHORT: num_words < MIN_WORDS, _LONG: num_words > MAX_WORDS, _MARKED: "___" in text or "XXXX" in text, _GARBLED: garbled}
    return [what for what, is_so in found.items() if is_so]


def _manifest_issues(folder: Path) -> Iterator[Issue]:
    path = folder / MANIFEST_NAME
    if not path.is_file():
        yield Issue("note", f"{MANIFEST_NAME} is missing: nothing says how the folder was made", 1)
        return
    sums = read_manifest(folder).get("sha256")
    recorded = sums.get(ANNOTATIONS_NAME) if isinstance(sums, dict) else None
    if recorded is not None and recorded != sha256_file(folder / ANNOTATIONS_NAME):
        yield Issue("warning", f"{ANNOTATIONS_NAME} was changed after it was prepared ({MANIFEST_NAME} has another SHA-256)", 1)


def read_manifest(folder: Path) -> dict:
    """The folder's manifest, {} if it has none.

    Raises:
        DataError: it is no JSON object.
    """
    path = folder / MANIFEST_NAME
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path} is no readable JSON ({error}). Prepare the folder anew.") from error
    if not isinstance(manifest, dict):
        raise DataError(f"{path} must be a JSON object, not {type(manifest).__name__}. Prepare the folder anew.")
    return manifest


def _issue(level: str, what: str, found: Sequence[str]) -> Issue:
    return Issue(level, what, len(found), tuple(found[:MAX_EXAMPLES]))


def _ids(samples: Iterable[Sample]) -> list[str]:
    return [sample.image_id for sample in samples]
