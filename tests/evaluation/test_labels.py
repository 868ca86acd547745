"""Labels of whole reports, and the experts' and CheXpert's labels beside them."""

import csv
from pathlib import Path

import pytest

from benchmarks.labeller_accuracy import EXPERT_LABELS, MIN_SUPPORT, outcomes, scores
from xraygpt.evaluation.finding_rules import OBSERVATIONS
from xraygpt.evaluation.findings import FINDINGS, RULES
from xraygpt.evaluation.labels import TOPICS, label_findings, label_report, read_statuses, read_topics

Labels = dict[str, int]

DENIED_WITH_ACUTE_DISEASE = ("Edema", "Consolidation", "Pneumonia", "Pleural Effusion", "Pneumothorax", "Lung Opacity")

CASES: list[tuple[str, Labels]] = [
    ("Small left effusion with atelectasis.", {"Pleural Effusion": 1, "Atelectasis": 1}),
    ("Airspace disease, may reflect pneumonia.", {"Lung Opacity": 1, "Pneumonia": -1}),
    ("A mass and several nodules.", {"Lung Lesion": 1}),
    ("Heart failure.", {"Edema": 1}),
    ("Left hydropneumothorax.", {"Pneumothorax": 1, "Pleural Effusion": 1}),
    ("Pleural thickening.", {"Pleural Other": 1}),
    ("Rib fracture.", {"Fracture": 1}),
    ("Widened mediastinum.", {"Enlarged Cardiomediastinum": 1}),
    ("Enlarged cardiac silhouette.", {"Cardiomegaly": 1}),
    ("PICC and chest tube in place.", {"Support Devices": 1, "No Finding": 1}),
    # the strongest statement of a report counts
    ("No effusion on the right. Small effusion on the left.", {"Pleural Effusion": 1}),
    ("Pneumonia cannot be excluded. No pneumonia.", {"Pneumonia": -1}),
    ("No nodule. Possible mass.", {"Lung Lesion": -1}),
    # "No Finding"
    ("No acute disease.", {"No Finding": 1} | dict.fromkeys(DENIED_WITH_ACUTE_DISEASE, 0)),
    ("No edema.", {"No Finding": 1, "Edema": 0}),
    ("Hiatal hernia.", {}),
    ("Possible nodule.", {"Lung Lesion": -1}),
    ("Costophrenic blunting.", {}),
    ("   ", {}),
]


@pytest.mark.parametrize(("text", "expected"), CASES, ids=[text for text, _ in CASES])
def test_labels_of_a_report(text: str, expected: Labels) -> None:
    labels = label_report(text)
    assert tuple(labels) == OBSERVATIONS
    assert {name: label for name, label in labels.items() if label is not None} == expected


def test_labels_of_the_finer_list() -> None:
    labels = label_findings("No effusion. Possible nodule. Emphysema.")
    assert tuple(labels) == FINDINGS
    assert {name: label for name, label in labels.items() if label is not None} == {"pleural_effusion": 0, "nodule": -1, "emphysema": 1}


def test_sections_that_do_not_describe_the_film_are_left_out() -> None:
    text = "INDICATION: Rule out pneumonia, known effusion.\nFINDINGS: Cardiomegaly.\nCOMPARISON: Film with edema.\nIMPRESSION: No nodule."
    assert {name: label for name, label in label_findings(text).items() if label is not None} == {"cardiomegaly": 1, "nodule": 0}


def test_every_observation_has_a_rule() -> None:
    assert {name for rule in RULES.findings.values() for name in rule.observations} == set(OBSERVATIONS) - {"No Finding"}


def test_a_topic_is_an_observation_or_a_finding_without_one() -> None:
    assert TOPICS["mass"] == TOPICS["nodule"] == ("Lung Lesion",)
    assert TOPICS["hydropneumothorax"] == ("Pneumothorax", "Pleural Effusion")
    assert TOPICS["emphysema"] == ("emphysema",)


def test_topics_of_several_reports_are_joined() -> None:
    assert read_topics("No nodule. No edema. Possible effusion.", "Possible mass. No edema.", "Small effusion. Emphysema.") == {
        "Lung Lesion": "uncertain",
        "Edema": "absent",
        "Pleural Effusion": "present",
        "emphysema": "present",
    }
    assert read_topics() == {}


def test_scores_of_a_worked_case() -> None:
    assert scores([(True, True), (True, False), (False, True), (False, True), (False, False)]) == (2, 1 / 3, 1 / 2, 2 / 5)
    assert scores([(False, False)]) == (0, 0.0, 0.0, 0.0)


def test_agrees_with_the_experts(test_data: Path) -> None:
    with open(test_data / "labels" / "openi_gold_findings.csv", newline="", encoding="utf-8") as handle:
        rows = list(csv.DictReader(handle))
    by_label = outcomes(rows)
    assert scores(pair for pairs in by_label.values() for pair in pairs)[3] >= 0.9
    counted = [name for name, pairs in by_label.items() if sum(true for true, _ in pairs) >= MIN_SUPPORT]
    assert len(counted) == 10
    assert sum(scores(by_label[name])[3] for name in counted) / len(counted) >= 0.85


def test_differs_from_chexperts_labeller_only_where_clear_lungs_deny_more(test_data: Path) -> None:
    with open(test_data / "labels" / "chexpert_labeler_sample" / "labeled_reports.csv", newline="", encoding="utf-8") as handle:
        for row in csv.DictReader(handle):
            ours = label_report(row["Reports"])
            theirs = {name: int(float(row[name])) if row[name] else None for name in OBSERVATIONS}
            assert all(ours[name] == 0 and theirs[name] is None for name in OBSERVATIONS if ours[name] != theirs[name])


def test_the_mapping_to_the_experts_names_our_findings() -> None:
    assert {name for names in EXPERT_LABELS.values() for name in names} <= set(FINDINGS)


def test_the_strongest_statement_of_a_finding_counts() -> None:
    text = "No pneumothorax. Possible edema. Small left pleural effusion. The right pleural effusion has resolved."
    statuses = read_statuses(text)
    assert {name: statuses[name] for name in ("pneumothorax", "edema", "pleural_effusion")} == {
        "pneumothorax": "absent", "edema": "uncertain", "pleural_effusion": "present",
    }  # fmt: skip
