"""A radiology report as plain text → its sections, in MIMIC-CXR's habits of writing headings.

    FINAL REPORT                            banner; what stands before the first heading is the preamble
    WET READ: ___ ___ 3:10 PM               a reading by whoever was on duty, up to the banner of the final report
    REASON FOR EXAM: Cough.                 words in upper case and a colon at the start of a line
    COMPARISON: None. FINDINGS: The ...     the chief headings also within a line
    Impression:                             the chief headings also capitalised only
    IMPRESSION                              and on a line of their own, without a colon

A heading is known by its words, not by its letters alone: "LUNGS:" or "NOTE:" within the findings is not one.
"""

import re
from dataclasses import dataclass
from difflib import get_close_matches
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple


@dataclass(frozen=True)
class Section:
    """One section of a report.

    Attributes:
        name: what the heading means, lower case: "preamble", "examination", "indication", "technique", "comparison", "findings",
            "impression", "findings/impression", "wet read", "addendum", "recommendation" or "notification".
        text: the characters from behind the heading to the line break before the next one, as they stand; a preamble goes up to the
            heading itself. These are the bounds of the sections that MIT-LCP publishes.
        start: the index of `text` in the report.
    """

    name: str
    text: str
    start: int


@dataclass(frozen=True, kw_only=True)
class ReportSections:
    """The sections that a caption is made from or judged by, each on one line, "" if the report has none."""

    findings: str
    impression: str
    indication: str
    comparison: str
    technique: str


# What a heading is called ----------------------------------------------------------------------------------------------

_EXAM = r"(?:exam(?:ination)?s?|stud(?:y|ies)|radiographs?|films?|x-?rays?)"
_WHY = r"(?:indications?|history|information|data|details|presentation|question)"
_BOTH = r"(?: ?[/,&] ?| and )"

_CHIEF_NAMES = {
    "wet read": r"wet ?read|provisional findings impression|pfi",
    "addendum": r"addend(?:um|a)",
    "findings/impression": rf"findings?{_BOTH}impressions?|impressions?{_BOTH}findings?",
    "findings": r"(?:(?:additional|other|chest|radiographic) )?findings?",
    "impression": r"(?:(?:overall|final) )?impressions?|conclusions?",
    "comparison": rf"comparisons?(?: {_EXAM})?",
    "technique": r"techniques?",
    "indication": rf"(?:clinical |patient |pertinent |brief )?(?:indications?|history)(?:{_BOTH}{_WHY})?|clinical {_WHY}(?:{_BOTH}{_WHY})?"
    rf"|reason for (?:the |this )?{_EXAM}",
    "examination": r"(?:type of )?examinations?",
    "recommendation": r"recommendations?(?:\(s\))?",
    "notification": r"notifications?(?:\(s\))?",
}
_OTHER_NAMES = {
    "wet read": r"(?:wet ?read|pfi|provisional findings impression)\b.*|preliminary (?:report|read(?:ing)?|findings|impression)",
    "addendum": r"(?:final )?addend(?:um|a)\b.*",
    "notification": r"communications?|critical (?:results?|findings?)(?: \w+)?",
    "findings/impression": r"interpretation",
    "findings": r"(?:\w+ )?findings?(?: \(.*\))?|report|observations?",
    "impression": r"(?:\w+ )?impressions?(?: \(.*\))?|summary|opinion|diagnos[ie]s",
    "comparison": rf"(?:prior|previous) {_EXAM}|.* comparison",
    "technique": r"views?|projections?|.* technique",
    "indication": rf"reason|reason for .*|(?:underlying )?medical condition|.* (?:indication|history)|history of .*|{_WHY}{_BOTH}.*",
    "examination": rf"{_EXAM}|{_EXAM} (?:type|performed)|procedures?|type of {_EXAM}",
}
"""Known only in upper case, with a colon, at the start of a line: in any other place they are ordinary words."""
_CHIEF_MEANING = tuple((name, re.compile(pattern)) for name, pattern in _CHIEF_NAMES.items())
_MEANING = _CHIEF_MEANING + tuple((name, re.compile(pattern)) for name, pattern in _OTHER_NAMES.items())
_OFTEN_MISSPELT = ("findings", "impression", "indication", "comparison", "technique", "examination", "recommendation")

