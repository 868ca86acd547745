"""Scores generated reports by the findings they state, beside the baseline that always writes the same normal report.

Definitions, for one finding over all reports: `tp` reports where it is true and stated as present, `fp` stated but not
true, `fn` true but not stated (uncertain counts as not stated). precision = tp / (tp + fp), recall = tp / (tp + fn),
F1 = 2 tp / (2 tp + fp + fn); a ratio with denominator 0 is 0. Macro-F1 is the mean F1 over the findings that occur in the
references; micro-F1 takes the sums of tp, fp and fn over the same findings.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from xraygpt.common.errors import DataError
from xraygpt.common.registry import suggest
from xraygpt.evaluation.findings import SIDES, ZONES, merge_sides, merge_zones
from xraygpt.evaluation.labels import SCORED_FINDINGS, findings_present

NORMAL_REPORT = "The heart size is normal. The lungs are clear. There is no pleural effusion or pneumothorax."
"""What the baseline writes for every image."""

Truth = Mapping[str, str]  # {"finding": one of SCORED_FINDINGS, "side": left|right|bilateral|"", "zone": upper|mid|lower|""}
Places = dict[str, tuple[str, str]]  # finding -> (side, zone)


@dataclass(frozen=True)
class FindingScore:
    """One row of the table: `support` reports have the finding, `stated` generated reports state it."""

    support: int
    stated: int
    precision: float
    recall: float
    f1: float


@dataclass(frozen=True)
class Scores:
    """The numbers of one set of reports.

    Attributes:
        findings: a score for each of `SCORED_FINDINGS`, those without support included.
        macro_f1, micro_f1: over the findings that occur; None when none does.
        laterality_accuracy: share of the true one-sided findings that the report states, whose stated side is right; None
            when there is none (`laterality_support`).
        normal_abnormal_accuracy: share of reports that are normal (no finding) where the truth is, and abnormal where it is.
        distinct_ratio: distinct reports / reports; near 0 when the same report is written for every image.
        empty_reports: reports without any text.
    """

    findings: dict[str, FindingScore]
    macro_f1: float | None
    micro_f1: float | None
    laterality_accuracy: float | None
    laterality_support: int
    normal_abnormal_accuracy: float
    distinct_ratio: float
    empty_reports: int


@dataclass(frozen=True)
class Scorecard:
    """The scores of the generated reports (`model`) beside those of `NORMAL_REPORT` for every image (`always_normal`)."""

    num_reports: int
    model: Scores
    always_normal: Scores

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, full precision, ready for JSON."""
        return asdict(self)


def score_findings(predictions: Mapping[str, str], references: Mapping[str, Sequence[Truth]]) -> Scorecard:
    """Score the report of each id against the true findings of that id.

    Args:
        predictions: id -> report text (may be empty: counted, and scored as stating nothing).
        references: id -> true findings; an empty list is a normal study.

    Raises:
        DataError: the ids differ, an id is empty, there is nothing to score, or a true finding has an unknown name.
    """
    check_same_ids(predictions, references)
    truth = {key: places_of(findings, key) for key, findings in references.items()}
    return Scorecard(
        num_reports=len(truth),
        model=_score(predictions, truth),
        always_normal=_score(dict.fromkeys(truth, NORMAL_REPORT), truth),
    )


def true_findings(annotation: Mapping[str, Any]) -> list[dict[str, str]]:
    """The true findings of an annotation: its "findings" where it has that key, else what its caption states as present."""
    if "findings" in annotation:
        return list(annotation["findings"])
    present = findings_present(annotation["caption"]).values()
    return [{"finding": item.finding, "side": item.side, "zone": item.zone} for item in present]


def places_of(findings: Sequence[Truth], sample: str) -> Places:
    """Finding -> (side, zone) of a list of true findings; a finding that is listed twice (left and right) is merged."""
    listed: dict[str, list[Truth]] = {}
    for item in findings:
        _check_truth(item, sample)
        listed.setdefault(item["finding"], []).append(item)
    return {
        name: (merge_sides([item.get("side", "") for item in items]), merge_zones([item.get("zone", "") for item in items]))
        for name, items in listed.items()
    }


def _check_truth(item: Any, sample: str) -> None:
    if not isinstance(item, Mapping):
        raise DataError(f'Reference {sample!r}: expected a finding {{"finding": …, "side": …, "zone": …}}, got {str(item)[:100]!r}.')
    for field, choices in (("finding", SCORED_FINDINGS), ("side", SIDES), ("zone", ZONES)):
        value = item.get(field, "")
        if value not in choices:
            raise DataError(f"Reference {sample!r} has the {field} {value!r}.{suggest(str(value), choices)}")


