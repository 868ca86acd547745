"""Scores of the words that a generated report shares with its references: BLEU, ROUGE, METEOR, CIDEr.

Definition, range and known failures of each: docs/evaluation.md. A library's own code is called where it gives what resampling
needs, a number for each sample. Elsewhere its formula is computed from counts, and a test holds the result equal to the library's;
the metric's id then says `as:` and not `lib:`.

Legend: `N` samples, `M` references of all samples together, `T` = N + M texts, `G` distinct n-grams of one length.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import sacrebleu
from numpy.typing import NDArray
from rapidfuzz.distance import LCSseq
from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a

from xraygpt.evaluation.metric import Array, Corpus, Metric, mean_formula, register_metrics, with_count

if TYPE_CHECKING:
    from scipy.sparse import csr_array

BLEU_ORDER = 4
"""Longest n-gram of BLEU and CIDEr."""
COCO = "as:pycocoevalcap-1.2"
ROUGE = "as:rouge-score-0.1.2"

_MARKS = r'.,;:!?()\[\]{}"'
_WORD = re.compile(rf"\d+\.\d+|[^\s{_MARKS}]+|[{_MARKS}]")
_ALPHANUMERIC = re.compile(r"[a-z0-9]+")
_TOKENIZER_13A = Tokenizer13a()

# Tokenisation -----------------------------------------------------------------------------------------------------------


def tokenize(text: str) -> list[str]:
    """Words in lower case; each of . , ; : ! ? ( ) [ ] { } " is a word of its own, decimals ("1.5") stay whole.

    "No effusion." and the pre-tokenised "no effusion ." give the same words, and text that was tokenised at blanks keeps its words:
    both kinds of files are scored by one policy. Its name in ids is `tok:words|case:lower`.
    """
    return _WORD.findall(text.lower())


def tokenize_with_gaps(text: str) -> list[str]:
    """As `tokenize`, and an empty word between two blanks in a row.

    COCO's ROUGE-L splits at every single blank, so published values count these; `tok:words+gaps`. Text without a word has none.
    """
    words = [word for piece in text.split(" ") for word in tokenize(piece) or [""]]
    return words if any(words) else []


def tokenize_alphanumeric(text: str) -> list[str]:
    """Runs of a–z and 0–9 in lower case, all else dropped: the words of Google's rouge-score, `tok:alphanumeric|case:lower`."""
    return _ALPHANUMERIC.findall(text.lower())


def tokenize_13a(text: str) -> list[str]:
    """Words in lower case as sacrebleu's `13a` (mteval-v13a, the tokeniser of machine translation's shared tasks) splits them."""
    return _TOKENIZER_13A(text.lower().rstrip()).split()


# Counts -----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Texts:
    """The texts of a corpus as word ids.

    Attributes:
        predictions: N lists of word ids; equal words have equal ids here and in `references`.
        references: M such lists, those of the first sample first.
        owner: int [M], the sample of each reference.
        starts: int [N], the first reference of each sample.
    """

    predictions: list[list[int]]
    references: list[list[int]]
    owner: NDArray[np.int64]
    starts: NDArray[np.int64]

    @property
    def prediction_lengths(self) -> Array:
        """float64 [N], in words."""
        return np.array([len(words) for words in self.predictions], dtype=np.float64)

    @property
    def reference_lengths(self) -> Array:
        """float64 [M], in words."""
        return np.array([len(words) for words in self.references], dtype=np.float64)

    def best(self, values: Array) -> Array:
        """[M] values of the references → [N] the largest of each sample."""
        return np.maximum.reduceat(values, self.starts)


def _read(corpus: Corpus, tokenizer: Callable[[str], list[str]]) -> _Texts:
    ids: dict[str, int] = {}
    predictions, references = (
        [[ids.setdefault(word, len(ids)) for word in tokenizer(text)] for text in texts]
        for texts in (corpus.predictions, [text for texts in corpus.references for text in texts])
    )
    counts = np.array([len(texts) for texts in corpus.references])
    return _Texts(predictions, references, owner=np.repeat(np.arange(len(counts)), counts), starts=np.cumsum(counts) - counts)


