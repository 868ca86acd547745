"""Sentences that compare with an earlier film or another examination, and sentences that only look like it."""

import pytest

from xraygpt.common.comparisons import compares


@pytest.mark.parametrize(
    "sentence",
    [
        "The effusion is unchanged.",
        "Stable cardiomegaly.",
        "New right lower lobe opacity.",
        "Heart size is similar to the prior study.",
        "Interval removal of the chest tube.",
        "The left effusion has increased.",
        "Compared with 5 May, edema is worse.",
        "No significant change.",
        "The nodule was seen on CT.",
        "IMPROVED AERATION.",
    ],
)
def test_compares(sentence: str) -> None:
    assert compares(sentence)


@pytest.mark.parametrize(
    "sentence",
    [
        "",
        "Small left effusion.",
        "The heart is enlarged.",
        "Degenerative changes of the spine.",
        "Increased interstitial markings.",
        "Opacity that is worse on the left.",
        "No acute disease.",
    ],
)
def test_describes_one_film(sentence: str) -> None:
    assert not compares(sentence)
