"""What a scorecard holds: scores with intervals, each beside the baselines, and everything needed to get them again."""

from dataclasses import asdict, dataclass, field
from typing import Any

FORMAT = 1
"""Version of scorecard.json."""
DIGITS = 6
"""Decimals of stored scores: enough for any table, and the same on machines whose last bits differ."""


@dataclass(frozen=True)
class Baseline:
    """A metric's value for a baseline that scores the same studies, and how far the system is above it.

    `low` and `high` bound value of the system - value of the baseline: a paired bootstrap interval over studies; None without one.
    """

    value: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Score:
    """One metric. `low` and `high` bound its bootstrap interval; None where nothing could be measured.

    `key`, `id`, `label`, `group` and `higher_is_better` are those of `xraygpt.evaluation.metric.Metric`; `baselines` is by name.
    """

    key: str
    id: str
    label: str
    group: str
    higher_is_better: bool | None
    value: float | None
    low: float | None
    high: float | None
    baselines: dict[str, Baseline] = field(default_factory=dict)


@dataclass(frozen=True)
class FindingRow:
    """One finding of the table and the chart.

    Attributes:
        name: an observation ("Pleural Effusion") or a finding of the finer list ("pleural_effusion").
        fine: whether it is of the finer list.
        support: samples whose reference states it as present.
        stated: samples whose generated report does.
        precision, recall, f1: uncertain as not stated; None where there is nothing to divide by.
        low, high: bootstrap interval of `f1`.
        baselines: F1 of each baseline.
    """

    name: str
    fine: bool
    support: int
    stated: int
    precision: float | None
    recall: float | None
    f1: float | None
    low: float | None
    high: float | None
    baselines: dict[str, float | None] = field(default_factory=dict)


@dataclass(frozen=True)
class Scorecard:
    """The result of an evaluation.

    Attributes:
        scores: every metric, in the order of the tables.
        findings: the 14 observations, then those of the finer list that occur.
        skipped: metrics that were asked for and could not be computed: name → reason.
        warnings: sentences that a reader must see before any number ("The same report is written for 97 % of the images.").
        data: what was scored: numbers of samples, studies and references, the split and its hash, hashes of the stored files.
        baselines: name of each baseline → what it writes.
        settings: of the scoring: number of resamples, seed, confidence, labeller version, text normalisation.
        provenance: of the reports: checkpoint, language model, prompt, decoding; library versions, commit, hardware, seconds a report.
    """

    scores: list[Score]
    findings: list[FindingRow]
    skipped: dict[str, str]
    warnings: list[str]
    data: dict[str, Any]
    baselines: dict[str, str]
    settings: dict[str, Any]
    provenance: dict[str, Any]

    def score(self, key: str) -> Score | None:
        """The score of a key; None if it is not on the card."""
        return next((score for score in self.scores if score.key == key), None)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON; numbers have `DIGITS` decimals."""
        return {"format": FORMAT, **_rounded(asdict(self))}


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, DIGITS)
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    return [_rounded(item) for item in value] if isinstance(value, (list, tuple)) else value
