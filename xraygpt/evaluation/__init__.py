"""Floor 3: how good the generated reports are. Knows no model and no dataset, only texts and the findings they state."""

from xraygpt.evaluation import clinical, degeneracy, lexical  # noqa: F401  register their metrics
from xraygpt.evaluation.finding_rules import OBSERVATIONS
from xraygpt.evaluation.findings import FINDINGS, Finding, read_findings
from xraygpt.evaluation.labels import label_findings, label_report, read_statuses
from xraygpt.evaluation.metric import (
    Corpus,
    Metric,
    check_metric_names,
    compute_metrics,
    mean_formula,
    metric_names,
    ratio,
    register_metrics,
    with_count,
)
from xraygpt.evaluation.report_files import load_predictions, load_references, load_reports, pair
from xraygpt.evaluation.scorecard import Scorecard

__all__ = [
    "FINDINGS",
    "OBSERVATIONS",
    "Corpus",
    "Finding",
    "Metric",
    "Scorecard",
    "check_metric_names",
    "compute_metrics",
    "label_findings",
    "label_report",
    "load_predictions",
    "load_references",
    "load_reports",
    "mean_formula",
    "metric_names",
    "pair",
    "ratio",
    "read_findings",
    "read_statuses",
    "register_metrics",
    "with_count",
]
