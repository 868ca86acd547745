"""Worked cases of the reader: a sentence, and what it must read from it."""

import re
import time

import numpy as np
import pytest

from tests.evaluation.sentence_cases import CASES
from xraygpt.datasets.preparation.phantom_findings import sample_findings
from xraygpt.datasets.preparation.phantom_report import REPORT_STYLES, write_report
from xraygpt.evaluation.findings import RULES, Finding, read_findings
from xraygpt.evaluation.labels import SCORED_FINDINGS, findings_present

# What is read as the scored findings. Each expected statement is written "finding status side zone", with - for an empty side or zone.
SCORED_CASES = [
    # names and synonyms
    ("There is cardiomegaly.", ["cardiomegaly present - -"]),
    ("The heart is moderately enlarged.", ["cardiomegaly present - -"]),
    ("Enlarged cardiac silhouette.", ["cardiomegaly present - -"]),
    ("The cardiac silhouette is mildly enlarged.", ["cardiomegaly present - -"]),
    ("Enlargement of the heart.", ["cardiomegaly present - -"]),
    ("Increased cardiothoracic ratio.", ["cardiomegaly present - -"]),
    ("Small left pleural effusion.", ["pleural_effusion present left -"]),
    ("Pleural fluid on the right.", ["pleural_effusion present right -"]),
    ("Blunting of the left costophrenic angle.", ["pleural_effusion present left -"]),
    ("No pericardial effusion.", []),
    ("Right apical pneumothorax.", ["pneumothorax present right upper"]),
    ("Bilateral pneumothoraces.", ["pneumothorax present bilateral -"]),
    ("Airspace disease in the right middle lobe.", ["consolidation present right mid"]),
    ("Air-space opacity at the left base.", ["consolidation present left lower"]),
    ("Left lower lobe pneumonia.", ["consolidation present left lower"]),
    ("Patchy infiltrates in the right upper zone.", ["consolidation present right upper"]),
    ("Mild pulmonary edema.", ["edema present - -"]),
    ("Interstitial oedema.", ["edema present - -"]),
    ("Central pulmonary vascular congestion.", ["edema present - -"]),
    ("Soft tissue edema of the chest wall.", []),
    ("A nodule in the left mid zone.", ["nodule present left mid"]),
    ("A mass is seen in the right upper lobe.", ["nodule present right upper"]),
    ("Nodular opacity in the left upper lung.", ["nodule present left upper"]),
    ("No mass effect.", []),
    ("Left-sided pacemaker.", ["pacemaker present left -"]),
    ("A dual-chamber pacing device is on the right.", ["pacemaker present right -"]),
    ("The endotracheal tube ends above the carina.", ["tube present - -"]),
    ("ET tube in the right main bronchus.", ["tube present - -"]),
    # negation
    (
        "No pleural effusion, pneumothorax or consolidation.",
        ["pleural_effusion absent - -", "pneumothorax absent - -", "consolidation absent - -"],
    ),
    ("There is no evidence of pneumothorax.", ["pneumothorax absent - -"]),
    ("Mild cardiomegaly without pulmonary edema.", ["cardiomegaly present - -", "edema absent - -"]),
    ("The lungs are free of consolidation.", ["consolidation absent - -"]),
    ("Negative for pneumothorax.", ["pneumothorax absent - -"]),
    ("Absence of pleural effusion.", ["pleural_effusion absent - -"]),
    ("A pneumothorax is not seen.", ["pneumothorax absent - -"]),
    ("Pleural effusion and pneumothorax are absent.", ["pleural_effusion absent - -", "pneumothorax absent - -"]),
    ("Consolidation is not present.", ["consolidation absent - -"]),
    ("The left effusion has resolved.", ["pleural_effusion absent left -"]),
    ("Pneumothorax: none.", ["pneumothorax absent - -"]),
    ("The endotracheal tube has been removed.", ["tube absent - -"]),
    ("No change in the left effusion.", ["pleural_effusion present left -"]),
    ("The film does not show a nodule.", ["nodule absent - -"]),
    ("No pneumothorax is seen.", ["pneumothorax absent - -"]),
    # the reach of a negation
    ("No pneumothorax, but there is a left effusion.", ["pneumothorax absent - -", "pleural_effusion present left -"]),
    ("No effusion; right upper lobe consolidation.", ["pleural_effusion absent - -", "consolidation present right upper"]),
    ("Effusion is seen, however no pneumothorax.", ["pleural_effusion present - -", "pneumothorax absent - -"]),
    ("There is no pneumothorax and there is a right effusion.", ["pneumothorax absent - -", "pleural_effusion present right -"]),
    ("No pneumothorax and the heart is enlarged.", ["pneumothorax absent - -", "cardiomegaly present - -"]),
    ("The heart is enlarged and a pneumothorax is not seen.", ["cardiomegaly present - -", "pneumothorax absent - -"]),
    ("No effusion. Cardiomegaly.", ["pleural_effusion absent - -", "cardiomegaly present - -"]),
    # uncertainty
    ("Possible left effusion.", ["pleural_effusion uncertain left -"]),
    ("Pneumonia cannot be excluded.", ["consolidation uncertain - -"]),
    ("We cannot exclude a small pneumothorax.", ["pneumothorax uncertain - -"]),
    ("Left basal opacity may represent pneumonia.", ["consolidation present left lower", "consolidation uncertain - -"]),
    ("Vascular congestion suggesting edema.", ["edema present - -", "edema uncertain - -"]),
    ("Possible edema and a left effusion.", ["edema uncertain - -", "pleural_effusion present left -"]),
    ("No focal opacity to suggest pneumonia.", ["consolidation absent - -", "consolidation absent - -"]),
    # statements of normality
    ("Heart size is normal.", ["cardiomegaly absent - -"]),
    ("The heart is not enlarged.", ["cardiomegaly absent - -"]),
    ("The cardiac silhouette is within normal limits.", ["cardiomegaly absent - -"]),
    ("Normal heart size.", ["cardiomegaly absent - -"]),
    ("The lungs are clear.", ["consolidation absent - -", "edema absent - -", "nodule absent - -"]),
    ("Lungs are otherwise clear.", []),
    ("The costophrenic angles are sharp.", ["pleural_effusion absent - -"]),
    (
        "No acute cardiopulmonary abnormality.",
        ["consolidation absent - -", "edema absent - -", "pleural_effusion absent - -", "pneumothorax absent - -"],
    ),
    (
        "The lungs are clear except for a nodule in the left upper lobe.",
        ["consolidation absent - -", "edema absent - -", "nodule absent - -", "nodule present left upper"],
    ),
    # sides and zones belong to one mention
    ("Left effusion and right pneumothorax.", ["pleural_effusion present left -", "pneumothorax present right -"]),
    (
        "Consolidation in the right lower lobe and a left effusion.",
        ["consolidation present right lower", "pleural_effusion present left -"],
    ),
    (
        "Consolidation in the right lower lobe with effusion on the left.",
        ["consolidation present right lower", "pleural_effusion present left -"],
    ),
    (
        "Left effusion, right upper nodule, pacemaker on the left.",
        ["pleural_effusion present left -", "nodule present right upper", "pacemaker present left -"],
    ),
    ("A pacemaker on the right and cardiomegaly.", ["pacemaker present right -", "cardiomegaly present - -"]),
    ("On the left there is a pneumothorax.", ["pneumothorax present left -"]),
    ("Effusions on both sides.", ["pleural_effusion present bilateral -"]),
    (
        "Consolidation in the right and left bases with a left effusion.",
        ["consolidation present bilateral lower", "pleural_effusion present left -"],
    ),
    ("Bibasilar opacities.", ["consolidation present bilateral lower"]),
    ("Heart size at the upper limits; right effusion.", ["pleural_effusion present right -"]),
    (
        "Cardiomegaly with left ventricular prominence and a right effusion.",
        ["cardiomegaly present - -", "pleural_effusion present right -"],
    ),
]


