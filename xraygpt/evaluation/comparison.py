"""Which of two systems is better, metric by metric, on the same studies: paired bootstrap."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from xraygpt.common.errors import DataError
from xraygpt.evaluation.metric import Corpus, Metric
from xraygpt.evaluation.resampling import Bootstrap, p_value
from xraygpt.evaluation.scorecard import DIGITS
from xraygpt.evaluation.scoring import Settings, compute, known


@dataclass(frozen=True)
class Difference:
    """One metric of both systems.

    Attributes:
        first, second: the values; None where there is nothing to measure.
        difference: second - first.
        low, high: bounds of its paired bootstrap interval.
        p: two-sided bootstrap p of no difference, for this metric alone: with 50 metrics, 2 or 3 are below 0.05 by chance.
        better: "first" or "second" where the interval excludes 0 and the metric has a direction, else "".
    """

    key: str
    id: str
    label: str
    first: float | None
    second: float | None
    difference: float | None
    low: float | None
    high: float | None
    p: float | None
    better: str


def compare_systems(first: Corpus, second: Corpus, *, settings: Settings) -> list[Difference]:
    """Compare two sets of reports for the same samples; both are drawn with the same studies in each resample.

    Raises:
        DataError: the two were not paired with the same references.
    """
    if (first.ids, first.references) != (second.ids, second.references):
        raise DataError("Two systems can be compared only on the same ids and references.")
    bootstrap = Bootstrap(first.studies, num_resamples=settings.resamples, seed=settings.seed, confidence=settings.confidence)
    others = {metric.key: metric for metric in compute(second, settings, {})}
    return [_difference(metric, others[metric.key], bootstrap) for metric in compute(first, settings, {}) if metric.key in others]


def _difference(first: Metric, second: Metric, bootstrap: Bootstrap) -> Difference:
    differences = bootstrap.values(second) - bootstrap.values(first)
    low, high = bootstrap.interval(differences)
    better = ""
    if first.higher_is_better is not None and (low > 0 or high < 0):
        better = "second" if (low > 0) == first.higher_is_better else "first"
    return Difference(
        key=first.key,
        id=first.id,
        label=first.label,
        first=known(first.value),
        second=known(second.value),
        difference=known(second.value - first.value),
        low=known(low),
        high=known(high),
        p=known(p_value(differences)),
        better=better,
    )


def to_rows(differences: Sequence[Difference]) -> list[dict[str, Any]]:
    """Plain values, ready for JSON."""
    return [
        {name: round(value, DIGITS) if isinstance(value, float) else value for name, value in asdict(row).items()} for row in differences
    ]


def format_comparison(differences: Sequence[Difference], *, first: str, second: str, confidence: float) -> str:
    """A Markdown table that also reads well in a terminal."""
    label = max(len("metric"), *(len(row.label) for row in differences))
    lines = [
        f"first: {first}",
        f"second: {second}",
        "",
        f"| {'metric':<{label}} |   first |  second | difference | {f'{confidence:.0%} interval':<20} |     p | better |",
        f"| {'-' * label} | ------: | ------: | ---------: | {'-' * 20} | ----: | ------ |",
    ]
    for row in differences:
        interval = "–" if row.low is None else f"{row.low:+.4f} to {row.high:+.4f}"
        lines.append(
            f"| {row.label:<{label}} | {_number(row.first, '.4f'):>7} | {_number(row.second, '.4f'):>7} | "
            f"{_number(row.difference, '+.4f'):>10} | {interval:<20} | {_number(row.p, '.3f'):>5} | {row.better:<6} |"
        )
    return "\n".join(lines) + "\n"


def _number(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)
