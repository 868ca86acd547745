"""`xraygpt score`: what do the generated reports find, and is that better than always writing "normal"?"""

import argparse
import random
from pathlib import Path

from xraygpt import __version__
from xraygpt.common.files import write_json, write_text
from xraygpt.evaluation import (
    Case,
    References,
    format_markdown,
    format_table,
    load_references,
    load_reports,
    score_findings,
    write_report_page,
)
from xraygpt.evaluation.report_html import num_errors


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `xraygpt score`."""
    parser.add_argument("--predictions", type=Path, required=True, metavar="FILE", help="generated reports: .jsonl or .csv with id, report")
    parser.add_argument(
        "--references", type=Path, required=True, metavar="PATH", help="a prepared data folder, or a .jsonl or .csv with id, report"
    )
    parser.add_argument("--split", default="test", choices=("train", "val", "test"), help="split of a prepared folder (default: test)")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="gets scorecard.json, scorecard.md and report.html")
    parser.add_argument("--cases", type=_count, default=24, metavar="N", help="cases shown in report.html, drawn at random (default: 24)")
    parser.add_argument("--seed", type=int, default=42, help="seed of that draw (default: 42)")


def run(args: argparse.Namespace) -> int:
    """Score, print the table, write the three files."""
    predictions = load_reports(args.predictions)
    references = load_references(args.references, split=args.split)
    card = score_findings(predictions, references.findings)
    details = {"Generated reports": str(args.predictions), "References": str(args.references), "xraygpt": __version__}
    if args.references.is_dir():
        details["Split"] = args.split

    write_json(args.out / "scorecard.json", {**details, **card.to_dict()})
    write_text(args.out / "scorecard.md", format_markdown(card))
    cases = choose_cases(predictions, references, count=args.cases, seed=args.seed)
    write_report_page(args.out / "report.html", card=card, cases=cases, title="Findings in the generated reports", details=details)
    print(format_table(card))
    print(f"\nWritten to {args.out}: scorecard.json, scorecard.md, report.html")
    return 0


def choose_cases(predictions: dict[str, str], references: References, *, count: int, seed: int) -> list[Case]:
    """A random sample of the reports that depends on `seed` alone, those with most errors first."""
    drawn = random.Random(seed).sample(sorted(predictions), min(count, len(predictions)))
    cases = [Case(key, references.images.get(key), references.texts[key], predictions[key], references.findings[key]) for key in drawn]
    return sorted(cases, key=num_errors, reverse=True)


def _count(text: str) -> int:
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"must be 0 or more, not {value}")
    return value
