"""The reports: what they state is the truth, in every wording of the grammar."""

import numpy as np
import pytest

from xraygpt.datasets.preparation.phantom_findings import FINDING_KINDS, sample_findings
from xraygpt.datasets.preparation.phantom_report import REPORT_STYLES, write_report
from xraygpt.evaluation.findings import merge_sides, merge_zones, read_findings
from xraygpt.evaluation.labels import label_report

# What a phantom finding reads as: its observation, and its names in the finer list.
READ_AS = {
    "cardiomegaly": ("Cardiomegaly", {"cardiomegaly", "enlarged_cardiac_silhouette"}),
    "pleural_effusion": ("Pleural Effusion", {"pleural_effusion"}),
    "pneumothorax": ("Pneumothorax", {"pneumothorax"}),
    "consolidation": ("Consolidation", {"consolidation"}),
    "edema": ("Edema", {"edema"}),
    "nodule": ("Lung Lesion", {"nodule"}),
    "pacemaker": ("Support Devices", {"pacemaker"}),
    "tube": ("Support Devices", {"endotracheal_tube"}),
}


def reports(collection: str, number: int = 400):
    rng = np.random.default_rng(11)
    for _ in range(number):
        findings = sample_findings(rng)
        yield findings, write_report(findings, style=REPORT_STYLES[collection], rng=rng)


@pytest.mark.parametrize("collection", REPORT_STYLES)
def test_a_rule_based_reader_finds_the_truth_and_nothing_else(collection):
    for findings, text in reports(collection):
        stated = [item for item in read_findings(text) if item.status != "absent"]
        for item in findings:
            read = [other for other in stated if other.finding in READ_AS[item.finding][1]]
            assert read, text
            assert {other.status for other in read} == {"present"}, text
            assert merge_zones([other.zone for other in read]) == item.zone, text
            side = merge_sides([other.side for other in read])
            assert side == item.side or (item.finding == "edema" and not side), text  # an edema's sides need no words
        assert {other.finding for other in stated} <= set().union(*(READ_AS[item.finding][1] for item in findings)), text


@pytest.mark.parametrize("collection", REPORT_STYLES)
def test_every_wording_of_a_finding_reads_as_the_same_observation(collection):
    assert set(READ_AS) == set(FINDING_KINDS)
    for findings, text in reports(collection):
        drawn = {READ_AS[item.finding][0] for item in findings}
        labels = label_report(text)
        normal = {"No Finding"} if drawn <= {"Support Devices"} else set()
        assert {name for name, label in labels.items() if label == 1} == drawn | normal, text
        assert -1 not in labels.values(), text


@pytest.mark.parametrize("collection", REPORT_STYLES)
def test_reports_deny_something_and_never_what_is_there(collection):
    silent = 0
    for findings, text in reports(collection):
        absent = {item.finding for item in read_findings(text) if item.status == "absent"}
        assert not absent & {name for item in findings for name in READ_AS[item.finding][1]}, text
        silent += not absent
    assert silent < 0.02 * 400  # only where every finding that can be denied is there


@pytest.mark.parametrize("collection", REPORT_STYLES)
def test_reports_are_plain_sentences(collection):
    for _, text in reports(collection):
        assert text[0].isupper(), text
        assert text.endswith(".")
        assert not any(character in text for character in "{}#<>"), text
        assert "  " not in text


def test_mimic_reports_are_longer_and_both_draw_from_one_small_vocabulary():
    words = {name: [text.lower().replace(".", "").replace(",", "").split() for _, text in reports(name)] for name in REPORT_STYLES}
    mean = {name: np.mean([len(text) for text in texts]) for name, texts in words.items()}
    assert mean["mimic"] > 1.3 * mean["openi"]
    vocabulary = {name: {word for text in texts for word in text} for name, texts in words.items()}
    assert len(vocabulary["mimic"]) < 400
    assert len(vocabulary["openi"] - vocabulary["mimic"]) <= 2


def test_wording_varies():
    texts = [text for findings, text in reports("mimic") if not findings]
    assert len(set(texts)) > 0.5 * len(texts)
