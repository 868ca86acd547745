"""Labels of a whole report: its statements about a finding, an observation or a scored finding taken together.

A label is 1 (present), 0 (absent), -1 (uncertain) or None (not mentioned). Where statements disagree, one that is present wins
over an uncertain one, and that over an absent one: "no effusion on the right, small effusion on the left" is an effusion.
"""

from collections.abc import Iterable

from xraygpt.evaluation.finding_rules import OBSERVATIONS
from xraygpt.evaluation.findings import FINDINGS, RULES, Finding, merge_sides, merge_zones, read_findings

PRESENT, ABSENT, UNCERTAIN = 1, 0, -1

SCORED_FINDINGS: tuple[str, ...] = (
    "cardiomegaly", "pleural_effusion", "pneumothorax", "consolidation", "edema", "nodule", "pacemaker", "tube",
)  # fmt: skip
"""The findings that `xraygpt score` counts; `scored_as` in the rules says what belongs to each."""

_LABELS = {"present": PRESENT, "uncertain": UNCERTAIN, "absent": ABSENT}  # the first that a report states counts


def label_report(text: str) -> dict[str, int | None]:
    """The labels of the 14 CheXpert observations.

    "No Finding" is 1 where no finding but devices is present or uncertain in a report with any text, else None.
    """
    statements = read_findings(text)
    pairs = [(observation, item.status) for item in statements for observation in RULES.findings[item.finding].observations]
    labels = _labels(OBSERVATIONS, pairs)
    abnormal = any(item.status != "absent" and not RULES.findings[item.finding].device for item in statements)
    labels["No Finding"] = PRESENT if text.strip() and not abnormal else None
    return labels


def label_findings(text: str) -> dict[str, int | None]:
    """The labels of the finer list, `FINDINGS`."""
    return _labels(FINDINGS, [(item.finding, item.status) for item in read_findings(text)])


def read_statuses(text: str) -> dict[str, str]:
    """What a text says of each finding of the finer list that it mentions: "present", else "uncertain", else "absent"."""
    statuses: dict[str, str] = {}
    for item in read_findings(text):
        statuses[item.finding] = min(item.status, statuses.get(item.finding, "absent"), key=list(_LABELS).index)
    return statuses


def findings_present(text: str) -> dict[str, Finding]:
    """The scored findings that `text` states as present (uncertain ones are not), one entry each, by `SCORED_FINDINGS` name.

    Several statements about a finding are merged: left and right make bilateral; two different zones make "". The severity
    and the sentence are those of the first statement.
    """
    statements: dict[str, list[Finding]] = {}
    for item in read_findings(text):
        if item.status == "present":
            for name in RULES.findings[item.finding].scored_as:
                statements.setdefault(name, []).append(item)
    return {name: _merge(name, items) for name, items in statements.items()}


def _labels(names: Iterable[str], pairs: Iterable[tuple[str, str]]) -> dict[str, int | None]:
    stated = set(pairs)
    return {name: next((label for status, label in _LABELS.items() if (name, status) in stated), None) for name in names}


def _merge(name: str, items: list[Finding]) -> Finding:
    side, zone = merge_sides([item.side for item in items]), merge_zones([item.zone for item in items])
    return Finding(name, "present", side, zone, items[0].severity, items[0].sentence)
