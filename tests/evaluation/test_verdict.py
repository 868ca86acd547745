"""The warnings: a useless system is called so, however good its BLEU; a useful one is left alone."""

import pytest

from tests.evaluation.cards import score
from xraygpt.evaluation.scorecard import Baseline, Score
from xraygpt.evaluation.verdict import best_baseline, interval, number, percent, standing, warnings_of


def useful() -> list[Score]:
    """A system that reads the images."""
    return [
        score("bleu_4", 0.2, group="lexical", normal=(0.1, 0.08, 0.12), most_frequent=(0.11, 0.07, 0.11)),
        score("rouge_l", 0.4, group="lexical", normal=(0.3, 0.08, 0.12)),
        score("finding_f1_macro", 0.4, normal=(0.04, 0.3, 0.4), nearest_training=(0.2, 0.15, 0.25)),
        score("finding_f1_micro", 0.6, normal=(0.3, 0.25, 0.35)),
        score("faithfulness", 0.5, normal=(0.3, 0.15, 0.25)),
        score("normal_abnormal_balanced_accuracy", 0.75),
        score("abnormal_recall", 0.7),
        score("contradiction_rate", 0.03, higher=False),
        score("distinct_ratio", 0.6, group="degeneracy"),
        score("most_frequent_share", 0.1, group="degeneracy", higher=False),
        score("empty_share", 0.0, group="degeneracy", higher=False),
        score("truncated_share", None, group="degeneracy", higher=False),
        score("repeated_sentence_share", 0.01, group="degeneracy", higher=False),
        score("length_ratio", 0.9, group="degeneracy", higher=None),
    ]


def warnings_with(*changed: Score, num_studies: int = 100) -> list[str]:
    scores = {item.key: item for item in useful()} | {item.key: item for item in changed}
    return warnings_of(list(scores.values()), num_studies=num_studies)


def test_a_useful_system_gets_no_warning() -> None:
    assert warnings_with() == []
    assert warnings_of([], num_studies=100) == []


def test_a_constant_normal_system_is_called_useless_although_its_bleu_is_best() -> None:
    warnings = warnings_with(
        score("bleu_4", 0.3, group="lexical", normal=(0.1, 0.15, 0.25)),
        score("finding_f1_macro", 0.04, normal=(0.04, 0.0, 0.0), nearest_training=(0.2, -0.2, -0.1)),
        score("abnormal_recall", 0.0),
        score("normal_abnormal_balanced_accuracy", 0.5),
        score("distinct_ratio", 0.0025, group="degeneracy"),
        score("most_frequent_share", 1.0, group="degeneracy", higher=False),
    )
    assert warnings == [
        "The same report is written for 100 % of the images.",
        "None of the abnormal studies is reported as abnormal.",
        "Normal and abnormal studies are not told apart: balanced accuracy 0.500 (0.490–0.510); chance is 0.5.",
        "FINDING_F1_MACRO 0.040 is not clearly better than the baseline “always normal” (0.040), "
        "and worse than the baseline “nearest training” (0.200).",
        "BLEU_4 0.300 and ROUGE_L 0.400: scores of little more than one fixed text. They do not show that the images are read.",
    ]


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        (score("most_frequent_share", 0.5, group="degeneracy"), "The same report is written for 50 % of the images."),
        (score("distinct_ratio", 0.05, group="degeneracy"), "Few different reports are written: 5 % of the reports are distinct."),
        (score("abnormal_recall", 0.3), "Only 30 % of the abnormal studies are reported as abnormal."),
        (score("abnormal_recall", None), "No reference describes an abnormal study"),
        (score("normal_abnormal_balanced_accuracy", 0.505), "not told apart: balanced accuracy 0.505 (0.495–0.515)"),
        (
            score("finding_f1_micro", 0.6, a=(0.58, -0.01, 0.05), b=(0.59, -0.01, 0.03), c=(0.1, 0.4, 0.6)),
            "FINDING_F1_MICRO 0.600 is not clearly better than the baselines “a” (0.580) and “b” (0.590).",
        ),
        (
            score("faithfulness", 0.2, normal=(0.3, -0.15, -0.05)),
            "FAITHFULNESS 0.200 is worse than the baseline “always normal” (0.300).",
        ),
        # Clearly better than each fixed report, but by less than a fifth.
        (
            score("bleu_4", 0.2, group="lexical", normal=(0.15, 0.04, 0.06), most_frequent=(0.17, 0.02, 0.04)),
            "already scores BLEU_4 0.170 (“most frequent”; the system: 0.200): such scores say little",
        ),
        # Much better, and yet perhaps by chance.
        (
            score("rouge_l", 0.4, group="lexical", normal=(0.2, -0.1, 0.5)),
            "already scores ROUGE_L 0.200 (“always normal”; the system: 0.400)",
        ),
        (score("empty_share", 0.02, group="degeneracy", higher=False), "2 % of the reports are empty."),
        (score("truncated_share", 0.3, group="degeneracy", higher=False), "30 % of the reports are cut off"),
        (score("repeated_sentence_share", 0.051, group="degeneracy", higher=False), "5 % of the reports repeat themselves."),
        (score("contradiction_rate", 0.12, higher=False), "12 % of the statements contradict the reference."),
        (score("length_ratio", 0.4, group="degeneracy", higher=None), "The reports are 0.40 times as long as the references."),
        (score("length_ratio", 2.5, group="degeneracy", higher=None), "The reports are 2.50 times as long as the references."),
    ],
)
def test_each_fault_gives_its_sentence_and_no_other(changed: Score, sentence: str) -> None:
    warnings = [text for text in warnings_with(changed) if "scores of little more than one fixed text" not in text]
    assert len(warnings) == 1
    assert sentence in warnings[0]


