"""What a prepared folder holds, counted: studies, images, views, splits, lengths of the texts, and the findings that they state.

A *sample* is one annotation. Images of a study often share one text, so texts are counted once a study.
"""

import hashlib
import heapq
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np

from xraygpt.common.errors import DataError
from xraygpt.common.files import ANNOTATIONS_NAME
from xraygpt.datasets.builders import load_annotations
from xraygpt.datasets.preparation.splits import SPLITS

TRAIN = "train"
STATUSES = ("present", "uncertain", "absent")
MAX_STUDIES_READ = 5000
"""Findings are read in no more studies than these, a random sample: enough for a frequency to within 1.4 percentage points."""
MAX_BINS = 12

FindingReader = Callable[[str], Mapping[str, str]]
"""A report → {finding: one of `STATUSES`}; a finding that it does not mention is not in it."""

T = TypeVar("T")


class Sample(NamedTuple):
    """One annotation; what it does not name is "" (text: None)."""

    image_id: str
    study_id: str
    subject_id: str
    split: str
    view: str
    text: str | None

    @property
    def study_key(self) -> str:
        """The study; an image that names none is a study of its own."""
        return self.study_id or self.image_id

    @property
    def used_in(self) -> str:
        """The split that the builders put it in: training, where it names none."""
        return self.split or TRAIN


@dataclass(frozen=True, kw_only=True)
class SplitCounts:
    """How much of the data is in one split."""

    studies: int
    images: int


@dataclass(frozen=True, kw_only=True)
class Lengths:
    """Words of a text: extremes, middle, and a histogram.

    Attributes:
        bins: (first number of words, last or None for "and more", texts) for each bar, from few words to many.
    """

    minimum: int
    median: int
    p95: int
    maximum: int
    bins: tuple[tuple[int, int | None, int], ...]


@dataclass(frozen=True, kw_only=True)
class FindingCounts:
    """How often findings are stated.

    Attributes:
        studies_read: studies whose texts were read.
        studies_with_text: studies that have a text; more than were read if only a sample was.
        counts: finding → {status: studies} of each that a text mentions, most often present first.
        unmentioned: the other findings.
    """

    studies_read: int
    studies_with_text: int
    counts: dict[str, dict[str, int]]
    unmentioned: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class FolderSummary:
    """The numbers of a folder, or of one of its splits.

    Attributes:
        images: different image_ids.
        studies: different study_ids; None if no sample names one.
        subjects: different subject_ids; None if no sample names one.
        views: view ("" where none is named) → samples, most frequent first.
        splits: split ("" where none is named) → its size; train, val and test first.
        texts: texts, each counted once a study.
        distinct_texts: how many of them are different.
        lengths: None if there is no text.
        findings: None if there is no text.
    """

    images: int
    studies: int | None
    subjects: int | None
    views: dict[str, int]
    splits: dict[str, SplitCounts]
    texts: int
    distinct_texts: int
    lengths: Lengths | None
    findings: FindingCounts | None


def read_samples(folder: Path) -> list[Sample]:
    """The annotations of a folder, with or without captions.

    Raises:
        DataError: `load_annotations` refuses the file, or it holds no annotation.
    """
    annotations = load_annotations(folder / ANNOTATIONS_NAME, captions_required=False)
    if not annotations:
        raise DataError(f"{folder / ANNOTATIONS_NAME} holds no annotation: there is nothing to show.")
    return [_sample(annotation) for annotation in annotations]


def _sample(annotation: Mapping[str, Any]) -> Sample:
    named = {key: str(annotation[key]) for key in ("study_id", "subject_id", "split", "view") if annotation.get(key) is not None}
    caption = annotation.get("caption")
    return Sample(
        annotation["image_id"],
        named.get("study_id", ""),
        named.get("subject_id", ""),
        named.get("split", ""),
        named.get("view", ""),
        caption if isinstance(caption, str) else None,
    )


def of_split(samples: Sequence[Sample], split: str) -> list[Sample]:
    """The samples that the builders put in `split`.

    Raises:
        DataError: there are none.
    """
    chosen = [sample for sample in samples if sample.used_in == split]
    if not chosen:
        there = ", ".join(sorted({sample.used_in for sample in samples}))
        raise DataError(f"No annotation has the split {split!r}; there are: {there}.")
    return chosen


