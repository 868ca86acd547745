"""Clinical scores: worked cases, scikit-learn beside them, and the cases in which text overlap misleads."""

import json
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from xraygpt.evaluation.clinical import finding_counts
from xraygpt.evaluation.finding_rules import CHEXPERT_5, OBSERVATIONS
from xraygpt.evaluation.metric import Corpus, Metric, compute_metrics

CLINICAL = ("finding_f1", "normal_abnormal", "laterality", "faithfulness")
# A sentence that a label is read from, and one that it is doubted in.
SENTENCES = {
    "Enlarged Cardiomediastinum": "mediastinal widening", "Cardiomegaly": "cardiomegaly", "Lung Opacity": "opacity",
    "Lung Lesion": "nodule", "Edema": "edema", "Consolidation": "consolidation", "Pneumonia": "pneumonia", "Atelectasis": "atelectasis",
    "Pneumothorax": "pneumothorax", "Pleural Effusion": "effusion", "Pleural Other": "pleural thickening", "Fracture": "fracture",
    "Support Devices": "pacemaker",
}  # fmt: skip


def corpus(*pairs: tuple[str, str | Sequence[str]]) -> Corpus:
    """(prediction, reference or references) a sample."""
    names = tuple(str(index) for index in range(len(pairs)))
    references = tuple((given,) if isinstance(given, str) else tuple(given) for _, given in pairs)
    return Corpus(names, tuple(prediction for prediction, _ in pairs), references, names)


def score(samples: Corpus, *names: str) -> dict[str, Metric]:
    return {metric.key: metric for metric in compute_metrics(samples, names or CLINICAL)}


def values(samples: Corpus, *names: str) -> dict[str, float]:
    return {key: metric.value for key, metric in score(samples, *names).items()}


# F1 ----------------------------------------------------------------------------------------------------------------

WORKED = corpus(
    ("Cardiomegaly. Effusion. No edema.", "Cardiomegaly. Edema."),  # tp Cardiomegaly, fp Effusion, fn Edema
    ("Possible edema.", "Edema. Nodule."),  # fn Edema (tp if uncertain is positive), fn Lung Lesion
    ("The lungs are clear.", "No acute disease."),  # tp No Finding
    ("Hernia.", "Hernia."),  # none of the 14
    ("", "Cardiomegaly."),  # fn Cardiomegaly
)


def test_finding_f1_of_a_worked_case() -> None:
    ours = values(WORKED, "finding_f1")
    # F1: Cardiomegaly 2/3, Edema 0, Lung Lesion 0, No Finding 1; Pleural Effusion occurs in no reference
    assert ours["finding_f1_macro"] == pytest.approx((2 / 3 + 0 + 0 + 1) / 4)
    assert ours["finding_f1_micro"] == pytest.approx(4 / (4 + 1 + 4))
    assert ours["finding_f1_macro_5"] == pytest.approx((2 / 3 + 0) / 2)
    assert ours["finding_f1_micro_5"] == pytest.approx(2 / (2 + 1 + 3))
    assert ours["finding_f1_macro_upos"] == pytest.approx((2 / 3 + 2 / 3 + 0 + 1) / 4)
    assert ours["finding_f1_micro_upos"] == pytest.approx(6 / (6 + 1 + 3))
    assert ours["finding_f1_macro_5_upos"] == pytest.approx(2 / 3)
    assert ours["finding_f1_micro_5_upos"] == pytest.approx(4 / (4 + 1 + 2))
    assert ours["finding_precision_micro"] == pytest.approx(2 / 3)
    assert ours["finding_recall_micro"] == pytest.approx(2 / 6)


def test_a_report_without_positives_does_not_count_where_the_reference_has_none_either() -> None:
    ours = values(WORKED, "finding_f1")
    assert ours["finding_f1_example"] == pytest.approx((1 / 2 + 0 + 1 + 0) / 4)
    assert ours["finding_precision_example"] == pytest.approx((1 / 2 + 0 + 1 + 0) / 4)
    assert ours["finding_recall_example"] == pytest.approx((1 / 2 + 0 + 1 + 0) / 4)
    assert math.isnan(values(corpus(("", "Hernia.")), "finding_f1")["finding_f1_example"])


def test_labels_of_the_macro_stay_in_a_resample() -> None:
    metric = score(WORKED, "finding_f1")["finding_f1_macro"]
    weights = np.array([[1, 1, 1, 1, 1], [1, 0, 0, 0, 0], [0, 1, 0, 0, 0]], dtype=float)
    # the second has Cardiomegaly 1, Edema 0 (Effusion never counts); the third Edema 0, Lung Lesion 0
    assert metric.formula(weights @ metric.statistics) == pytest.approx([metric.value, 1 / 2, 0])


