"""The words that go with what a model writes: the research notice, and flags that say why a text deserves doubt.

Every interface and every file takes them from here. None of them advises on a diagnosis.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from xraygpt.common.comparisons import compares
from xraygpt.evaluation.findings import read_passages

RESEARCH_NOTICE = "For research only: not a medical device, and nothing written here is medical advice."

REPORT_QUESTION = "Write a report."
"""How the question "" is shown, which asks for the report."""

LOW_CONFIDENCE = 0.75
"""A sentence whose confidence (geometric mean of its token probabilities) is below this is marked.

A weak sign: in reports of the quickstart model for 550 held-out phantoms it marks 5 % of the sentences; of these the reference contradicts
17 %, of the others 4 % (benchmarks/sentence_confidence.py). Most wrong sentences are not marked.
"""

FLAGS = {
    "compares_with_prior": "It compares the film with an earlier one, or with another examination, which the model has not seen.",
    "truncated": "It was cut off before its end.",
    "repeated": "It began to repeat itself and was stopped.",
    "empty": "There are no words in it.",
}
"""Flag → what it says to a reader."""


def comparing_sentences(text: str) -> list[str]:
    """The sentences of a text that compare the film with an earlier one or with another examination, with single spaces."""
    sentences = (" ".join(passage.text.split()) for passage in read_passages(text) if passage.describes)
    return [sentence for sentence in sentences if compares(sentence)]


def find_flags(text: str, *, truncated: bool = False, repeated: bool = False) -> list[str]:
    """The `FLAGS` of a text, in their order.

    Args:
        truncated: the model did not end it.
        repeated: the guard against endless repetition did.
    """
    raised = {
        "compares_with_prior": bool(comparing_sentences(text)),
        "truncated": truncated and not repeated,
        "repeated": repeated,
        "empty": not any(character.isalnum() for character in text),
    }
    return [flag for flag in FLAGS if raised[flag]]


def dropped_turns_note(count: int) -> str:
    """What a reader should know of an answer that was written without the oldest turns of its conversation; "" if with all."""
    what = "oldest question" if count == 1 else f"{count} oldest questions"
    return f"Note: The conversation is long: this was written without its {what}." if count else ""


def unsure_notes(sentences: Iterable[Mapping[str, Any]]) -> list[str]:
    """One line for each sentence, {"text", "confidence"}, that the model was unsure of."""
    return [f"Unsure ({each['confidence']:.0%}): {each['text']}" for each in sentences if each["confidence"] < LOW_CONFIDENCE]


def notes(flags: Iterable[str] = (), concerns: Iterable[str] = ()) -> list[str]:
    """One line for a reader for each flag of a text, and for each message of the input gate about its image."""
    return [f"Note: {FLAGS[flag]}" for flag in flags] + [f"Note on the image: {message}" for message in concerns]


def with_notice(text: str, *, flags: Iterable[str] = (), concerns: Iterable[str] = ()) -> str:
    """A text of a model as it may leave the program: its notes and the research notice stand under it. No line end."""
    return "\n".join([text, "", *notes(flags, concerns), RESEARCH_NOTICE])
