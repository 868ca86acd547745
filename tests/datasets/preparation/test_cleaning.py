"""The rules of the caption, one worked case a line."""

import csv
import re
from itertools import product
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xraygpt.datasets.preparation.cleaning import MAX_SENTENCE_CHARACTERS, clean_caption, clean_sentence, judge, split_sentences


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
        ("Opacity in the right\n base. There is\n no effusion.", ["Opacity in the right base.", "There is no effusion."]),
        ("Small effusion\n\nClear left lung", ["Small effusion", "Clear left lung"]),
        ("1. Left effusion.\n \n 2. No edema.", ["Left effusion.", "No edema."]),
        ("1) Left effusion. 2) No edema.", ["Left effusion.", "No edema."]),
        ("Told to Dr. ___ at 3 p.m. Small effusion.", ["Told to Dr. ___ at 3 p.m.", "Small effusion."]),
        ("Atelectasis vs. Pneumonia. No edema.", ["Atelectasis vs. Pneumonia.", "No edema."]),
        ("Line, e.g. PICC. Clear lungs.", ["Line, e.g. PICC.", "Clear lungs."]),
        ("Wedging of T12. No effusion.", ["Wedging of T12.", "No effusion."]),
        ("A 2.5 cm nodule. ___ is noted.", ["A 2.5 cm nodule.", "___ is noted."]),
        ("The tip is approx. 3 cm above the carina.", ["The tip is approx. 3 cm above the carina."]),
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
        ("Patient is status post XXXX sternotomy.", "Patient is status post sternotomy."),
        ("There is a XXXX opacity in the lingula.", "There is an opacity in the lingula."),
        ("XXXX XXXX opacities in the left base.", "Opacities in the left base."),
        # Open-i's marks whose word is known, as it never takes out another there
        ("Calcified lymph XXXX.", "Calcified lymph nodes."),
        ("Opacities XXXX representing scarring.", "Opacities likely representing scarring."),
        ("Left base opacity, XXXX atelectasis.", "Left base opacity, likely atelectasis."),
        ("This most XXXX represents a granuloma.", "This most likely represents a granuloma."),
        ("Both costophrenic XXXX are blunted.", "Both costophrenic angles are blunted."),
        ("XXXX sternotomy XXXX are intact.", "Sternotomy wires are intact."),
        ("The lung XXXX are clear.", "The lungs are clear."),
        ("Obscured right heart XXXX.", "Obscured right heart border."),
        ("Tip in the superior vena XXXX.", "Tip in the superior vena cava."),
        # "no ___ infiltrate" may have been "no new infiltrate", in a lung that has an old one
        ("No XXXX focal airspace disease.", ""),
        ("No ___ infiltrates.", ""),
        ("Congestion without XXXX edema, consolidation.", "Congestion."),
        # MIMIC-CXR's marks
        ("The tube ends ___ cm above the carina.", "The tube ends above the carina."),
        ("A nodule measuring approximately ___ x ___ mm is seen.", "A nodule is seen."),
        ("There is a ___ mm nodule in the left apex.", "There is a nodule in the left apex."),
        ("Swan-___ catheter in the right pulmonary artery.", "Swan-Ganz catheter in the right pulmonary artery."),
        ("Fracture of the left ___ rib.", "Fracture of the left rib."),
        ("A ___ tube ends in the stomach.", "A tube ends in the stomach."),
        ("There is a XXXX 7 XXXX nodular density.", "There is a nodular density."),
        ("Fracture of T___.", ""),
        ("Opacity as on ___.", ""),
        ("Right base opacity (___).", "Right base opacity."),
        # marks that the sentence needs
        ("The XXXX are normal.", ""),
        ("The heart, pulmonary XXXX and mediastinum are normal.", ""),
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
        ("Compared with the study of ___, there is a left effusion.", "There is a left effusion."),
        ("As compared to the previous radiograph, there is increased edema.", ""),
        ("In comparison with the study of ___, there is little change.", ""),
        ("As compared to the previous radiograph, no relevant change.", ""),
        ("AP chest compared to ___ at 5:30 a.m.: Lungs are clear.", "Lungs are clear."),
        ("AP chest compared to ___:", ""),
        ("Large left pleural effusion is new.", "There is a large left pleural effusion."),
        ("Opacity at the left lung base is unchanged.", "There is an opacity at the left lung base."),
        ("Bilateral pleural effusions are unchanged since ___.", "There are bilateral pleural effusions."),
        ("The cardiac silhouette is new.", ""),
        ("Right lower lobe opacities are better seen in prior CT.", ""),
        ("New right basilar opacity.", "Right basilar opacity."),
        ("There is a new opacity.", "There is an opacity."),
        ("Lung nodule, new since ___.", "Lung nodule."),
        ("No new consolidation.", ""),
        ("There is no new or worsening edema.", ""),
        ("Worsening left lower lobe consolidation.", "Left lower lobe consolidation."),
        ("Worsening aeration of the left lung.", ""),
        ("Improving edema.", ""),
        ("Pulmonary edema has resolved.", ""),
        ("Left pleural effusion has decreased.", ""),
        ("Small effusion, increased from prior.", ""),
        ("Heart remains enlarged.", "Heart is enlarged."),
        ("There remains a small effusion.", "There is a small effusion."),
        ("Lung volumes are unchanged.", ""),
        ("Lungs are now clear.", "Lungs are clear."),
        ("The opacity is no longer seen.", ""),
        ("Heart size is normal and unchanged.", "Heart size is normal."),
        ("The heart is enlarged but stable.", "The heart is enlarged."),
        ("Heart size is normal, stable mediastinal contours.", "Heart size is normal."),
        ("Right PICC ends in the SVC (unchanged).", "Right PICC ends in the SVC."),
        ("A mass, previously 3 cm.", "A mass."),
        ("Again seen is a left chest tube.", "There is a left chest tube."),
        ("As before, there is an effusion.", "There is an effusion."),
        ("Persistent left effusion.", "Left effusion."),
        ("No persistent pneumothorax.", ""),
        ("Interval placement of a right chest tube.", "Right chest tube."),
        ("Interval removal of the right chest tube.", ""),
        ("The patient has been extubated.", ""),
        ("Stable chest with no pneumonia.", "No pneumonia."),
        ("No pneumothorax following thoracentesis.", "No pneumothorax."),
        ("CT from ___ showed a nodule.", ""),
        ("Effusions, left worse than right.", "Effusions, left worse than right."),
        ("Opacity is more prominent on the right.", "Opacity is more prominent on the right."),
        ("The right lower lobe is clear.", "The right lower lobe is clear."),
        ("Sequela of prior granulomatous disease.", "Sequela of prior granulomatous disease."),
        ("Degenerative changes of the spine.", "Degenerative changes of the spine."),
        ("The heart is normal in size.", "The heart is normal in size."),
        # history
        ("___-year-old man with cough.", ""),
        ("The patient's known history of COPD.", ""),
        ("Hyperinflation, consistent with a history of COPD.", "Hyperinflation."),
        ("This may be pneumonia given the patient's history.", "This may be pneumonia."),
        ("Density from a known hiatal hernia.", "Density from a hiatal hernia."),
        ("Findings consistent with COPD.", "Findings consistent with COPD."),
        ("Patient is s/p CABG.", "Patient is status post CABG."),
        ("?early infiltrate.", "Possible early infiltrate."),
        # views and technique
        ("Single portable AP upright view of the chest.", ""),
        ("Patient is rotated to the left.", ""),
        ("Portable chest radiograph: Low lung volumes.", "Low lung volumes."),
        ("No pneumothorax is seen on this supine radiograph.", "No pneumothorax is seen."),
        ("No effusion on the lateral view.", ""),
        ("A nodule, seen well on PA view only.", "A nodule."),
        ("The posterior angles are excluded on the lateral view.", ""),
        ("Malignancy is not excluded.", "Malignancy is not excluded."),
        ("Prior chest radiographs show a nodule.", ""),
        ("No chest radiographs show a nodule.", "No chest radiographs show a nodule."),
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
        ("Discussed with Dr ___ at 9:15 AM.", ""),
        ("Findings entered into the results dashboard.", ""),
        # tidying
        ("lungs are clear", "Lungs are clear."),
        ("Lungs are clear ..", "Lungs are clear."),
        ("Clear  lungs , no effusion .", "Clear lungs, no effusion."),
        ("19/33.", ""),
        ("Left effusion ( ).", "Left effusion."),
        ("Left effusion (small.", "Left effusion, small."),
        ("a effusion and an nodule", "An effusion and a nodule."),
        ("Opacity " * 80, ""),
    ],
)
def test_clean_sentence(sentence: str, expected: str) -> None:
    assert clean_sentence(sentence) == expected