_FILM_WORD = (
    r"(?:(?:semi-?)?(?:upright|erect|recumbent)|supine|portable|bedside|single|one|two|three|\d|frontal|lateral|pa|ap|left|right|and|of|the|at|"
    r"decubitus|views?|projections?|chest|radiographs?|radiography|x-?rays?|films?|images?|lat|___?)"
)
_FILM = re.compile(rf"(?=.*\b(?:chest|views?|radiographs?|films?|x-?rays?)\b)\(?{_FILM_WORD}(?:[ ,()/-]{{1,3}}{_FILM_WORD})*\)?")
"""Headings such as "PA AND LATERAL VIEWS OF THE CHEST:", which many reports have for FINDINGS."""
_FEWEST_WORDS_OF_A_READING = 8

_CHIEF = rf"(?P<chief>(?i:{'|'.join(_CHIEF_NAMES.values())}))".replace(" ", "[ ]")
_CAPITAL = re.compile(r"[A-Z](?<!\S[A-Z])")
"""Where a heading may begin."""
_AT_LINE_START = re.compile(
    rf"""
        (?P<banner>FINAL[ ]REPORT)\b
    |   (?P<upper>[A-Z][A-Z0-9_#&'(),/ -]{{2,79}}?)[ \t]?[:;](?!\d)
    |   (?P<bare>FINDINGS|IMPRESSION|(?:FINAL[ ])?ADDENDUM|WET[ ]READ(?:[ ](?:VERSION|AUDIT)[ ]\S+)?|PFI(?:[ ]REPORT)?)
            (?=[ \t]{{2,}}\S | [ \t](?:[A-Z_][a-z_] | \d[.)]) | [ \t\r]*$)
    |   {_CHIEF}(?:[ \t]?: | (?=[ \t\r]*$) | (?=\.[ \t]+\S))
    """,
    re.MULTILINE | re.VERBOSE,
)
_WITHIN_LINE = re.compile(rf"{_CHIEF}[ \t]?:")
_WIDEST_INDENT = 120
_ASIDES = ("wet read", "addendum")
_READINGS = ("findings", "impression", "findings/impression")
_RULE = re.compile(r"_{10,}")
"""Drawn across the page between two readings."""


# Finding them ----------------------------------------------------------------------------------------------------------


class _Heading(NamedTuple):
    name: str
    start: int
    end: int
    """Where its section's text begins."""


def find_sections(text: str) -> list[Section]:
    """Return the sections of a report, in order; [] of an empty text.

    What stands before the first heading is a "preamble", and so is what stands between a later banner FINAL REPORT and the heading
    after it. A text without headings is one preamble. Headings within a wet read or an addendum are part of it: up to the banner of
    the final report where one follows, else to the end if the report has been read already, else to the next heading.
    """
    known = _headings(text)
    last_banner = max((heading.start for heading in known if heading.name == "preamble"), default=-1)
    chosen = [_Heading("preamble", 0, 0)]
    has_reading = False
    end = _Heading("", len(text), len(text))
    for heading, following in pairwise([*known, end]):
        current = chosen[-1].name
        if heading.name == "preamble":
            if len(chosen) == 1:
                continue  # the banner is part of the first preamble
        elif current in _ASIDES and heading.name not in _ASIDES and (has_reading or heading.start < last_banner):
            continue
        if heading.name == "film":
            if current == "impression":
                continue  # it says which film the impression is of
            is_reading = len(text[heading.end : following.start].split()) >= _FEWEST_WORDS_OF_A_READING
            heading = heading._replace(name="findings" if is_reading else "examination")
        chosen.append(heading)
        has_reading |= heading.name in _READINGS
    sections = []
    for (name, _, begin), following in pairwise([*chosen, end]):
        stop = following.start if name == "preamble" or following is end else max(begin, _end_before(text, following.start))
        sections.append(Section(name, text[begin:stop], begin))
    return [section for section in sections if section.text or section.name != "preamble"]


