"""Floor 3: how good the generated reports are. Knows no model and no dataset, only texts and the findings they state."""

from xraygpt.evaluation.finding_rules import OBSERVATIONS
from xraygpt.evaluation.findings import FINDINGS, Finding, read_findings
from xraygpt.evaluation.labels import SCORED_FINDINGS, findings_present, label_findings, label_report, read_statuses
from xraygpt.evaluation.report_files import References, load_references, load_reports
from xraygpt.evaluation.report_html import Case, write_report_page
from xraygpt.evaluation.scorecard import Scorecard, format_markdown, format_table, score_findings, true_findings

__all__ = [
    "FINDINGS",
    "OBSERVATIONS",
    "SCORED_FINDINGS",
    "Case",
    "Finding",
    "References",
    "Scorecard",
    "findings_present",
    "format_markdown",
    "format_table",
    "label_findings",
    "label_report",
    "load_references",
    "load_reports",
    "read_findings",
    "read_statuses",
    "score_findings",
    "true_findings",
    "write_report_page",
]
