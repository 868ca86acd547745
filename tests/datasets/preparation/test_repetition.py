"""What one sentence says of another, one worked case a line."""

import re

import pytest

from xraygpt.datasets.preparation.repetition import without_repeats

REFERS_BACK = re.compile("This")


@pytest.mark.parametrize(
    ("sentences", "expected"),
    [
        ([], []),
        (["A left effusion.", "A left effusion."], ["A left effusion."]),
        # the same in other words: the first stays
        (["The heart is normal in size.", "Heart size is normal."], ["The heart is normal in size."]),
        (["Lungs are clear.", "Clear lungs."], ["Lungs are clear."]),
        # a part of another goes, wherever it stands
        (["Mild cardiomegaly.", "There is mild cardiomegaly with edema."], ["There is mild cardiomegaly with edema."]),
        (["Small right pleural effusion.", "Right effusion."], ["Small right pleural effusion."]),
        # sides decide
        (["Left effusion.", "Right effusion."], ["Left effusion.", "Right effusion."]),
        (["Left larger than right.", "Right larger than left."], ["Left larger than right.", "Right larger than left."]),
        # a doubt is not a fact, a denial not an assertion
        (["Possible pneumonia.", "Pneumonia."], ["Possible pneumonia.", "Pneumonia."]),
        (["Opacity consistent with edema.", "Edema."], ["Opacity consistent with edema.", "Edema."]),
        (["No left effusion.", "Left effusion."], ["No left effusion.", "Left effusion."]),
        (["Heart size is normal.", "Normal."], ["Heart size is normal.", "Normal."]),
        (["Chest.", "Clear.", "Hand.", "Negative.", "Chest.", "Clear."], ["Chest.", "Clear.", "Hand.", "Negative.", "Chest.", "Clear."]),
        # denials, item by item
        (["No mass, pleural effusion or pneumothorax.", "No pneumothorax."], ["No mass, pleural effusion or pneumothorax."]),
        (["No effusion.", "No edema.", "No edema or effusion."], ["No effusion.", "No edema."]),
        (["There is no pneumothorax.", "No pneumothorax or effusion is seen."], ["No pneumothorax or effusion is seen."]),
        (["No large pneumothorax.", "No pneumothorax."], ["No large pneumothorax.", "No pneumothorax."]),
        (["No effusion but edema.", "No effusion."], ["No effusion but edema.", "No effusion."]),
        # what the next sentence is about stays
        (["There is a left opacity at the base.", "Left opacity.", "This suggests scarring."],
         ["There is a left opacity at the base.", "Left opacity.", "This suggests scarring."]),
    ],
)  # fmt: skip
def test_without_repeats(sentences: list[str], expected: list[str]) -> None:
    assert without_repeats(sentences, refers_back=REFERS_BACK) == expected
