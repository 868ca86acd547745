"""What `cleaning` mends in a sentence before it judges it.

A mend is there only where the rest stays true as it stands: a new effusion is an effusion, and so is a stable or a growing one; whether a
shrinking one can still be seen, no rule knows. No mend removes a negation, and none turns "no new effusion" into "no effusion".
"""

import re
from collections.abc import Callable
from typing import NamedTuple

from xraygpt.common.comparisons import CHANGING
from xraygpt.datasets.preparation.cleaning_words import (
    ADJECTIVE,
    ADVERB,
    AS_BEFORE,
    ATTRIBUTE,
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
    """Apply all mends to a sentence on one line, in which no more than two `MARK`s follow one another."""
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


def _unless_limited(replacement: str) -> Replacement:
    """Cut the view, but not from "not seen on the frontal view" or "no effusion on the lateral view": another view may show it."""

    def replace(found: re.Match[str]) -> str:
        before = found.string[: found.start()]
        is_lateral = re.search(r"\blateral\b", found[0], re.IGNORECASE) and " and " not in found[0]
        limited = _NOT_OR_ONLY.search(before + found[0]) or (is_lateral and NEGATION.search(before))
        return found[0] if limited else found.expand(replacement)

    return replace


_NOT_OR_ONLY = re.compile(r"\b(?:not|cannot|only)\b", re.IGNORECASE)


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
_EXPLAINS = r"(?:represent(?:s|ing)?|reflect(?:s|ing)?|correspond(?:s|ing)?|related|secondary|due)\b"
_DIAGNOSIS = (
    r"(?:atelecta\w+|scar\w*|\w*infiltrates?|pneumonia|edema|granulomas?|sequelae?|chronic|remote|bronchovascular|infectious|compensatory|"
    r"congestion|evolving|residual|artifact\w*|post\w+|pathologic|biliary|superimposed|t\d)\b"
)
_STOP = r"(?=\.?$)"
_PATIENT = r"(?:the |an? )?(?:\w+ )?(?:patient'?s? )?(?:\w+ )?"
_HEADER = r"(?:[^.:]|\d[.:]\d|\b[ap]\.m\.){0,160}"

_MENDS: tuple[tuple[tuple[str, ...], tuple[tuple[str, Replacement], ...]], ...] = (
    (  # words that Open-i's de-identification takes out everywhere ("likely", "nodes", "angle", ...), where nothing else can have stood
        ("xxx",),
        (
            (r"\bx-XXXX", "x-ray"),
            (r"\bnote (is )?XXXX of\b", r"note \1made of"),
            (r"\b(?:there are )?no XXXX of\b", lambda found: f"{'There is no' if found[0][0] in 'tT' else 'no'} evidence of"),
            (r"\b((?:both|bilateral)(?: \w+)? costophrenic) XXXX(?! XXXX| blunting)|\b(costophrenic) XXXX(?= are\b)", r"\1\2 angles"),
            (r"(?<!^XXXX )(?<!^XXXX left )(?<!^XXXX right )\bcostophrenic XXXX(?! XXXX)", "costophrenic angle"),
            (rf"\bcostophrenic XXXX XXXX (?={_EXPLAINS})", "costophrenic angle likely "),
            (r"\blymph XXXX(?! XXXX)", "lymph nodes"),
            (r"\bsternotomy XXXX(?= (?:is|appears)\b)", "sternotomy wire"),
            (r"\bsternotomy XXXX(?! XXXX)", "sternotomy wires"),
            (r"\bsuperior vena XXXX", "superior vena cava"),
            (r"\b(left|right)( lateral)? heart XXXX(?! XXXX)", r"\1\2 heart border"),
            (r"\blung XXXX(?= (?:are|bilaterally|remain)\b)", "lungs"),
            (r"\bat XXXX (?=(?:one|two|partially|in part)\b)", "at least "),
            (r"\bless XXXX (?!(?:on|in|at)\b)", "less likely "),
            (rf"\bmost XXXX (?={_EXPLAINS})", "most likely "),
            (rf"(,(?: also)?|(?<=\w)(?<!XXXX)(?<!acute)) XXXX (?={_EXPLAINS})", r"\1 likely "),
            (rf"(,(?: also)?) XXXX (?=(?:{ATTRIBUTE}|an? )*{_DIAGNOSIS})(?!.*\b(?:is|are|was|were)\b)", r"\1 likely "),
            (r"XXXX", MARK),
        ),
    ),
    (  # where the sentence can do without what a mark hid
        (MARK,),
        (
            (rf" ?[(\[](?: ?{MARK},?)+ ?[)\]]", ""),
            (rf"\bswan-{MARK}", "Swan-Ganz"),
            (rf"\bport-a-{MARK}", "Port-A-Cath"),
            (rf"\ba {MARK} (?=[aeio])(?!(?:of|or|in|on|at|and|is|as|over|are|appears?)\b)", "an "),
            (
                rf",?(?: measuring)?(?: (?:approximately|about|roughly|up to|at least))? {MARK}(?: ?(?:x|by|-) ?{MARK})*[ -]?(?:mm|cm)\b"
                r"(?= (?:above|below|from|proximal|distal|into|deep|is|are|in|at)\b|,|\.?$)",
                "",
            ),
            (rf"\b(an?) {MARK}[ -](?:mm|cm)\b", r"\1"),
            (rf"(^|\ban? |{MARK} )\d+(?:\.\d+)? {MARK} |\b\d+\.\d+ {MARK} ", r"\1"),
            (rf",? without {MARK} [^.;]*", ""),
            (rf"(?<!mild)(?<!minimal)(?<!moderate)(?<!indeterminate),(?: also)? {MARK} "
             r"(?!.*\b(?:is|are|was|were|has|have|would|normal|within|unremarkable|intact|clear|free)\b)[^.;]*", ""),
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
        ("view", "projection", "film", "radiograph", "x-ray", "image", "exam", "stud", "techni", "positioning"),
        (
            (
                r"^(?!.{0,120}\b(?:no|not|without|prior|previous|old|outside|ct|mri|ultraso\w+|compar\w+)\b.{0,120}\b" + SHOW + r"\b)"
                r"[^,.;]{0,120}\b(?:views?|radiographs?|images?|films?|x-rays?)(?:(?: of)? the chest)?(?: with [\w -]{1,60}?)?,? "
                + SHOW + r"(?: that)? ",
                "",
            ),
            (rf"^(?:{SEEN_ON} )?(?:only )?(?:on|in) {VIEW},? ", ""),
            (rf",? (?:(?:{SEEN_ON}|well|best|only) )*on (?:the )?(?:pa|ap|frontal) {FILM} only\b", ""),
            (rf"\b((?:is|are) {SEEN_ON}) (?:on|in) {VIEW}(?! of| only)", _unless_limited(r"\1")),
            (rf",? (?:(?:best |better |well |also )*{SEEN_ON} )?(?:both )?(?:on|in) {VIEW}(?: of the chest)?(?! of| only)",
             _unless_limited("")),
            (rf",? (?:best |better |only |well |also )+{SEEN_ON} (?:on|in) {VIEW}(?: of the chest)?(?! of)", ""),
            (r"^(?:considering|accounting for|given|allowing for) (?:differences in )?technical factors,? ", ""),
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
            (r"^(?:as )?(?:in comparison|compar(?:ed|ison)|when compared|relative|since) (?:to|with|made to|the|___)[^,;]{0,100}?,? "
             r"(?=there (?:is|are)\b)", _unless_it_changes),
            (r"\s*[(\[][^()\[\]]*\b(?:unchanged|stable|previous(?:ly)?|prior|formerly|was|compared)\b[^()\[\]]*[)\]]", ""),
            (r", (?:which (?:was|were) )?previously [^,.;]*\.?$", _unless_denied("")),
            (r"^as before,? |,? as before\b", ""),
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
            (rf"(^|\bthere (?:is|are) )continued {_GOES_ON}", r"\1"),
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
            (rf"\b(is|are) {ADVERB}(?:stable|unchanged) and (?!(?:represent|reflect|in|its|the|has|have|is|are|there|no|may|was|were)\b)",
             r"\1 "),
            (rf"(?<=normal) and (?:stable|unchanged) (?=[^,.;]*\b{SAYS_LITTLE}\b)", " "),
            (rf",? (?:(?:and|but|which (?:is|are|appears?)|that (?:is|are)) )+{AS_BEFORE}{SINCE}{_STOP}", ""),
            (rf", {AS_BEFORE}{SINCE}{_STOP}", ""),
            (rf"(?:,|,? with) (?:and |an? )*{ADVERB}(?:stable|unchanged)(?: appearance of the)? "
             r"(?:(?:cardio|\w*mediastin\w*|hilar|cardiac|heart|and) ?)+(?:contours?|silhouettes?|size)(?=[,.]|$)", ""),
            (rf"^{ADVERB}(?:stable|unchanged)(?: appearance of the)? (?:chest|exam\w*)(?: radiograph| x-ray)?,? (?:with|and) (?=no\b)", ""),
            (r"^(?:stable|unchanged) (?:chest|exam\w*)(?: radiograph| x-ray)?,? without (?:evidence of )?", "no "),
            (rf"^{ADVERB}(?:stable|unchanged),? (?:and |but )?(?={ADJECTIVE}\b)", ""),
            (rf"^similar (?={NAMED_FINDING})", ""),
            (rf"^{ADVERB}(?:stable|unchanged)(?: position of|(?:ly)? appearing)?,?(?: the)? {_GOES_ON}(?!.*\b{SAYS_LITTLE}\b)", ""),
            (rf"(?<!no )(?<!not )\b(?:stable|unchanged),? (?={NAMED_FINDING})(?!.*\b{SAYS_LITTLE}\b)", _unless_denied("")),
        ),
    ),
    (  # what was not there, or less of it
        ("new", "interval", "increas", "worsen", "enlarging", "residual", "persist"),
        (
            (rf"\b(there (?:is|are)(?: an?)?) {ADVERB}(?:new|residual),? {_GOES_ON}", r"\1 "),
            (rf"\b(there (?:is|are)(?: an?)?) {ADVERB}(?:worsening|increasing|enlarging),? (?={NAMED_FINDING})", r"\1 "),
            (r"^(?:there (?:has|have) been |there's been )?(?:an )?interval (?:development|appearance|placement|insertion) of "
             r"(?:(?:an?|the|new) )*", ""),
            (rf"^new {_GOES_ON}", ""),
            (rf", (?:which (?:is|are) )?new{SINCE}{_STOP}", _unless_denied("")),
            (rf"^(?:interval |mildly |slightly )?(?:increasing|worsening|worsened|enlarging) (?={NAMED_FINDING})", ""),
            (rf"^(?:interval |mildly |slightly )?increased (?={ATTRIBUTE}{{0,4}}{CHANGING}\b)", ""),
            (rf"\b(with|and|by|has|shows?) (an? )?new {_GOES_ON}", _unless_denied(r"\1 \2")),
        ),
    ),
    (  # what was done in between
        ("after", "post", "following"),
        (
            (r",? (?:following|after|status post|(?<!status )post) (?:(?:recent|left|right|bilateral|interval) )*"
             r"(?:thoracentesis|bronchoscopy|biopsy|(?:chest tube )?removal)(?: of [^,.;]*)?(?=[,.;]|$)", ""),
        ),
    ),
    (
        ("new", "stable", "unchanged", "similar", "changed", "persist", "remain"),
        (
            (
                rf"^(?:the |an? )?(?P<phrase>{ATTRIBUTE}{{0,8}}(?:(?P<one>{ONE_FINDING})|(?P<many>{FINDINGS})|{MUCH_OF_A_FINDING}))"
                rf"(?P<place>{PLACE})(?P<verb> (?:is|are|appears?))? "
                rf"(?:{ADVERB}(?:new|persists?|remains?|in (?:unchanged|stable|similar) position)|{AS_BEFORE}){SINCE}{_STOP}",
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
