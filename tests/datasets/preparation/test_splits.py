"""The split of a study, and the check that nothing leaks from one split into another."""

from typing import Any

import pytest

from xraygpt.common.errors import DataError
from xraygpt.datasets.preparation.splits import divided_groups, require_no_leakage, split_of


def test_splits_are_80_10_10() -> None:
    splits = [split_of(f"CXR{number}") for number in range(10_000)]
    assert splits.count("train") == pytest.approx(8000, abs=150)
    assert splits.count("val") == pytest.approx(1000, abs=100)
    assert splits.count("test") == pytest.approx(1000, abs=100)


@pytest.mark.parametrize(("study", "split"), [("CXR1", "train"), ("CXR4", "val"), ("CXR14", "test"), ("50414267", "test")])
def test_a_study_never_changes_its_split(study: str, split: str) -> None:
    assert split_of(study) == split


def row(study: str, split: str, subject: str = "") -> dict[str, Any]:
    return {"study_id": study, "split": split} | ({"subject_id": subject} if subject else {})


@pytest.mark.parametrize(
    ("rows", "divided"),
    [
        ([row("1", "train"), row("1", "train"), row("2", "test")], {}),
        ([row("1", "train"), row("1", "test")], {"study 1": ["test", "train"]}),
        ([row("1", "train", "a"), row("2", "val", "a")], {"subject a": ["train", "val"]}),
        ([row("1", "train", "a"), row("2", "val", "b")], {}),
        ([{"image_id": "x"}, {"image_id": "y"}], {}),  # the original's layout names neither
    ],
)
def test_divided_groups(rows: list[dict[str, Any]], divided: dict[str, list[str]]) -> None:
    assert divided_groups(rows) == divided


def test_leakage_fails_loudly() -> None:
    require_no_leakage([row("1", "train"), row("2", "test")], "data/x")
    with pytest.raises(DataError, match=r"data/x: 1 subjects or studies stand in more than one split.*\n  subject a: test, train"):
        require_no_leakage([row("1", "train", "a"), row("2", "test", "a")], "data/x")
