"""Files for the tools whose scores are computed elsewhere: their packages do not install beside ours.

    pairs.json                          Python lists for GREEN, RaTEScore, RadEval and radgraph
    cxr_report_metric_references.csv,   RadCliQ and its parts, by CXR-Report-Metric
    cxr_report_metric_predictions.csv
    rexrank.json                        ReXrank
    index.csv                           which sample each row is

Commands to run on them: docs/evaluation.md.
"""

from collections.abc import Iterable
from pathlib import Path

from xraygpt.common.files import write_json, write_text
from xraygpt.common.printable import csv_table
from xraygpt.evaluation.metric import Corpus

EMPTY = "."
"""Stands for an empty report, which those tools drop, read as NaN or fail on."""


def export_for_other_tools(corpus: Corpus, folder: Path) -> dict[str, str]:
    """Write the reports in the formats of other tools, rows in the order of the corpus.

    Those tools take one reference a report: the first of each sample is written. An empty report is written as ".".

    Args:
        folder: made where it does not exist; files of the same names are replaced.

    Returns:
        Name of each file → who reads it.
    """
    references = [texts[0] for texts in corpus.references]
    predictions = [text if text.strip() else EMPTY for text in corpus.predictions]
    rows = range(len(corpus.ids))  # CXR-Report-Metric takes whole numbers only
    write_json(folder / "pairs.json", {"references": references, "hypotheses": predictions})
    _write_csv(folder / "cxr_report_metric_references.csv", ("study_id", "report"), zip(rows, references, strict=True))
    _write_csv(folder / "cxr_report_metric_predictions.csv", ("study_id", "report"), zip(rows, predictions, strict=True))
    # ReXrank joins the two sections into one reference; ours are whole reports.
    write_json(
        folder / "rexrank.json",
        {
            key: {"section_findings": reference, "section_impression": "", "model_prediction": prediction}
            for key, reference, prediction in zip(corpus.ids, references, predictions, strict=True)
        },
    )
    _write_csv(folder / "index.csv", ("study_id", "id"), zip(rows, corpus.ids, strict=True))
    return {
        "pairs.json": "GREEN, RaTEScore, RadEval, radgraph: lists of references and hypotheses",
        "cxr_report_metric_references.csv": "CXR-Report-Metric (RadCliQ): GT_REPORTS",
        "cxr_report_metric_predictions.csv": "CXR-Report-Metric (RadCliQ): PREDICTED_REPORTS",
        "rexrank.json": "ReXrank: predictions",
        "index.csv": "the id of each row and study_id above",
    }


def _write_csv(path: Path, header: tuple[str, str], rows: Iterable[tuple[int, str]]) -> None:
    write_text(path, csv_table(header, rows))
