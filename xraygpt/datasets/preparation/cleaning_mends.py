"""What `cleaning` mends in a sentence before it judges it.

A mend is there only where the rest stays true as it stands: a new effusion is an effusion, and so is a stable or a growing one; whether a
shrinking one can still be seen, no rule knows. No mend removes a negation, and none turns "no new effusion" into "no effusion".
"""

import re
from collections.abc import Callable
from typing import NamedTuple

from xraygpt.datasets.preparation.cleaning_words import (
    ADJECTIVE,
    ADVERB,
    AS_BEFORE,
    ATTRIBUTE,
    CHANGING,
    FILM,
    FINDINGS,
    MARK,
    MUCH_OF_A_FINDING,
    NAMED_FINDING,
    NEGATION,
    OF_A_FILM,
    ONE_FINDING,
    PLACE,
    SAYS_LITTLE,
    SEEN,
    SEEN_ON,
    SHOW,
    SINCE,
    VIEW,
)

Replacement = str | Callable[[re.Match[str]], str]


class Mends(NamedTuple):
    """Edits that concern one matter; they are tried only on a sentence whose lower case holds one of the `words`."""

    words: tuple[str, ...]
    edits: tuple[tuple[re.Pattern[str], Replacement], ...]


def mend(sentence: str) -> str:
    """Apply all mends to a sentence on one line, in which each run of marks is one `MARK`."""
    for words, edits in MENDS:
        lowered = sentence.lower()
        if any(word in lowered for word in words):
            for pattern, replacement in edits:
                sentence = pattern.sub(replacement, sentence)
    return sentence


# Replacements ----------------------------------------------------------------------------------------------------------


def _unless_denied(replacement: str) -> Replacement:
    """Replace only where no negation stands before: "no new effusion" says nothing of an old one."""
    return lambda found: found[0] if NEGATION.search(found.string, 0, found.start()) else found.expand(replacement)


def _unless_not_seen(replacement: str) -> Replacement:
    """Replace only where no "not" or "only" stands before: what is not seen on one view may be seen on another."""
    limits = re.compile(r"\b(?:not|cannot|only)\b", re.IGNORECASE)
    return lambda found: found[0] if limits.search(found.string, 0, found.end()) else found.expand(replacement)


def _there_is(found: re.Match[str]) -> str:
    """`Large left effusion is new` → `There is a large left effusion`; without its verb the phrase stays as it is."""
    phrase = found["phrase"] + found["place"]
    if found["verb"] is None:
        return phrase
    phrase = phrase[0].lower() + phrase[1:] if phrase[1].islower() else phrase
    if found["one"]:
        return f"There is {'an' if phrase[0] in 'aeio' else 'a'} {phrase}"
    return f"There {'are' if found['many'] or found['verb'].strip().endswith(('are', 'appear')) else 'is'} {phrase}"


def _unless_it_changes(found: re.Match[str]) -> str:
    """Cut "Compared to the study of ___," from what follows, if that has no word of change."""
    return found[0] if _CHANGE.search(found.string, found.end()) else ""


_CHANGE = re.compile(
    r"\b(?:(?:in|de)creas\w*|improv\w*|worse\w*|more|less|fewer|larger|smaller|better|lower (?!lobe|lung|zone)|higher|greater|further|"
    r"additional|progress\w*|clear\w*|resol\w*|chang\w*|differ\w*|new\w*|again|persist\w*|residual|still|remain\w*|substantial\w*|"
    r"recurren\w*|evol\w*|develop\w*|removal|re-?(?:expan|accumul)\w*)\b",
    re.IGNORECASE,
)


def _is_or_are(found: re.Match[str]) -> str:
    return found[0][0] + ("here is" if found[0].endswith("s") else "here are")


# Mends -----------------------------------------------------------------------------------------------------------------

