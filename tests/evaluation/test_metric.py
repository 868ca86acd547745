"""Metrics as functions of sums, and finding them by name."""

import math

import numpy as np
import pytest

from tests.evaluation.example import example
from xraygpt.common.errors import ConfigError
from xraygpt.evaluation import metric
from xraygpt.evaluation.metric import (
    Corpus,
    Metric,
    check_metric_names,
    compute_metrics,
    mean_formula,
    metric_names,
    ratio,
    register_metrics,
    with_count,
)


def test_a_family_stands_for_all_its_metrics() -> None:
    keys = [found.key for found in compute_metrics(example(), ["rouge", "bleu_2"])]
    assert keys == ["bleu_2", "rouge_1", "rouge_2", "rouge_l"]  # in the order of the tables


def test_every_registered_metric_is_computed_under_its_key() -> None:
    assert [found.key for found in compute_metrics(example())] == [key for entry in metric._FAMILIES.values() for key in entry.keys]
    check_metric_names(metric_names())


def test_unknown_names_are_all_listed() -> None:
    with pytest.raises(ConfigError, match=r"no metric 'blue_4'.*Did you mean 'bleu_4'.*; There is no metric 'rogue'"):
        check_metric_names(["blue_4", "rouge_l", "rogue"])


def test_two_families_cannot_share_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metric, "_FAMILIES", dict(metric._FAMILIES))

    def mine(corpus: Corpus) -> list[Metric]:
        return []

    with pytest.raises(ConfigError, match="want the name bleu_4, rouge"):
        register_metrics("rouge", keys=["bleu_4"])(mine)
    register_metrics("mine", keys=["my_metric"])(mine)
    register_metrics("mine", keys=["my_metric"])(mine)  # the same again, as when a module is imported anew


def test_a_ratio_without_a_whole_is_not_a_number() -> None:
    assert ratio([1.0, 2.0], [2.0, 0.0]).tolist() == pytest.approx([0.5, math.nan], nan_ok=True)
    assert ratio(np.ones((2, 3)), 2.0).shape == (2, 3)


def test_a_mean_leaves_out_what_has_no_value() -> None:
    statistics = with_count([1.0, math.nan, 0.0])
    assert statistics.tolist() == [[1, 1], [0, 0], [0, 1]]
    assert mean_formula(statistics.sum(axis=0)) == 0.5