@pytest.mark.parametrize(("text", "expected"), CASES, ids=[text for text, _ in CASES])
def test_reads_the_finer_list(text: str, expected: str) -> None:
    assert {_written(item) for item in read_findings(text)} == set(re.findall(r"[^\s(]+(?:\([^)]*\))?", expected))


def _written(item: Finding) -> str:
    details = " ".join(part for part in (item.side, item.zone, item.severity) if part)
    return {"present": "", "absent": "-", "uncertain": "?"}[item.status] + item.finding + (f"({details})" if details else "")


@pytest.mark.parametrize(("text", "expected"), SCORED_CASES, ids=[text for text, _ in SCORED_CASES])
def test_reads_the_scored_findings(text: str, expected: list[str]) -> None:
    read = {
        f"{name} {item.status} {item.side or '-'} {item.zone or '-'}"
        for item in read_findings(text)
        for name in RULES.findings[item.finding].scored_as
    }
    assert read == set(expected)


def test_there_are_cases_for_every_finding_and_status() -> None:
    assert len(CASES) >= 150
    assert len(SCORED_CASES) >= 60
    spoken = {tuple(line.split()[:2]) for _, expected in SCORED_CASES for line in expected}
    assert {name for name, status in spoken if status == "present"} == set(SCORED_FINDINGS)
    assert {status for _, status in spoken} == {"present", "absent", "uncertain"}


def test_a_finding_names_its_sentence_as_written() -> None:
    [item] = read_findings("Normal bones.  Small LEFT\npleural effusion.")
    assert item == Finding("pleural_effusion", "present", "left", "", "small", "Small LEFT pleural effusion.")


def test_measurements_do_not_end_a_sentence() -> None:
    [item] = read_findings("No 2.5 cm nodule.")
    assert item.status == "absent"


@pytest.mark.parametrize("text", ["", "   \n", "Lorem ipsum.", "...", "left right bilateral", "no no no without", "\x00\ufffd é"])
def test_a_text_without_findings_reads_as_nothing(text: str) -> None:
    assert read_findings(text) == []


def test_present_findings_of_a_report_are_merged() -> None:
    present = findings_present(
        "Left basal opacity. Right basal opacity, consistent with pneumonia. Left effusion. Possible edema. No pneumothorax. "
        "Nodules in the right upper and mid zones."
    )
    assert {name: (item.side, item.zone) for name, item in present.items()} == {
        "consolidation": ("bilateral", "lower"),
        "pleural_effusion": ("left", ""),
        "nodule": ("right", ""),
    }
    assert present["consolidation"].sentence == "Left basal opacity."


def test_a_very_long_sentence_is_read_in_reasonable_time() -> None:
    text = "heart lungs " * 5000 + "left pleural effusion"
    start = time.perf_counter()
    assert findings_present(text)["pleural_effusion"].side == "left"
    assert time.perf_counter() - start < 5


@pytest.mark.parametrize("style", REPORT_STYLES)
def test_reads_the_findings_of_phantom_reports_back(style: str) -> None:
    for seed in range(300):
        rng = np.random.default_rng([3, seed])
        findings = sample_findings(rng)
        report = write_report(findings, style=REPORT_STYLES[style], rng=rng)
        present = findings_present(report)
        assert {item.finding for item in findings} == set(present), report
        for item in findings:
            read = present[item.finding]
            # The reports leave it unsaid that edema is on both sides.
            assert read.side == item.side or (item.finding == "edema" and not read.side), report
            assert read.zone == item.zone, report
