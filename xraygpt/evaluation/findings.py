"""Reads radiology English: which findings a report states as present, absent or uncertain, and where.

The rules live in `finding_rules.yaml`; this file says only how they act on each other. A report is cut into sentences, a
sentence into clauses ("but", "however", ";"), and one regular expression turns a clause into tokens: mentions of findings,
places, cues of negation and uncertainty, and the words that end a cue's reach. Nothing reaches from one clause to another.
A finding that a report does not mention has no status: silence is not absence.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import yaml

_RULES = yaml.safe_load(Path(__file__).with_name("finding_rules.yaml").read_text(encoding="utf-8"))

FINDINGS: tuple[str, ...] = (
    "cardiomegaly", "pleural_effusion", "pneumothorax", "consolidation", "edema", "nodule", "pacemaker", "tube",
)  # fmt: skip
SIDES = ("", "left", "right", "bilateral")
ZONES = ("", "upper", "mid", "lower")


@dataclass(frozen=True)
class Finding:
    """What one statement of a report says about one finding.

    Attributes:
        finding: one of `FINDINGS`.
        status: "present", "absent" or "uncertain".
        side: "left", "right", "bilateral" (both sides are named) or "" (none is).
        zone: "upper", "mid", "lower", or "" (no zone or several are named).
        sentence: the sentence as it stands in the report.
    """

    finding: str
    status: str
    side: str
    zone: str
    sentence: str


class _Token(NamedTuple):
    kind: str  # "mention", "location", or the name of a list of cues or parting words
    finding: str = ""  # of a mention
    place: tuple[str, str] = ("", "")  # (side, zone) of a location


def read_findings(text: str) -> list[Finding]:
    """All findings that `text` speaks of, in reading order; a finding appears once for every statement about it."""
    return [finding for sentence in _SENTENCE_END.split(text) for finding in _read_sentence(" ".join(sentence.split()))]


def findings_present(text: str) -> dict[str, Finding]:
    """The findings that `text` states as present (uncertain ones are not), one entry each.

    Several statements about a finding are merged: left and right make bilateral; two different zones make "". The
    sentence is that of the first statement.
    """
    statements: dict[str, list[Finding]] = {}
    for item in read_findings(text):
        if item.status == "present":
            statements.setdefault(item.finding, []).append(item)
    return {name: _merge(items) for name, items in statements.items()}


def merge_sides(sides: Sequence[str]) -> str:
    """One side for several: "" adds nothing, left and right make "bilateral"."""
    named = set(sides) - {""}
    return named.pop() if len(named) == 1 else "bilateral" if named else ""


def merge_zones(zones: Sequence[str]) -> str:
    """One zone for several: the zone if all that are named agree, else ""."""
    named = set(zones) - {""}
    return named.pop() if len(named) == 1 else ""


def _merge(items: list[Finding]) -> Finding:
    side, zone = merge_sides([item.side for item in items]), merge_zones([item.zone for item in items])
    return Finding(items[0].finding, "present", side, zone, items[0].sentence)


# The rules, compiled once ------------------------------------------------------------------------------------------


_EDGE = "(?:(?<![a-z])|(?![a-z]))"  # anywhere but inside a word


def _any_of(patterns: Sequence[str]) -> str:
    return "(?:" + "|".join(patterns) + ")"


def _compile_tokens() -> tuple[re.Pattern[str], list[_Token]]:
    """One pattern with a group for each kind of token, and what each group means (group i -> entry i - 1)."""
    words = {**_RULES["cues"], **_RULES["parting_words"]}
    parts = [(_any_of(words.pop("neutral")), _Token("neutral"))]
    parts += [(_any_of(rule["mentions"]), _Token("mention", name)) for name, rule in _RULES["findings"].items()]
    parts += [(rule["pattern"], _Token("location", place=(rule.get("side", ""), rule.get("zone", "")))) for rule in _RULES["locations"]]
    parts += [(_any_of(patterns), _Token(kind)) for kind, patterns in words.items()]
    pattern = "|".join(f"({source}){_EDGE}" for source, _ in parts)
    return re.compile(f"{_EDGE}(?:{pattern})"), [token for _, token in parts]


_SENTENCE_END = re.compile(r"(?<=[.!?])\s+|\n\s*\n")
_CLAUSE_BOUNDARY = re.compile(f";|{_EDGE}{_any_of(_RULES['clause_boundaries'])}{_EDGE}")
_NORMAL_STATEMENTS = [(re.compile(f"{_EDGE}(?:{rule['pattern']}){_EDGE}"), rule["absent"]) for rule in _RULES["normal_statements"]]
_TOKEN, _TOKEN_OF_GROUP = _compile_tokens()
_STRENGTH = {  # of parting words
    **dict.fromkeys(("join", "comma", "absent_before", "uncertain_before"), 3),
    "conjunction": 2,
    **dict.fromkeys(("verb", "absent_after", "uncertain_after"), 1),
}
_MIDLINE = {name for name, rule in _RULES["findings"].items() if rule.get("midline")}


# Reading -----------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=65536)  # reports repeat their sentences
def _read_sentence(sentence: str) -> tuple[Finding, ...]:
    return tuple(finding for clause in _CLAUSE_BOUNDARY.split(sentence.lower()) for finding in _read_clause(clause, sentence))


def _read_clause(clause: str, sentence: str) -> Iterator[Finding]:
    tokens = [_TOKEN_OF_GROUP[match.lastindex - 1] for match in _TOKEN.finditer(clause) if match.lastindex]
    places = _places(tokens)
    for index, status in _statuses(tokens).items():
        name = tokens[index].finding
        side, zone = ("", "") if name in _MIDLINE else places[index]
        yield Finding(name, status, side, zone, sentence)
    for pattern, names in _NORMAL_STATEMENTS:
        if pattern.search(clause):
            yield from (Finding(name, "absent", "", "", sentence) for name in names)


def _statuses(tokens: list[_Token]) -> dict[int, str]:
    """Status of each mention, by its index in `tokens`: a cue before reaches forward, a cue after reaches back."""
    statuses: dict[int, str] = {}
    forward = "present"
    open_mentions: list[int] = []  # those that a cue after them would still concern
    for index, token in enumerate(tokens):
        if token.kind == "mention":
            statuses[index] = forward
            open_mentions.append(index)
        elif token.kind == "absent_before":
            forward = "absent"
        elif token.kind == "uncertain_before" and forward == "present":
            forward = "uncertain"
        elif token.kind in ("absent_after", "uncertain_after"):
            statuses |= dict.fromkeys(open_mentions, token.kind.removesuffix("_after"))
        elif token.kind in ("join", "verb"):
            forward, open_mentions = "present", []
        elif token.kind == "conjunction" and forward == "uncertain":  # "possible edema and a left effusion": only the edema is in doubt
            forward = "present"
    return statuses


def _places(tokens: list[_Token]) -> dict[int, tuple[str, str]]:
    """Side and zone of each mention, by its index in `tokens`.

    The strongest parting word between two mentions ("left effusion and right pneumothorax") says which places belong to the
    first and which to the second; the place of one is never taken for the place of the other.
    """
    mentions = [index for index, token in enumerate(tokens) if token.kind == "mention"]
    places = {}
    start = 0
    for mention, following in pairwise([*mentions, len(tokens)]):
        end = following if following == len(tokens) else _parting(tokens, mention, following)
        named = [token.place for token in tokens[start:end] if token.kind == "location"]
        places[mention] = merge_sides([side for side, _ in named]), merge_zones([zone for _, zone in named])
        start = end
    return places


def _parting(tokens: list[_Token], mention: int, following: int) -> int:
    """Index of the strongest (then last) parting word between two mentions; of the second mention where there is none."""
    return max(
        (index for index in range(mention + 1, following) if tokens[index].kind in _STRENGTH),
        key=lambda index: (_STRENGTH[tokens[index].kind], index),
        default=following,
    )
