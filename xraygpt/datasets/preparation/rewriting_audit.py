"""Whether a language model's rewrite says what the report says.

What can be checked by reading is checked: which findings are stated, and whether as present, absent or uncertain; sides and numbers;
whether the words are the report's; and whether anything is left that the rules of `cleaning` take out.

Findings are read twice: by the reader that the caller passes, and, for the many that it does not know, by words and the nearest negation.
The second reader is coarse. Where it is wrong about a faithful rewrite, the report keeps its rule-based caption, and no harm is done.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from xraygpt.datasets.preparation.cleaning import clean_caption, split_sentences

ADDED = "rejected: finding added"
LOST = "rejected: finding lost"
CHANGED = "rejected: status changed"
FOREIGN = "rejected: side, number or wording not the report's"
LEFT_OVER = "rejected: left-over mark, comparison or view"
REJECTIONS = (ADDED, LOST, CHANGED, FOREIGN, LEFT_OVER)

MAX_LENGTH_RATIO = 2
"""A rewrite of more words than this times those of the report is rejected: a summary does not grow."""
MIN_SHARED_WORDS = 0.5
"""A rewrite is rejected if less than this share of its different words stands in the report: it is about something else."""

ReadStatuses = Callable[[str], Mapping[str, str]]
"""Text → {finding: "present", "absent" or "uncertain"} for the findings that it speaks of."""


@dataclass(frozen=True, kw_only=True)
class Draft:
    """One report whose caption a language model may write."""

    study_id: str
    findings: str
    impression: str
    caption: str
    """What the rules made of the two sections; it stays where the rewrite is not usable."""


_NOT_PROSE = re.compile(
    r"</?[a-z]|[{}\[\]*#`|]|\b(?:findings|impression|summary|note)\s*:|^(?:here (?:is|are)|sure|certainly)\b", re.IGNORECASE
)
"""Markup, headings, and remarks to whoever asked."""
_OTHER_FINDINGS = re.compile(
    r"\b(acute|adenopath|aneurysm|atelecta|bronchiect|calcif|cancer|carcinoma|catheter|cavit|clip|collaps|copd|cyst|degenerat|ectas|"
    r"emphysem|fibro|fractur|free air|granulom|herni|hyperexpan|hyperinfl|kypho|lymphaden|malignan|metasta|neoplas|osteophyt|pneumoperit|"
    r"sarcoid|scar|scolio|spondyl|stent|sternotom|thicken|tortuo|tubercul|tumou?r|widen|wire)"
)
"""How words begin that name findings which a reader of statuses need not know; "no acute disease" is told by its "acute"."""
_CLAUSE = re.compile(r"[.;](?=\s|$)|\b(?:but|however|although|except)\b")
_NEGATION = re.compile(r"\b(?:no|not|without|negative for|free of|absen\w+)\b")
_SIDE = re.compile(r"\b(?:left|right|bilateral|bi(?=-?(?:bas|apic)))")
_NUMBER = re.compile(r"\d+(?:\.\d+)?")
_WORD = re.compile(r"[^\W\d_]+")


def audit(rewrite: str, draft: Draft, *, read_statuses: ReadStatuses) -> str | None:
    """Return why a rewrite is rejected, one of `REJECTIONS`, or None if it can stand for the report.

    - What the rule-based caption states must be stated, with the same status.
    - Whatever else is stated must be in the findings or the impression, with the same status.
    - Sides (left, right, bilateral) and numbers must be in the report, and so must half of the words.
    - It must be prose that the rules of `cleaning` would leave as it is, and not more than twice as long as the report.
    """
    if _is_left_over(rewrite, draft):
        return LEFT_OVER
    return _compare_statuses(rewrite, draft, read_statuses) or (FOREIGN if _is_foreign(rewrite, draft) else None)


def _is_left_over(rewrite: str, draft: Draft) -> bool:
    num_words, num_words_of_report = len(rewrite.split()), len(draft.findings.split()) + len(draft.impression.split())
    return (
        num_words == 0
        or num_words > MAX_LENGTH_RATIO * num_words_of_report
        or _NOT_PROSE.search(rewrite) is not None
        or re.findall(r"\w+", clean_caption(rewrite, "").casefold()) != re.findall(r"\w+", rewrite.casefold())
    )


def _compare_statuses(rewrite: str, draft: Draft, read_statuses: ReadStatuses) -> str | None:
    stated, kept, *sections = (
        {**_read_others(text), **read_statuses(text)} for text in (rewrite, draft.caption, draft.findings, draft.impression)
    )
    if kept.keys() - stated.keys():
        return LOST
    for finding, status in stated.items():
        allowed = {kept[finding]} if finding in kept else {section[finding] for section in sections if finding in section}
        if not allowed:
            return ADDED
        if status not in allowed:
            return CHANGED
    return None


def _read_others(text: str) -> dict[str, str]:
    """Beginning of a word → "absent" if each clause that has it holds a negation too, else "present"."""
    statuses: dict[str, str] = {}
    for clause in _CLAUSE.split(text.casefold()):
        status = "absent" if _NEGATION.search(clause) else "present"
        for found in _OTHER_FINDINGS.findall(clause):
            statuses[found] = status if statuses.get(found) != "present" else "present"
    return statuses


def _is_foreign(rewrite: str, draft: Draft) -> bool:
    # Without the numbers of lists, which are no measurements.
    report = " ".join(split_sentences(draft.findings) + split_sentences(draft.impression)).casefold()
    rewrite = rewrite.casefold()
    words = set(_WORD.findall(rewrite))
    return (
        not _sides(rewrite) <= _sides(report)
        or not set(_NUMBER.findall(rewrite)) <= set(_NUMBER.findall(report))
        or len(words & set(_WORD.findall(report))) < MIN_SHARED_WORDS * len(words)
    )


def _sides(text: str) -> set[str]:
    named = {"bilateral" if word == "bi" else word for word in _SIDE.findall(text)}
    return named | {"bilateral"} if {"left", "right"} <= named else named