def _ngram_counts(texts: _Texts, order: int) -> Iterator[tuple[csr_array, csr_array]]:
    """For n = 1 … `order`: how often each n-gram stands in the predictions [N, G] and in the references [M, G]."""
    from scipy.sparse import csr_array  # half a second, which only scoring need wait for

    lists = [*texts.predictions, *texts.references]
    lengths = np.array([len(words) for words in lists])
    words = np.fromiter((word for words in lists for word in words), dtype=np.int64, count=lengths.sum())
    row = np.repeat(np.arange(len(lists)), lengths)
    room = np.repeat(np.cumsum(lengths), lengths) - np.arange(len(words))  # words from here to the end of the text
    start, ngram = np.arange(len(words)), words  # where each n-gram stands, and its number
    for n in range(1, order + 1):
        if n > 1:
            fits = room[start] >= n
            start = start[fits]
            longer = ngram[fits] * (words.max(initial=0) + 1) + words[start + n - 1]
            ngram = np.unique(longer, return_inverse=True)[1]
        counts = csr_array((np.ones(len(start)), (row[start], ngram)), shape=(len(lists), ngram.max(initial=0) + 1))
        yield counts[: len(texts.predictions)], counts[len(texts.predictions) :]


def _largest(counts: csr_array, texts: _Texts) -> csr_array:
    """[M, G] → [N, G]: the largest count in any reference of the sample."""
    if len(texts.owner) == len(texts.starts):
        return counts
    width = counts.shape[1]
    entries: Any = counts.tocoo()
    place, inverse = np.unique(texts.owner[entries.coords[0]] * width + entries.coords[1], return_inverse=True)
    largest = np.zeros(len(place))
    np.maximum.at(largest, inverse, entries.data)
    return type(counts)((largest, (place // width, place % width)), shape=(len(texts.starts), width))


def _common_subsequences(texts: _Texts) -> Array:
    """[M]: words of the longest common subsequence of each reference and its prediction."""
    pairs = zip(texts.owner, texts.references, strict=True)
    return np.array([LCSseq.similarity(texts.predictions[owner], words) for owner, words in pairs], dtype=np.float64)


def _divide(part: Array, whole: Array) -> Array:
    """part / whole; 0 where whole is 0, as the libraries score a text without words or without n-grams."""
    return np.divide(part, whole, out=np.zeros(part.shape), where=whole > 0)


def _mean_metric(key: str, metric_id: str, label: str, values: Any) -> Metric:
    return Metric(key, metric_id, label, "lexical", True, with_count(values), mean_formula)


# BLEU -------------------------------------------------------------------------------------------------------------------


def _bleu_statistics(texts: _Texts) -> Array:
    """float64 [N, 10]: matches of 1- to 4-grams, n-grams of the prediction, its length, the closest reference's length.

    A match counts at most as often as in the reference that has the n-gram most often. Of two lengths that are equally close the
    shorter counts. (Papineni et al., 2002, "BLEU: a Method for Automatic Evaluation of Machine Translation".)
    """
    counts = list(_ngram_counts(texts, BLEU_ORDER))
    matches = [predicted.minimum(_largest(reference, texts)).sum(axis=1) for predicted, reference in counts]
    guesses = [predicted.sum(axis=1) for predicted, _ in counts]
    lengths = texts.reference_lengths
    by_distance = np.lexsort((lengths, np.abs(lengths - texts.prediction_lengths[texts.owner]), texts.owner))
    return np.stack([*matches, *guesses, texts.prediction_lengths, lengths[by_distance[texts.starts]]], axis=1)


def _coco_bleu(order: int) -> Callable[[Array], Array]:
    def formula(sums: Array) -> Array:
        # The two small numbers are pycocoevalcap's: without a match of some length its BLEU is small instead of 0.
        tiny, small = 1e-15, 1e-9
        precisions = (sums[..., :order] + tiny) / (sums[..., BLEU_ORDER : BLEU_ORDER + order] + small)
        length_ratio = (sums[..., -2] + tiny) / (sums[..., -1] + small)
        bleu = precisions.prod(axis=-1) ** (1 / order) * np.exp(np.minimum(0, 1 - 1 / length_ratio))
        return np.where(sums[..., -1] > 0, bleu, np.nan)

    return formula


@register_metrics("bleu", keys=["bleu_1", "bleu_2", "bleu_3", "bleu_4"])
def bleu(corpus: Corpus) -> list[Metric]:
    """COCO-style corpus BLEU-1 to -4, 0–1: geometric mean of the precisions of 1- to n-grams × brevity penalty.

    The values of pycocoevalcap's `Bleu`, which takes the closest reference length.
    """
    statistics = _bleu_statistics(_read(corpus, tokenize))
    return [
        Metric(
            key=f"bleu_{order}",
            id=f"bleu_{order}|variant:coco-corpus|tok:words|case:lower|{COCO}",
            label=f"BLEU-{order}",
            group="lexical",
            higher_is_better=True,
            statistics=statistics,
            formula=_coco_bleu(order),
        )
        for order in range(1, BLEU_ORDER + 1)
    ]


def _exp_smoothed_bleu(sums: Array) -> Array:
    """[..., 10] → BLEU-4 in which the k-th precision without a match counts as if 2⁻ᵏ had matched (NIST's smoothing, sacrebleu's `exp`)."""
    matches, guesses, length, reference_length = sums[..., :BLEU_ORDER], sums[..., BLEU_ORDER:-2], sums[..., -2], sums[..., -1]
    smoothed = np.where(matches == 0, 0.5 ** (matches == 0).cumsum(axis=-1), matches)
    bleu = _divide(smoothed, guesses).prod(axis=-1) ** (1 / BLEU_ORDER)
    bleu = bleu * np.exp(np.minimum(0, 1 - reference_length / np.maximum(length, 1)))
    return np.where(reference_length > 0, np.where(matches.any(axis=-1), bleu, 0.0), np.nan)


@register_metrics("sacrebleu", keys=["sacrebleu"])
def sacrebleu_corpus(corpus: Corpus) -> list[Metric]:
    """Corpus BLEU-4 as `sacrebleu.corpus_bleu(..., lowercase=True).score / 100`: 0–1; its signature is in the id."""
    numbers = {len(texts) for texts in corpus.references}
    signature = f"nrefs:{numbers.pop() if len(numbers) == 1 else 'var'}|case:lc|eff:no|tok:13a|smooth:exp|version:{sacrebleu.__version__}"
    return [
        Metric(
            key="sacrebleu",
            id=f"sacrebleu|scale:0-1|{signature}",
            label="BLEU-4 (sacreBLEU)",
            group="lexical",
            higher_is_better=True,
            statistics=_bleu_statistics(_read(corpus, tokenize_13a)),
            formula=_exp_smoothed_bleu,
        )
    ]


# ROUGE ------------------------------------------------------------------------------------------------------------------


@register_metrics("rouge", keys=["rouge_1", "rouge_2", "rouge_l"])
def rouge(corpus: Corpus) -> list[Metric]:
    """Mean F1 of shared words, of shared pairs of words, and of the longest common subsequence, 0–1; the best of several references.

    The values of Google's rouge-score without stemming (Lin, 2004, "ROUGE: A Package for Automatic Evaluation of Summaries").
    """
    texts = _read(corpus, tokenize_alphanumeric)
    scores = [
        _divide(2 * predicted[texts.owner].minimum(reference).sum(axis=1), predicted.sum(axis=1)[texts.owner] + reference.sum(axis=1))
        for predicted, reference in _ngram_counts(texts, 2)
    ]
    scores.append(_divide(2 * _common_subsequences(texts), texts.prediction_lengths[texts.owner] + texts.reference_lengths))
    return [
        _mean_metric(f"rouge_{name}", f"rouge_{name}|variant:f1|stem:no|tok:alphanumeric|case:lower|{ROUGE}", label, texts.best(values))
        for name, label, values in zip("12l", ("ROUGE-1", "ROUGE-2", "ROUGE-L"), scores, strict=True)
    ]


@register_metrics("rouge_l_coco", keys=["rouge_l_coco"])
def rouge_l_coco(corpus: Corpus) -> list[Metric]:
    """Mean F with β = 1.2 of the longest common subsequence, 0–1, as pycocoevalcap's `Rouge`.

    Of several references the best precision and the best recall count, even if they are of two references.
    """
    texts = _read(corpus, tokenize_with_gaps)
    common = _common_subsequences(texts)
    precision = texts.best(_divide(common, texts.prediction_lengths[texts.owner]))
    recall = texts.best(_divide(common, texts.reference_lengths))
    weight = 1.2**2
    values = _divide((1 + weight) * precision * recall, recall + weight * precision)
    metric_id = f"rouge_l_coco|variant:f-beta-1.2|tok:words+gaps|case:lower|{COCO}"
    return [_mean_metric("rouge_l_coco", metric_id, "ROUGE-L (COCO)", values)]


# METEOR -----------------------------------------------------------------------------------------------------------------


@register_metrics("meteor", keys=["meteor"])
def meteor(corpus: Corpus) -> list[Metric]:
    """Mean METEOR of nltk, 0–1, with exact and stem matches and without synonyms; the best of several references.

    Recall-weighted F of aligned words × a penalty for scattered matches (Lavie and Agarwal, 2007, "METEOR: An Automatic Metric for MT
    Evaluation with High Levels of Correlation with Human Judgments"; α = 0.9, β = 3, γ = 0.5). Java METEOR gives other numbers.
    """
    # Importing nltk takes seconds: only who asks for METEOR waits.
    import nltk
    from nltk.stem.porter import PorterStemmer
    from nltk.translate.meteor_score import meteor_score

    stemmer = SimpleNamespace(stem=lru_cache(maxsize=None)(PorterStemmer().stem))  # reports have few distinct words
    wordnet = SimpleNamespace(synsets=lambda word: [])  # the real one would have to be downloaded
    values = [
        meteor_score([tokenize(text) for text in references], tokenize(prediction), stemmer=stemmer, wordnet=wordnet)
        for prediction, references in zip(corpus.predictions, corpus.references, strict=True)
    ]
    metric_id = f"meteor|variant:exact+stem|synonyms:no|tok:words|case:lower|lib:nltk-{nltk.__version__}"
    return [_mean_metric("meteor", metric_id, "METEOR (exact+stem)", values)]


# CIDEr ------------------------------------------------------------------------------------------------------------------


@register_metrics("cider", keys=["cider"])
def cider(corpus: Corpus) -> list[Metric]:
    """Mean CIDEr-D, 0–10, as pycocoevalcap's `Cider` (Vedantam et al., 2015, "CIDEr: Consensus-based Image Description Evaluation").

    Mean over n = 1 … 4 of the cosine of n-gram counts weighted by rarity, clipped at the reference's counts, × a Gaussian of the
    difference in length (σ = 6 words) × 10; mean over several references. An n-gram's rarity, log(N / samples whose references have
    it), is that of the whole scored set in every resample. NaN for a single sample, in which every n-gram is in all samples.
    """
    texts = _read(corpus, tokenize)
    num_samples = len(texts.starts)
    cosines = np.zeros(len(texts.owner))
    for predicted, reference in _ngram_counts(texts, BLEU_ORDER):
        samples_with = (_largest(reference, texts) > 0).sum(axis=0)
        squared_rarity = (np.log(num_samples) - np.log(np.maximum(samples_with, 1))) ** 2
        clipped = predicted[texts.owner].minimum(reference)
        squared_norms = (predicted.power(2) @ squared_rarity)[texts.owner] * (reference.power(2) @ squared_rarity)
        cosines += _divide(clipped.multiply(reference) @ squared_rarity, np.sqrt(squared_norms))
    longer_by = texts.prediction_lengths[texts.owner] - texts.reference_lengths
    scores = 10 * cosines / BLEU_ORDER * np.exp(-(longer_by**2) / (2 * 6.0**2))
    values = np.add.reduceat(scores, texts.starts) / np.bincount(texts.owner)
    metric_id = f"cider|variant:cider-d|scale:0-10|df:scored-references|tok:words|case:lower|{COCO}"
    return [_mean_metric("cider", metric_id, "CIDEr-D", values if num_samples > 1 else np.full(1, np.nan))]
