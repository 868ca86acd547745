"""The bootstrap: its draws, its intervals against scipy's and against theory, and pairing."""

import math

import numpy as np
import pytest
from scipy import stats

from xraygpt.evaluation.metric import Array, Metric, mean_formula, ratio, with_count
from xraygpt.evaluation.resampling import Bootstrap, p_value


def mean_of(values: Array) -> Metric:
    return Metric("mean", "mean", "mean", "lexical", True, with_count(values), mean_formula)


def bootstrap(num: int, **options: float) -> Bootstrap:
    return Bootstrap([str(i) for i in range(num)], **{"num_resamples": 2000, "seed": 1, **options})  # type: ignore[arg-type]


def test_the_interval_of_a_mean_is_that_of_theory_and_of_scipy() -> None:
    values = np.random.default_rng(0).normal(3, 2, size=400)
    low, high = (draws := bootstrap(400)).interval(draws.values(mean_of(values)))
    error = values.std() / math.sqrt(400)
    assert (low, high) == pytest.approx((values.mean() - 1.96 * error, values.mean() + 1.96 * error), abs=0.03)
    theirs = stats.bootstrap((values,), np.mean, n_resamples=2000, method="percentile", rng=np.random.default_rng(2)).confidence_interval
    assert (low, high) == pytest.approx((theirs.low, theirs.high), abs=0.03)


def test_a_resample_is_the_sum_over_the_drawn_rows() -> None:
    sums = bootstrap(7, num_resamples=50).sums(np.eye(7))
    assert sums.shape == (50, 7)
    assert (sums.sum(axis=1) == 7).all() and (sums == np.round(sums)).all()
    assert len({tuple(row) for row in sums.tolist()}) > 40


def test_samples_of_a_study_are_drawn_together() -> None:
    draws = Bootstrap(["a", "b", "a", "c"], num_resamples=200, seed=3)
    sums = draws.sums(np.eye(4))
    assert draws.num_studies == 3
    assert (sums[:, 0] == sums[:, 2]).all()
    assert (sums[:, 0] + sums[:, 1] + sums[:, 3] == 3).all()


def test_studies_of_many_images_widen_the_interval() -> None:
    values = np.repeat(np.random.default_rng(0).normal(size=50), 8)
    alone = bootstrap(400)
    together = Bootstrap(np.repeat([str(i) for i in range(50)], 8).tolist(), num_resamples=2000, seed=1)
    widths = [high - low for draws in (alone, together) for low, high in [draws.interval(draws.values(mean_of(values)))]]
    assert widths[1] > 2 * widths[0]


def test_draws_depend_on_the_seed_and_the_studies_not_on_their_order() -> None:
    names = [f"study {i}" for i in range(30)]
    values = np.arange(30.0)
    forward = Bootstrap(names, num_resamples=20, seed=5).values(mean_of(values))
    backward = Bootstrap(names[::-1], num_resamples=20, seed=5).values(mean_of(values[::-1]))
    assert forward == pytest.approx(backward, abs=1e-12)
    assert (Bootstrap(names, num_resamples=20, seed=6).values(mean_of(values)) != forward).any()


def test_a_metric_without_a_value_has_no_interval() -> None:
    draws = bootstrap(5)
    nothing = mean_of(np.full(5, np.nan))
    assert math.isnan(nothing.value)
    assert np.isnan(draws.interval(draws.values(nothing))).all()
    assert np.isnan(bootstrap(5, num_resamples=0).interval(np.zeros(0))).all()
    assert math.isnan(p_value(np.zeros(0)))


def test_resamples_without_a_value_are_left_out() -> None:
    rare = Metric("r", "r", "r", "clinical", True, np.eye(3, 2), lambda sums: ratio(sums[..., 0], sums[..., 0]))
    draws = bootstrap(3)
    assert np.isnan(draws.values(rare)).any()
    assert draws.interval(draws.values(rare)) == (1.0, 1.0)


def test_p_of_no_difference() -> None:
    assert p_value(np.linspace(-1, 1, 999)) == 1.0
    assert p_value(np.full(999, 0.5)) == pytest.approx(0.002)
    assert p_value(np.concatenate([np.full(980, 1.0), np.full(19, -1.0)])) == pytest.approx(0.04)


def test_p_holds_its_level_on_equal_systems() -> None:
    random = np.random.default_rng(0)
    ps = []
    for trial in range(60):
        draws = Bootstrap([str(i) for i in range(60)], num_resamples=300, seed=trial)
        ps.append(p_value(draws.values(mean_of(random.normal(size=60)))))
    assert 0 <= np.mean(np.array(ps) < 0.05) < 0.2
    assert 0.3 < np.mean(ps) < 0.7
