"""Findings and impression → one caption that says what a reader can see in the image.

The paper had a language model rewrite each report: leave out comparisons with earlier examinations, statements about views and the
de-identification marks, and merge findings and impression. Here the same is done by rules, sentence by sentence, so that the same report
always gives the same caption. Where no rule can mend a sentence, the sentence goes: a missing statement is better than a wrong one.

The rules know English radiology reports, as Open-i has them.
"""

import re

_MARK = r"(?:\bX{3,}|_{2,})"  # where a name, a date, or by accident an ordinary word was removed: XXXX in Open-i, ___ in MIMIC-CXR
_MARKS = rf"{_MARK}(?:\s+{_MARK})*"
_VIEW = (
    r"(?:the )?(?:(?:PA|AP|frontal|lateral)(?: and lateral)?) "
    r"(?:views?|projections?|films?|radiographs?|x-rays?|images?|exam(?:ination)?s?)"
)
_NEEDS_ADJECTIVE = r"appearance|silhouette|size|contours?|exam\w*|chest|structures|mediastinum"  # "stable" is all that is said of them
_SEEN = r"(?:seen|noted|visuali[sz]ed|appreciated|identified|demonstrated)"

MENDS = tuple(
    (re.compile(pattern, re.IGNORECASE), replacement)
    for pattern, replacement in (
        # marks that leave no doubt what they hid
        (rf"\bx-{_MARK}", "x-ray"),
        (rf"\bnote is {_MARK} of\b", "note is made of"),
        (rf"\b(?:there are )?no {_MARK} of\b", lambda found: "There is no evidence of" if found[0][0] in "tT" else "no evidence of"),
        (rf"\ba {_MARK} (?=[aeio])", "an "),
        # views, where the sentence goes on to say something
        (r"^[^,.]*\b(?:views?|radiographs?|images?) (?:of the chest )?(?:shows?|demonstrates?|reveals?)(?: that)? ", ""),
        (rf"^(?:{_SEEN} )?(?:only )?(?:on|in) {_VIEW},? ", ""),
        (rf",? (?:(?:best |better |only |well |also )*{_SEEN} )?(?:only )?(?:on|in) {_VIEW}", ""),
        (r",? (?:for|given) (?:\w+ ){0,3}(?:technique|projection)\b", ""),
        # comparisons, where what is there can be said without them
        (r"\b(is|are) (?:again|stable and) ", r"\1 "),
        (r"\b(there (?:is|are)(?: an?)?) (?:stable|unchanged)(?: appearing)? ", r"\1 "),
        (r"\bremains (?=normal|elevated|clear|enlarged|tortuous|in place|within)", "is "),
        (r"\bremain (?=normal|elevated|clear|enlarged|tortuous|in place|within)", "are "),
        (r", (?:and |which (?:is|are) )?(?:grossly )?(?:unchanged|stable)(?: (?:from|since|compared) [^,.]*)?(?=\.?$)", ""),
        (r",? as before\b", ""),
        (rf"^(?:grossly )?(?:stable|unchanged)(?: position of)?(?: the)? (?!.*\b(?:{_NEEDS_ADJECTIVE})\b)", ""),
    )
)
"""Edits of a sentence, in order, before it is judged."""

_WITHOUT_THE_WORD = (  # a mark before one of these hid a noun, a verb or an adverb that the sentence cannot do without
    r"and|or|nor|but|of|in|on|at|to|for|from|with|without|within|since|as|than|the|a|an|which|that|over|due|by|"
    r"is|are|was|were|be|been|has|have|may|would|could|should|can|appears?|represents?|representing|reflects?|reflecting|compared|"
    r"suggestive|seen|noted|identified|demonstrated|normal|intact|unremarkable|clear|related|secondary|partially|bilaterally|hours|tip|there|no"
)
_BARE_ATTRIBUTE = (  # a mark after one of these hid the noun or the verb that it belongs to
    r"lymph|pulmonary|aortic|lung|chest|mediastinal|hilar|cardiac|sternotomy|thoracic|spinal|opacity|opacities|appearance|"
    r"which|been|be|most"
)
_EARLIER = r"exam\w*|stud(?:y|ies)|radiograph\w*|films?|images?|imaging|chest|CT|x-ray|comparison|report|XXXX"

