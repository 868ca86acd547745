import numpy as np
import pytest

from xraygpt.evaluation.label_scores import (
    f1_of_counts,
    f1_statistics,
    label_counts,
    macro_f1,
    micro_f1,
    precision_of_counts,
    recall_of_counts,
)

# 4 samples, 3 labels; the third never occurs in the references.
REFERENCE = np.array([[1, 0, 0], [1, 1, 0], [0, 0, 0], [1, 0, 0]], dtype=bool)
PREDICTED = np.array([[1, 1, 0], [0, 1, 1], [0, 0, 0], [1, 0, 0]], dtype=bool)


def test_counts_of_each_label() -> None:
    sums = f1_statistics(REFERENCE, PREDICTED).sum(axis=0)
    counts = label_counts(sums)
    assert counts.tolist() == [[2, 0, 1], [1, 1, 0], [0, 1, 0]]  # tp, fp, fn
    assert precision_of_counts(counts) == pytest.approx([1, 1 / 2, 0])
    assert recall_of_counts(counts) == pytest.approx([2 / 3, 1, np.nan], nan_ok=True)
    assert f1_of_counts(counts) == pytest.approx([4 / 5, 2 / 3, 0])


def test_averages() -> None:
    sums = f1_statistics(REFERENCE, PREDICTED).sum(axis=0)
    assert float(micro_f1(sums)) == pytest.approx(6 / 9)  # 3 tp, 2 fp, 1 fn
    assert float(macro_f1(REFERENCE)(sums)) == pytest.approx((4 / 5 + 2 / 3) / 2)  # over the two labels that occur


def test_macro_over_resamples_keeps_the_labels_of_the_whole_set() -> None:
    statistics = f1_statistics(REFERENCE, PREDICTED)
    sums = np.stack([statistics[[0, 0]].sum(axis=0), statistics[[2, 3]].sum(axis=0), statistics[[2, 2]].sum(axis=0)])
    # Twice sample 0: the second label has a false positive only; samples 2 and 3: it is nowhere; sample 2: no label is anywhere.
    assert macro_f1(REFERENCE)(sums) == pytest.approx([(1 + 0) / 2, 1, np.nan], nan_ok=True)


def test_nothing_to_measure() -> None:
    nothing = np.zeros((2, 3), dtype=bool)
    sums = f1_statistics(nothing, nothing).sum(axis=0)
    assert np.isnan(micro_f1(sums))
    assert np.isnan(macro_f1(nothing)(sums))
