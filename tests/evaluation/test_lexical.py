"""Worked cases, the libraries' own results, and values that others published with their predictions."""

import csv
import json
import math
import random

import numpy as np
import pytest
import sacrebleu
from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.rouge.rouge import Rouge
from rouge_score.rouge_scorer import RougeScorer
from rouge_score.tokenize import tokenize as tokenize_of_rouge_score

from xraygpt.evaluation.lexical import tokenize, tokenize_alphanumeric, tokenize_with_gaps
from xraygpt.evaluation.metric import Corpus, compute_metrics

FAMILIES = ["bleu", "sacrebleu", "rouge", "rouge_l_coco", "meteor", "cider"]


def corpus_of(predictions, references):
    """A corpus; a reference that is one text stands for a list of one."""
    ids = tuple(map(str, range(len(predictions))))
    texts = tuple((item,) if isinstance(item, str) else tuple(item) for item in references)
    return Corpus(ids, tuple(predictions), texts, studies=ids)


def scores(predictions, references, names=FAMILIES):
    """Key → value."""
    return {metric.key: metric.value for metric in compute_metrics(corpus_of(predictions, references), names)}


# The libraries ------------------------------------------------------------------------------------------------------------


def library_scores(predictions, references):
    """What pycocoevalcap, rouge-score and sacrebleu themselves say; texts are split at blanks for pycocoevalcap."""
    spaced = {key: [" ".join(tokenize(text))] for key, text in enumerate(predictions)}
    spaced_references = {key: [" ".join(tokenize(text)) for text in texts] for key, texts in enumerate(references)}
    bleu, _ = Bleu(4).compute_score(spaced_references, spaced, verbose=0)
    scorer = RougeScorer(["rouge1", "rouge2", "rougeL"])
    rouge = [scorer.score_multi(texts, prediction) for prediction, texts in zip(predictions, references, strict=True)]
    streams = [[texts[n] if n < len(texts) else None for texts in references] for n in range(max(map(len, references)))]
    return {
        **{f"bleu_{order}": value for order, value in enumerate(bleu, start=1)},
        "sacrebleu": sacrebleu.corpus_bleu(list(predictions), streams, lowercase=True).score / 100,
        "rouge_1": np.mean([score["rouge1"].fmeasure for score in rouge]),
        "rouge_2": np.mean([score["rouge2"].fmeasure for score in rouge]),
        "rouge_l": np.mean([score["rougeL"].fmeasure for score in rouge]),
        "rouge_l_coco": Rouge().compute_score(spaced_references, spaced)[0],
        "cider": Cider().compute_score(spaced_references, spaced)[0],
    }


def random_texts(rng, num, max_words):
    """Texts of few different words, so that many repeat; capitals, punctuation, decimals, hyphens, characters beyond ASCII."""
    vocabulary = "No no effusion effusions. Lung clear, clear the The heart: 1.5 cm (left) x-ray and/or µm 2. ; İ 10–20 ___ is"
    return [" ".join(rng.choices(vocabulary.split(), k=rng.randint(1, max_words))) for _ in range(num)]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("max_references", [1, 4])
@pytest.mark.parametrize("max_words", [3, 30])  # of 3 words many have no 4-gram, and long texts exceed a machine word of LCS bits
def test_random_texts_score_as_the_libraries_say(seed, max_references, max_words):
    rng = random.Random(seed)
    references = [random_texts(rng, rng.randint(1, max_references), max_words) for _ in range(25)]
    predictions = [*random_texts(rng, 24, 3 * max_words), ""]
    rng.shuffle(predictions)
    expected = library_scores(predictions, references)
    assert scores(predictions, references, list(expected)) == pytest.approx(expected, abs=1e-12)


def test_radiology_reports_score_as_the_libraries_say(test_data):
    with open(test_data / "labels" / "openi_gold_findings.csv", newline="", encoding="utf-8") as handle:
        reports = [f"{row['findings']}\n{row['impression']}".strip() for row in csv.DictReader(handle)]
    reports = [" ".join(text.split()) for text in reports if text][:240]
    predictions, references = reports[:60], [[reports[60 + n], *reports[120 + n : 120 + 2 * n : 30]] for n in range(60)]
    expected = library_scores(predictions, references)
    assert scores(predictions, references, list(expected)) == pytest.approx(expected, abs=1e-12)


def test_words_of_rouge_are_those_of_rouge_score():
    for text in ["No effusion.", "T9-T10: 1.5cm", "İstanbul µm", "a_b\tc\n\nd", "x–ray", "", "…", "café", "K 10²"]:
        assert tokenize_alphanumeric(text) == tokenize_of_rouge_score(text, None), text