DROPPED = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        # a mark in a place that needs its word: at the end of a clause, before a function word, after an attribute
        rf"{_MARKS}\s*(?:[^\w\s]|$)",
        rf"{_MARKS}\s+(?:{_WITHOUT_THE_WORD})\b",
        rf"\b(?:{_BARE_ATTRIBUTE}) {_MARKS}|-{_MARKS}",
        # comparisons with an earlier examination
        r"\b(?:compar(?:ed|ison|isons|able|ing)|unchanged|interval|stable|previously|since|earlier|persist\w*|similar to)\b",
        rf"\b(?:prior|previous|old)(?: \w+)? (?:{_EARLIER})\b|\b(?:from|than|to|on) (?:the )?(?:prior|previous)\b",
        r"\b(?:improved|improving|improvement|worsen\w*|resolv(?:ed|ing)|new|newly|again|remains?)\b",
        r"\b(?:no|without|little)(?: \w+)? change\b",
        r"\b(?:has|have)(?: \w+)? (?:increased|decreased)\b|\b(?:increased?|decreased?) (?:in )?size\b",
        # views and technique
        r"\b(?:views?|projections?|images?|films?|portable|technique|rotated|rotation)\b",
        r"\b(?:exam\w*|stud(?:y|ies)|radiographs?)\b.*\b(?:obtained|limited|performed|submitted|consists?|provided)\b",
        r"\blimited (?:\w+ )?(?:exam\w*|study)\b",
        # what a mend left without its end
        r"\b(?:is|are|was|were|be|been|not|the|an?|of|and|or|with|by)[\s.,;:]*$",
        # who was told
        r"\b(?:discussed|notif\w+|telephoned?|communicated|communication|called|paged|Dr|Drs|dictat\w+)\b",
    )
)
"""A sentence that one of these is found in is left out."""

_OPENING = r"(?:The|There|No|Low|Stable|Unchanged|Normal|Clear|Mild|Minimal|Moderate|Patchy|Heart|Lungs?|Blunting|Degenerative) [a-z]"
_SENTENCE_END = re.compile(
    rf"(?<=[.?!])\s+(?=[A-Z_\d])|(?<=[a-z]{{3}}[.?!])\s+(?=[a-z])|(?<=[a-z])[.?!](?=[A-Z])|(?<=[a-z]{{3}})\s+(?={_OPENING})|\n+"
)
"""After a stop; where a stop lacks its space; and where a sentence begins without a stop before it."""
_ENUMERATOR = re.compile(r"(?:^|(?<!\brib)(?<!ribs)(?<!\band)(?<!grade)(?<!level)\s)\s*\(?\d{1,2}[.)](?:\s+(?=[a-zA-Z_])|(?=[A-Z]))")
"""The number of a list's entry, but not that of a rib at the end of a sentence."""
_TIDY = (
    (re.compile(_MARKS, re.IGNORECASE), " "),
    (re.compile(r"\s+"), " "),
    (re.compile(r"\s+(?=[,.;:?!)])|(?<=\()\s+"), ""),
    (re.compile(r"([,;:])(?:\s*[,;:])+"), r"\1"),
    (re.compile(r"^[\s,;:.\-]+|[\s,;:.\-]+$"), ""),
)


def clean_caption(findings: str, impression: str) -> str:
    """Return the cleaned sentences of the findings, then those of the impression that the findings did not say already.

    Each sentence starts with a capital and ends with its stop. The result is empty if no sentence could be kept.
    """
    sentences = (clean_sentence(sentence) for text in (findings, impression) for sentence in split_sentences(text))
    distinct = {sentence.casefold(): sentence for sentence in reversed([sentence for sentence in sentences if sentence])}
    return " ".join(reversed(distinct.values()))


def split_sentences(text: str) -> list[str]:
    """Split a section into sentences; numbers of a list ("1. … 2. …") are left out."""
    parts = (part.strip() for entry in _ENUMERATOR.split(text.strip()) for part in _SENTENCE_END.split(entry))
    return [part for part in parts if part]


def clean_sentence(sentence: str) -> str:
    """Mend one sentence, or return "" if it has to be left out."""
    for pattern, replacement in MENDS:
        sentence = pattern.sub(replacement, sentence)
    if any(pattern.search(sentence) for pattern in DROPPED):
        return ""
    for pattern, replacement in _TIDY:
        sentence = pattern.sub(replacement, sentence)
    if not re.search(r"[a-zA-Z]{2}", sentence):
        return ""
    end = "" if sentence[-1] in ".?!" else "."
    return sentence[0].upper() + sentence[1:] + end
