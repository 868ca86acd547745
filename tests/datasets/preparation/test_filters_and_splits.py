"""The paper's filters with their counts, and the split of a study."""

import pytest

from xraygpt.datasets.preparation.filters import Report, filter_reports
from xraygpt.datasets.preparation.splits import split_of

TEN_WORDS = "one two three four five six seven eight nine ten"
NINE_WORDS = "one two three four five six seven eight nine"


def report(findings: str, impression: str) -> Report:
    return Report(study_id="CXR1", findings=findings, impression=impression, image_ids=())


@pytest.mark.parametrize(
    ("findings", "impression", "dropped_by"),
    [
        (TEN_WORDS, "Normal chest.", None),
        ("", "Normal chest.", "without findings"),
        (" \n", "Normal chest.", "without findings"),
        (TEN_WORDS, "", "without impression"),
        ("", "", "without findings"),  # counted once
        (NINE_WORDS, "Normal chest.", "findings under 10 words"),
        (TEN_WORDS, "Normal.", "impression under 2 words"),
    ],
)
def test_each_filter(findings: str, impression: str, dropped_by: str | None) -> None:
    kept, dropped = filter_reports([report(findings, impression)], min_findings_words=10, min_impression_words=2)
    assert len(kept) == (dropped_by is None)
    assert {name for name, count in dropped.items() if count} == ({dropped_by} if dropped_by else set())
    assert list(dropped) == ["without findings", "without impression", "findings under 10 words", "impression under 2 words"]


def test_the_thresholds_are_options() -> None:
    kept, dropped = filter_reports([report("clear lungs", "normal")], min_findings_words=2, min_impression_words=1)
    assert len(kept) == 1
    assert "findings under 2 words" in dropped


def test_splits_are_80_10_10_by_study() -> None:
    splits = [split_of(f"CXR{number}") for number in range(10_000)]
    assert splits.count("train") == pytest.approx(8000, abs=150)
    assert splits.count("val") == pytest.approx(1000, abs=100)
    assert splits.count("test") == pytest.approx(1000, abs=100)


@pytest.mark.parametrize(("study", "split"), [("CXR1", "train"), ("CXR4", "val"), ("CXR14", "test"), ("50414267", "test")])
def test_a_study_never_changes_its_split(study: str, split: str) -> None:
    assert split_of(study) == split