# Published values -----------------------------------------------------------------------------------------------------------


def published_texts(test_data, predictions_name):
    folder = test_data / "metrics" / "iu_xray_template"
    references = json.loads((folder / "manual_template_target_b4rouge__result__test_refs.json").read_text())
    predictions = json.loads((folder / predictions_name).read_text())
    return [predictions[key][0] for key in references], list(references.values())


def ordinary(text):
    """As a radiologist types it: capitals, and no blank before a full stop."""
    return ". ".join(sentence.capitalize() for sentence in text.split(" . ")).replace(" .", ".")


@pytest.mark.parametrize(
    ("predictions", "summary"),
    [
        ("manual_template_target_b4rouge__result__test_result.json", "manual_template_target_b4rouge__test_summary.json"),
        ("template_sentence_fusion_b4rouge_fast__test_preds.json", "template_sentence_fusion_b4rouge_fast__test_metrics.json"),
    ],
)
def test_published_values_come_out(test_data, predictions, summary):
    published = json.loads((test_data / "metrics" / "iu_xray_template" / summary).read_text())
    ours = scores(*published_texts(test_data, predictions), ["bleu", "rouge_l_coco", "cider"])
    names = {f"Bleu_{order}": f"bleu_{order}" for order in range(1, 5)} | {"ROUGE_L": "rouge_l_coco", "CIDEr": "cider"}
    compared = [name for name in names if name in published]
    assert {"Bleu_4", "ROUGE_L"} <= set(compared)
    for name in compared:
        assert ours[names[name]] == pytest.approx(published[name], abs=1e-6), name


def test_the_published_predictions_score_the_same_as_ordinary_reports(test_data):
    predictions, references = published_texts(test_data, "template_sentence_fusion_b4rouge_fast__test_preds.json")
    typed = scores(list(map(ordinary, predictions)), [list(map(ordinary, texts)) for texts in references])
    spaced = scores(predictions, references)
    # The file has 34 gaps, "clear .  .", which COCO's ROUGE-L counts as words and `ordinary` closes.
    assert spaced.pop("rouge_l_coco") == pytest.approx(typed.pop("rouge_l_coco"), abs=1e-3)
    assert spaced == pytest.approx(typed, abs=1e-12)


# Words ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("No effusion.", "no effusion ."),
        ("no effusion .", "no effusion ."),
        ("Nodule, 1.5 cm (left).", "nodule , 1.5 cm ( left ) ."),
        ("1. Normal.\n2.No change", "1 . normal . 2 . no change"),
        ("X-ray: and/or patient's >50%", "x-ray : and/or patient's >50%"),
        ("limits.The lungs..", "limits . the lungs . ."),
        ("  ", ""),
    ],
)
def test_words(text, words):
    assert tokenize(text) == words.split()
    assert tokenize(words) == words.split()


def test_only_doubled_blanks_are_gaps():
    assert tokenize_with_gaps("Clear.  No\neffusion .") == ["clear", ".", "", "no", "effusion", "."]
    assert tokenize_with_gaps("   ") == []


# Worked cases ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "prediction", "references", "expected"),
    [
        ("bleu_1", "the lungs are clear", ["the lungs are clear ."], math.exp(1 - 5 / 4)),
        ("bleu_4", "the lungs are clear", ["the lungs are clear ."], math.exp(1 - 5 / 4)),
        ("bleu_2", "no no effusion", ["no effusion seen"], math.sqrt(2 / 3 * 1 / 2)),  # the second "no" does not match
        ("bleu_1", "no effusion", ["none", "no effusion seen here", "no effusion seen"], 1.0),  # 1 and 3 are equally close: 1
        ("sacrebleu", "the lungs are clear now", ["the lungs are clear"], (4 / 5 * 3 / 4 * 2 / 3 * 1 / 2) ** (1 / 4)),
        ("sacrebleu", "a b c d", ["a c b d"], (1 * (1 / 6) * (1 / 8) * (1 / 8)) ** (1 / 4)),  # misses count 1/2, 1/4, 1/8
        ("sacrebleu", "no edema is seen", ["stable cardiomegaly"], 0.0),  # but not if nothing matches
        ("sacrebleu", "No edema seen -\n", ["no edema seen -"], 1.0),
        ("rouge_1", "no pleural effusion", ["pleural effusion"], 0.8),
        ("rouge_2", "no pleural effusion", ["pleural effusion"], 2 / 3),
        ("rouge_l", "effusion pleural no", ["no pleural effusion"], 1 / 3),
        ("rouge_l", "no pleural effusion", ["clear", "Pleural effusion!"], 0.8),
        ("rouge_1", "effusions", ["effusion"], 0.0),  # no stemming
        ("rouge_l_coco", "no pleural effusion", ["pleural effusion"], 2.44 * (2 / 3) / (1 + 1.44 * (2 / 3))),
        ("rouge_l_coco", "a b", ["a b c d", "a"], 1.0),  # precision of the first, recall of the second
        ("meteor", "lungs clear", ["Lungs clear"], 1 - 0.5 * (1 / 2) ** 3),
        ("meteor", "effusions", ["effusion"], 0.5),
        ("meteor", "heart", ["cardiac", "bosom"], 0.0),  # no synonyms
    ],
)
def test_worked_cases(key, prediction, references, expected):
    assert scores([prediction], [references], [key])[key] == pytest.approx(expected, abs=1e-8)