@pytest.mark.parametrize(("studies", "words"), [(99, "Only 99 studies are scored"), (1, "Only 1 study is scored")])
def test_few_studies(studies: int, words: str) -> None:
    assert [words in text for text in warnings_with(num_studies=studies)] == [True]


@pytest.mark.parametrize(
    ("higher", "low", "high", "expected"),
    [
        (True, 0.01, 0.05, "better"),
        (True, -0.01, 0.05, "unclear"),
        (True, 0.0, 0.0, "unclear"),
        (True, -0.05, -0.01, "worse"),
        (False, 0.01, 0.05, "worse"),
        (False, -0.05, -0.01, "better"),
        (False, -0.01, 0.05, "unclear"),
        (None, 0.01, 0.05, None),
        (True, None, None, "better"),  # 0.5 against 0.4
        (False, None, None, "worse"),
    ],
)
def test_better_or_not(higher: bool | None, low: float | None, high: float | None, expected: str | None) -> None:
    assert standing(score("x", 0.5, higher=higher), Baseline(0.4, low, high)) == expected


def test_what_cannot_be_compared() -> None:
    assert standing(score("x", None), Baseline(0.4, 0.1, 0.2)) is None
    assert standing(score("x", 0.5), Baseline(None, None, None)) is None
    assert standing(score("distinct_ratio", 0.5, group="degeneracy"), Baseline(0.9, -0.5, -0.3)) is None


def test_the_best_baseline() -> None:
    values = {"a": 0.1, "b": 0.3, "c": None, "d": 0.3}
    assert best_baseline(values) == ("b", 0.3)
    assert best_baseline(values, higher_is_better=False) == ("a", 0.1)
    assert best_baseline(values, higher_is_better=None) is None
    assert best_baseline({"c": None}) is None


def test_numbers() -> None:
    assert [percent(share) for share in (0, 1e-6, 0.004, 0.5, 0.974, 0.9999, 1)] == [
        "0 %",
        "0.1 %",
        "0.4 %",
        "50 %",
        "97 %",
        "99.9 %",
        "100 %",
    ]
    assert (number(0.12345), number(None)) == ("0.123", "–")
    assert (interval(0.1, 0.2), interval(-0.0001, 0.2, signed=True), interval(None, None)) == ("0.100–0.200", "+0.000 to +0.200", "–")
