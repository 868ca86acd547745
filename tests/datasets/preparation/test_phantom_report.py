"""The reports: what they state is the truth, in every wording of the grammar."""

import numpy as np
import pytest

from xraygpt.datasets.preparation.phantom_findings import sample_findings
from xraygpt.datasets.preparation.phantom_report import REPORT_STYLES, write_report
from xraygpt.evaluation.findings import read_findings
from xraygpt.evaluation.labels import findings_present


def reports(collection: str, number: int = 400):
    rng = np.random.default_rng(11)
    for _ in range(number):
        findings = sample_findings(rng)
        yield findings, write_report(findings, style=REPORT_STYLES[collection], rng=rng)


@pytest.mark.parametrize("collection", REPORT_STYLES)
def test_a_rule_based_reader_finds_the_truth_and_nothing_else(collection):
    for findings, text in reports(collection):
        read = findings_present(text)
        assert set(read) == {item.finding for item in findings}, text
        for item in findings:
            if item.finding != "edema":  # its sides need no words
                assert (read[item.finding].side, read[item.finding].zone) == (item.side, item.zone), text


@pytest.mark.parametrize("collection", REPORT_STYLES)
def test_reports_deny_something_and_never_what_is_there(collection):
    silent = 0
    for findings, text in reports(collection):
        absent = {item.finding for item in read_findings(text) if item.status == "absent"}
        assert not absent & {item.finding for item in findings}, text
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