@pytest.mark.parametrize(
    ("findings", "impression", "expected"),
    [
        ("Lungs are clear. No edema.", "1. no edema. 2. Normal chest.", "Lungs are clear. No edema. Normal chest."),
        ("Unchanged.", "No interval change.", ""),
        # what refers to a sentence that was left out goes with it
        ("Normal heart. Opacity has increased. This may be edema. Clear apices.", "", "Normal heart. Clear apices."),
        ("Normal heart. PICC has been pulled back. The tip is in the SVC.", "", "Normal heart."),
        ("Left opacity. Unchanged. However, no edema.", "", "Left opacity. No edema."),
        ("Left opacity. Unchanged. However.", "", "Left opacity."),
        ("Density seen on lateral view only. This may be a granuloma. Clear apices.", "", "Clear apices."),
        # nothing is said twice
        ("There is a small left pleural effusion.", "Small left pleural effusion.", "There is a small left pleural effusion."),
        ("Clear lungs.", "The lungs are clear. No edema.", "Clear lungs. No edema."),
        # the published example
        (
            "Cardiac size cannot be evaluated.  Large left pleural effusion is new.  Small\n right effusion is new.  The upper lungs "
            "are clear.  Right lower lobe opacities\n are better seen in prior CT.  There is no pneumothorax.  There are mild\n "
            "degenerative changes in the thoracic spine\n",
            "Large left pleural effusion",
            "Cardiac size cannot be evaluated. There is a large left pleural effusion. There is a small right effusion. The upper lungs "
            "are clear. There is no pneumothorax. There are mild degenerative changes in the thoracic spine.",
        ),
    ],
)  # fmt: skip
def test_clean_caption(findings: str, impression: str, expected: str) -> None:
    assert clean_caption(findings, impression) == expected


