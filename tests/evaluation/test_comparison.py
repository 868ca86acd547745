"""Two systems side by side."""

from dataclasses import replace

import pytest

from tests.evaluation.example import PREDICTIONS, REFERENCES, example
from xraygpt.common.errors import DataError
from xraygpt.evaluation.comparison import compare_systems, format_comparison, to_rows
from xraygpt.evaluation.scoring import Settings

SETTINGS = Settings(resamples=500)


def test_a_better_system_is_named_with_its_difference() -> None:
    rows = {row.key: row for row in compare_systems(example(), example(dict(REFERENCES)), settings=SETTINGS)}
    rouge = rows["rouge_l"]
    assert rouge.second == 1 and rouge.first is not None and rouge.difference == pytest.approx(1 - rouge.first)
    assert rouge.low is not None and rouge.high is not None and rouge.low <= rouge.difference <= rouge.high
    assert rouge.better == "second" and rouge.p is not None and rouge.p < 0.05
    assert rows["hallucinated_findings"].difference < 0  # type: ignore[operator]  # lower is better
    assert rows["length_ratio"].better == ""  # neither is


def test_the_other_way_round_everything_is_reversed() -> None:
    forward = compare_systems(example(), example(dict(REFERENCES)), settings=SETTINGS)
    backward = compare_systems(example(dict(REFERENCES)), example(), settings=SETTINGS)
    swapped = {"first": "second", "second": "first", "": ""}
    for one, other in zip(forward, backward, strict=True):
        assert other.better == swapped[one.better]
        assert other.p == one.p
        if one.difference is not None and other.low is not None and one.high is not None:
            assert (other.difference, other.low) == (-one.difference, pytest.approx(-one.high))


def test_equal_systems_do_not_differ() -> None:
    rows = compare_systems(example(), example(), settings=SETTINGS)
    assert {row.better for row in rows} == {""}
    assert {row.p for row in rows} <= {1.0, None}


def test_systems_on_other_references_are_refused() -> None:
    other = replace(example(), references=(("Something else.",),) * len(PREDICTIONS))
    with pytest.raises(DataError, match="same ids and references"):
        compare_systems(example(), other, settings=SETTINGS)


def test_the_table_and_the_rows() -> None:
    rows = compare_systems(example(), example(dict(REFERENCES)), settings=SETTINGS)
    table = format_comparison(rows, first="a.jsonl", second="b.csv", confidence=0.9)
    lines = table.splitlines()
    assert lines[:2] == ["first: a.jsonl", "second: b.csv"]
    assert "90% interval" in lines[3]
    assert len({len(line) for line in lines[3:]}) == 1  # aligned
    assert to_rows(rows)[0]["key"] == rows[0].key
