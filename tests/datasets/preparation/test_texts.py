"""What becomes of a study's text: the paper's filters, the text as it stands, or none."""

import pytest

from xraygpt.common.errors import DataError
from xraygpt.datasets.preparation.study import Study
from xraygpt.datasets.preparation.texts import SummaryText, build_text

TEN_WORDS = "There are one two three four five six seven eight"
NINE_WORDS = "There are one two three four five six seven"
PAPER = SummaryText(min_findings_words=10, min_impression_words=2)


def study(findings: str = "", impression: str = "", text: str = "") -> Study:
    return Study(study_id="CXR1", images=(), findings=findings, impression=impression, text=text)


@pytest.mark.parametrize(
    ("findings", "impression", "reason"),
    [
        (TEN_WORDS, "Normal chest.", ""),
        ("", "Normal chest.", "without findings"),
        (" \n", "Normal chest.", "without findings"),
        (TEN_WORDS, "", "without impression"),
        ("", "", "without findings"),
        (NINE_WORDS, "Normal chest.", "findings under 10 words"),
        (TEN_WORDS, "Normal.", "impression under 2 words"),
        ("Unchanged. " * 10, "No change.", "nothing left after cleaning"),
    ],
)
def test_the_papers_filters(findings: str, impression: str, reason: str) -> None:
    text, why = PAPER.write(study(findings, impression))
    assert why == reason
    assert bool(text) == (reason == "")
    assert reason in ("", *PAPER.reasons)


def test_the_thresholds_are_options() -> None:
    text = SummaryText(min_findings_words=2, min_impression_words=1)
    assert text.write(study("Clear lungs.", "Normal.")) == ("Clear lungs. Normal.", "")
    assert "findings under 2 words" in text.reasons


def test_as_is_keeps_every_word() -> None:
    plain = build_text("as-is", min_findings_words=10, min_impression_words=2)
    assert plain.write(study(text=" Unverändert,\n XXXX. ")) == ("Unverändert, XXXX.", "")
    assert plain.write(study(text=" \n")) == ("", "empty text")


def test_no_text_drops_nothing() -> None:
    assert build_text("none", min_findings_words=10, min_impression_words=2).write(study()) == ("", "")


def test_an_unknown_way_is_refused() -> None:
    with pytest.raises(DataError, match="summary, as-is, none, not 'raw'"):
        build_text("raw", min_findings_words=10, min_impression_words=2)