def test_cleaning_a_clean_caption_changes_nothing() -> None:
    caption = clean_caption("Heart size XXXX is normal. There is a XXXX effusion, stable.", "Stable cardiomegaly; low volumes.")
    assert clean_caption(caption, "") == caption


@pytest.mark.parametrize(
    ("sentence", "reason"),
    [
        ("Small effusion.", ""),
        ("No significant change.", "comparison"),
        ("PA and lateral views.", "view"),
        ("History of asthma.", "history"),
        ("Discussed with the team.", "notification"),
        ("The XXXX are normal.", "mark"),
        ("The heart is.", "fragment"),
        ("Effusion " * MAX_SENTENCE_CHARACTERS, "no sentence"),
        ("...", "no words"),
    ],
)
def test_the_reason_of_a_drop_is_told(sentence: str, reason: str) -> None:
    assert judge(sentence)[1] == reason


FRAMES = (
    "{}.",
    "{} is unchanged.",
    "{} is seen on this portable film.",
    "{}, stable since ___.",
    "In comparison with the study of ___, there is {}.",
    "AP chest compared to ___: {}.",
    "{} given the history of asthma.",
    "{} after removal of the tube.",
    "As before, there is {}.",
    "There is again {}.",
)
DENIALS = ("no", "no new", "no persistent", "no residual", "no worsening", "no evidence of new", "no ___", "no stable", "no increasing")


