"""The sentences of a generated text, each with how sure the model was of it."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from xraygpt.evaluation.findings import read_passages
from xraygpt.models.generation import tokens_of_passages


@dataclass(frozen=True)
class AnswerSentence:
    """A sentence or heading of an answer.

    Attributes:
        text: without the white space around it.
        confidence: geometric mean of the probabilities that the model gave its tokens, in (0, 1].
        first_token, last_token: places among the answer's tokens; the last one belongs to the sentence.
    """

    text: str
    confidence: float
    first_token: int
    last_token: int


def read_sentences(tokenizer: Any, text: str, token_ids: Sequence[int], log_probs: Sequence[float]) -> list[AnswerSentence]:
    """Cut a text into sentences.

    Args:
        tokenizer: of the model that wrote it.
        text: what `token_ids` spell, or a part of it.
        token_ids: as generated.
        log_probs: natural logarithm of each token's probability.
    """
    passages = [passage.text.strip() for passage in read_passages(text) if passage.text.strip()]
    spans = tokens_of_passages(tokenizer, token_ids, passages)
    return [
        AnswerSentence(passage, geometric_mean(log_probs[first : last + 1]), first, last)
        for passage, (first, last) in zip(passages, spans, strict=True)
    ]


def geometric_mean(log_probs: Sequence[float]) -> float:
    """Of the probabilities whose natural logarithms these are; there must be one."""
    return math.exp(math.fsum(log_probs) / len(log_probs))


def as_rows(sentences: Iterable[AnswerSentence]) -> list[dict[str, Any]]:
    """`[{"text", "confidence"}, …]`, as files and the API show sentences; four decimals."""
    return [{"text": sentence.text, "confidence": round(sentence.confidence, 4)} for sentence in sentences]
