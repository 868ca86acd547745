"""Worked cases: a generated report beside its reference, sentence by sentence and as a whole."""

import math

import pytest

from xraygpt.evaluation.faithfulness import compare_sides, judge_report


@pytest.mark.parametrize(
    ("sentence", "reference", "verdict"),
    [
        # affirmed
        ("Cardiomegaly.", "The cardiac silhouette is enlarged.", "supported"),
        ("A mass.", "A nodule.", "supported"),
        ("Effusion.", "Possible effusion.", "supported"),
        ("Possible effusion.", "Effusion.", "supported"),
        ("Effusion.", "No effusion.", "contradicted"),
        ("Effusion.", "Lungs are clear.", "unmentioned"),
        ("Possible effusion.", "No effusion.", "unmentioned"),
        ("Effusion and pneumothorax.", "Effusion.", "unmentioned"),
        ("Emphysema.", "Emphysema.", "supported"),
        # sides
        ("Left effusion.", "Right effusion.", "contradicted"),
        ("Bilateral effusions.", "Right effusion.", "contradicted"),
        ("Left effusion.", "Bilateral effusions.", "supported"),
        ("Left effusion.", "Right effusion. Left effusion.", "supported"),
        ("Effusion.", "Right effusion.", "supported"),
        ("Left effusion.", "Effusion.", "supported"),
        ("Possible left effusion.", "Right effusion.", "supported"),
        # denied
        ("No effusion.", "No effusion.", "supported"),
        ("No effusion.", "Effusion.", "contradicted"),
        ("No effusion.", "Possible effusion.", "unmentioned"),
        ("No effusion.", "Cardiomegaly.", "unmentioned"),
        ("No effusion or fracture.", "No effusion.", "supported"),
        ("No effusion or fracture.", "No effusion. Fracture.", "contradicted"),
        ("No effusion on the right.", "No effusion on the right. Effusion on the left.", "supported"),
        ("No effusion on the right.", "Effusion on the left.", "unmentioned"),
        ("No effusion.", "No effusion on the right. Effusion on the left.", "contradicted"),
        ("No effusion.", "No effusion on the right.", "supported"),
        # normal statements
        ("The lungs are clear.", "No consolidation.", "supported"),
        ("The lungs are clear.", "The heart is normal.", "supported"),
        ("The lungs are clear.", "Large heart and hernia.", "unmentioned"),
        ("The lungs are clear.", "Consolidation. No edema.", "contradicted"),
        ("The lungs are clear.", "Possible pneumonia. No edema.", "unmentioned"),
        ("The lungs are clear.", "The lungs are clear. Calcified nodule on the left.", "supported"),
        ("No nodule.", "The lungs are clear. Calcified nodule on the left.", "contradicted"),
        ("No nodule.", "The lungs are clear.", "supported"),
        ("No acute disease.", "Normal chest.", "supported"),
        ("No pneumothorax.", "The heart is normal.", "unmentioned"),
        # nothing
        ("The trachea is midline.", "Effusion.", "neutral"),
        ("FINDINGS:", "Effusion.", "neutral"),
    ],
)
def test_verdict_of_a_sentence(sentence: str, reference: str, verdict: str) -> None:
    [judged] = judge_report(sentence, [reference]).sentences
    assert judged.verdict == verdict


def test_the_whole_report_is_shown_with_its_topics() -> None:
    text = "  INDICATION: Effusion?\n\nFINDINGS: Nodule and mass.  Emphysema.\nClear"
    sentences = judge_report(text, ["No nodule."]).sentences
    assert "".join(sentence.text for sentence in sentences) == text
    stated = {sentence.text.strip(): (sentence.verdict, sentence.findings) for sentence in sentences if sentence.text.strip()}
    assert stated == {
        "INDICATION:": ("neutral", ()),
        "Effusion?": ("neutral", ()),
        "FINDINGS:": ("neutral", ()),
        "Nodule and mass.": ("contradicted", ("Lung Lesion",)),
        "Emphysema.": ("unmentioned", ("emphysema",)),
        "Clear": ("neutral", ()),
    }


def test_errors_of_a_report() -> None:
    judged = judge_report(
        "Cardiomegaly. Left effusion. Pneumothorax. Emphysema. Possible edema. No mass.",
        ["Enlarged heart. Right effusion. No pneumothorax. Nodule. Rib fracture. No edema. Possible pneumonia."],
    )
    assert judged.hallucinated == ("Pneumothorax", "emphysema")
    assert judged.omitted == ("Lung Lesion", "Fracture")
    assert judged.contradicted == ("Pneumothorax", "Lung Lesion")
    assert judged.wrong_side == ("Pleural Effusion",)
    assert judged.faithfulness == 1 / 6  # the cardiomegaly; the effusion on the wrong side, and the four above, are not


def test_several_references_are_joined() -> None:
    judged = judge_report("Left effusion. Nodule.", ["No nodule. Effusion.", "Possible nodule. Left effusion. Edema."])
    assert (judged.hallucinated, judged.omitted, judged.wrong_side) == ((), ("Edema",), ())
    assert judged.faithfulness == 2 / 3


@pytest.mark.parametrize(
    ("prediction", "reference", "expected"),
    [
        ("Cardiomegaly. No effusion.", "Cardiomegaly. No pneumothorax.", 1),
        ("The lungs are clear.", "No effusion.", 1),  # both are normal
        ("The lungs are clear. PICC.", "No effusion.", 1 / 2),
        ("The lungs are clear. No effusion.", "Cardiomegaly. The lungs are clear. No effusion.", 0),  # shared denials earn nothing
        ("", "No effusion.", 0),
        ("Lorem ipsum.", "No effusion.", 0),
        ("Possible effusion.", "Effusion.", 1),
        ("Possible effusion.", "No effusion.", 0),
        ("Left effusion.", "Right effusion.", 0),
        ("", "Lorem ipsum.", math.nan),
    ],
)
def test_faithfulness(prediction: str, reference: str, expected: float) -> None:
    assert judge_report(prediction, [reference]).faithfulness == pytest.approx(expected, nan_ok=True)


def test_sides_are_compared_where_the_references_name_one() -> None:
    prediction = "Nodule. Left effusion and right effusion. Possible right pneumothorax. Right consolidation. Left fracture."
    references = ["Left nodule. Left effusion. Left pneumothorax.", "Bilateral consolidation. Fracture.", "Effusion."]
    assert compare_sides(prediction, references) == {"nodule": ("left", ""), "pleural_effusion": ("left", "bilateral")}
