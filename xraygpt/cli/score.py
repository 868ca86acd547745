"""`xraygpt score`: how good are these reports? How much better is one system than another? Does a scorecard hold?"""

import argparse
from pathlib import Path

from xraygpt.common.config import import_user_module
from xraygpt.common.errors import DataError
from xraygpt.common.files import write_json, write_text
from xraygpt.common.printable import printable_line, printable_text
from xraygpt.evaluation import check_metric_names, metric_names
from xraygpt.evaluation.checking import check_scorecard
from xraygpt.evaluation.comparison import compare_systems, format_comparison, to_rows
from xraygpt.evaluation.evaluate import EvaluatedSet, write_evaluation
from xraygpt.evaluation.model_scores import MODEL_SCORES
from xraygpt.evaluation.report_files import load_predictions, load_references, load_training_reports, pair
from xraygpt.evaluation.scorecard_text import format_table
from xraygpt.evaluation.scoring import Settings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `xraygpt score`."""
    parser.add_argument(
        "systems", nargs="*", type=Path, metavar="FILE", help="generated reports (.jsonl, .csv: id, report); two are compared"
    )
    parser.add_argument("--predictions", type=Path, metavar="FILE", help="the same as FILE, for one system")
    parser.add_argument("--references", type=Path, metavar="PATH", help="a prepared data folder, or a file with id, report")
    parser.add_argument("--split", default="test", choices=("train", "val", "test"), help="split of a prepared folder (default: test)")
    parser.add_argument("--out", type=Path, metavar="DIR", help="gets scorecard.json, scorecard.md, report.html; or comparison.json, .md")
    parser.add_argument("--check", type=Path, metavar="SCORECARD", help="compute this scorecard.json again and say whether it holds")
    parser.add_argument(
        "--training", type=Path, metavar="PATH", help="reports that the baselines draw from (default: the train split of --references)"
    )
    parser.add_argument("--metrics", nargs="+", default=[], metavar="NAME", help=f"only these (default: all): {', '.join(metric_names())}")
    parser.add_argument(
        "--model-score", action="append", type=_model_score, default=[], metavar="NAME=PATH",
        help=f"also a score by a model whose weights are at PATH; NAME is one of {', '.join(MODEL_SCORES)}",
    )  # fmt: skip
    parser.add_argument("--resamples", type=_count, default=1000, metavar="N", help="bootstrap resamples (default: 1000; 0: no intervals)")
    parser.add_argument("--confidence", type=_share, default=0.95, help="of the intervals (default: 0.95)")
    parser.add_argument("--seed", type=int, default=42, help="seed of resamples, baselines and random cases (default: 42)")
    parser.add_argument("--cases", type=_count, default=8, metavar="N", help="cases of each kind on the page (default: 8)")
    parser.add_argument(
        "--import", dest="imports", action="append", default=[], metavar="MODULE", help="Python module that registers your own metrics"
    )
    parser.add_argument("--export", type=Path, metavar="DIR", help="also write the files that other scoring tools read")


def run(args: argparse.Namespace) -> int:
    """Check a scorecard, compare two systems, or score one."""
    for module in args.imports:
        import_user_module(module)
    if args.check is not None:
        return _check(args.check)
    systems = [*args.systems, *([args.predictions] if args.predictions else [])]
    if args.references is None or args.out is None or not 1 <= len(systems) <= 2:
        raise DataError(
            f"Give one file of generated reports (or two, to compare them), --references and --out; got {len(systems)} files of reports. "
            "Or give --check with a scorecard.json."
        )
    check_metric_names(args.metrics)
    settings = Settings(tuple(args.metrics), dict(args.model_score), args.resamples, args.confidence, args.seed)
    return _compare(systems, args, settings) if len(systems) == 2 else _score(systems[0], args, settings)


def _score(system: Path, args: argparse.Namespace, settings: Settings) -> int:
    references = load_references(args.references, split=args.split)
    training = args.training or (args.references if args.references.is_dir() else None)
    evaluated = EvaluatedSet(
        corpus=pair(load_predictions(system), references),
        split=args.split if args.references.is_dir() else "",
        training_reports=load_training_reports(training) if training else None,
        extra_baselines={},
        images=references.images,
        provenance={"reports": str(system), "references": str(args.references)},
        title=f"Reports of {system.name}",
    )
    card = write_evaluation(args.out, evaluated, settings=settings, num_cases=args.cases, export=args.export)
    print(printable_text(format_table(card)))
    print(f"\nWritten to {printable_line(args.out)}: report.html, scorecard.json, scorecard.md, and the files that --check needs")
    return 0


def _compare(systems: list[Path], args: argparse.Namespace, settings: Settings) -> int:
    references = load_references(args.references, split=args.split)
    first, second = (pair(load_predictions(system), references) for system in systems)
    differences = compare_systems(first, second, settings=settings)
    table = format_comparison(
        differences, first=printable_line(systems[0]), second=printable_line(systems[1]), confidence=settings.confidence
    )
    names = {"first": str(systems[0]), "second": str(systems[1]), "num_studies": len(set(first.studies))}
    write_json(args.out / "comparison.json", {**names, "settings": settings.to_dict(), "differences": to_rows(differences)})
    write_text(args.out / "comparison.md", table)
    print(printable_text(table))
    print(f"Written to {printable_line(args.out)}: comparison.json, comparison.md")
    return 0


def _check(path: Path) -> int:
    """Returns 1 if the scorecard does not hold."""
    result = check_scorecard(path)
    for line in result.changes:
        print(f"note: another environment than the scorecard's: {printable_line(line)}")
    if result.differences:
        print(f"{printable_line(path)} does not hold: {len(result.differences)} of {result.num_compared} values differ.")
        print(*(f"  {printable_line(line)}" for line in result.differences[:30]), sep="\n")
        return 1
    print(f"{printable_line(path)} holds: all {result.num_compared} values were computed again and are the same.")
    return 0


def _model_score(text: str) -> tuple[str, Path]:
    name, separator, path = text.partition("=")
    if not separator or not path:
        raise argparse.ArgumentTypeError(f"expected NAME=PATH, got {text!r}")
    return name, Path(path)


def _count(text: str) -> int:
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"must be 0 or more, not {value}")
    return value


def _share(text: str) -> float:
    value = float(text)
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"must be between 0 and 1, not {value}")
    return value