@pytest.mark.parametrize("frame", FRAMES)
def test_no_rule_loses_a_negation_or_widens_it(frame: str) -> None:
    for denial, finding in product(DENIALS, ("pneumothorax", "left pleural effusion", "focal opacity")):
        sentence = frame.format(f"{denial} {finding}")
        cleaned = clean_sentence(sentence[0].upper() + sentence[1:])
        assert not cleaned or re.search(r"\bno\b", cleaned, re.IGNORECASE), sentence
        assert not cleaned or denial in ("no", "no residual"), sentence  # "no new opacity" does not become "no opacity"


MAY_BE_ADDED = {
    *("a", "an", "are", "evidence", "is", "no", "of", "seen", "there"),
    *("angle", "angles", "border", "cava", "least", "likely", "lungs", "made", "nodes", "ray", "wire", "wires"),
}
NEGATIONS = {"no", "not", "nor", "without", "cannot", "never", "negative", "free", "absent"}


def test_no_sentence_of_a_real_report_gains_a_word_or_loses_a_negation(test_data: Path) -> None:
    def words(text: str) -> set[str]:
        return set(re.findall(r"[a-z]+", text.lower()))

    with open(test_data / "openi_kaggle_sample" / "indiana_reports.csv", newline="") as handle:
        sentences = [sentence for row in csv.DictReader(handle) for sentence in split_sentences(f"{row['findings']} {row['impression']}")]
    kept = [(sentence, cleaned) for sentence in sentences if (cleaned := clean_sentence(sentence))]
    assert len(kept) > 500
    for sentence, cleaned in kept:
        assert words(cleaned) <= words(sentence) | MAY_BE_ADDED
        if words(sentence) & NEGATIONS and "history" not in sentence and "XXXX" not in sentence:
            assert words(cleaned) & NEGATIONS, sentence


def test_real_reports_leave_no_mark_and_stay_as_they_are_when_cleaned_again(test_data: Path) -> None:
    with open(test_data / "openi_kaggle_sample" / "indiana_reports.csv", newline="") as handle:
        captions = [clean_caption(row["findings"], row["impression"]) for row in csv.DictReader(handle)]
    assert sum(map(bool, captions)) > 100
    for caption in captions:
        assert not re.search(r"XX|__|\(\s*\)|\s[,.;]|[,;]\.|\.\.|  ", caption)
        assert all(re.match(r"[A-Z\d]", sentence) for sentence in split_sentences(caption))
        assert clean_caption(caption, "") == caption


PIECES = [
    "No ",
    "new ",
    "effusion",
    ". ",
    "XXXX ",
    "___",
    "stable",
    ", ",
    "is ",
    "are ",
    "There ",
    "1. ",
    "\n",
    "on lateral view",
    "(",
    ")",
    "left ",
    "or ",
]


@given(st.lists(st.sampled_from(PIECES), max_size=30).map("".join) | st.text(max_size=200))
def test_any_text_gives_clean_sentences(text: str) -> None:
    caption = clean_caption(text, text)
    assert caption == clean_caption(text, text)
    assert not re.search(r"XXX|__|\n|^\s|\s$", caption)
    assert len(caption) <= 4 * len(text) + 100


@pytest.mark.parametrize(
    "piece",
    [" ", "\n\n", "A. ", "a", "___ ", "XXXX ", "1. ", "stable, ", "unchanged from ", "No mass or edema. ", "exam ", ": ", ", ", "(", "? "],
)  # fmt: skip
def test_long_odd_texts_return(piece: str) -> None:
    assert len(clean_caption(piece * (100_000 // len(piece)), "")) < 110_000
