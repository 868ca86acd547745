"""The words beside every text of a model."""

import pytest

from xraygpt.serving.safety import (
    FLAGS,
    LOW_CONFIDENCE,
    REPORT_QUESTION,
    RESEARCH_NOTICE,
    comparing_sentences,
    dropped_turns_note,
    find_flags,
    with_notice,
)


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("The effusion is unchanged. The heart is  large.", ["The effusion is unchanged."]),
        ("Small effusion. New opacity, worse\nthan before. Stable heart.", ["New opacity, worse than before.", "Stable heart."]),
        ("No pneumothorax. Small left effusion.", []),
        ("COMPARISON: unchanged since 2010. FINDINGS: Clear lungs.", []),  # not a statement about the film
        ("", []),
    ],
)
def test_sentences_that_compare(text: str, sentences: list[str]) -> None:
    assert comparing_sentences(text) == sentences


@pytest.mark.parametrize(
    ("text", "how", "flags"),
    [
        ("Clear lungs.", {}, []),
        ("Improved effusion.", {}, ["compares_with_prior"]),
        ("Improved effusion, impro", {"truncated": True}, ["compares_with_prior", "truncated"]),
        ("Clear. Clear. Clear.", {"truncated": True, "repeated": True}, ["repeated"]),
        (" \n", {}, ["empty"]),
        (" . ", {}, ["empty"]),
    ],
)
def test_flags_of_a_text(text: str, how: dict[str, bool], flags: list[str]) -> None:
    assert find_flags(text, **how) == flags


def test_a_text_leaves_with_notes_and_notice() -> None:
    assert with_notice("Clear lungs.") == f"Clear lungs.\n\n{RESEARCH_NOTICE}"
    noted = with_notice("New opacity", flags=["compares_with_prior", "truncated"], concerns=["Lateral view."]).splitlines()
    assert noted == [
        "New opacity",
        "",
        f"Note: {FLAGS['compares_with_prior']}",
        f"Note: {FLAGS['truncated']}",
        "Note on the image: Lateral view.",
        RESEARCH_NOTICE,
    ]


def test_forgotten_turns_are_told() -> None:
    assert dropped_turns_note(0) == ""
    assert "its oldest question." in dropped_turns_note(1)
    assert "its 3 oldest questions." in dropped_turns_note(3)


def test_the_words_advise_on_no_diagnosis() -> None:
    assert "research only" in RESEARCH_NOTICE
    words = " ".join([*FLAGS.values(), REPORT_QUESTION, dropped_turns_note(2)]).lower()
    assert not any(word in words for word in ("diagnos", "treat", "recommend", "patient", "consult", "you should"))
    assert 0 < LOW_CONFIDENCE < 1