def summarize(
    samples: Sequence[Sample],
    *,
    read_statuses: FindingReader,
    findings: Sequence[str],
    max_studies_read: int = MAX_STUDIES_READ,
    seed: int = 0,
) -> FolderSummary:
    """Count everything.

    Args:
        samples: those to count.
        read_statuses: the reader of findings.
        findings: all that it can find.
        max_studies_read: if more studies than these have a text, findings are read in a random sample of so many.
        seed: of that sample.
    """
    texts = study_texts(samples)
    lengths = [len(text.split()) for of_study in texts.values() for text in of_study]
    read = choose(texts, count=max_studies_read, seed=seed, key=str)
    return FolderSummary(
        images=len({sample.image_id for sample in samples}),
        studies=_num_named(samples, lambda sample: sample.study_id, lambda sample: sample.study_key),
        subjects=_num_named(samples, lambda sample: sample.subject_id, lambda sample: sample.subject_id),
        views=dict(Counter(sample.view for sample in samples).most_common()),
        splits=_count_splits(samples),
        texts=len(lengths),
        distinct_texts=len({text for of_study in texts.values() for text in of_study}),
        lengths=_measure(lengths) if lengths else None,
        findings=_count_findings([texts[study] for study in read], read_statuses, findings, len(texts)) if texts else None,
    )


def study_texts(samples: Iterable[Sample]) -> dict[str, list[str]]:
    """Study → its different texts, in the order of the samples; studies without a text are left out."""
    texts: dict[str, list[str]] = {}
    for sample in samples:
        if sample.text is not None and sample.text not in (of_study := texts.setdefault(sample.study_key, [])):
            of_study.append(sample.text)
    return texts


def choose(items: Iterable[T], *, count: int, seed: int, key: Callable[[T], str]) -> list[T]:
    """A random choice of `count` items, in random order, that depends on the seed and each item's own key alone.

    An item that is chosen among many is also chosen among fewer.
    """
    return heapq.nsmallest(count, items, key=lambda item: hashlib.sha256(f"{seed}/{key(item)}".encode()).digest())


def summary_rows(summary: FolderSummary) -> list[tuple[str, str]]:
    """The single numbers as (what, how many), for a terminal or a page."""

    def number(value: int | None, unknown: str) -> str:
        return unknown if value is None else f"{value:,}"

    views = ", ".join(f"{count:,} {view or 'unknown'}" for view, count in summary.views.items())
    distinct = f"{summary.distinct_texts:,} ({summary.distinct_texts / summary.texts:.1%})" if summary.texts else "–"
    return [
        ("studies", number(summary.studies, "not named")),
        ("subjects", number(summary.subjects, "not named")),
        ("images", f"{summary.images:,}"),
        ("views", views),
        ("texts, once a study", f"{summary.texts:,}" if summary.texts else "none: for generation only"),
        ("distinct texts", distinct),
    ]


def _num_named(samples: Sequence[Sample], name: Callable[[Sample], str], key: Callable[[Sample], str]) -> int | None:
    return len({key(sample) for sample in samples} - {""}) if any(map(name, samples)) else None


def _count_splits(samples: Sequence[Sample]) -> dict[str, SplitCounts]:
    images = Counter(split for split, _ in {(sample.split, sample.image_id) for sample in samples})
    studies = Counter(split for split, _ in {(sample.split, sample.study_key) for sample in samples})
    order = [*(split for split in SPLITS if split in images), *sorted(images.keys() - SPLITS)]
    return {split: SplitCounts(studies=studies[split], images=images[split]) for split in order}


def _measure(lengths: Sequence[int]) -> Lengths:
    minimum, median, p95, maximum = (int(value) for value in np.percentile(lengths, [0, 50, 95, 100], method="nearest"))
    widths = (step * 10**power for power in range(9) for step in (1, 2, 5))
    width = next(width for width in widths if p95 // width < MAX_BINS - 1)
    last = min(p95 // width + 1, maximum // width)  # all beyond are in the last bin, so that one giant does not flatten the rest
    is_open = maximum >= (last + 1) * width
    counts = Counter(min(length // width, last) for length in lengths)
    bins = tuple(
        (index * width, None if is_open and index == last else (index + 1) * width - 1, counts[index])
        for index in range(minimum // width, last + 1)
    )
    return Lengths(minimum=minimum, median=median, p95=p95, maximum=maximum, bins=bins)


def _count_findings(
    texts: Sequence[Sequence[str]], read_statuses: FindingReader, findings: Sequence[str], num_studies: int
) -> FindingCounts:
    counts = {finding: dict.fromkeys(STATUSES, 0) for finding in findings}
    for of_study in texts:
        for finding, status in read_statuses("\n\n".join(of_study)).items():
            counts[finding][status] += 1
    mentioned = sorted((finding for finding in findings if any(counts[finding].values())), key=lambda f: -counts[f]["present"])
    return FindingCounts(
        studies_read=len(texts),
        studies_with_text=num_studies,
        counts={finding: counts[finding] for finding in mentioned},
        unmentioned=tuple(finding for finding in findings if finding not in mentioned),
    )
