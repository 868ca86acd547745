"""The numbers of the scorecard, worked by hand on four studies."""

import json

import pytest

from xraygpt.common.errors import DataError
from xraygpt.evaluation.labels import SCORED_FINDINGS
from xraygpt.evaluation.scorecard import NORMAL_REPORT, format_markdown, format_table, score_findings, true_findings

References = dict[str, list[dict[str, str]]]


def true(finding: str, side: str = "", zone: str = "") -> dict[str, str]:
    return {"finding": finding, "side": side, "zone": zone}


REFERENCES = {
    "a": [true("pleural_effusion", "left"), true("cardiomegaly")],
    "b": [true("pleural_effusion", "right")],
    "c": [true("pleural_effusion", "bilateral")],
    "d": [],
}
PREDICTIONS = {
    "a": "Left pleural effusion.",  # one found on the right side, one missed
    "b": "Left pleural effusion.",  # found, but on the wrong side
    "c": "",  # missed
    "d": "Right pneumothorax.",  # false
}


def test_worked_case() -> None:
    scores = score_findings(PREDICTIONS, REFERENCES).model
    effusion, heart, pneumothorax = (scores.findings[name] for name in ("pleural_effusion", "cardiomegaly", "pneumothorax"))
    assert (effusion.support, effusion.stated, effusion.precision) == (3, 2, 1.0)
    assert effusion.recall == pytest.approx(2 / 3)
    assert effusion.f1 == pytest.approx(0.8)
    assert (heart.support, heart.stated, heart.f1) == (1, 0, 0.0)
    assert (pneumothorax.support, pneumothorax.stated, pneumothorax.precision) == (0, 1, 0.0)
    assert scores.macro_f1 == pytest.approx(0.4)  # effusion and cardiomegaly occur
    assert scores.micro_f1 == pytest.approx(2 * 2 / (2 * 2 + 0 + 2))
    assert (scores.laterality_accuracy, scores.laterality_support) == (0.5, 2)
    assert scores.normal_abnormal_accuracy == 0.5
    assert (scores.distinct_ratio, scores.empty_reports) == (0.75, 1)
    assert list(scores.findings) == list(SCORED_FINDINGS)


def test_the_baseline_finds_nothing_and_is_right_about_normal_studies() -> None:
    baseline = score_findings(PREDICTIONS, REFERENCES).always_normal
    assert (baseline.macro_f1, baseline.micro_f1, baseline.normal_abnormal_accuracy, baseline.distinct_ratio) == (0, 0, 0.25, 0.25)
    assert baseline.laterality_accuracy is None


def test_writing_the_baseline_scores_as_the_baseline() -> None:
    card = score_findings(dict.fromkeys(REFERENCES, NORMAL_REPORT), REFERENCES)
    assert card.model == card.always_normal


def test_references_as_predictions_score_one() -> None:
    texts = {"a": "Cardiomegaly. Left pleural effusion.", "b": "Right effusion.", "c": "Bilateral effusions.", "d": NORMAL_REPORT}
    scores = score_findings(texts, {key: true_findings({"caption": text}) for key, text in texts.items()}).model
    assert (scores.macro_f1, scores.micro_f1, scores.laterality_accuracy, scores.normal_abnormal_accuracy) == (1, 1, 1, 1)


def test_only_normal_studies_have_no_f1() -> None:
    scores = score_findings({"a": "Cardiomegaly."}, {"a": []}).model
    assert (scores.macro_f1, scores.micro_f1, scores.normal_abnormal_accuracy) == (None, None, 0)
    assert scores.findings["cardiomegaly"].stated == 1


def test_an_uncertain_finding_is_not_stated() -> None:
    assert score_findings({"a": "Possible pneumothorax."}, {"a": [true("pneumothorax")]}).model.findings["pneumothorax"].recall == 0


def test_the_order_of_the_ids_changes_nothing() -> None:
    backwards = dict(reversed(PREDICTIONS.items()))
    assert score_findings(backwards, REFERENCES) == score_findings(PREDICTIONS, REFERENCES)


def test_a_finding_listed_on_both_sides_is_bilateral() -> None:
    references = {"a": [true("nodule", "left"), true("nodule", "right")]}
    assert score_findings({"a": "Left nodule."}, references).model.laterality_support == 0


@pytest.mark.parametrize(
    ("predictions", "references", "message"),
    [
        ({"a": ""}, {"a": [], "b": []}, "1 without a report: 'b'"),
        ({"a": "", "z": ""}, {"a": []}, "1 without a reference: 'z'"),
        ({" ": ""}, {" ": []}, "1 empty: ' '"),
        ({}, {}, "no references"),
        ({"a": ""}, {"a": [true("fracture")]}, "'a' has the finding 'fracture'"),
        ({"a": ""}, {"a": [true("nodul")]}, "Did you mean 'nodule'"),
        ({"a": ""}, {"a": [true("nodule", "Left")]}, "'a' has the side 'Left'. Did you mean 'left'"),
        ({"a": ""}, {"a": [true("nodule", "left", "apex")]}, "'a' has the zone 'apex'"),
        ({"a": ""}, {"a": ["nodule"]}, "'a': expected a finding .* got 'nodule'"),
    ],
)
def test_wrong_input_is_an_error_that_says_what(predictions: dict[str, str], references: dict, message: str) -> None:
    with pytest.raises(DataError, match=message):
        score_findings(predictions, references)


def test_many_missing_ids_are_counted_and_ten_listed() -> None:
    references: References = {f"id{index:03}": [] for index in range(100)}
    with pytest.raises(DataError, match=r"100 without a report: 'id000'.*'id009', …") as error:
        score_findings({}, references)
    assert "id010" not in str(error.value)


def test_the_findings_of_an_annotation_come_before_its_caption() -> None:
    assert true_findings({"findings": [], "caption": "Cardiomegaly."}) == []
    assert true_findings({"caption": "Left upper nodule. No effusion."}) == [true("nodule", "left", "upper")]


def test_the_table_shows_every_finding_and_the_baseline() -> None:
    table = format_table(score_findings(PREDICTIONS, REFERENCES))
    lines = {line.split("  ")[0]: line.split() for line in table.splitlines() if line}
    assert lines["pleural_effusion"][1:] == ["3", "2", "1.000", "0.667", "0.800"]
    assert lines["macro-F1"][1:] == ["0.400", "0.000"]
    assert lines["laterality"][1:] == ["0.500", "–"]
    assert lines["normal vs abnormal"][-2:] == ["0.500", "0.250"]
    assert set(SCORED_FINDINGS) <= set(lines)


def test_the_scorecard_is_json_and_markdown() -> None:
    card = score_findings(PREDICTIONS, REFERENCES)
    content = json.loads(json.dumps(card.to_dict()))
    assert content["num_reports"] == 4
    assert content["model"]["findings"]["pleural_effusion"]["f1"] == pytest.approx(0.8)
    assert "| pleural_effusion | 3 | 2 | 1.000 | 0.667 | 0.800 |" in format_markdown(card)