def test_worked_cases_of_cider():
    references = ["the lungs are clear", "mild cardiomegaly is present"]
    assert scores(references, references, ["cider"])["cider"] == pytest.approx(10)
    assert scores(references[::-1], references, ["cider"])["cider"] == 0
    # Words that every reference has carry nothing.
    assert scores(["lungs"] * 2, ["lungs", "lungs"], ["cider"])["cider"] == 0
    assert math.isnan(scores(["lungs"], ["lungs"], ["cider"])["cider"])


@pytest.mark.filterwarnings("error")
def test_reports_without_words_score_zero():
    references = ["No effusion.", ["Normal.", "The lungs are  clear."], "Stable."]
    assert scores(["", " ", "\n"], references) == dict.fromkeys(scores(["a"] * 3, references), 0.0)


# Resampling -----------------------------------------------------------------------------------------------------------------


def test_weights_of_samples_are_as_good_as_repeating_them():
    predictions = ["no effusion", "the lungs are clear .", "", "stable cardiomegaly . no edema"]
    references = ["no pleural effusion", ["lungs clear", "the lungs are clear"], "normal", "stable cardiomegaly . mild edema"]
    draws = np.array([[2, 1, 0, 1], [0, 0, 4, 0], [1, 1, 1, 1]])
    names = [name for name in FAMILIES if name != "cider"]  # its weights of n-grams stay those of the whole set
    repeated = [[n for n, times in enumerate(draw) for _ in range(times)] for draw in draws]
    expected = [scores([predictions[n] for n in chosen], [references[n] for n in chosen], names) for chosen in repeated]
    for metric in compute_metrics(corpus_of(predictions, references), names):
        values = metric.formula(draws @ metric.statistics)
        assert values == pytest.approx([score[metric.key] for score in expected], abs=1e-12), metric.key
        assert metric.formula((draws @ metric.statistics)[None]).shape == (1, 3)
        assert math.isnan(metric.formula(np.zeros(metric.statistics.shape[1])))


def test_rarity_in_cider_is_that_of_the_whole_set():
    predictions = ["no effusion seen today", "the lungs are clear", "no edema"]
    references = ["no effusion seen", "lungs are clear", "no edema seen"]
    (metric,) = compute_metrics(corpus_of(predictions, references), ["cider"])
    _, values = Cider().compute_score({n: [text] for n, text in enumerate(references)}, {n: [text] for n, text in enumerate(predictions)})
    assert metric.formula(np.eye(3) @ metric.statistics) == pytest.approx(values, abs=1e-12)


# Names ----------------------------------------------------------------------------------------------------------------------


def test_ids_name_what_makes_numbers_differ():
    metrics = compute_metrics(corpus_of(["no"] * 2, ["no", "yes"]), FAMILIES)
    assert [metric.key for metric in metrics] == (
        ["bleu_1", "bleu_2", "bleu_3", "bleu_4", "sacrebleu", "rouge_1", "rouge_2", "rouge_l", "rouge_l_coco", "meteor", "cider"]
    )
    assert len({metric.id for metric in metrics}) == len(metrics)
    for metric in metrics:
        assert metric.id.startswith(f"{metric.key}|")
        assert "|tok:" in metric.id
        assert "|case:" in metric.id


def test_the_signature_is_that_of_sacrebleu():
    for references in [["a b"], [["a b", "b"], ["c"]]]:
        corpus = corpus_of(["a b"] * len(references), references)
        streams = [[texts[n] if n < len(texts) else None for texts in corpus.references] for n in range(max(map(len, corpus.references)))]
        library = sacrebleu.BLEU(lowercase=True)
        library.corpus_score(list(corpus.predictions), streams)
        (metric,) = compute_metrics(corpus, ["sacrebleu"])
        assert metric.id == f"sacrebleu|scale:0-1|{library.get_signature()}"