def random_labels(num_samples: int, rng: np.random.Generator) -> tuple[list[str], np.ndarray]:
    """Reports, and their labels of the observations: 1 present, -1 uncertain, 0 neither."""
    labels = rng.choice([0, 1, -1], p=[0.75, 0.15, 0.1], size=(num_samples, len(OBSERVATIONS)))
    texts = []
    for row in labels:
        stated = {name: label for name, label in zip(OBSERVATIONS, row, strict=True) if label and name in SENTENCES}
        texts.append(
            " ".join(f"{'There is' if label == 1 else 'Possible'} {SENTENCES[name]}." for name, label in stated.items()) or "Fine."
        )
        row[OBSERVATIONS.index("No Finding")] = set(stated) <= {"Support Devices"}
    return texts, labels


def test_agrees_with_scikit_learn() -> None:
    sklearn_metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(7)
    (predictions, stated), (references, truth) = random_labels(200, rng), random_labels(200, rng)
    ours = values(corpus(*zip(predictions, references, strict=True)), "finding_f1")
    for suffix, columns in (("", list(OBSERVATIONS)), ("_5", list(CHEXPERT_5))):
        chosen = [OBSERVATIONS.index(name) for name in columns]
        for policy, positive in (("", (1,)), ("_upos", (1, -1))):
            pair = np.isin(truth[:, chosen], positive), np.isin(stated[:, chosen], positive)
            for average in ("macro", "micro"):
                theirs = sklearn_metrics.f1_score(*pair, average=average, zero_division=0)
                assert ours[f"finding_f1_{average}{suffix}{policy}"] == pytest.approx(theirs), (suffix, policy, average)
    pair = truth == 1, stated == 1
    assert ours["finding_precision_micro"] == pytest.approx(sklearn_metrics.precision_score(*pair, average="micro"))
    assert ours["finding_recall_micro"] == pytest.approx(sklearn_metrics.recall_score(*pair, average="micro"))
    some = (pair[0] | pair[1]).any(axis=1)
    assert not some.all()
    for name in ("f1", "precision", "recall"):
        theirs = getattr(sklearn_metrics, f"{name}_score")(pair[0][some], pair[1][some], average="samples", zero_division=0)
        assert ours[f"finding_{name}_example"] == pytest.approx(theirs), name


def test_references_of_a_sample_are_joined() -> None:
    joined = corpus(
        ("Effusion. Nodule.", ["No effusion. Nodule.", "Effusion. Possible nodule."]), ("Clear lungs.", ["No edema.", "Hernia."])
    )
    ours = values(joined, "finding_f1", "normal_abnormal")
    assert ours["finding_recall_micro"] == 1
    assert ours["finding_precision_micro"] == 2 / 3  # the second sample's references are not all normal
    assert ours["normal_abnormal_accuracy"] == 1 / 2


def test_counts_of_each_finding() -> None:
    counts = {name: (fine, statistics.sum(axis=0).tolist()) for name, fine, statistics in finding_counts(WORKED)}
    assert list(counts)[:14] == list(OBSERVATIONS)
    assert counts["Cardiomegaly"] == (False, [1, 0, 1])
    assert counts["Edema"] == (False, [0, 0, 2])
    assert counts["Fracture"] == (False, [0, 0, 0])
    assert {name: count for name, (fine, count) in counts.items() if fine} == {
        "cardiomegaly": [1, 0, 1], "pleural_effusion": [0, 1, 0], "edema": [0, 0, 2], "nodule": [0, 0, 1], "hernia": [1, 0, 0],
    }  # fmt: skip


# The other scores --------------------------------------------------------------------------------------------------


def test_normal_and_abnormal() -> None:
    samples = corpus(
        ("Clear lungs.", "No edema."),
        ("Nodule.", "No edema."),
        ("", "No edema."),
        ("Edema.", "Nodule."),
        ("Clear lungs.", "Possible edema."),
    )
    assert values(samples, "normal_abnormal") == pytest.approx(
        {
            "normal_abnormal_accuracy": 2 / 5,
            "normal_abnormal_balanced_accuracy": (1 / 3 + 1 / 2) / 2,
            "abnormal_recall": 1 / 2,
            "normal_recall": 1 / 3,
        }
    )


