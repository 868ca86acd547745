"""From reports to a scorecard: metrics of the system and of the baselines, over the same resampled studies."""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from xraygpt.evaluation.baselines import BaselineReports
from xraygpt.evaluation.clinical import finding_counts
from xraygpt.evaluation.findings import LABELLER
from xraygpt.evaluation.label_scores import f1_of_counts, precision_of_counts, recall_of_counts
from xraygpt.evaluation.metric import Array, Corpus, Metric, compute_metrics
from xraygpt.evaluation.model_scores import compute_model_scores
from xraygpt.evaluation.resampling import Bootstrap
from xraygpt.evaluation.scorecard import Baseline, FindingRow, Score, Scorecard
from xraygpt.evaluation.verdict import warnings_of


@dataclass(frozen=True)
class Settings:
    """How a set of reports is scored.

    Attributes:
        metrics: families or keys of `metric_names()`; empty: all.
        model_scores: name of a model-based score → path of its weights.
        resamples, confidence, seed: of the bootstrap over studies.
    """

    metrics: tuple[str, ...] = ()
    model_scores: Mapping[str, Path] = field(default_factory=dict)
    resamples: int = 1000
    confidence: float = 0.95
    seed: int = 42

    def to_dict(self) -> dict[str, Any]:
        """As it stands in the scorecard."""
        return {
            "metrics": list(self.metrics) or "all",
            "model_scores": {name: str(path) for name, path in self.model_scores.items()},
            "resamples": self.resamples,
            "confidence": self.confidence,
            "seed": self.seed,
            "labeller": LABELLER,
            "text": "as in predictions.jsonl; each metric's id names its own normalisation",
        }

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> "Settings":
        """The settings of a stored scorecard."""
        paths = {name: Path(path) for name, path in stored["model_scores"].items()}
        metrics = () if stored["metrics"] == "all" else tuple(stored["metrics"])
        return cls(metrics, paths, stored["resamples"], stored["confidence"], stored["seed"])


def make_scorecard(
    corpus: Corpus, *, baselines: Mapping[str, BaselineReports], settings: Settings, data: dict[str, Any], provenance: dict[str, Any]
) -> Scorecard:
    """Score the reports of `corpus`, and those of each baseline, on the same studies.

    Args:
        baselines: name → a report for each sample of `corpus`.
        data, provenance: go into the card as they are.
    """
    bootstrap = Bootstrap(corpus.studies, num_resamples=settings.resamples, seed=settings.seed, confidence=settings.confidence)
    skipped: dict[str, str] = {}
    own = compute(corpus, settings, skipped)
    others = {name: compute(_written_by(corpus, baseline), settings, {}) for name, baseline in baselines.items()}
    scores = _scores(own, others, bootstrap)
    return Scorecard(
        scores=scores,
        findings=_finding_rows(corpus, baselines, bootstrap),
        skipped=skipped,
        warnings=warnings_of(scores, num_studies=bootstrap.num_studies),
        data=data,
        baselines={name: baseline.description for name, baseline in baselines.items()},
        settings=settings.to_dict(),
        provenance=provenance,
    )


def _written_by(corpus: Corpus, baseline: BaselineReports) -> Corpus:
    return replace(corpus, predictions=baseline.reports, truncated=None)


def compute(corpus: Corpus, settings: Settings, skipped: dict[str, str]) -> list[Metric]:
    """All metrics that the settings ask for; the model-based ones that cannot be computed go to `skipped` with the reason."""
    metrics, reasons = compute_model_scores(corpus, settings.model_scores)
    skipped |= reasons
    return compute_metrics(corpus, settings.metrics) + metrics


def _scores(own: Sequence[Metric], others: Mapping[str, Sequence[Metric]], bootstrap: Bootstrap) -> list[Score]:
    """A score for each metric of the system; those of the baselines have the same keys."""
    by_key = {name: {metric.key: metric for metric in metrics} for name, metrics in others.items()}
    scores = []
    for metric in own:
        values = bootstrap.values(metric)
        low, high = bootstrap.interval(values)
        beside = {
            name: _baseline(metric, values, metrics[metric.key], bootstrap) for name, metrics in by_key.items() if metric.key in metrics
        }
        scores.append(
            Score(
                key=metric.key,
                id=metric.id,
                label=metric.label,
                group=metric.group,
                higher_is_better=metric.higher_is_better,
                value=known(metric.value),
                low=known(low),
                high=known(high),
                baselines=beside,
            )
        )
    return scores


def _baseline(metric: Metric, values: Array, other: Metric, bootstrap: Bootstrap) -> Baseline:
    low, high = bootstrap.interval(values - bootstrap.values(other))
    return Baseline(known(other.value), known(low), known(high))


def _finding_rows(corpus: Corpus, baselines: Mapping[str, BaselineReports], bootstrap: Bootstrap) -> list[FindingRow]:
    others = {
        name: {row: known(f1_of_counts(counts.sum(axis=0))) for row, _, counts in finding_counts(_written_by(corpus, baseline))}
        for name, baseline in baselines.items()
    }
    rows = []
    for name, fine, counts in finding_counts(corpus):
        sums = counts.sum(axis=0)
        low, high = bootstrap.interval(f1_of_counts(bootstrap.sums(counts)))
        rows.append(
            FindingRow(
                name=name,
                fine=fine,
                support=int(sums[0] + sums[2]),
                stated=int(sums[0] + sums[1]),
                precision=known(precision_of_counts(sums)),
                recall=known(recall_of_counts(sums)),
                f1=known(f1_of_counts(sums)),
                low=known(low),
                high=known(high),
                # A fine finding that neither the references nor a baseline names is not in its table.
                baselines={other: f1s.get(name) for other, f1s in others.items()},
            )
        )
    return rows


def known(value: float | np.floating | Array) -> float | None:
    """A plain float; None for NaN."""
    return None if math.isnan(number := float(value)) else number


def metric_values(corpus: Corpus, names: Collection[str]) -> dict[str, float]:
    """key → value of the named metrics that have one, without intervals or baselines: for a validation during training."""
    return {metric.key: metric.value for metric in compute_metrics(corpus, names) if not math.isnan(metric.value)}
