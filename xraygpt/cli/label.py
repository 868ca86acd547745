"""`xraygpt label`: which findings does each report state as present, absent or uncertain?"""

import argparse
from pathlib import Path

from xraygpt.common.errors import DataError
from xraygpt.common.files import write_text
from xraygpt.common.printable import csv_table, printable_line
from xraygpt.evaluation import FINDINGS, OBSERVATIONS, label_findings, label_report, load_reports

# --findings: (columns, what labels a report)
_LISTS = {"chexpert": (OBSERVATIONS, label_report), "fine": (FINDINGS, label_findings)}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `xraygpt label`."""
    parser.add_argument("--reports", type=Path, required=True, metavar="FILE", help="reports: .jsonl or .csv with id, report")
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        metavar="FILE",
        help="CSV, a row for each id: 1 present, 0 absent, -1 uncertain, empty unsaid",
    )
    parser.add_argument(
        "--findings", default="chexpert", choices=tuple(_LISTS), help="the 14 observations of CheXpert (default), or the finer list"
    )


def run(args: argparse.Namespace) -> int:
    """Label the reports, write the table."""
    if args.out.resolve() == args.reports.resolve():
        raise DataError(f"{args.out}: --out would overwrite the reports. Name another file.")
    columns, label = _LISTS[args.findings]
    reports = load_reports(args.reports)
    labels = {key: label(text) for key, text in reports.items()}
    rows = [[key, *("" if found[name] is None else found[name] for name in columns)] for key, found in labels.items()]
    write_text(args.out, csv_table(["id", *columns], rows))
    print(f"Written to {printable_line(args.out)}: {len(reports)} reports, {len(columns)} findings each")
    return 0
