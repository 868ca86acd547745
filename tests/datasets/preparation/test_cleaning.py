"""The rules of the caption, one worked case a line."""

import pytest

from xraygpt.datasets.preparation.cleaning import clean_caption, clean_sentence, split_sentences


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Lungs are clear. Heart is normal.", ["Lungs are clear.", "Heart is normal."]),
        ("1. Small effusion. 2. No pneumothorax.", ["Small effusion.", "No pneumothorax."]),
        ("1. Bilateral effusions 2. Abnormal contour", ["Bilateral effusions", "Abnormal contour"]),
        ("Fracture of rib 4. The lungs are clear.", ["Fracture of rib 4.", "The lungs are clear."]),
        ("Opacity in the left apex.There is scarring.", ["Opacity in the left apex", "There is scarring."]),
        ("Low lung volumes No focal opacity", ["Low lung volumes", "No focal opacity"]),
        ("A nodule of 1.5 cm. no effusion.", ["A nodule of 1.5 cm. no effusion."]),
        ("Clear lungs bilaterally. there is scoliosis.", ["Clear lungs bilaterally.", "there is scoliosis."]),
        ("", []),
    ],
)
def test_split_sentences(text: str, expected: list[str]) -> None:
    assert split_sentences(text) == expected


@pytest.mark.parametrize(
    ("sentence", "expected"),
    [
        # marks that can go
        ("Normal chest x-XXXX.", "Normal chest x-ray."),
        ("There are no XXXX of a pleural effusion.", "There is no evidence of a pleural effusion."),
        ("No XXXX of active disease.", "No evidence of active disease."),
        ("Incidental note is XXXX of a cervical rib.", "Incidental note is made of a cervical rib."),
        ("No XXXX focal airspace disease.", "No focal airspace disease."),
        ("Patient is status post XXXX sternotomy.", "Patient is status post sternotomy."),
        ("There is a XXXX opacity in the lingula.", "There is an opacity in the lingula."),
        ("XXXX XXXX opacities in the left base.", "Opacities in the left base."),
        ("No ___ infiltrates.", "No infiltrates."),
        # marks that the sentence needs
        ("The XXXX are normal.", ""),
        ("The heart, pulmonary XXXX and mediastinum are normal.", ""),
        ("Calcified lymph XXXX.", ""),
        ("Opacities XXXX representing scarring.", ""),
        ("Left-sided dual-XXXX pacemaker.", ""),
        ("XXXX, XXXX.", ""),
        # comparisons
        ("Compared to the prior study, the effusion is gone.", ""),
        ("No significant interval change.", ""),
        ("The cardiomediastinal silhouette is stable.", ""),
        ("Stable cardiomediastinal silhouette.", ""),
        ("Increased from prior exam.", ""),
        ("No change.", ""),
        ("Improved aeration of the left base.", ""),
        ("Stable cardiomegaly.", "Cardiomegaly."),
        ("There is stable mild cardiomegaly.", "There is mild cardiomegaly."),
        ("There is again biapical scarring.", "There is biapical scarring."),
        ("Severe emphysema is again seen.", "Severe emphysema is seen."),
        ("Mild cardiomegaly, unchanged from prior.", "Mild cardiomegaly."),
        ("The heart size remains normal.", "The heart size is normal."),
        ("Both lungs remain clear.", "Both lungs are clear."),
        ("Sequela of prior granulomatous disease.", "Sequela of prior granulomatous disease."),
        ("Degenerative changes of the spine.", "Degenerative changes of the spine."),
        ("The heart is normal in size.", "The heart is normal in size."),
        # views and technique
        ("PA and lateral views of the chest were obtained.", ""),
        ("2 images.", ""),
        ("The examination consists of frontal and lateral radiographs of the chest.", ""),
        ("Technically limited exam.", ""),
        ("Frontal and lateral views of the chest show a normal heart.", "A normal heart."),
        ("On the lateral view, the bases are clear.", "The bases are clear."),
        ("A lucency is seen above the diaphragm on lateral view, a hernia.", "A lucency is seen above the diaphragm, a hernia."),
        ("This opacity cannot be well identified on the lateral view.", ""),
        ("Heart size is normal for AP technique.", "Heart size is normal."),
        ("No acute radiographic abnormality.", "No acute radiographic abnormality."),
        # who was told
        ("Findings were discussed with Dr. XXXX.", ""),
        ("Critical result notification documented.", ""),
        # tidying
        ("lungs are clear", "Lungs are clear."),
        ("Lungs are clear ..", "Lungs are clear."),
        ("Clear  lungs , no effusion .", "Clear lungs, no effusion."),
        ("19/33.", ""),
    ],
)
def test_clean_sentence(sentence: str, expected: str) -> None:
    assert clean_sentence(sentence) == expected


def test_findings_come_before_the_impression_and_nothing_is_said_twice() -> None:
    caption = clean_caption("The lungs are clear. No pneumothorax.", "1. no pneumothorax. 2. Normal chest.")
    assert caption == "The lungs are clear. No pneumothorax. Normal chest."


def test_a_report_of_comparisons_alone_leaves_nothing() -> None:
    assert clean_caption("Unchanged.", "No interval change.") == ""


def test_cleaning_a_clean_caption_changes_nothing() -> None:
    caption = clean_caption("Heart size XXXX is normal. There is a XXXX effusion, stable.", "Stable cardiomegaly; low volumes.")
    assert clean_caption(caption, "") == caption
