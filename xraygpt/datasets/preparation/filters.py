"""The paper's filters on whole reports, each with a count of what it removed."""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Report:
    """One radiology report and the images that it is about."""

    study_id: str
    findings: str
    """The section's text, "" if the report has none."""
    impression: str
    """The section's text, "" if the report has none."""
    image_ids: tuple[str, ...]
    image_description: str = ""
    """What the report calls its images, such as "PA and lateral chest"."""


def count_words(text: str) -> int:
    """Number of words as white space separates them."""
    return len(text.split())


def filter_reports(reports: Iterable[Report], *, min_findings_words: int, min_impression_words: int) -> tuple[list[Report], dict[str, int]]:
    """Keep the reports that have findings and an impression, both long enough.

    Args:
        reports: all reports read.
        min_findings_words: shorter findings are dropped; the paper has 10.
        min_impression_words: shorter impressions are dropped; the paper has 2.

    Returns:
        The reports kept, in order; the number that each filter dropped, in the order of the filters (a report counts once).
    """
    dropped = {
        "without findings": 0,
        "without impression": 0,
        f"findings under {min_findings_words} words": 0,
        f"impression under {min_impression_words} words": 0,
    }
    no_findings, no_impression, short_findings, short_impression = dropped
    kept = []
    for report in reports:
        if not report.findings.strip():
            dropped[no_findings] += 1
        elif not report.impression.strip():
            dropped[no_impression] += 1
        elif count_words(report.findings) < min_findings_words:
            dropped[short_findings] += 1
        elif count_words(report.impression) < min_impression_words:
            dropped[short_impression] += 1
        else:
            kept.append(report)
    return kept, dropped
