"""Reads radiology English: which findings a report states as present, absent or uncertain, where, and how severe.

The rules live in `finding_rules.yaml`; this file says only how they act on each other. A report is cut into sentences, and a
sentence into tokens: statements of findings, parts of the chest and their qualities, places, cues of negation and
uncertainty, and the words that end a cue's reach. Nothing reaches from one clause ("but", ";") to another. A finding that a
report does not mention has no status: silence is not absence.
"""

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

from xraygpt.evaluation.finding_rules import RULES_FILE, Claims, Token, load_rules
from xraygpt.evaluation.phrases import split_words

RULES = load_rules()
LABELLER = f"xraygpt-rules-{hashlib.sha256(RULES_FILE.read_bytes()).hexdigest()[:8]}"
"""The labeller and its version, from the SHA-256 of the rules: scores by two versions do not compare."""

FINDINGS: tuple[str, ...] = tuple(RULES.findings)
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
        severity: "minimal", "small", "mild", "moderate", "large", "severe" or "" (not stated).
        sentence: the sentence as it stands in the report, with single spaces.
        implied: an absence that a statement of normality implies ("the lungs are clear"); False where it is stated ("no effusion").
    """

    finding: str
    status: str
    side: str
    zone: str
    severity: str
    sentence: str
    implied: bool = False


class Passage(NamedTuple):
    """A sentence or a heading of a report.

    Attributes:
        text: as written, with the white space after it; the passages of a report joined give the report.
        describes: False for a heading, and for a sentence of a section that does not describe the film ("INDICATION: …").
        findings: what it says; () where it does not describe the film.
    """

    text: str
    describes: bool
    findings: tuple[Finding, ...]


def read_findings(text: str) -> list[Finding]:
    """All findings that `text` speaks of, in reading order; a finding appears once for every statement about it.

    Sections that do not describe the film ("INDICATION: …") are left out.
    """
    return [finding for passage in read_passages(text) for finding in passage.findings]


@lru_cache(maxsize=16384)  # a report is read for every metric
def read_passages(text: str) -> tuple[Passage, ...]:
    """The report cut into sentences and headings, nothing left out, with the findings of each."""
    passages = []
    start, describes = 0, True
    for heading in [*_HEADING.finditer(text), None]:
        for sentence in _cut(text[start : heading.start() if heading else len(text)]):
            findings = read_sentence(" ".join(sentence.split())) if describes else ()
            passages.append(Passage(sentence, describes, findings))
        if heading:
            passages.append(Passage(heading[0], False, ()))
            start, describes = heading.end(), RULES.headings[heading[1].lower()]
    return tuple(passages)


def merge_sides(sides: Sequence[str]) -> str:
    """One side for several: "" adds nothing, left and right make "bilateral"."""
    named = set(sides) - {""}
    return named.pop() if len(named) == 1 else "bilateral" if named else ""


def merge_zones(zones: Sequence[str]) -> str:
    """One zone for several: the zone if all that are named agree, else ""."""
    named = set(zones) - {""}
    return named.pop() if len(named) == 1 else ""


# Cutting -----------------------------------------------------------------------------------------------------------

_HEADING = re.compile(rf"\b({'|'.join(sorted(RULES.headings, key=len, reverse=True))})\s*:", re.IGNORECASE)
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+|\n\s*\n|(?<=[a-z])\.+(?=[A-Z])")


def _cut(section: str) -> Iterator[str]:
    """The sentences of a section, each with the white space around it."""
    start = 0
    for end in (*(match.end() for match in _SENTENCE_END.finditer(section)), len(section)):
        if end > start:
            yield section[start:end]
        start = end


@lru_cache(maxsize=65536)  # reports repeat their sentences
def read_sentence(sentence: str) -> tuple[Finding, ...]:
    """What one sentence says, by the same rules."""
    clauses: list[list[Token]] = [[]]
    for token in RULES.tree.find(split_words(sentence)):
        if token.kind == "boundary":
            clauses.append([])
        elif token.kind != "neutral":
            clauses[-1].append(token)
    return tuple(finding for clause in clauses for finding in _read_clause(clause, sentence))


def _read_clause(tokens: list[Token], sentence: str) -> Iterator[Finding]:
    claims = _claims(tokens)
    if not claims:
        return
    statuses = _statuses(tokens, claims)
    places = _places(tokens, claims)
    for index, by_status in claims.items():
        for name, status in by_status.get(statuses[index], ()):
            side, zone, severity = places[index]
            if RULES.findings[name].midline:
                side = zone = ""
            implied = status == "absent" and not any(said == name and was != "absent" for said, was in by_status.get("present", ()))
            yield Finding(name, status, side, zone, severity, sentence, implied)


# What is said ------------------------------------------------------------------------------------------------------


def _claims(tokens: list[Token]) -> dict[int, dict[str, Claims]]:
    """What each statement claims, by its index in `tokens` and by the status that the words around it give it.

    A quality makes a statement together with the structures before it, back to the last statement, or else those after it.
    """
    claims: dict[int, dict[str, Claims]] = {}
    structures: list[str] = []  # named, and not yet qualified
    waiting: int | None = None  # a quality that found none before it
    for index, token in enumerate(tokens):
        if token.kind == "statement":
            claims[index] = dict(token.claims)
            structures, waiting = [], None
        elif token.kind == "join":
            structures, waiting = [], None
        elif token.kind == "structure" and waiting is not None:
            _qualify(claims, waiting, token.value, tokens[waiting].value)
        elif token.kind == "structure":
            structures.append(token.value)
        elif token.kind == "quality" and not structures:
            waiting = index
        elif token.kind == "quality" and any((structure, token.value) in RULES.states for structure in structures):
            for structure in structures:
                _qualify(claims, index, structure, token.value)
            structures = []
    return dict(sorted(claims.items()))


def _qualify(claims: dict[int, dict[str, Claims]], index: int, structure: str, quality: str) -> None:
    for status, said in RULES.states.get((structure, quality), {}).items():
        by_status = claims.setdefault(index, {})
        by_status[status] = by_status.get(status, ()) + said


# Its status --------------------------------------------------------------------------------------------------------

_BEFORE = {"absent_before": "absent", "uncertain_before": "uncertain", "not_meant_before": "not meant"}
_AFTER = {"absent_after": "absent", "uncertain_after": "uncertain"}


def _statuses(tokens: list[Token], claims: dict[int, dict[str, Claims]]) -> dict[int, str]:
    """Status of each statement, by its index in `tokens`: a cue before reaches forward, a cue after reaches back."""
    statuses: dict[int, str] = {}
    forward = "present"
    open_statements: list[int] = []  # those that a cue after them would still concern
    has_verb = False  # the statement is complete, so that a comma or "and" begins another
    for index, token in enumerate(tokens):
        if index in claims:
            statuses[index], forward = _under_cue(tokens, index, forward)
            open_statements.append(index)
        elif token.kind in _BEFORE:
            forward = _BEFORE[token.kind] if forward == "present" or token.kind == "absent_before" else forward
        elif token.kind in _AFTER and open_statements:
            statuses |= dict.fromkeys(open_statements, _AFTER[token.kind])
        elif token.kind in _AFTER:  # "difficult to exclude pneumonia"
            forward = _AFTER[token.kind]
        elif token.kind in ("join", "existential"):
            forward, open_statements = "present", []
            has_verb = token.kind == "existential"
        elif token.kind == "verb":
            forward = "present" if open_statements else forward  # "no visualized pneumothorax"
            has_verb = True
        elif forward == "absent" and tokens[index - 1].kind == "comma" and _asserts(token):
            forward = "present"
        elif token.kind in ("and", "comma"):
            if token.kind == "and" and forward == "uncertain":  # "possible edema and a left effusion": only the edema is in doubt
                forward = "present"
            if has_verb:
                open_statements, has_verb = [], False
    return statuses


def _asserts(token: Token) -> bool:
    """True for a word with which a list of denials does not go on; "no consolidation, large effusion or …" does."""
    return token.kind == "assertion" or (token.kind == "severity" and token.value != "large")


def _under_cue(tokens: list[Token], index: int, forward: str) -> tuple[str, str]:
    """Status of the statement at `index`, and how far its cue still reaches.

    A quality takes a cue only if it stands under it itself ("no cardiac enlargement"), not at the end of a list ("no effusion,
    heart normal"); and a cue after a verb is used up by it ("the heart is not enlarged, mild edema").
    """
    if tokens[index].kind != "quality":
        return forward, forward
    before = index - 1
    while before >= 0 and tokens[before].kind in ("severity", "location", "structure", "or"):
        before -= 1
    if before < 0 or tokens[before].kind not in _BEFORE:
        return "present", "present"
    return forward, "present" if before > 0 and tokens[before - 1].kind == "verb" else forward


# Its place ---------------------------------------------------------------------------------------------------------

_STRENGTH = {  # of parting words
    **dict.fromkeys(("join", "existential", "comma", "absent_before", "uncertain_before"), 3),
    **dict.fromkeys(("and", "or"), 2),
    **dict.fromkeys(("verb", *_AFTER), 1),
}


def _places(tokens: list[Token], claims: dict[int, dict[str, Claims]]) -> dict[int, tuple[str, str, str]]:
    """Side, zone and severity of each statement, by its index in `tokens`.

    The strongest parting word between two statements ("left effusion and right pneumothorax") says which places belong to
    the first and which to the second; the place of one is never taken for the place of the other.
    """
    places = {}
    start = 0
    for statement, following in pairwise([*claims, len(tokens)]):
        end = following if following == len(tokens) else _parting(tokens, statement, following)
        own = tokens[start:end]
        severities = [token.value for token in own if token.kind == "severity"]
        places[statement] = (
            merge_sides([token.side for token in own]),
            merge_zones([token.zone for token in own]),
            severities[-1] if severities else "",
        )
        start = end
    return places


def _parting(tokens: list[Token], statement: int, following: int) -> int:
    """Index of the strongest (then last) parting word between two statements; of the second where there is none."""
    return max(
        (index for index in range(statement + 1, following) if tokens[index].kind in _STRENGTH),
        key=lambda index: (_STRENGTH[tokens[index].kind], index),
        default=following,
    )
