"""Signs of a model that has stopped looking at the image: it writes one text for everything, repeats itself, stops early, never stops.

Two texts are the same if they agree in lower case and with single spaces. A word is an unbroken run of letters and digits, so punctuation
counts nowhere. Radiologists repeat themselves too (normal chests get the same words): read each number beside those of the references
and of the baselines, not beside 0 or 1.
"""

import re
from collections import Counter
from collections.abc import Sequence

import numpy as np

from xraygpt.evaluation.metric import Array, Corpus, Metric, mean_formula, register_metrics, with_count

_WORD = re.compile(r"[^\W_]+")
_SENTENCE_END = re.compile(r"[.!?]+(?=\s|$)|(?<=[a-z])\.+(?=[A-Z])|\n\s*\n")
# 2 to 20 words, three times in a row; one word six times is two words three times. Radiologists do not write that, but they do
# write "XXXX XXXX XXXX" where names were taken out, and "left, left, left" is no loop yet.
_LOOP = re.compile(r"(?<!\S)(\S+(?: \S+){1,19})(?: \1){2}(?!\S)")


def normalise(text: str) -> str:
    """Lower case and single spaces: what makes two texts the same."""
    return " ".join(text.lower().split())


def repeats_itself(text: str) -> bool:
    """Whether a sentence occurs twice, or 2 to 20 words occur three times in a row, as in a loop that no full stop ends.

    Sentences are compared word by word, without case and punctuation; a number alone ("1.") is no sentence.
    """
    sentences = [" ".join(_words(sentence)) for sentence in _SENTENCE_END.split(text)]
    counts = Counter(sentence for sentence in sentences if sentence and not sentence.isdecimal())
    return max(counts.values(), default=0) > 1 or _LOOP.search(" ".join(_words(text))) is not None


@register_metrics(
    "degeneracy",
    keys=["distinct_ratio", "most_frequent_share", "length_ratio", "empty_share", "repeated_sentence_share", "truncated_share"],
)
def degeneracy(corpus: Corpus) -> list[Metric]:
    """How far the outputs are from reports written for one image each. All are shares in [0, 1], except the length ratio.

    - distinct_ratio: different texts / samples. Every sample contributes 1 / (samples with its text), so that the sum counts texts. A
      resample keeps these contributions: the interval is that of a mean of them, an approximation, because a real resample of the
      studies would hold fewer different texts.
    - most_frequent_share: samples whose text is the most frequent one of the whole set; which one that is stays the same in a resample.
    - length_ratio: words generated / words of the references, a ratio of sums; of several references the one of closest length.
    - empty_share: outputs without a single word.
    - repeated_sentence_share: see `repeats_itself`.
    - truncated_share: outputs that the model did not end before it ran out of tokens; NaN where that was not recorded.
    """
    texts = [normalise(text) for text in corpus.predictions]
    counts = Counter(texts)
    most_frequent = max(counts, key=lambda text: (counts[text], text))  # ties: whatever the order of the samples
    lengths = [len(_words(text)) for text in texts]
    closest = [_length_of_closest(length, references) for length, references in zip(lengths, corpus.references, strict=True)]
    words_of_both = np.stack([lengths, closest], axis=1).astype(np.float64)
    truncated = [np.nan] * len(texts) if corpus.truncated is None else corpus.truncated
    same_text = "case:lower|space:single"
    words = "tok:letters+digits|case:lower"
    return [
        _metric("distinct_ratio", same_text, "Distinct outputs", True, with_count([1 / counts[text] for text in texts])),
        _metric(
            "most_frequent_share", same_text, "Share of most frequent output", False, with_count([text == most_frequent for text in texts])
        ),
        _metric("length_ratio", f"{words}|refs:closest|ratio:of-sums", "Length ratio", None, words_of_both),
        _metric("empty_share", words, "Empty outputs", False, with_count([not length for length in lengths])),
        _metric(
            "repeated_sentence_share",
            f"{words}|loop:2-20-words-3-times",
            "Outputs with repetitions",
            False,
            with_count([repeats_itself(text) for text in corpus.predictions]),
        ),
        _metric("truncated_share", "by:token-limit", "Truncated outputs", False, with_count(truncated)),
    ]


def _metric(key: str, variant: str, label: str, higher_is_better: bool | None, statistics: Array) -> Metric:
    return Metric(key, f"{key}|{variant}|v:1", label, "degeneracy", higher_is_better, statistics, mean_formula)


def _length_of_closest(length: int, references: Sequence[str]) -> int:
    """Words of the reference whose length is closest to `length`; of two equally close ones the shorter."""
    return min((len(_words(text)) for text in references), key=lambda words: (abs(words - length), words))


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower())
