"""Leaves out of a list of sentences what another sentence of it says.

Findings and impression say many things twice, seldom in the same words: "There is a small left pleural effusion." and "Small left pleural
effusion."; "No effusion or pneumothorax." and "No pneumothorax." Two sentences are compared by the words that carry meaning. Denials are
compared item by item. A sentence that hedges is never taken for one that does not.
"""

import re
from collections import Counter
from collections.abc import Sequence

_FILLER = frozenset(
    {"a", "an", "the", "there", "is", "are", "was", "were", "be", "of", "in", "seen", "noted", "identified", "present", "evidence"}
)
_SIDES = frozenset({"left", "right"})
_SAYS_NOTHING_ALONE = re.compile(
    r"(?:(?:left|right|thoracic|lumbar|cervical|soft|and) )*"
    r"(?:normal|negative|clear|unremarkable|chest|abdomen|pelvis|ribs?|hands?|spine|femur|knees?|shoulder|humerus|ankle|foot|elbow|forearm|hips?|neck)"
)
"""Verdicts and the headings of reports on several regions: what they are about is not in their words."""
_SAME = ((re.compile(r"\bpleural (?=effusions?\b)"), ""), (re.compile(r"\bpneumothoraces\b"), "pneumothorax"))
_GUARDED = re.compile(
    r"\b(?:no|not|nor|none|never|without|cannot|unlikely|free|may|might|could|would|possibl[ey]|probabl[ey]|likely|presumed|suspected|suspicio\w+|"
    r"suggest\w*|consistent|compatible|correlat\w*|appears? to|question\w*|equivocal|versus|vs|or|if|exclude\w*|consider\w*|"
    r"differential|concern\w*|except|borderline)\b|\?"
)
"""Words that deny, doubt or limit."""
_DENIAL = re.compile(
    r"(?:there (?:is|are) )?no (?:(?:radiographic |definite |convincing )?evidence (?:of|for) (?:an? )?)?"
    r"((?:(?!\b(?:but|except|with|other|than|although|however|which|that|since)\b)[a-z ,/-])+?)"
    r"(?:,? (?:(?:is|are) )?(?:seen|noted|identified|present|demonstrated|visualized))?"
)
_BETWEEN_ITEMS = re.compile(r",? (?:or|and|nor)(?: no)? (?:an? )?|, (?:no )?")
_WORD = re.compile(r"[a-z0-9.'/-]*[a-z0-9]")


def without_repeats(sentences: Sequence[str], *, refers_back: re.Pattern[str]) -> list[str]:
    """Return the sentences, in order, without those that the others make superfluous.

    Of two that say the same the first stays. A sentence that says only part of another goes, wherever it stands. A denial goes if others
    deny each of its items. A sentence stays if the next one, whose beginning `refers_back` matches, is about it.
    """
    plain = [_plain(sentence) for sentence in sentences]
    denials = [_denied(text) for text in plain]
    superfluous = _repeated_denials(denials) | _repeated_statements(
        ["" if items else text for text, items in zip(plain, denials, strict=True)]
    )
    superfluous -= {index for index, following in enumerate(sentences[1:]) if refers_back.match(following)}
    return [sentence for index, sentence in enumerate(sentences) if index not in superfluous]


def _plain(sentence: str) -> str:
    text = sentence.lower().rstrip(" .!")
    for pattern, replacement in _SAME:
        text = pattern.sub(replacement, text)
    return text


def _denied(text: str) -> frozenset[str]:
    """What a sentence denies, if it does nothing else; else nothing."""
    match = _DENIAL.fullmatch(text)
    items = _BETWEEN_ITEMS.split(match[1]) if match else []
    return frozenset(item.strip().removesuffix("s") for item in items if item.strip())


def _repeated_denials(denials: Sequence[frozenset[str]]) -> set[int]:
    """Judged from the last to the first, so that the findings outlast the impression."""
    times = Counter(item for items in denials for item in items)
    repeated = set()
    for index in reversed(range(len(denials))):
        if denials[index] and all(times[item] > 1 for item in denials[index]):
            repeated.add(index)
            times.subtract(denials[index])
    return repeated


def _repeated_statements(texts: Sequence[str]) -> set[int]:
    words = [[word for word in _WORD.findall(text) if word not in _FILLER] for text in texts]
    guarded = [bool(_GUARDED.search(text)) for text in texts]
    repeated: set[int] = set()
    seen: set[tuple[str, ...]] = set()
    for index, key in enumerate(words):
        ordered = guarded[index] or set(key) >= _SIDES
        signature = ("in order", *key) if ordered else tuple(sorted(key))
        if key and signature in seen and not _SAYS_NOTHING_ALONE.fullmatch(texts[index]):
            repeated.add(index)
        seen.add(signature)
    # One text of all plain statements: what occurs in it twice is part of another statement.
    lines = {index: f" {' '.join(key)} " for index, key in enumerate(words) if key and not guarded[index] and index not in repeated}
    together = "\n".join(lines.values())
    parts = {index for index, line in lines.items() if together.count(line) > 1 and not _SAYS_NOTHING_ALONE.fullmatch(texts[index])}
    return repeated | parts
