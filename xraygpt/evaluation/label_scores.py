"""F1 over labels, from counts: shared by every labeller (our rules, CheXbert).

Legend: `N` samples, `L` labels. Counts stand last, in the order (true positives, false positives, false negatives).

    precision = tp / (tp + fp), recall = tp / (tp + fn), F1 = 2 tp / (2 tp + fp + fn); NaN where there is nothing to divide by.

The micro average takes them from counts summed over labels, the macro average is the mean of the labels' F1 (as in scikit-learn).
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from xraygpt.evaluation.metric import Array, ratio


def f1_statistics(reference: Any, predicted: Any) -> Array:
    """Counts of each sample: bool [N, L] twice → float64 [N, 3 L], the three counts of a label side by side."""
    reference, predicted = np.asarray(reference, dtype=bool), np.asarray(predicted, dtype=bool)
    counts = np.stack([reference & predicted, predicted & ~reference, reference & ~predicted], axis=-1)
    return counts.reshape(len(counts), -1).astype(np.float64)


def precision_of_counts(counts: Array) -> Array:
    """[..., 3] → [...]; NaN where nothing was predicted."""
    return ratio(counts[..., 0], counts[..., 0] + counts[..., 1])


def recall_of_counts(counts: Array) -> Array:
    """[..., 3] → [...]; NaN where nothing was there to be found."""
    return ratio(counts[..., 0], counts[..., 0] + counts[..., 2])


def f1_of_counts(counts: Array) -> Array:
    """[..., 3] → [...]; NaN where neither the references nor the predictions are ever positive."""
    return ratio(2 * counts[..., 0], 2 * counts[..., 0] + counts[..., 1] + counts[..., 2])


def label_counts(sums: Array) -> Array:
    """Sums of `f1_statistics`, [..., 3 L] → [..., L, 3]."""
    return sums.reshape(*sums.shape[:-1], sums.shape[-1] // 3, 3)  # -1 would fail for no resamples


def micro_f1(sums: Array) -> Array:
    """Formula of the micro-averaged F1: [..., 3 L] → [...]."""
    return f1_of_counts(label_counts(sums).sum(axis=-2))


def macro_f1(reference: Any) -> Callable[[Array], Array]:
    """Formula of the macro-averaged F1 over the labels that are positive somewhere in `reference`, bool [N, L].

    The labels are those of the whole set, also where a resample misses some; one that is then positive neither in the references
    nor in the predictions has no F1 and is left out of that resample's mean. NaN where no label is ever positive.
    """
    present = np.asarray(reference, dtype=bool).any(axis=0)

    def formula(sums: Array) -> Array:
        scores = f1_of_counts(label_counts(sums)[..., present, :])
        known = ~np.isnan(scores)
        return ratio(np.where(known, scores, 0.0).sum(axis=-1), known.sum(axis=-1))

    return formula
