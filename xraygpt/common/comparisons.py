"""Which sentences of a report compare the film with an earlier one, or with another examination.

A model that sees one film cannot know what was before. Preparation leaves such sentences out of the reports it learns from, and
evaluation counts those it generates. The patterns know English radiology reports as Open-i and MIMIC-CXR have them.
"""

import hashlib
import re
from functools import lru_cache

CHANGING = r"(?:effusions?|pneumothorax|pneumothoraces|edema|consolidations?|atelectasis|congestion|cardiomegaly)"
"""Findings whose "increase" is one in time; an increased opacity, of the lung or its markings, may just be a bright one."""

_EARLIER_FILM = r"(?:exam\w*|stud(?:y|ies)|radiographs?|radiography|films?|images?|imaging|chest|ct|x-rays?|comparison|reports?|___)"
_SIDE_OR_ZONE = r"(?:left|right|upper|lower|mid|middle|bases?|lung|lungs|zone|lobe)"
_NOT_A_CHANGE = r"(?!acute (?:osseous|bony)|degen|emphys|fibrot|atelect|inflam|granul|arthr)"
_GOALS = r"(?<!ensure )(?<!document )(?<!confirm )(?<!for )(?<!until )"

COMPARISONS: tuple[str, ...] = (
    r"\b(?:compar(?:ed|ison|isons|able|ing)|unchanged|unaltered|interval|stable|previously|since|earlier|persist\w*|re-?demonstrat\w*)\b",
    rf"\b(?:prior|previous|old|recent|last)(?: \w+)? {_EARLIER_FILM}\b|\b(?:from|than|to|on) (?:the )?(?:prior|previous)\b",
    r"\bno (?:priors?|previous)\b",
    r"\bsimilar (?:to|in|appear\w+|position)\b|\b(?:is|are|appears?|looks?|overall|essentially) similar\b",
    r"\bthe same\b|\bsame (?:as|position|appearance|size|configuration|location)\b",
    r"\b(?:improved|improving|improvement|improves?|worsen\w*|resolv(?:ed|es|ing)|new|newly|again|remains?|no longer|changed)\b",
    rf"\b(?:no|without|little|not)(?: {_NOT_A_CHANGE}\w+){{0,2}} change\b",
    r"\b(?:any|minimal|some|significant|relevant|substantial|appreciable|apparent|definite|gross|overall) change\b",
    r"\b(?:has|have|had|there's)(?: (?:\w+ly|now|also|not|been|further|somewhat)){0,3} (?:(?:in|de)creased|progressed|regressed|"
    r"developed|cleared|become|enlarged|grown|diminished|removed|placed|inserted|withdrawn|advanced|repositioned|replaced|exchanged|"
    r"retracted|pulled|received|taken|appeared|shifted|migrated|(?:re)?accumulated|re-?expanded)\b",
    r"\bthere(?:'s| has| have) been\b.{0,80}"
    r"\b(?:clearing|resolution|(?:in|de)crease|progression|development|removal|placement|reduction|change)\b",
    r"\b(?:increas|decreas)(?:ed?|ing) (?:in )?(?:size|extent|severity|amount|number|conspicuity)\b",
    r"\b(?:increasing|decreasing|enlarging|progressing|is developing)\b|\bprogressi(?:on|ve(?:ly)?)\b(?! massive)",
    rf"\b(?:in|de)creased? (?:in )?(?:the )?(?:\w+ ){{0,3}}{CHANGING}\b|\b{CHANGING} (?:is|are|appears?) (?:\w+ )?(?:in|de)creased\b",
    r"^_*\W*change\W*$|^decrease\b|\bdecrease in\b|\b(?:interval|further|an) (?:in|de)crease\b",
    r"\b(?:more|less) (?:conspicuous|prominent|apparent|pronounced|extensive|dense|confluent|distended|evident|numerous|widespread|"
    r"visible|clearly|perceptible)\b(?! (?:on|in|at|over|within|towards?|involving|than the (?:left|right))\b)",
    rf"\bworse\b(?! (?:(?:than|in|on|at|within|over) )?(?:the )?{_SIDE_OR_ZONE}\b)",
    r"\b(?:is|are|appears?|slightly|somewhat|minimally|mildly|much) (?:larger|smaller|lower|higher|wider|denser|better)\b"
    r"(?! (?:lobe|lung|zone|thora|cervical|lumbar|left|right|chest|rib|than (?:the )?(?:left|right)))",
    r"\bbetter (?:aerat|expan|inflat|seen|appreciat|assess|evaluat|visuali|demonstrat|delineat|characteri|defin|inspir|appear)\w*",
    rf"^(?:resolution|clearing)\b|\b(?:complete|partial|near|substantial|interval|some|significant) clearing\b|{_GOALS}\bcleared\b",
    rf"{_GOALS}\b(?:complete|partial|near|interval|some|significant) resolution\b",
    r"\b(?:gone|extubat\w+|reintubat\w+|removal|baseline|overnight|yesterday|today's|re-?expan\w+|reaccumul\w+)\b",
    r"\b(?:hours?|days?) (?:ago|earlier|prior)\b|\bconstant\b",
    # what another kind of examination showed
    r"\b(?:ct|mri|pet|scan)\b.*\b(?:showed|revealed|was|were|dated|(?<!be )performed|described)\b",
    r"\b(?:seen|noted|described|identified|demonstrated|shown) (?:on|by) (?:\w+ ){0,3}(?:ct|mri|pet)\b",
)
"""Regular expressions; one that is found in the lower case of a sentence says that it compares."""
COMPARISON_RULES = f"xraygpt-comparisons-{hashlib.sha256(chr(10).join(COMPARISONS).encode()).hexdigest()[:8]}"
"""Their version: counts by two versions do not compare."""

_PATTERNS = tuple(re.compile(pattern) for pattern in COMPARISONS)


@lru_cache(maxsize=65536)  # reports repeat their sentences
def compares(sentence: str) -> bool:
    """True for "the effusion is unchanged" or "new opacity"; False for "small effusion"."""
    lowered = sentence.lower()
    return any(pattern.search(lowered) for pattern in _PATTERNS)
