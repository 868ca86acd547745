"""What a metric is: a function of sums over the samples.

Legend: `N` samples, `K` numbers that each sample contributes, `R` resamples.

Every number of a scorecard is `formula(sum over samples of statistics)`: a mean is sum / count, an F1 is a ratio of counts, a corpus
BLEU a function of n-gram counts. Resampling then needs no second look at any text: a resample is another weighting of the same rows.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from xraygpt.common.errors import ConfigError
from xraygpt.common.registry import suggest

Group = Literal["lexical", "clinical", "degeneracy", "model"]
Array = NDArray[np.float64]


@dataclass(frozen=True)
class Corpus:
    """What is scored: one generated report a sample, in a fixed order.

    Attributes:
        ids: one a sample, all different.
        predictions: the generated report of each sample; may be empty text.
        references: one or more reference reports of each sample, none of them empty.
        studies: the study of each sample. Samples of one study are drawn together when resampling.
        truncated: whether the model ran out of tokens before it ended the report; None where that is not known.
    """

    ids: tuple[str, ...]
    predictions: tuple[str, ...]
    references: tuple[tuple[str, ...], ...]
    studies: tuple[str, ...]
    truncated: tuple[bool, ...] | None = None


@dataclass(frozen=True)
class Metric:
    """One number, and what it is made of.

    Attributes:
        key: short name, as in `run.metrics` and in tables: "bleu_4".
        id: full name with variant, tokenisation, case, policy and version, parts separated by "|", such as
            "bleu_4|variant:coco-corpus|tok:words|case:lower|lib:pycocoevalcap-1.2". Numbers with different ids do not compare.
        label: how tables and the page call it: "BLEU-4".
        group: which table it stands in.
        higher_is_better: False for error rates; None where neither is better (a length ratio, best at 1).
        statistics: float64 [N, K].
        formula: [..., K] sums → [...] values; NaN where there is nothing to measure. Must work on any leading shape.
    """

    key: str
    id: str
    label: str
    group: Group
    higher_is_better: bool | None
    statistics: Array
    formula: Callable[[Array], Array]

    @property
    def value(self) -> float:
        """The number over all samples; NaN where there is nothing to measure."""
        return float(self.formula(self.statistics.sum(axis=0)))


Family = Callable[[Corpus], list[Metric]]
"""Computes related metrics of a corpus together."""


@dataclass(frozen=True)
class _Entry:
    keys: tuple[str, ...]
    family: Family


_FAMILIES: dict[str, _Entry] = {}


def register_metrics(name: str, *, keys: Sequence[str]) -> Callable[[Family], Family]:
    """Decorator: register a family of metrics; `keys` are those of the metrics that it returns, in order.

    The name and the keys can stand in `run.metrics` and `--metrics`; the name stands for all its keys.
    """

    def wrap(family: Family) -> Family:
        taken = {word for other, entry in _FAMILIES.items() if _where(entry.family) != _where(family) for word in (other, *entry.keys)}
        if repeated := taken & {name, *keys}:
            raise ConfigError(f"Two families of metrics want the name {', '.join(sorted(repeated))}; rename one in {_where(family)}.")
        _FAMILIES[name] = _Entry(tuple(keys), family)
        return family

    return wrap


def _where(family: Family) -> str:
    return f"{family.__module__}.{getattr(family, '__qualname__', family)}"


def metric_names() -> list[str]:
    """Every name that may stand in `run.metrics`: families and keys, in the order of the tables."""
    return list(dict.fromkeys(name for family, entry in _FAMILIES.items() for name in (family, *entry.keys)))


def check_metric_names(names: Collection[str]) -> None:
    """Raise ConfigError that lists every name which is neither a family nor a key."""
    known = metric_names()
    if unknown := [name for name in names if name not in known]:
        raise ConfigError("; ".join(f"There is no metric {name!r}.{suggest(name, known)}" for name in unknown))


def compute_metrics(corpus: Corpus, names: Collection[str] = ()) -> list[Metric]:
    """The named metrics of a corpus (families or keys), or, without names, all that are registered; in registered order."""
    check_metric_names(names)
    metrics: list[Metric] = []
    for family_name, entry in _FAMILIES.items():
        wanted = entry.keys if not names or family_name in names else tuple(key for key in entry.keys if key in names)
        if wanted:
            metrics += [metric for metric in entry.family(corpus) if metric.key in wanted]
    return metrics


# Formulas that many metrics share ----------------------------------------------------------------------------------------


def mean_formula(sums: Array) -> Array:
    """[..., (sum, count)] → sum / count; NaN where count is 0."""
    return ratio(sums[..., 0], sums[..., 1])


def ratio(part: Any, whole: Any) -> Array:
    """part / whole elementwise; NaN where whole is 0."""
    part, whole = np.broadcast_arrays(np.asarray(part, dtype=np.float64), np.asarray(whole, dtype=np.float64))
    return np.divide(part, whole, out=np.full(part.shape, np.nan), where=whole != 0)


def with_count(values: Any) -> Array:
    """[N] values → statistics [N, 2] of `mean_formula`: (value, 1), and (0, 0) for a sample that has no value (NaN)."""
    values = np.asarray(values, dtype=np.float64)
    known = ~np.isnan(values)
    return np.stack([np.where(known, values, 0.0), known.astype(np.float64)], axis=1)
