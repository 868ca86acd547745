"""Clinical scores: the findings that a generated report states, beside those of its references.

The reader of findings (`findings.py`) reads both texts, so its errors are in every number here; `LABELLER` in an id names its
version. Several references of a sample are joined: a finding that one of them states as present is present, else uncertain, else
absent; "No Finding" holds if every one is normal.

Legend: `N` samples, `L` labels (the 14 observations, then the finer list), `C` the labels that a score is over.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xraygpt.common.comparisons import COMPARISON_RULES, compares
from xraygpt.evaluation.faithfulness import JudgedReport, compare_sides, judge_report
from xraygpt.evaluation.finding_rules import CHEXPERT_5, OBSERVATIONS
from xraygpt.evaluation.findings import FINDINGS, LABELLER, read_passages
from xraygpt.evaluation.label_scores import (
    f1_of_counts,
    f1_statistics,
    label_counts,
    macro_f1,
    micro_f1,
    precision_of_counts,
    recall_of_counts,
)
from xraygpt.evaluation.labels import ABSENT, PRESENT, UNCERTAIN, label_findings, label_report
from xraygpt.evaluation.metric import Array, Corpus, Metric, mean_formula, ratio, register_metrics, with_count

_LABELLER = f"labeller:{LABELLER}"  # part of the ids
_NAMES = (*OBSERVATIONS, *FINDINGS)
_NO_FINDING = OBSERVATIONS.index("No Finding")
_RANK = {None: 0, ABSENT: 1, UNCERTAIN: 2, PRESENT: 3}  # of several references, the highest counts
_POLICIES = {"negative": _RANK[PRESENT], "positive": _RANK[UNCERTAIN]}  # what to take uncertain for → the lowest rank that is positive


def _metric(key: str, label: str, statistics: Array, formula: Callable[[Array], Array], *parts: str, good: bool = True) -> Metric:
    return Metric(key, "|".join((key, *parts)), label, "clinical", good, statistics, formula)


# Labels ------------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=16384)
def _ranks(text: str) -> NDArray[np.int8]:
    """int8 [L]: the `_RANK` of each label of one text. Cached: not to be written to."""
    return np.array([_RANK[label] for label in (*label_report(text).values(), *label_findings(text).values())], dtype=np.int8)


def _ranks_of_references(texts: Sequence[str]) -> NDArray[np.int8]:
    each = np.stack([_ranks(text) for text in texts])
    ranks = each.max(axis=0)
    ranks[_NO_FINDING] = each[:, _NO_FINDING].min()
    return ranks


def _ranks_of_corpus(corpus: Corpus) -> tuple[NDArray[np.int8], NDArray[np.int8]]:
    """int8 [N, L] of the references, and of the generated reports."""
    return np.stack([_ranks_of_references(texts) for texts in corpus.references]), np.stack([_ranks(text) for text in corpus.predictions])


def finding_counts(corpus: Corpus) -> list[tuple[str, bool, Array]]:
    """(name, whether of the finer list, statistics) of the 14 observations, then of the finer findings that any text states as present.

    The statistics are float64 [N, 3]: true positives, false positives, false negatives; uncertain counts as not stated.
    """
    ranks = _ranks_of_corpus(corpus)
    truth, stated = (part >= _POLICIES["negative"] for part in ranks)
    counts = label_counts(f1_statistics(truth, stated))
    occurs = counts.sum(axis=(0, 2)) > 0
    num_observations = len(OBSERVATIONS)
    return [
        (name, index >= num_observations, counts[:, index])
        for index, name in enumerate(_NAMES)
        if index < num_observations or occurs[index]
    ]


# F1 ----------------------------------------------------------------------------------------------------------------

_F1_KEYS = [f"finding_f1_{average}{suffix}{policy}" for policy in ("", "_upos") for suffix in ("", "_5") for average in ("macro", "micro")]
_RATIOS = {"f1": ("F1", f1_of_counts), "precision": ("precision", precision_of_counts), "recall": ("recall", recall_of_counts)}
_MICRO_KEYS = [f"finding_{name}_micro" for name in ("precision", "recall")]
_EXAMPLE_KEYS = [f"finding_{name}_example" for name in _RATIOS]


@register_metrics("finding_f1", keys=(*_F1_KEYS, *_MICRO_KEYS, *_EXAMPLE_KEYS))
def finding_f1(corpus: Corpus) -> list[Metric]:
    """F1, precision and recall of the observations."""
    ranks = _ranks_of_corpus(corpus)
    metrics = []
    for policy, lowest in _POLICIES.items():
        for labels, suffix in ((OBSERVATIONS, ""), (CHEXPERT_5, "_5")):
            columns = [OBSERVATIONS.index(name) for name in labels]
            truth, stated = (part[:, columns] >= lowest for part in ranks)
            metrics += _f1_scores(truth, stated, policy, suffix + ("_upos" if policy == "positive" else ""))
    truth, stated = (part[:, : len(OBSERVATIONS)] >= _POLICIES["negative"] for part in ranks)
    counts = label_counts(f1_statistics(truth, stated)).sum(axis=1)
    return metrics + _micro_scores(counts) + _example_scores(counts)


def _f1_scores(truth: NDArray[np.bool_], stated: NDArray[np.bool_], policy: str, suffix: str) -> list[Metric]:
    """Macro and micro F1 of labels, bool [N, C]."""
    num_labels = truth.shape[1]
    statistics = f1_statistics(truth, stated)
    parts = (f"labels:chexpert-{num_labels}", f"uncertain:{policy}", _LABELLER)
    which = f"{num_labels}, uncertain as positive" if policy == "positive" else f"{num_labels}"
    return [
        _metric(
            f"finding_f1_macro{suffix}",
            f"Finding F1 (macro, {which})",
            statistics,
            macro_f1(truth),
            "average:macro-of-labels-in-references",
            *parts,
        ),
        _metric(f"finding_f1_micro{suffix}", f"Finding F1 (micro, {which})", statistics, micro_f1, "average:micro", *parts),
    ]


def _micro_scores(counts: Array) -> list[Metric]:
    """Precision and recall of counts [N, 3]."""
    parts = ("labels:chexpert-14", "uncertain:negative", "average:micro", _LABELLER)
    chosen = zip(_MICRO_KEYS, (_RATIOS["precision"], _RATIOS["recall"]), strict=True)
    return [_metric(key, f"Finding {what} (micro, 14)", counts, formula, *parts) for key, (what, formula) in chosen]


def _example_scores(counts: Array) -> list[Metric]:
    """Means over the samples that have positives: one that has them in one text only counts 0, one that has them in neither is left out.

    A sample without positives that counted 1 would reward empty reports: the references of many studies state none of the 14.
    """
    parts = ("labels:chexpert-14", "uncertain:negative", "average:example", "no-positives:left-out", _LABELLER)
    nowhere = ~counts.any(axis=1)
    metrics = []
    for key, (what, formula) in zip(_EXAMPLE_KEYS, _RATIOS.values(), strict=True):
        values = np.where(nowhere, np.nan, np.nan_to_num(formula(counts)))
        metrics.append(_metric(key, f"Finding {what} (per report, 14)", with_count(values), mean_formula, *parts))
    return metrics


# Normal or abnormal ------------------------------------------------------------------------------------------------


def _balanced_formula(sums: Array) -> Array:
    """[..., (normal, abnormal, normal found, abnormal found)] → mean of both recalls; NaN where one kind is missing."""
    return (ratio(sums[..., 2], sums[..., 0]) + ratio(sums[..., 3], sums[..., 1])) / 2


@register_metrics(
    "normal_abnormal", keys=("normal_abnormal_accuracy", "normal_abnormal_balanced_accuracy", "abnormal_recall", "normal_recall")
)
def normal_abnormal(corpus: Corpus) -> list[Metric]:
    """Whether a report is rightly normal ("No Finding") or abnormal. An empty one is neither, so it is always wrong."""
    truth, stated = (ranks[:, _NO_FINDING] == _RANK[PRESENT] for ranks in _ranks_of_corpus(corpus))
    written = np.array([bool(text.strip()) for text in corpus.predictions])
    statistics = np.stack([truth, ~truth, truth & stated, ~truth & ~stated & written], axis=1).astype(np.float64)
    right = np.stack([statistics[:, 2] + statistics[:, 3], np.ones(len(truth))], axis=1)
    parts = ("normal:no-finding", _LABELLER)
    return [
        _metric("normal_abnormal_accuracy", "Normal/abnormal accuracy", right, mean_formula, *parts),
        _metric("normal_abnormal_balanced_accuracy", "Normal/abnormal balanced accuracy", statistics, _balanced_formula, *parts),
        _metric("abnormal_recall", "Abnormal recall", statistics[:, [3, 1]], mean_formula, *parts),
        _metric("normal_recall", "Normal recall", statistics[:, [2, 0]], mean_formula, *parts),
    ]


# Sides -------------------------------------------------------------------------------------------------------------


@register_metrics("laterality", keys=("laterality_error_rate", "laterality_missing_rate"))
def laterality(corpus: Corpus) -> list[Metric]:
    """Of the findings that both texts state as present and the references put on one side: how many are misplaced, how many unplaced."""
    pairs = [list(compare_sides(*texts).values()) for texts in zip(corpus.predictions, corpus.references, strict=True)]
    wrong = np.array([[sum(said not in ("", true) for true, said in sample), len(sample)] for sample in pairs], dtype=np.float64)
    missing = np.array([[sum(said == "" for _, said in sample), len(sample)] for sample in pairs], dtype=np.float64)
    parts = ("findings:finer-list-present-in-both", _LABELLER)
    return [
        _metric("laterality_error_rate", "Findings on the wrong side", wrong, mean_formula, *parts, good=False),
        _metric("laterality_missing_rate", "Findings without their side", missing, mean_formula, *parts, good=False),
    ]


# Faithfulness ------------------------------------------------------------------------------------------------------


@register_metrics(
    "faithfulness",
    keys=("hallucinated_findings", "omitted_findings", "contradiction_rate", "faithfulness", "unsupported_comparisons"),
)
def faithfulness(corpus: Corpus) -> list[Metric]:
    """Means of what `judge_report` finds, and comparisons with films that the model has not seen."""
    texts = list(zip(corpus.predictions, corpus.references, strict=True))
    judged = [judge_report(*pair) for pair in texts]
    comparisons = [_num_unsupported_comparisons(*pair) for pair in texts]
    topics = ("topics:chexpert-13-and-finer", _LABELLER)
    sentences = ("of:sentences-with-findings", _LABELLER)

    def mean(key: str, label: str, values: Sequence[Any], *parts: str, good: bool = False) -> Metric:
        return _metric(key, label, with_count(values), mean_formula, *parts, good=good)

    return [
        mean("hallucinated_findings", "Hallucinated findings per report", [len(one.hallucinated) for one in judged], *topics),
        mean("omitted_findings", "Omitted findings per report", [len(one.omitted) for one in judged], *topics),
        _metric("contradiction_rate", "Contradicted sentences", _contradictions(judged), mean_formula, *sentences, good=False),
        mean("faithfulness", "Faithfulness", [one.faithfulness for one in judged], "denials:normal-once", *topics, good=True),
        mean("unsupported_comparisons", "Unsupported comparisons per report", comparisons, "of:sentences", f"rules:{COMPARISON_RULES}"),
    ]


def _contradictions(judged: Sequence[JudgedReport]) -> Array:
    """float64 [N, 2]: generated sentences that the references contradict, and all that state a finding."""
    verdicts = [[sentence.verdict for sentence in one.sentences] for one in judged]
    return np.array([[each.count("contradicted"), len(each) - each.count("neutral")] for each in verdicts], dtype=np.float64)


def _num_unsupported_comparisons(prediction: str, references: Sequence[str]) -> int:
    """0 where a reference compares too: what was on the earlier film cannot be checked."""
    num_comparisons = _num_comparisons(prediction)
    return 0 if num_comparisons and any(map(_num_comparisons, references)) else num_comparisons


def _num_comparisons(text: str) -> int:
    """Sentences that compare with an earlier film; headings ("COMPARISON:") and sections like it are not among them."""
    return sum(compares(" ".join(passage.text.split())) for passage in read_passages(text) if passage.describes)
