"""What every system is compared with: reports that are written without looking at the image, or by copying.

Legend: `N` samples, `M` training images, `D` features of an image.

A system that is not clearly above these has learnt the language of reports, not to read the film.
"""

import hashlib
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from xraygpt.common.errors import DataError
from xraygpt.evaluation.degeneracy import normalise
from xraygpt.evaluation.metric import Array, Corpus

NORMAL_REPORT = (
    "The heart size is normal. The mediastinal contours are normal. The lungs are clear. "
    "There is no focal consolidation, pleural effusion or pneumothorax. No acute bony abnormality is seen."
)
"""A normal chest, in the words and at the length that are usual: a shorter one would lose BLEU for its brevity and be a weaker baseline."""

_SIMILARITIES_AT_A_TIME = 2**22  # 32 MB of float64


@dataclass(frozen=True)
class BaselineReports:
    """A baseline: its report for each sample, in the order of the samples, and one sentence that says how it writes them."""

    reports: tuple[str, ...]
    description: str


def text_baselines(corpus: Corpus, training: Sequence[str] | None, seed: int) -> dict[str, BaselineReports]:
    """The baselines that need only texts.

    Args:
        corpus: the samples; its predictions are not looked at.
        training: the reports that the system was trained on; empty ones are left out. None or nothing: the references take their place,
            which flatters the baselines (they know the test set's style), and the descriptions say so.
        seed: of the random draws.

    Returns:
        By name: "most_frequent", "normal" and "random_training". The last one is absent where there are neither training reports nor
        two studies to draw from.
    """
    num_samples = len(corpus.ids)
    pool = [text for text in training or () if text.strip()]
    common, times = _most_frequent(pool or [text for texts in corpus.references for text in texts])
    source = f"{len(pool):,} training reports" if pool else "references themselves, as no training reports were given"
    baselines = {
        "most_frequent": BaselineReports((common,) * num_samples, f"Always the most frequent (it occurs {times} times) of the {source}."),
        "normal": BaselineReports((NORMAL_REPORT,) * num_samples, f"Always the same normal report: {NORMAL_REPORT}"),
    }
    if pool:
        drawn = tuple(pool[_draw(seed, key, len(pool))] for key in corpus.ids)
        baselines["random_training"] = BaselineReports(drawn, f"For each image a random one of the {source} (seed {seed}).")
    elif len(set(corpus.studies)) > 1:
        description = f"For each image a reference of another study, at random (seed {seed}), as no training reports were given."
        baselines["random_training"] = BaselineReports(_of_another_study(corpus, seed), description)
    return baselines


def nearest_training(features: NDArray[np.floating], training_features: NDArray[np.floating], reports: Sequence[str]) -> BaselineReports:
    """The report of the most similar training image: retrieval, the strongest of the baselines.

    Args:
        features: of the images that are evaluated, [N, D], in the order of the samples.
        training_features: of the training images, [M, D]; of several equally similar images (cosine, to 9 decimals) the first counts.
        reports: of the training images, M texts.

    Raises:
        DataError: the sizes do not agree, there is no training image, or a feature is not finite.
    """
    if len(reports) != len(training_features) or not reports or features.shape[1:] != training_features.shape[1:]:
        raise DataError(
            f"Nearest training report: expected features [N, D], training features [M, D] and M > 0 reports; got {list(features.shape)}, "
            f"{list(training_features.shape)} and {len(reports)} reports. Take all from the same model and the same list of images."
        )
    queries = _unit_rows(features, "evaluated")
    step = max(1, _SIMILARITIES_AT_A_TIME // max(1, len(queries)))
    best = np.full(len(queries), -np.inf)
    nearest = np.zeros(len(queries), dtype=np.int64)
    for start in range(0, len(training_features), step):
        similarities = queries @ _unit_rows(training_features[start : start + step], "training").T
        # Equal images differ in their last bits by their place in the matrix; rounded, they tie.
        np.round(similarities, 9, out=similarities)
        candidates = similarities.argmax(axis=1)
        values = similarities[np.arange(len(queries)), candidates]
        nearest = np.where(values > best, candidates + start, nearest)
        best = np.maximum(best, values)
    description = f"The report of the training image with the most similar features (cosine), of {len(reports):,} training images."
    return BaselineReports(tuple(reports[index] for index in nearest.tolist()), description)


def _most_frequent(texts: Sequence[str]) -> tuple[str, int]:
    """The text that occurs most often, as it stands where it comes first, and how often; of equally frequent ones the first."""
    first: dict[str, str] = {}
    for text in texts:
        first.setdefault(normalise(text), text)
    (key, times), *_ = Counter(map(normalise, texts)).most_common(1)
    return first[key], times


def _of_another_study(corpus: Corpus, seed: int) -> tuple[str, ...]:
    """For each sample a reference of another study. Sorted first, so that the order of the samples has no say in the draw."""
    rows = zip(corpus.studies, corpus.ids, corpus.references, strict=True)
    pool = sorted((study, key, text) for study, key, texts in rows for text in texts)
    studies = [study for study, _, _ in pool]
    drawn = []
    for study, key in zip(corpus.studies, corpus.ids, strict=True):
        own, end = bisect_left(studies, study), bisect_right(studies, study)
        index = _draw(seed, key, len(pool) - (end - own))
        drawn.append(pool[index if index < own else index + end - own][2])
    return tuple(drawn)


def _draw(seed: int, key: str, size: int) -> int:
    """A number in [0, size) that depends on nothing else: the same sample draws the same in every order and every part of a set."""
    return int.from_bytes(hashlib.sha256(f"{seed}|{key}".encode()).digest(), "big") % size


def _unit_rows(features: NDArray[np.floating], which: str) -> Array:
    """Rows of length 1 in float64; a row of zeros stays one: it is similar to nothing."""
    if not np.isfinite(features).all():
        raise DataError(f"Nearest training report: features of the {which} images are not finite. The model's weights may have diverged.")
    rows = features.astype(np.float64)
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.divide(rows, lengths, out=np.zeros_like(rows), where=lengths > 0)
