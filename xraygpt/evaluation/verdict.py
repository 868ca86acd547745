"""What the scores say beside the baselines: better or not, and the warnings that a reader must see before any number.

A model that writes "normal" for every image can reach the BLEU of a good one. The warnings are the sentences that make this plain.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

from xraygpt.evaluation.scorecard import Baseline, Score

Standing = Literal["better", "unclear", "worse"]

BASELINE_LABELS = {
    "most_frequent": "most frequent",
    "normal": "always normal",
    "random_training": "random training",
    "nearest_training": "nearest training",
}
CONSTANT_BASELINES = ("normal", "most_frequent")
"""Those that write one fixed report for every image."""

COMPARED_KEYS = ("finding_f1_macro", "finding_f1_micro", "faithfulness")
"""Scores that must be better than every baseline; where one is not, a warning says so."""
LEXICAL_KEYS = ("bleu_4", "rouge_l")

# From here on a warning is given. The shares are of reports, unless said otherwise.
SAME_REPORT = 0.5  # identical to the most frequent output; about 40 % of the studies of a usual test set are normal
FEW_DISTINCT = 0.1  # distinct reports / reports
FEW_ABNORMAL_FOUND = 0.5  # of the abnormal studies
CHANCE = 0.5  # balanced accuracy of a coin
LEXICAL_SHARE = 0.8  # of the system's BLEU or ROUGE, reached by a fixed report
EMPTY = 0.01
TRUNCATED = 0.01
REPEATED = 0.05
CONTRADICTED = 0.1  # of the statements
SHORT, LONG = 0.5, 2.0  # words generated / words in the references
FEW_STUDIES = 100  # with fewer, an interval of a share is up to ± 0.1 wide (1.96 · sqrt(0.25 / 100))


def standing(score: Score, baseline: Baseline) -> Standing | None:
    """Whether the system is better than a baseline that scores the same studies.

    "better" and "worse" need a paired interval of the difference that lies wholly on that side of 0; "unclear" is everything between.
    Without an interval the difference itself decides. None where nothing can be said: a value is missing, neither direction is
    better, or the score is one of degeneracy (randomly drawn reports are never degenerate, so it is no fault to be below them).
    """
    if score.value is None or baseline.value is None or score.higher_is_better is None or score.group == "degeneracy":
        return None
    low, high = baseline.low, baseline.high
    if low is None or high is None:
        low = high = score.value - baseline.value
    if not score.higher_is_better:
        low, high = -high, -low
    return "better" if low > 0 else "worse" if high < 0 else "unclear"


def best_baseline(values: Mapping[str, float | None], *, higher_is_better: bool | None = True) -> tuple[str, float] | None:
    """Name and value of the baseline that is hardest to beat (the first of equals); None without a value or a direction."""
    known = [(name, value) for name, value in values.items() if value is not None]
    if not known or higher_is_better is None:
        return None
    return max(known, key=lambda item: item[1] if higher_is_better else -item[1])


def warnings_of(scores: Sequence[Score], *, num_studies: int) -> list[str]:
    """Plain sentences about what makes the scores, or the system, doubtful; the most serious first, none where all is well.

    Args:
        scores: of a card. A score that is absent or could not be measured gives no warning, but for the recall of abnormal
            studies: without an abnormal study nothing is known about findings.
        num_studies: how many studies were scored.
    """
    by_key = {score.key: score for score in scores}
    measured = {key: score for key, score in by_key.items() if score.value is not None}
    sentences = [*_sameness(measured), *_abnormal_studies(by_key), *_not_above_baselines(measured), *_lexical(measured), *_faults(measured)]
    if num_studies < FEW_STUDIES:
        counted = "1 study is" if num_studies == 1 else f"{num_studies} studies are"
        sentences.append(f"Only {counted} scored: the intervals are wide, and small differences mean nothing.")
    return sentences


def _sameness(scores: Mapping[str, Score]) -> Iterator[str]:
    if (share := _value(scores, "most_frequent_share", 0.0)) >= SAME_REPORT:
        yield f"The same report is written for {percent(share)} of the images."
    elif (distinct := _value(scores, "distinct_ratio", 1.0)) < FEW_DISTINCT:
        yield f"Few different reports are written: {percent(distinct)} of the reports are distinct."


def _abnormal_studies(scores: Mapping[str, Score]) -> Iterator[str]:
    recall, accuracy = scores.get("abnormal_recall"), scores.get("normal_abnormal_balanced_accuracy")
    if recall and recall.value is None:
        yield "No reference describes an abnormal study: the scores do not show whether findings are seen."
    if recall and recall.value is not None and recall.value < FEW_ABNORMAL_FOUND:
        found = f"Only {percent(recall.value)} of the abnormal studies are" if recall.value else "None of the abnormal studies is"
        yield f"{found} reported as abnormal."
    if accuracy and accuracy.value is not None:
        low = accuracy.value if accuracy.low is None else accuracy.low
        if low <= CHANCE:
            bounds = f" ({interval(accuracy.low, accuracy.high)})" if accuracy.low is not None else ""
            yield f"Normal and abnormal studies are not told apart: balanced accuracy {number(accuracy.value)}{bounds}; chance is 0.5."


def _not_above_baselines(scores: Mapping[str, Score]) -> Iterator[str]:
    for score in (scores[key] for key in COMPARED_KEYS if key in scores):
        clauses = []
        for outcome, words in (("unclear", "not clearly better than"), ("worse", "worse than")):
            beaten_by = {name: other for name, other in score.baselines.items() if standing(score, other) == outcome}
            if beaten_by:
                listed = [f"“{baseline_label(name)}” ({number(other.value)})" for name, other in beaten_by.items()]
                clauses.append(f"{words} the baseline{'s' * (len(listed) > 1)} {_and(listed)}")
        if clauses:
            yield f"{score.label} {number(score.value)} is {', and '.join(clauses)}."


def _lexical(scores: Mapping[str, Score]) -> Iterator[str]:
    lexical = [scores[key] for key in LEXICAL_KEYS if key in scores]
    if lexical and _value(scores, "most_frequent_share", 0.0) >= SAME_REPORT:
        listed = _and([f"{score.label} {number(score.value)}" for score in lexical])
        yield f"{listed}: scores of little more than one fixed text. They do not show that the images are read."
        return
    reached = []
    for score in lexical:
        constant = {name: score.baselines[name] for name in CONSTANT_BASELINES if name in score.baselines}
        best = best_baseline({name: baseline.value for name, baseline in constant.items()})
        if best and (standing(score, constant[best[0]]) != "better" or best[1] >= LEXICAL_SHARE * (score.value or 0.0)):
            reached.append(f"{score.label} {number(best[1])} (“{baseline_label(best[0])}”; the system: {number(score.value)})")
    if reached:
        yield f"One fixed report for every image already scores {_and(reached)}: such scores say little here about reading the images."


def _faults(scores: Mapping[str, Score]) -> Iterator[str]:
    for key, limit, words in (
        ("empty_share", EMPTY, "of the reports are empty."),
        ("truncated_share", TRUNCATED, "of the reports are cut off: the model reached its limit of tokens before it ended them."),
        ("repeated_sentence_share", REPEATED, "of the reports repeat themselves."),
        ("contradiction_rate", CONTRADICTED, "of the statements contradict the reference."),
    ):
        if (share := _value(scores, key, 0.0)) >= limit:
            yield f"{percent(share)} {words}"
    if not SHORT <= (length := _value(scores, "length_ratio", 1.0)) <= LONG:
        yield f"The reports are {length:.2f} times as long as the references."


def _value(scores: Mapping[str, Score], key: str, otherwise: float) -> float:
    value = scores[key].value if key in scores else None
    return otherwise if value is None else value


def _and(items: Sequence[str]) -> str:
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"


# Words and numbers, the same in the warnings, the tables and the page -----------------------------------------------------


def baseline_label(name: str) -> str:
    """How tables and the page call a baseline."""
    return BASELINE_LABELS.get(name, name.replace("_", " "))


def number(value: float | None) -> str:
    """Three decimals; an en dash where nothing could be measured."""
    return "–" if value is None else f"{value:.3f}"


def interval(low: float | None, high: float | None, *, signed: bool = False) -> str:
    """As "0.101–0.146", or "-0.010 to +0.031" for a difference; an en dash where there is none."""
    if low is None or high is None:
        return "–"
    low, high = round(low, 3) + 0.0, round(high, 3) + 0.0  # no "-0.000"
    return f"{low:+.3f} to {high:+.3f}" if signed else f"{low:.3f}–{high:.3f}"


def percent(share: float) -> str:
    """A share as "97 %"; "0.1 %" or "99.6 %" next to 0 and 1, so that neither is claimed where it is not so."""
    if share in (0, 1) or 0.01 <= share <= 0.99:
        return f"{100 * share:.0f} %"
    return f"{min(max(100 * share, 0.1), 99.9):.1f} %"