def read_sections(text: str) -> ReportSections:
    """Read the sections that a caption is made from or judged by.

    Blocks of one name are joined in order. A block headed "FINDINGS AND IMPRESSION" is both: it fills whichever of the two the report
    does not have besides, so a filter on missing sections keeps the report. Wet reads and addenda go nowhere: the final report may
    contradict them. A text without headings gives nothing at all, as nobody can tell what in it was seen, what was asked and what is
    remembered from an earlier film; the same holds for what stands in the preamble.
    """
    blocks: dict[str, list[str]] = {}
    for section in find_sections(text):
        blocks.setdefault(section.name, []).append(_RULE.sub(" ", section.text))
    joined = {name: " ".join(" ".join(parts).split()) for name, parts in blocks.items()}
    both = joined.get("findings/impression", "")
    findings, impression = joined.get("findings", ""), joined.get("impression", "")
    return ReportSections(
        findings=findings or both,
        impression=impression or both,
        indication=joined.get("indication", ""),
        comparison=joined.get("comparison", ""),
        technique=joined.get("technique", ""),
    )


def _headings(text: str) -> list[_Heading]:
    """Every heading whose words are known, whether or not it opens a section where it stands."""
    headings = []
    end = 0
    for capital in _CAPITAL.finditer(text):
        start = capital.start()
        if start < end:
            continue
        begins_line = _begins_line(text, start)
        match = (_AT_LINE_START if begins_line else _WITHIN_LINE).match(text, start)
        if match:
            end = match.end()
            name = _name(match, begins_line=begins_line)
            if name:
                begin = start if match.lastgroup == "banner" else end + text[end : end + 1].isspace()
                headings.append(_Heading(name, start, begin))
    return headings


def _begins_line(text: str, start: int) -> bool:
    """Whether nothing but the indent stands before `start` in its line."""
    before = text[max(0, start - _WIDEST_INDENT) : start]
    return not before.rpartition("\n")[2].strip() and (start < _WIDEST_INDENT or "\n" in before)


def _end_before(text: str, heading: int) -> int:
    """Where the section before a heading ends: at the line break, if the heading begins its line; as MIT-LCP's published sections do."""
    line_break = text.rfind("\n", max(0, heading - _WIDEST_INDENT), heading)
    return line_break if line_break >= 0 and text[line_break:heading].isspace() else heading


def _name(match: re.Match[str], *, begins_line: bool) -> str:
    """The name of the section that a match heads, or "" if it is no heading."""
    kind = match.lastgroup or ""
    if kind == "banner":
        return "preamble"
    words = match[kind]
    is_upper = words.isupper()
    has_colon = match[0].endswith(":")
    if kind == "chief" and begins_line and not has_colon and not is_upper and match.string[match.end() : match.end() + 1] == ".":
        return ""  # "Findings." may be the end of a sentence
    if not begins_line:
        before = match.string[max(0, match.start() - _WIDEST_INDENT) : match.start()].rstrip()[-1:]
        if before not in ".!?" and (not is_upper or before.isupper()):
            return ""  # "ADDITIONAL COMPARISON:" or "the Findings:"
    return _meaning(" ".join(words.lower().split()), is_upper=kind != "chief")


@lru_cache(maxsize=4096)
def _meaning(words: str, *, is_upper: bool) -> str:
    """The name of the section that these words, in lower case, head; "film" if they name only the film; "" if nothing is known."""
    for name, pattern in _MEANING if is_upper else _CHIEF_MEANING:
        if pattern.fullmatch(words):
            return name
    if _FILM.fullmatch(words):
        return "film"
    return next(iter(get_close_matches(words, _OFTEN_MISSPELT, n=1, cutoff=0.84)), "")
