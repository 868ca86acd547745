"""Worked cases of the reader: a sentence, and what it must read from it."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.evaluation.sentence_cases import CASES
from xraygpt.evaluation.findings import FINDINGS, Finding, read_findings, read_passages

_STATEMENT = re.compile(r"[^\s(]+(?:\([^)]*\))?")  # a finding, and its place in brackets


@pytest.mark.parametrize(("text", "expected"), CASES, ids=[text for text, _ in CASES])
def test_reads_what_a_sentence_states(text: str, expected: str) -> None:
    assert {_written(item) for item in read_findings(text)} == set(_STATEMENT.findall(expected))


def _written(item: Finding) -> str:
    details = " ".join(part for part in (item.side, item.zone, item.severity) if part)
    return {"present": "", "absent": "-", "uncertain": "?"}[item.status] + item.finding + (f"({details})" if details else "")


def test_there_are_cases_for_every_finding_and_status() -> None:
    assert len(CASES) >= 200
    stated = [statement.split("(")[0] for _, expected in CASES for statement in _STATEMENT.findall(expected)]
    assert {name for name in stated if name[0] not in "-?"} == set(FINDINGS)
    assert sum(name[0] == "-" for name in stated) >= 100
    assert sum(name[0] == "?" for name in stated) >= 25


def test_a_finding_names_its_sentence_as_written() -> None:
    [item] = read_findings("Normal bones.  Small LEFT\npleural effusion.")
    assert item == Finding("pleural_effusion", "present", "left", "", "small", "Small LEFT pleural effusion.")


def test_measurements_do_not_end_a_sentence() -> None:
    [item] = read_findings("No 2.5 cm nodule.")
    assert item.status == "absent"


@pytest.mark.parametrize("text", ["", "   \n", "Lorem ipsum.", "...", "left right bilateral", "no no no without", "\x00\ufffd é"])
def test_a_text_without_findings_reads_as_nothing(text: str) -> None:
    assert read_findings(text) == []


def test_a_very_long_sentence_is_read() -> None:
    text = "heart lungs " * 5000 + "left pleural effusion"
    assert [(item.finding, item.side) for item in read_findings(text)] == [("pleural_effusion", "left")]


@pytest.mark.parametrize(
    ("text", "implied"),
    [
        ("The lungs are clear.", True),
        ("Normal heart size.", True),
        ("No acute disease.", True),
        ("No effusion.", False),
        ("The heart is not enlarged.", False),
        ("Effusion.", False),
    ],
)
def test_knows_what_a_statement_of_normality_only_implies(text: str, implied: bool) -> None:
    assert {item.implied for item in read_findings(text)} == {implied}


def test_passages_are_sentences_and_headings() -> None:
    passages = read_passages("INDICATION: effusion?\nFINDINGS: Clear lungs.Small nodule.  \n\nEdema")
    assert [(passage.text, passage.describes, len(passage.findings)) for passage in passages] == [
        ("INDICATION:", False, 0),
        (" effusion?\n", False, 0),
        ("FINDINGS:", False, 0),
        (" Clear lungs.", True, 8),
        ("Small nodule.  \n\n", True, 1),
        ("Edema", True, 1),
    ]


@given(st.text(alphabet="ab A.!?\n:", max_size=40).map(lambda text: f"{text}Impression: {text}Comparison:{text}"))
def test_passages_joined_give_the_report(text: str) -> None:
    assert "".join(passage.text for passage in read_passages(text)) == text
