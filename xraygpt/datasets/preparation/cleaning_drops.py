"""What `cleaning` leaves a sentence out for, if no mend could help."""

import re

from xraygpt.common.comparisons import COMPARISONS
from xraygpt.datasets.preparation.cleaning_words import MARK

_NEEDS_THE_WORD_BEFORE = (  # a mark before one of these hid a noun, a verb or an adverb that the sentence cannot do without
    r"and|or|nor|but|of|in|on|at|to|for|from|with|without|within|since|as|than|the|a|an|which|that|over|due|by|"
    r"is|are|was|were|be|been|has|have|may|would|could|should|can|appears?|represents?|representing|reflects?|reflecting|compared|"
    r"overlies?|obscures?|projects?|terminates?|extends?|show(?:s|ed)|reveal(?:s|ed)|onset|"
    r"suggestive|seen|noted|identified|demonstrated|normal|intact|unremarkable|clear|related|secondary|partially|bilaterally|hours|tip|there|no"
)
_NEEDS_THE_WORD_AFTER = (  # a mark after one of these hid the noun or the verb that it belongs to
    r"lymph|pulmonary|aortic|lung|chest|mediastinal|hilar|cardiac|sternotomy|thoracic|spinal|opacity|opacities|appearance|costophrenic|"
    r"which|been|be|most|at|slightly|mildly|moderately|somewhat|very|relatively|more|less"
)

_DROPS: dict[str, tuple[str, ...]] = {
    "history": (
        r"\b(?:history|r/o|y/?o)\b|\byears?[- ]old\b",
        r"\bpatient (?:with|presents|presented|reports|complain\w*)\b|\bpost-?op\w* day\b|^known\b|^does\b",
    ),
    # who was told, when, and by whom
    "notification": (
        r"\b(?:discussed|notif\w+|(?:tele)?phoned?|communicated|communication|called|paged|pager|e-?mailed|contacted|relayed|conveyed|"
        r"informed|thanks|thank you|message|veriphy|drs?|dictat\w+|dashboard|attending|verbal(?:ly)?|acknowledged|wet read|"
        r"preliminary re\w+|final report|addendum)\b",
        r"\b(?:reported to|review(?:ed)? (?:by|with)|at the time of (?:discovery|interpretation|review))\b",
        r"\b\d{1,2}:\d\d\b|\b\d [ap]\.?m\b",
    ),
    "comparison": COMPARISONS,
    "view": (
        r"\b(?:views?|projections?|images?|films?|portable|technique|technical factors?|rotated|rotation|upright|supine|semi-?erect|"
        r"lordotic|decubitus)\b",
        r"\b(?:exam\w*|stud(?:y|ies)|radiographs?)\b.*\b(?:obtained|limited|performed|submitted|consists?|provided)\b",
        r"\b(?:is|are) (?:part\w+ |slightly |mostly )?excluded\b",
        r"\blimited (?:\w+ )?(?:exam\w*|study)\b|\b(?:on|in) (?:the )?(?:frontal|lateral|pa|ap)(?: (?:exam\w*|study|likely)\b|\W*$)",
        r"^(?:portable |single |frontal |pa |ap |and |lateral )*(?:chest )?(?:x-ray|radiographs?)(?: of the chest)?\W*$",
    ),
    # in a place that needs its word: at the end of a clause, before a function word, after an attribute
    "mark": (
        rf"{MARK}\s*(?:[^\w\s]|$)",
        rf"{MARK}\s+(?:{_NEEDS_THE_WORD_BEFORE})\b",
        rf"\b(?:{_NEEDS_THE_WORD_AFTER}) {MARK}|[-a-z]{MARK}|^{MARK} (?:\w+ ){{0,2}}costophrenic\b",
        # "no ___ opacity" may have been "no new opacity"
        rf"\b(?:no|without|negative for)\b[^,.;]{{0,40}} {MARK}|\bno\b.* (?:or|nor) {MARK}",
    ),
    # what a mark or a mend left without its end or its beginning
    "fragment": (
        r"\b(?:is|are|was|were|be|been|not|no|the|an?|of|and|or|but|with|without|by|to|from|at|than|as|for|since|due|which|"
        r"measur(?:es|ing)|mild|likely|shows?|demonstrates?|reveals?)[\s.,;:]*$",
        r"\b(?:is|are),? (?:and|or|but|which|that)\b",
        r"^\W*(?:and )?(?:is|are|was|were|be|been|has|have)\b|^(?:age-indeterminate(?:,[ _]*\w+)?|however|otherwise|also)\W*$",
    ),
}
DROPS = {reason: tuple(re.compile(pattern) for pattern in patterns) for reason, patterns in _DROPS.items()}
"""Reason → what is looked for in the lower case of a mended sentence."""


def reason_to_drop(sentence: str) -> str:
    """The first of the reasons that a mended sentence gives, or "" for one that stays."""
    lowered = sentence.lower()
    return next((reason for reason, patterns in DROPS.items() if any(pattern.search(lowered) for pattern in patterns)), "")
