"""Findings and impression → one caption that says what a reader can see in the image.

The paper had a language model rewrite each report: leave out comparisons with earlier examinations, statements about views and the
de-identification marks, and merge findings and impression. Here the same is done by rules, sentence by sentence, so that the same report
always gives the same caption. Where no rule can mend a sentence, the sentence goes: a missing statement is better than a wrong one.

The rules, in `cleaning_mends` and `cleaning_drops`, know English radiology reports as Open-i and MIMIC-CXR have them.
"""

import re
from functools import lru_cache

from xraygpt.datasets.preparation.cleaning_drops import reason_to_drop
from xraygpt.datasets.preparation.cleaning_mends import mend
from xraygpt.datasets.preparation.cleaning_words import MARK
from xraygpt.datasets.preparation.repetition import without_repeats

MAX_SENTENCE_CHARACTERS = 600
"""What is longer is no sentence, but a text that lacks its stops."""
TOO_LONG, NO_WORDS = "no sentence", "no words"

_MARKS = re.compile(r"(?:X{3,}|(_){2,})( (?:X{3,}|_{2,}))*", re.IGNORECASE)
_OPENING = r"(?:The|There|No|Low|Stable|Unchanged|Normal|Clear|Mild|Minimal|Moderate|Patchy|Heart|Lungs?|Blunting|Degenerative) [a-z]"
_NOT_AFTER = "".join(
    rf"(?<!\b{word}\.)" for word in ("Dr", "Drs", "Mr", "Ms", "Mrs", "St", "vs", "approx", "resp", "esp", "incl", "e\\.g", "i\\.e")
)
_SENTENCE_END = re.compile(
    rf"(?<=[.?!]){_NOT_AFTER}\s+(?=[A-Z_\d])|(?<=[a-z]{{3}}[.?!]){_NOT_AFTER}\s+(?=[a-z])|(?<=[a-z])[.?!](?=[A-Z])"
    rf"|(?<=[a-z]{{3}})\s+(?={_OPENING})"
)
"""After a stop; where a stop lacks its space; and where a sentence begins without a stop before it."""
_PARAGRAPH_END = re.compile(r"\n\s*\n")
_ENUMERATOR = re.compile(
    r"(?:^|(?<!\brib)(?<!ribs)(?<!\band)(?<!grade)(?<!level)(?<!approx\.)(?<=\S) )\(?#?\d{1,2}[.)](?: (?=[a-zA-Z_])|(?=[A-Z]))"
)
"""The number of a list's entry, but not that of a rib at the end of a sentence."""
_TIDY = (
    (re.compile(MARK), " "),
    (re.compile(r"[(\[][\s,;:./-]*[)\]]|//"), " "),
    (re.compile(r"\s+"), " "),
    (re.compile(r" (?=[,.;:?!)])|(?<=\() "), ""),
    (re.compile(r"([,;:])(?:\s*[,;:])+"), r"\1"),
    (re.compile(r"^[\s,;:.*>=-]+|[\s,;:.*=-]+$"), ""),
    (re.compile(r"\b([Aa]) (?=[aeio][a-z])(?!one\b|once\b)"), r"\1n "),
    (re.compile(r"\b([Aa])n (?=(?:[bcdfgjklmnpqrstvwyz]|h(?!our|onest|eir))[a-z]{2})"), r"\1 "),
)
_REFERS_BACK = re.compile(
    r"(?:this|these|those|it|they|its|their|such|which|both (?=is|are|may|have))\b"
    r"|(?:the )?(?:same|former|latter|findings?|appearance|(?:distal )?tip|side ?port)\b(?! of)",
    re.IGNORECASE,
)
_CONNECTIVE = re.compile(r"^(?:however|in addition|additionally|furthermore|moreover|nevertheless|but|and|also),? (?=\w)", re.IGNORECASE)


def clean_caption(findings: str, impression: str) -> str:
    """Return the cleaned sentences of the findings, then those of the impression, without what is said twice.

    A sentence that refers to one that was left out ("This may represent pneumonia.") is left out with it. Each sentence starts with a
    capital and ends with its stop. The result is empty if no sentence could be kept.
    """
    kept: list[str] = []
    for text in (findings, impression):
        after_gap = False
        for sentence in split_sentences(text):
            cleaned = clean_sentence(sentence)
            if cleaned and after_gap:
                cleaned = _without_reference(cleaned)
            after_gap = not cleaned
            if cleaned:
                kept.append(cleaned)
    return " ".join(without_repeats(kept, refers_back=_REFERS_BACK))


def split_sentences(text: str) -> list[str]:
    """Split a section into sentences; line breaks within a sentence and numbers of a list ("1. … 2. …") are left out."""
    paragraphs = (" ".join(paragraph.split()) for paragraph in _PARAGRAPH_END.split(text))
    entries = (entry for paragraph in paragraphs for entry in _ENUMERATOR.split(paragraph))
    parts = (part.strip() for entry in entries for part in _SENTENCE_END.split(entry))
    return [part for part in parts if part]


def clean_sentence(sentence: str) -> str:
    """Mend one sentence, or return "" if it has to be left out."""
    return judge(sentence)[0]


@lru_cache(maxsize=1 << 14)
def judge(sentence: str) -> tuple[str, str]:
    """Return (the mended sentence, "") of one that is kept, ("", the reason) of one that is not: a key of `DROPS`, or one of here."""
    sentence = _MARKS.sub(_two_at_most, " ".join(sentence.split()))
    if len(sentence) > MAX_SENTENCE_CHARACTERS:
        return "", TOO_LONG
    sentence = mend(sentence)
    if reason := reason_to_drop(sentence):
        return "", reason
    if sentence.count("(") != sentence.count(")"):
        sentence = sentence.replace(" (", ", ").replace("(", "").replace(")", "")
    for tidy, tidied in _TIDY:
        sentence = tidy.sub(tidied, sentence)
    if not re.search(r"[a-zA-Z]{2}", sentence):
        return "", NO_WORDS
    return _as_sentence(sentence), ""


def _two_at_most(run: re.Match[str]) -> str:
    mark = MARK if run[1] else "XXXX"
    return f"{mark} {mark}" if run[2] else mark


def _without_reference(sentence: str) -> str:
    """A sentence after a gap: "" if it refers to what was said there, else without the word that joined it."""
    if _REFERS_BACK.match(sentence):
        return ""
    return _as_sentence(_CONNECTIVE.sub("", sentence))


def _as_sentence(text: str) -> str:
    return text[0].upper() + text[1:] + ("" if text[-1] in ".?!" else ".")