def test_an_empty_report_is_never_right() -> None:
    ours = values(corpus(("", "No edema."), (" \n", "Edema.")), "normal_abnormal", "finding_f1", "faithfulness")
    never = ("normal_abnormal_accuracy", "normal_recall", "abnormal_recall", "finding_f1_macro", "finding_f1_example", "faithfulness")
    assert {ours[key] for key in never} == {0}


def test_sides() -> None:
    samples = corpus(
        ("Left effusion. Nodule. Bilateral opacities.", "Right effusion. Left nodule. Left opacity. Right fracture."),
        ("Left effusion. Right nodule.", "Left effusion. Nodule."),
        ("Clear lungs.", "Left effusion."),
    )
    ours = values(samples, "laterality")
    assert ours == {"laterality_error_rate": 2 / 4, "laterality_missing_rate": 1 / 4}
    assert math.isnan(values(corpus(("Effusion.", "Effusion.")), "laterality")["laterality_error_rate"])


def test_faithfulness_scores() -> None:
    samples = corpus(
        ("Cardiomegaly. No effusion. The trachea is midline. Emphysema.", "Cardiomegaly. Effusion."),
        ("The lungs are clear.", "No edema."),
        ("Lorem ipsum.", "Dolor."),
    )
    assert values(samples, "faithfulness") == pytest.approx(
        {
            "hallucinated_findings": 1 / 3,
            "omitted_findings": 1 / 3,
            "contradiction_rate": 1 / 4,  # of the sentences that state findings
            "faithfulness": (1 / 3 + 1) / 2,
            "unsupported_comparisons": 0,
        }
    )


def test_comparisons_with_films_that_were_not_seen() -> None:
    samples = corpus(
        ("Stable heart. The effusion has\nincreased. Nodule.", "Large heart. Effusion."),
        ("Stable heart.", "Unchanged heart."),
        ("COMPARISON: Compared with the prior film.\nFINDINGS: Nodule.", "Nodule."),
        ("New nodule.", ["Nodule.", "COMPARISON: Prior film."]),
    )
    assert values(samples, "unsupported_comparisons") == {"unsupported_comparisons": 3 / 4}


def test_what_overlap_of_words_misses(test_data: Path) -> None:
    cases = {case["id"]: case for case in json.loads((test_data / "metrics" / "radeval" / "divergence_examples.json").read_text())}
    ours = {number: values(corpus((case["hyp"], case["ref"])), *CLINICAL) for number, case in cases.items()}
    micro = {number: round(scores["finding_f1_micro"], 3) for number, scores in ours.items()}
    faithful = {number: scores["faithfulness"] for number, scores in ours.items()}
    # paraphrase, negated, one of two, one too many, the same, another finding, another severity (not scored), the opposite
    assert micro == {1: 1, 2: 0, 3: 0.667, 4: 0, 5: 1, 6: 0, 7: 1, 8: 0}
    assert faithful == {1: 1, 2: 0, 3: 0.5, 4: 0, 5: 1, 6: 0, 7: 1, 8: 0}
    assert [number for number, scores in ours.items() if scores["contradiction_rate"]] == [2, 4, 8]
    assert [number for number, scores in ours.items() if scores["omitted_findings"]] == [3, 6, 8]


def test_a_report_that_is_always_normal_is_not_faithful() -> None:
    normal = "The heart is normal. The lungs are clear. No effusion or pneumothorax."
    abnormal = "Cardiomegaly. The lungs are clear. No effusion or pneumothorax."
    ours = values(corpus(*[(normal, abnormal)] * 9, (normal, normal)))
    assert ours["faithfulness"] == pytest.approx(0.1)
    assert ours["abnormal_recall"] == 0
    assert ours["normal_abnormal_balanced_accuracy"] == 0.5


def test_ids_name_labels_policy_and_labeller() -> None:
    metrics = score(WORKED)
    assert len({metric.id for metric in metrics.values()}) == len(metrics) == 24
    for key, metric in metrics.items():
        assert metric.id.startswith(f"{key}|")
        assert ("xraygpt-comparisons-" if key == "unsupported_comparisons" else "labeller:xraygpt-rules-") in metric.id
        assert ("uncertain:" in metric.id) == key.startswith("finding_")
        assert metric.formula(metric.statistics[None].sum(axis=1)).shape == (1,)
    assert "uncertain:positive" in metrics["finding_f1_macro_5_upos"].id
    assert "chexpert-5" in metrics["finding_f1_macro_5_upos"].id