def check_same_ids(predictions: Iterable[str], references: Iterable[str]) -> None:
    """Raise DataError unless both have exactly the same ids, at least one, none empty: no score of a silently smaller set."""
    predicted, expected = set(predictions), set(references)
    if not expected:
        raise DataError("There are no references to score against.")
    problems = [
        f"{len(ids)} {what}: {', '.join(repr(key) for key in sorted(ids)[:10])}{', …' if len(ids) > 10 else ''}"
        for what, ids in (
            ("without a report", expected - predicted),
            ("without a reference", predicted - expected),
            ("empty", {key for key in predicted | expected if not key.strip()}),
        )
        if ids
    ]
    if problems:
        raise DataError(
            f"The {len(predicted)} reports and the {len(expected)} references must have the same ids. Ids "
            + "; ids ".join(problems)
            + ". Generate the missing reports, or score the split that they were generated for."
        )


def _score(reports: Mapping[str, str], truth: Mapping[str, Places]) -> Scores:
    stated = {key: findings_present(reports[key]) for key in truth}
    counts = {name: _count(name, stated, truth) for name in SCORED_FINDINGS}
    occurring = {name: count for name, count in counts.items() if count["tp"] + count["fn"]}
    sides = [
        stated[key][name].side == side
        for key, places in truth.items()
        for name, (side, _) in places.items()
        if side in ("left", "right") and name in stated[key]
    ]
    texts = [" ".join(reports[key].lower().split()) for key in truth]
    return Scores(
        findings={name: _finding_score(count) for name, count in counts.items()},
        macro_f1=sum(_f1(count) for count in occurring.values()) / len(occurring) if occurring else None,
        micro_f1=_f1(sum(occurring.values(), Counter())) if occurring else None,
        laterality_accuracy=sum(sides) / len(sides) if sides else None,
        laterality_support=len(sides),
        normal_abnormal_accuracy=sum(bool(stated[key]) == bool(truth[key]) for key in truth) / len(truth),
        distinct_ratio=len(set(texts)) / len(texts),
        empty_reports=texts.count(""),
    )


def _count(name: str, stated: Mapping[str, Mapping[str, Any]], truth: Mapping[str, Places]) -> Counter[str]:
    outcome = {(True, True): "tp", (False, True): "fp", (True, False): "fn", (False, False): "tn"}
    return Counter(outcome[name in truth[key], name in stated[key]] for key in truth)


def _f1(count: Counter[str]) -> float:
    return _ratio(2 * count["tp"], 2 * count["tp"] + count["fp"] + count["fn"])


def _finding_score(count: Counter[str]) -> FindingScore:
    support, stated = count["tp"] + count["fn"], count["tp"] + count["fp"]
    return FindingScore(support, stated, _ratio(count["tp"], stated), _ratio(count["tp"], support), _f1(count))


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else 0.0


# Showing -----------------------------------------------------------------------------------------------------------


def summary_rows(card: Scorecard) -> list[tuple[str, str, str]]:
    """The last lines of the table: (what, generated reports, always-normal baseline)."""

    def line(what: str, read: Any) -> tuple[str, str, str]:
        return what, read(card.model), read(card.always_normal)

    return [
        line("macro-F1", lambda scores: number(scores.macro_f1)),
        line("micro-F1", lambda scores: number(scores.micro_f1)),
        line("laterality", lambda scores: number(scores.laterality_accuracy)),
        line("normal vs abnormal", lambda scores: number(scores.normal_abnormal_accuracy)),
        line("distinct reports", lambda scores: number(scores.distinct_ratio)),
        line("empty reports", lambda scores: str(scores.empty_reports)),
    ]


def number(value: float | None) -> str:
    """Three decimals; an en dash where nothing could be measured."""
    return "–" if value is None else f"{value:.3f}"


def format_table(card: Scorecard) -> str:
    """A plain-text table for the terminal: one line a finding, then the summary beside the always-normal baseline."""
    lines = [f"{'finding':<18} {'n':>6} {'stated':>7} {'precision':>10} {'recall':>8} {'F1':>7}"]
    lines += [
        f"{name:<18} {row.support:>6} {row.stated:>7} {row.precision:>10.3f} {row.recall:>8.3f} {row.f1:>7.3f}"
        for name, row in card.model.findings.items()
    ]
    lines += ["", f"{f'{card.num_reports} reports':<25} {'generated':>10} {'always normal':>15}"]
    lines += [f"{what:<25} {model:>10} {baseline:>15}" for what, model, baseline in summary_rows(card)]
    return "\n".join(lines)


def format_markdown(card: Scorecard) -> str:
    """The same table as Markdown."""
    lines = ["| finding | n | stated | precision | recall | F1 |", "| --- | ---: | ---: | ---: | ---: | ---: |"]
    lines += [
        f"| {name} | {row.support} | {row.stated} | {number(row.precision)} | {number(row.recall)} | {number(row.f1)} |"
        for name, row in card.model.findings.items()
    ]
    lines += ["", f"| {card.num_reports} reports | generated | always normal |", "| --- | ---: | ---: |"]
    lines += [f"| {what} | {model} | {baseline} |" for what, model, baseline in summary_rows(card)]
    return "\n".join(lines) + "\n"
