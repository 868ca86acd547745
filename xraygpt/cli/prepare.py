"""`xraygpt prepare SOURCE`: a raw download → a folder that training reads. One sub-command a source."""

import argparse
from pathlib import Path
from typing import Any

from xraygpt.datasets.preparation.openi import VIEWS, OpenIOptions, prepare_openi


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the sources and the options of each."""
    sources = parser.add_subparsers(dest="source_kind", required=True, metavar="SOURCE")
    openi = sources.add_parser("openi", help="the official Open-i download: ecgen-radiology/ and NLMCXR_png/")
    openi.set_defaults(prepare=_prepare_openi)
    openi.add_argument("--source", type=Path, required=True, metavar="DIR", help="the folder that holds ecgen-radiology/ and NLMCXR_png/")
    openi.add_argument("--out", type=Path, required=True, metavar="DIR", help="the folder to write, such as data/openi")
    openi.add_argument(
        "--views", choices=(*VIEWS, "both"), default="frontal", help="images kept; both also keeps those of unknown view (default: frontal)"
    )
    openi.add_argument(
        "--projections", type=Path, metavar="CSV", help="table of views (default: images.csv or indiana_projections.csv in the source)"
    )
    openi.add_argument("--min-findings-words", type=int, default=10, metavar="N", help="drop reports with shorter findings (default: 10)")
    openi.add_argument(
        "--min-impression-words", type=int, default=2, metavar="N", help="drop reports with a shorter impression (default: 2)"
    )
    openi.add_argument("--overwrite", action="store_true", help="replace a prepared folder that is there already")


def run(args: argparse.Namespace) -> int:
    """Prepare the chosen source and print what was kept."""
    manifest = args.prepare(args)
    print(format_counts(manifest))
    print(f"\nWritten to {args.out}: image/, filter_cap.json, manifest.json")
    return 0


def format_counts(manifest: dict[str, Any]) -> str:
    """The counts of a manifest as a table: what each filter dropped, then the splits."""
    lines = [f"{name:<32}{count:>9,}" for name, count in manifest["counts"].items()]
    lines.append("")
    for split, numbers in manifest["splits"].items():
        lines.append(f"{split:<8}" + ", ".join(f"{count:,} {name}" for name, count in numbers.items()))
    return "\n".join(lines)


def _prepare_openi(args: argparse.Namespace) -> dict[str, Any]:
    return prepare_openi(
        OpenIOptions(
            source=args.source,
            out=args.out,
            views=args.views,
            projections=args.projections,
            min_findings_words=args.min_findings_words,
            min_impression_words=args.min_impression_words,
            overwrite=args.overwrite,
        )
    )
