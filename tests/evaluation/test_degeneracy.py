"""Degenerate outputs, counted by hand."""

import csv
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from xraygpt.evaluation import Corpus
from xraygpt.evaluation.degeneracy import degeneracy, repeats_itself

REFERENCE = "The heart is normal. The lungs are clear."  # 8 words


def corpus(
    predictions: Sequence[str], references: Sequence[Sequence[str]] | None = None, truncated: Sequence[bool] | None = None
) -> Corpus:
    ids = tuple(f"image{number}" for number in range(len(predictions)))
    all_references = tuple(map(tuple, references or [[REFERENCE]] * len(predictions)))
    return Corpus(ids, tuple(predictions), all_references, ids, None if truncated is None else tuple(truncated))


def values(*args: Sequence, **kwargs: Sequence) -> dict[str, float]:
    return {metric.key: metric.value for metric in degeneracy(corpus(*args, **kwargs))}


def test_worked_case() -> None:
    found = values(
        [
            "The lungs are clear.",  # three times the same text, but for case and spaces
            "the  lungs are\nclear.",
            "THE LUNGS ARE CLEAR. ",
            "No effusion. No effusion.",
            "",
        ],
        truncated=[False, False, True, True, False],
    )
    assert found == {
        "distinct_ratio": pytest.approx(3 / 5),
        "most_frequent_share": 3 / 5,
        "length_ratio": (4 + 4 + 4 + 4 + 0) / (5 * 8),
        "empty_share": 1 / 5,
        "repeated_sentence_share": 1 / 5,
        "truncated_share": 2 / 5,
    }


def test_one_report_for_every_image() -> None:
    found = values(["No acute disease."] * 50)
    assert found["distinct_ratio"] == pytest.approx(1 / 50)
    assert found["most_frequent_share"] == 1


def test_a_report_of_its_own_for_every_image() -> None:
    found = values([f"Nodule of {size} mm." for size in range(50)])
    assert (found["distinct_ratio"], found["most_frequent_share"]) == (1, 1 / 50)


def test_truncation_is_unknown_unless_recorded() -> None:
    assert math.isnan(values(["Clear."])["truncated_share"])


def test_length_is_compared_with_the_closest_reference_and_summed() -> None:
    references = [["one two", "one two three four five six"], ["one two three four", "one two"], ["one two three"]]
    found = values(["a b c d e", "a b c", "a b c"], references)  # closest: 6; 4 and 2 are equally far, the shorter counts: 2; 3
    assert found["length_ratio"] == (5 + 3 + 3) / (6 + 2 + 3)  # the mean of the three ratios would be 1.11


def test_punctuation_and_tokenisation_change_no_length() -> None:
    assert values(["no effusion , no mass ."], [["No effusion, no mass."]])["length_ratio"] == 1


@pytest.mark.parametrize("text", ["", "  \n", ".", "___ - ."])
def test_an_output_without_a_word_is_empty(text: str) -> None:
    assert values([text])["empty_share"] == 1


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("No effusion. No effusion.", True),
        ("no effusion . the heart is normal . no effusion .", True),  # tokenised, and not next to each other
        ("No effusion.No effusion.", True),  # the space is missing
        ("The heart, normal\n\nThe heart normal", True),
        ("Normal. Normal.", True),
        ("no effusion in the left lung no effusion in the left lung no effusion in the left lung", True),  # a loop of 6 words
        ("the lungs are clear the lungs are clear the lungs are clear the", True),  # a loop of 4, cut off
        ("there is a small, small small small small small effusion", True),  # one word six times
        ("No pneumothorax and no pneumothorax and no pneumothorax", False),  # two and a half times 3 words
        ("the lungs are clear the lungs are clear", False),  # twice only: can be a list of two sides
        ("subpleural thickening pleural thickening pleural thickening", False),  # not three times: words are whole
        ("XXXX, XXXX and XXXX XXXX XXXX.", False),  # names that were taken out
        ("1. No effusion. 1. Normal heart.", False),  # numbers are no sentences
        ("FINDINGS: 1.5 cm nodule. IMPRESSION: 2.5 cm nodule.", False),  # a decimal point ends no sentence
        ("No left effusion. No right effusion. No effusion.", False),
        ("", False),
    ],
)
def test_repetition(text: str, expected: bool) -> None:
    assert repeats_itself(text) is expected


def test_a_long_loop_of_one_sentence_without_full_stop_is_found() -> None:
    sentence = " ".join(f"word{number}" for number in range(20))
    assert repeats_itself(" ".join([sentence] * 3))
    assert not repeats_itself(" ".join([f"{sentence} word20"] * 3))  # 21 words: the stated limit


def test_which_text_is_most_frequent_does_not_depend_on_the_order() -> None:
    texts = ["A.", "B.", "A.", "B.", "C."]
    shares = []
    for order in (texts, texts[::-1]):
        metric = next(metric for metric in degeneracy(corpus(order)) if metric.key == "most_frequent_share")
        counted = [text for text, (same, _) in zip(order, metric.statistics, strict=True) if same]
        assert metric.value == 2 / 5
        shares.append(counted)
    assert shares[0] == shares[1]


def test_a_resample_of_whole_groups_gives_their_number_of_texts() -> None:
    """Each text is shared out among its samples, so that any set of complete groups has the right sum."""
    metric = degeneracy(corpus(["a", "b", "a", "b", "b", "c"]))[0]
    assert metric.statistics[[0, 2, 5], 0].sum() == 2
    assert metric.formula(np.stack([metric.statistics.sum(axis=0), metric.statistics[[0, 2]].sum(axis=0)])) == pytest.approx([1 / 2, 1 / 2])


def test_directions() -> None:
    better = {metric.key: metric.higher_is_better for metric in degeneracy(corpus(["a"]))}
    assert better.pop("distinct_ratio") is True
    assert better.pop("length_ratio") is None
    assert set(better.values()) == {False}


def test_radiologists_hardly_ever_repeat_themselves(test_data: Path) -> None:
    with open(test_data / "labels" / "openi_gold_findings.csv", newline="", encoding="utf-8") as handle:
        texts = [text for row in csv.DictReader(handle) if (text := row["findings"]).strip()]
    found = values(texts, [[text] for text in texts])
    assert len(texts) > 2000
    assert found["repeated_sentence_share"] < 0.005
    assert (found["length_ratio"], found["empty_share"]) == (1, 0)
    assert 0.7 < found["distinct_ratio"] < 0.9  # normal chests are described in the same words
