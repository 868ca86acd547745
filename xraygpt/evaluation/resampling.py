"""Bootstrap over studies: how far a score would move with other patients, and whether one system really beats another.

Legend: `N` samples, `G` studies, `K` statistics, `R` resamples.

A resample draws G studies with replacement, each with all its samples (Efron & Tibshirani, 1993, percentile intervals; Koehn, 2004, for
the paired comparison). The same draws serve every metric and every system, so differences are paired.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from xraygpt.evaluation.metric import Array, Metric

_ROWS_AT_A_TIME = 64  # resamples whose weights are float64 at the same time


class Interval(NamedTuple):
    """Bounds of a percentile interval; NaN where no resample had a value."""

    low: float
    high: float


class Bootstrap:
    """R resamples of the studies, drawn once.

    Args:
        studies: the study of each sample, [N]. Their order does not matter: studies are drawn in sorted order.
        num_resamples: R; 0 makes every interval NaN.
        seed: same seed, same studies: same draws on every machine.
        confidence: mass of the intervals, in (0, 1).
    """

    def __init__(self, studies: Sequence[str], *, num_resamples: int, seed: int, confidence: float = 0.95) -> None:
        names, self._study_of = np.unique(np.asarray(studies, dtype=str), return_inverse=True)
        self.num_studies, self.confidence = len(names), confidence
        draws = np.random.Generator(np.random.PCG64(seed))
        probabilities = np.full(self.num_studies, 1 / self.num_studies)
        self._weights = draws.multinomial(self.num_studies, probabilities, size=num_resamples).astype(np.uint16)

    def sums(self, statistics: Array) -> Array:
        """Statistics [N, K] → their sums in each resample, [R, K]."""
        by_study = np.zeros((self.num_studies, statistics.shape[1]))
        np.add.at(by_study, self._study_of, statistics)
        chunks = range(0, len(self._weights), _ROWS_AT_A_TIME)
        return np.concatenate(
            [np.zeros((0, statistics.shape[1])), *(self._weights[i : i + _ROWS_AT_A_TIME].astype(np.float64) @ by_study for i in chunks)]
        )

    def values(self, metric: Metric) -> Array:
        """The metric in each resample, [R]."""
        return metric.formula(self.sums(metric.statistics))

    def interval(self, values: Array) -> Interval:
        """Percentile interval of the resampled values [R]; resamples without a value (NaN) are left out."""
        known = values[~np.isnan(values)]
        if not known.size:
            return Interval(np.nan, np.nan)
        tail = (1 - self.confidence) / 2
        return Interval(*np.quantile(known, [tail, 1 - tail]).tolist())


def p_value(differences: Array) -> float:
    """Two-sided bootstrap p of "no difference" from resampled differences [R]; never 0: at least 2 / (R + 1). NaN without values."""
    known = differences[~np.isnan(differences)]
    if not known.size:
        return float("nan")
    tail = min(np.count_nonzero(known <= 0), np.count_nonzero(known >= 0))
    return min(1.0, 2 * (tail + 1) / (known.size + 1))
