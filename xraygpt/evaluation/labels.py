"""Labels of a whole report: its statements about a finding, an observation or a topic taken together.

A label is 1 (present), 0 (absent), -1 (uncertain) or None (not mentioned). Where statements disagree, one that is present wins
over an uncertain one, and that over an absent one: "no effusion on the right, small effusion on the left" is an effusion.
"""

from collections.abc import Iterable

from xraygpt.evaluation.finding_rules import OBSERVATIONS
from xraygpt.evaluation.findings import FINDINGS, RULES, read_findings

PRESENT, ABSENT, UNCERTAIN = 1, 0, -1

TOPICS: dict[str, tuple[str, ...]] = {name: rule.observations or (name,) for name, rule in RULES.findings.items()}
"""Finding of the finer list → what reports are compared by: the observations it counts for, or itself where it has none."""

_LABELS = {"present": PRESENT, "uncertain": UNCERTAIN, "absent": ABSENT}  # the first that a report states counts


def label_report(text: str) -> dict[str, int | None]:
    """The labels of the 14 CheXpert observations.

    "No Finding" is 1 where no finding but devices is present or uncertain in a report with any text, else None.
    """
    statements = read_findings(text)
    pairs = ((observation, item.status) for item in statements for observation in RULES.findings[item.finding].observations)
    labels = _labels(OBSERVATIONS, pairs)
    abnormal = any(item.status != "absent" and not RULES.findings[item.finding].device for item in statements)
    labels["No Finding"] = PRESENT if text.strip() and not abnormal else None
    return labels


def label_findings(text: str) -> dict[str, int | None]:
    """The labels of the finer list, `FINDINGS`."""
    return _labels(FINDINGS, ((item.finding, item.status) for item in read_findings(text)))


def read_statuses(text: str) -> dict[str, str]:
    """What a text says of each finding of the finer list that it mentions: "present", else "uncertain", else "absent"."""
    return _strongest((item.finding, item.status) for item in read_findings(text))


def read_topics(*texts: str) -> dict[str, str]:
    """The same for each of the `TOPICS` that the texts, taken together, mention."""
    return _strongest((topic, item.status) for text in texts for item in read_findings(text) for topic in TOPICS[item.finding])


def _labels(names: Iterable[str], pairs: Iterable[tuple[str, str]]) -> dict[str, int | None]:
    statuses = _strongest(pairs)
    return {name: _LABELS[statuses[name]] if name in statuses else None for name in names}


def _strongest(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    """(name, status) pairs → status of each name: the one that counts where several are stated."""
    stated = dict.fromkeys(pairs)  # without repetitions, in reading order
    return {name: next(status for status in _LABELS if (name, status) in stated) for name, _ in stated}
