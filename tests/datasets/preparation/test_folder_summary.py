"""What is counted, on worked cases."""

from pathlib import Path
from typing import Any

import pytest

from xraygpt.common.errors import DataError
from xraygpt.common.files import write_json
from xraygpt.datasets.preparation.folder_summary import (
    FolderSummary,
    Sample,
    SplitCounts,
    choose,
    of_split,
    read_samples,
    study_texts,
    summarize,
    summary_rows,
)


def sample(
    image_id: str, text: str | None = "Clear lungs.", *, study: str = "", subject: str = "", split: str = "", view: str = ""
) -> Sample:
    return Sample(image_id, study, subject, split, view, text)


def summary_of(*samples: Sample, **options: Any) -> FolderSummary:
    return summarize(samples, read_statuses=options.pop("read_statuses", lambda text: {}), findings=("edema", "nodule"), **options)


STUDIES = [
    sample("a1", "One two.", study="a", subject="x", split="train", view="frontal"),
    sample("a2", "One two.", study="a", subject="x", split="train", view="lateral"),
    sample("b1", "One two.", study="b", subject="x", split="train", view="frontal"),
    sample("c1", "One two three.", study="c", subject="y", split="test", view="frontal"),
    sample("d1", None, study="d", subject="z", split="val"),
]


def test_numbers_of_a_folder() -> None:
    summary = summary_of(*STUDIES)
    assert (summary.images, summary.studies, summary.subjects) == (5, 4, 3)
    assert (summary.texts, summary.distinct_texts) == (3, 2)
    assert summary.views == {"frontal": 3, "lateral": 1, "": 1}
    assert summary.splits == {
        "train": SplitCounts(studies=2, images=3),
        "val": SplitCounts(studies=1, images=1),
        "test": SplitCounts(studies=1, images=1),
    }
    assert list(summary.splits) == ["train", "val", "test"]


def test_rows_for_people() -> None:
    assert summary_rows(summary_of(*STUDIES)) == [
        ("studies", "4"),
        ("subjects", "3"),
        ("images", "5"),
        ("views", "3 frontal, 1 lateral, 1 unknown"),
        ("texts, once a study", "3"),
        ("distinct texts", "2 (66.7%)"),
    ]


def test_the_originals_layout_claims_no_studies_splits_or_views() -> None:
    rows = dict(summary_rows(summary_of(sample("a"), sample("b"))))
    assert (rows["studies"], rows["subjects"], rows["views"]) == ("not named", "not named", "2 unknown")
    assert summary_of(sample("a"), sample("b")).splits == {"": SplitCounts(studies=2, images=2)}


def test_images_without_texts() -> None:
    summary = summary_of(sample("a", None), sample("b", None))
    assert (summary.texts, summary.lengths, summary.findings) == (0, None, None)
    assert ("texts, once a study", "none: for generation only") in summary_rows(summary)


def test_a_text_counts_once_a_study_and_two_texts_of_a_study_count_twice() -> None:
    samples = [sample("a1", "A.", study="a"), sample("a2", "B.", study="a"), sample("a3", "A.", study="a"), sample("b1", "A.", study="b")]
    assert study_texts(samples) == {"a": ["A.", "B."], "b": ["A."]}
    assert summary_of(*samples).texts == 3


@pytest.mark.parametrize(
    ("lengths", "numbers", "bins"),
    [
        ([3], (3, 3, 3, 3), [(3, 3, 1)]),
        ([1, 2, 2, 4], (1, 2, 4, 4), [(1, 1, 1), (2, 2, 2), (3, 3, 0), (4, 4, 1)]),
        ([0, 12, 25], (0, 12, 25, 25), [(0, 4, 1), (5, 9, 0), (10, 14, 1), (15, 19, 0), (20, 24, 0), (25, 29, 1)]),
        ([*[7] * 30, 9000], (7, 7, 7, 9000), [(7, 7, 30), (8, None, 1)]),  # one giant does not flatten the rest
        ([*range(10, 110)], (10, 60, 104, 109), [*((low, low + 9, 10) for low in range(10, 110, 10))]),
    ],
)
def test_lengths(lengths: list[int], numbers: tuple[int, ...], bins: list[tuple[int, int | None, int]]) -> None:
    measured = summary_of(*(sample(str(i), "word " * length) for i, length in enumerate(lengths))).lengths
    assert measured is not None
    assert (measured.minimum, measured.median, measured.p95, measured.maximum) == numbers
    assert list(measured.bins) == bins


