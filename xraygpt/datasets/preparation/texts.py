"""What becomes of a study's text: the paper's summary, the text as it stands, or none.

A study without a usable text is dropped, under the name of one of the way's reasons.
"""

from typing import Protocol

from xraygpt.common.errors import DataError
from xraygpt.datasets.preparation.cleaning import clean_caption
from xraygpt.datasets.preparation.study import Study

TEXTS = ("summary", "as-is", "none")


class StudyText(Protocol):
    """One way to make a study's text."""

    @property
    def reasons(self) -> tuple[str, ...]:
        """The names of its drops, in the order in which they are tried."""
        ...

    def write(self, study: Study) -> tuple[str, str]:
        """Return (text, "") of a study that is kept, ("", reason) of one that is not."""
        ...


class SummaryText:
    """Findings and impression, both long enough, cleaned and joined: the summary of the paper (XrayGPT, README-DATASET).

    Args:
        min_findings_words: shorter findings are dropped; the paper has 10.
        min_impression_words: shorter impressions are dropped; the paper has 2.
    """

    def __init__(self, *, min_findings_words: int, min_impression_words: int) -> None:
        self.min_findings_words, self.min_impression_words = min_findings_words, min_impression_words
        self.reasons: tuple[str, ...] = (
            "without findings",
            "without impression",
            f"findings under {min_findings_words} words",
            f"impression under {min_impression_words} words",
            "nothing left after cleaning",
        )

    def write(self, study: Study) -> tuple[str, str]:
        """The summary of a study, or why it has none."""
        no_findings, no_impression, short_findings, short_impression, nothing_left = self.reasons
        if not study.findings.strip():
            return "", no_findings
        if not study.impression.strip():
            return "", no_impression
        if count_words(study.findings) < self.min_findings_words:
            return "", short_findings
        if count_words(study.impression) < self.min_impression_words:
            return "", short_impression
        caption = clean_caption(study.findings, study.impression)
        return caption, "" if caption else nothing_left


class PlainText:
    """The text as it stands in the source, on one line."""

    reasons: tuple[str, ...] = ("empty text",)

    def write(self, study: Study) -> tuple[str, str]:
        """The text of a study, or that it is empty."""
        text = " ".join(study.text.split())
        return text, "" if text else "empty text"


class NoText:
    """Images alone, for generation."""

    reasons: tuple[str, ...] = ()

    def write(self, study: Study) -> tuple[str, str]:
        """No text, and no reason to drop the study."""
        return "", ""


def build_text(kind: str, *, min_findings_words: int, min_impression_words: int) -> StudyText:
    """The way named by one of `TEXTS`.

    Raises:
        DataError: there is no such way.
    """
    if kind == "summary":
        return SummaryText(min_findings_words=min_findings_words, min_impression_words=min_impression_words)
    if kind not in TEXTS:
        raise DataError(f"The text must be one of {', '.join(TEXTS)}, not {kind!r}.")
    return PlainText() if kind == "as-is" else NoText()


def count_words(text: str) -> int:
    """Number of words as white space separates them."""
    return len(text.split())