_GOES_ON = r"(?!(?:of|or|to|and|but|since|from|compared|in|with|versus|vs|when|than|which|that)\b)"
_UPHELD = r"(?<!to )(?<!may )(?<!will )(?<!would )(?<!could )(?<!should )(?<!might )(?<!must )"
_STOP = r"(?=\.?$)"
_PATIENT = r"(?:the |an? )?(?:\w+ )?(?:patient'?s? )?(?:\w+ )?"
_HEADER = r"(?:[^.:]|\d[.:]\d|\b[ap]\.m\.){0,160}"

_MENDS: tuple[tuple[tuple[str, ...], tuple[tuple[str, Replacement], ...]], ...] = (
    (  # marks that leave no doubt what they hid, or where the sentence can end before them
        (MARK,),
        (
            (rf"\bx-{MARK}", "x-ray"),
            (rf"\bswan-{MARK}", "Swan-Ganz"),
            (rf"\bport-a-{MARK}", "Port-A-Cath"),
            (rf"\bnote is {MARK} of\b", "note is made of"),
            (rf"\b(?:there are )?no {MARK} of\b", lambda found: f"{'There is no' if found[0][0] in 'tT' else 'no'} evidence of"),
            (rf"\bno acute or {MARK} ", "no acute "),
            (rf"\b((?:both|bilateral)(?: \w+)? costophrenic) {MARK}|\b(costophrenic) {MARK}(?= are\b)", r"\1\2 angles"),
            (rf"\bcostophrenic {MARK}", "costophrenic angle"),
            (rf"\bmost {MARK} (?=represent|reflect|related|due|secondary)", "most likely "),
            (rf"\ba {MARK} (?=[aeio])(?!(?:of|or|in|on|at|and|is|as|over|are|appears?)\b)", "an "),
            (
                rf",?(?: measuring)?(?: (?:approximately|about|roughly|up to|at least))? {MARK}(?: ?(?:x|by|-) ?{MARK})*[ -]?(?:mm|cm)\b"
                r"(?= (?:above|below|from|proximal|distal|into|deep)\b|\.?$)",
                "",
            ),
            (rf"\b(an?) {MARK}[ -](?:mm|cm)\b", r"\1"),
            (rf",? (?:or )?less {MARK} [^,.;]*", ""),
            # ", ___ atelectasis": the mark hid a "likely", and without it the guess would be a fact
            (rf"(?<!mild)(?<!minimal)(?<!moderate)(?<!indeterminate),(?: also)? {MARK} (?![^,]*\b(?:is|are|was|were|has|have|would|and|or)\b[^,]*,)"
             r"(?![^,]*\b(?:is|are|was|were|has|have|would)\b)[^,.;]*", ""),
        ),
    ),
    (  # what is compared, and with what, before what it shows
        (":",),
        (
            (rf"^{_HEADER}?\b(?:compared|comparison|reviewed in the absence)\b{_HEADER}:\s+(?=\S)", ""),
            (rf"^(?:(?:{OF_A_FILM}|and|of|the|two|{FILM})[ ,/]{{0,2}}){{1,10}}:\s*", ""),
        ),
    ),
    (  # views, where the sentence says something besides
        ("view", "projection", "film", "radiograph", "x-ray", "image", "exam", "stud", "technique", "positioning"),
        (
            (
                r"^(?!.{0,120}\b(?:no|not|without|prior|previous|old|outside|ct|mri|ultraso\w+|compar\w+)\b.{0,120}\b" + SHOW + r"\b)"
                r"[^,.;]{0,120}\b(?:views?|radiographs?|images?|films?|x-rays?)(?:(?: of)? the chest)?(?: with [\w -]{1,60}?)?,? "
                + SHOW + r"(?: that)? ",
                "",
            ),
            (rf"^(?:{SEEN_ON} )?(?:only )?(?:on|in) {VIEW},? ", ""),
            (rf",? (?:(?:best |better |well |also )*{SEEN_ON} )?(?:on|in) {VIEW}(?: of the chest)?(?! of)", _unless_not_seen("")),
            (rf",? (?:best |better |only |well |also )+{SEEN_ON} (?:on|in) {VIEW}(?: of the chest)?(?! of)", ""),
            (r",? (?:for|given) (?:\w+ ){0,3}(?:technique|projection|positioning)\b", ""),
        ),
    ),
    (  # history, after what is seen
        ("history", "known", "patient with"),
        (
            (rf",? (?:given|in (?:the )?(?:setting|context) of) {_PATIENT}history\b[^,.;]*", ""),
            (rf",? (?:(?:consistent|compatible) with|related to|due to|secondary to) {_PATIENT}history of [^,.;]*", ""),
            (r",? in (?:a|this) patient with [^,.;]*", ""),
            (r"\b(?:the )?patient'?s known ", ""),
            (r"(?<!^)\b(?<!no )known (?!to\b)", _unless_denied("")),
        ),
    ),
    (  # an earlier examination, beside what is there
        ("compar", "relative", "since", "previous", "prior", "before", "formerly", "unchanged", "stable", " was "),
        (
            (r"^(?:as )?(?:in comparison|compar(?:ed|ison)|when compared|relative|since) (?:to|with|made to|the|___)[^,;]{0,100}, "
             r"(?=there (?:is|are)\b)", _unless_it_changes),
            (r"\s*[(\[][^()\[\]]*\b(?:unchanged|stable|previous(?:ly)?|prior|formerly|was|compared)\b[^()\[\]]*[)\]]", ""),
            (r", (?:which (?:was|were) )?previously [^,.;]*\.?$", _unless_denied("")),
            (r",? as before\b", ""),
            (r",? as (?:previously|on (?:the )?(?:prior|previous)[^,.;]*)(?: (?:seen|noted|described))?(?=[,.]|$)", ""),
        ),
    ),
    (  # what was there already
        ("again", "demonstrat"),
        (
            (rf"^(?:once )?again,? (?:is |are )?{SEEN},? (is|are) ", r"There \1 "),
            (rf"^(?:once )?again,? (?:{SEEN},? )?(?!is\b|are\b)", ""),
            (r"^we again note (?:the )?", ""),
            (r"^re-?demonstrated,? (is|are) ", r"There \1 "),
            (r"(?:^|(?<=with )|(?<=there is ))(?:an? )?re-?demonstration of (?:the )?", ""),
            (r"\bre-?demonstrated(?=\.?$|,| (?:in|on|at|within|and|but|with)\b)", "seen"),
            (r"(?:^|(?<=with )|(?<=there is ))re-?demonstrated ", ""),
            (rf"\b(?:once )?again (?={SEEN}\b)", ""),
        ),
    ),
    (
        ("remain", "persist", "still", "again", "continue", "now", "current", "this time", "present", "today"),
        (
            (r"\bthere remains?\b", _is_or_are),
            (r"\b(is|are) (?:again|persistently|still|now|currently) ", r"\1 "),
            (rf"\bpersistent,? {_GOES_ON}", _unless_denied("")),
            (r"\bcontinues to be ", "is "),
            (r"\bcontinue to be ", "are "),
            (rf"{_UPHELD}\bremains (?=[a-z])(?!to\b|which\b|that\b|and\b|but\b)", "is "),
            (rf"{_UPHELD}\bremain (?=[a-z])(?!to\b|which\b|that\b|and\b|but\b)", "are "),
            (r"\bnow (?!resol|clear|gone)", ""),
            (r",? (?:at this time|at present|currently|on today's (?:exam\w*|study|radiographs?|films?))(?=[,.]|$)", ""),
        ),
    ),
    (
        ("stable", "unchanged", "similar", "changed"),
        (
            (rf"\b(there (?:is|are)(?: an?)?) {ADVERB}(?:stable|unchanged)(?: appearing)?,? {_GOES_ON}", r"\1 "),
            (rf"\b(is|are) {ADVERB}(?:stable|unchanged) and (?={ADJECTIVE}\b|within\b|at\b|consistent\b|compatible\b)", r"\1 "),
            (rf"(?<=normal) and (?:stable|unchanged) (?=[^,.;]*\b{SAYS_LITTLE}\b)", " "),
            (rf",? (?:(?:and|but|which (?:is|are|appears?)|that (?:is|are)) )+{AS_BEFORE}{SINCE}{_STOP}", ""),
            (rf", {AS_BEFORE}{SINCE}{_STOP}", ""),
            (rf"(?:,|,? with) (?:and |an? )*{ADVERB}(?:stable|unchanged)(?: appearance of the)? "
             r"(?:(?:cardio|\w*mediastin\w*|hilar|cardiac|heart|and) ?)+(?:contours?|silhouettes?|size)(?=[,.]|$)", ""),
            (rf"^{ADVERB}(?:stable|unchanged),? (?:and |but )?(?={ADJECTIVE}\b)", ""),
            (rf"^{ADVERB}(?:stable|unchanged)(?: position of)?,?(?: the)? {_GOES_ON}(?!.*\b{SAYS_LITTLE}\b)", ""),
            (rf"(?<!no )(?<!not )\b(?:stable|unchanged),? (?={NAMED_FINDING})(?!.*\b{SAYS_LITTLE}\b)", _unless_denied("")),
        ),
    ),
    (  # what was not there, or less of it
        ("new", "interval", "increas", "worsen", "enlarging", "residual", "persist"),
        (
            (rf"\b(there (?:is|are)(?: an?)?) {ADVERB}(?:new|residual),? {_GOES_ON}", r"\1 "),
            (rf"\b(there (?:is|are)(?: an?)?) {ADVERB}(?:worsening|increasing|enlarging),? (?={NAMED_FINDING})", r"\1 "),
            (r"^(?:there (?:has|have) been |there's been )?(?:an )?interval (?:development|appearance|placement|insertion) of (?:(?:an?|the|new) )*", ""),
            (rf"^new {_GOES_ON}", ""),
            (rf"^(?:interval |mildly |slightly )?(?:increasing|worsening|worsened|enlarging) (?={NAMED_FINDING})", ""),
            (rf"^(?:interval |mildly |slightly )?increased (?={ATTRIBUTE}{{0,4}}{CHANGING}\b)", ""),
            (rf"\b(with|and|by|has|shows?) (an? )?new {_GOES_ON}", _unless_denied(r"\1 \2")),
        ),
    ),
    (  # what was done in between
        ("after", "post", "following"),
        (
            (r",? (?:following|after|status post|post) (?:(?:recent|left|right|bilateral|interval) )*"
             r"(?:thoracentesis|bronchoscopy|biopsy|(?:chest tube )?removal)(?: of [^,.;]*)?(?=[,.;]|$)", ""),
        ),
    ),
    (
        ("new", "stable", "unchanged", "similar", "changed", "persist", "remain"),
        (
            (
                rf"^(?:the |an? )?(?P<phrase>{ATTRIBUTE}{{0,8}}(?:(?P<one>{ONE_FINDING})|(?P<many>{FINDINGS})|{MUCH_OF_A_FINDING}))(?P<place>{PLACE})"
                rf"(?P<verb> (?:is|are|appears?))? (?:{ADVERB}(?:new|persists?|remains?|in (?:unchanged|stable|similar) position)|{AS_BEFORE})"
                rf"{SINCE}{_STOP}",
                _there_is,
            ),
        ),
    ),
    (
        ("?", "s/p"),
        (
            (r"(?:^|(?<=\s))\?\s*(?=[a-z])", "possible "),
            (r"\bs/p\b", "status post"),
        ),
    ),
)  # fmt: skip
MENDS = tuple(
    Mends(words, tuple((re.compile(pattern, re.IGNORECASE), replacement) for pattern, replacement in edits)) for words, edits in _MENDS
)
"""In order."""