def test_findings_are_counted_once_a_study() -> None:
    statuses = {"E.": {"edema": "present"}, "N.\n\nM.": {"nodule": "uncertain", "edema": "absent"}}
    samples = [sample("a1", "E.", study="a"), sample("a2", "E.", study="a"), sample("b1", "N.", study="b"), sample("b2", "M.", study="b")]
    findings = summary_of(*samples, read_statuses=statuses.__getitem__).findings
    assert findings is not None
    assert (findings.studies_read, findings.studies_with_text) == (2, 2)
    assert findings.counts == {
        "edema": {"present": 1, "uncertain": 0, "absent": 1},
        "nodule": {"present": 0, "uncertain": 1, "absent": 0},
    }
    assert findings.unmentioned == ()


def test_findings_are_listed_by_how_often_they_are_present() -> None:
    statuses = {"N.": {"nodule": "present"}, "M.": {"nodule": "present", "edema": "absent"}, "": {}}
    findings = summary_of(*(sample(text, text) for text in ("N.", "M.")), read_statuses=statuses.__getitem__).findings
    assert findings is not None
    assert list(findings.counts) == ["nodule", "edema"]
    silent = summary_of(sample("a", ""), read_statuses=statuses.__getitem__).findings
    assert silent is not None
    assert (silent.counts, silent.unmentioned) == ({}, ("edema", "nodule"))


def test_findings_of_many_studies_are_read_in_a_sample_that_depends_on_the_seed() -> None:
    samples = [sample(str(i), f"text {i}") for i in range(40)]
    read: list[list[str]] = []

    def read_statuses(text: str) -> dict[str, str]:
        read[-1].append(text)
        return {}

    for seed in (0, 0, 1):
        read.append([])
        findings = summary_of(*samples, read_statuses=read_statuses, max_studies_read=10, seed=seed).findings
        assert findings is not None
        assert (findings.studies_read, findings.studies_with_text) == (10, 40)
    assert read[0] == read[1] != read[2]


def test_a_choice_does_not_depend_on_what_else_is_there() -> None:
    everything = [str(i) for i in range(1000)]
    chosen = choose(everything, count=24, seed=3, key=str)
    assert len(set(chosen)) == 24
    assert choose(reversed(everything), count=24, seed=3, key=str) == chosen
    assert choose([*chosen, *everything[:100]], count=5, seed=3, key=str)[0] == chosen[0]
    assert choose(everything, count=24, seed=4, key=str) != chosen
    assert sorted(choose(["a", "b"], count=24, seed=0, key=str)) == ["a", "b"]


def test_one_split() -> None:
    assert [chosen.image_id for chosen in of_split(STUDIES, "test")] == ["c1"]
    assert len(of_split([sample("a")], "train")) == 1  # as the builders take it
    with pytest.raises(DataError, match="'tset'; there are: test, train, val"):
        of_split(STUDIES, "tset")


def test_annotations_are_read_with_and_without_captions(tmp_path: Path) -> None:
    rows = [
        {"image_id": "p10/a", "study_id": 0, "caption": "Clear."},
        {"image_id": "b"},
        {"image_id": "c", "caption": None, "split": "val"},
    ]
    write_json(tmp_path / "filter_cap.json", {"annotations": rows})
    assert read_samples(tmp_path) == [sample("p10/a", "Clear.", study="0"), sample("b", None), sample("c", None, split="val")]


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not a prepared folder"):
        read_samples(tmp_path)
    write_json(tmp_path / "filter_cap.json", {"annotations": []})
    with pytest.raises(DataError, match="holds no annotation"):
        read_samples(tmp_path)
