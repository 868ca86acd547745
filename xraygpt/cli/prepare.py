"""`xraygpt prepare SOURCE`: what people really have → a folder that training reads. One sub-command a source."""

import argparse
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from xraygpt.common.errors import ConfigError, DataError
from xraygpt.common.printable import printable_line, printable_text
from xraygpt.datasets.preparation.account import ON_ERROR
from xraygpt.datasets.preparation.archive import Archive
from xraygpt.datasets.preparation.download import OPENI_ARCHIVES, OPENI_COLLECTION, fetch_archives
from xraygpt.datasets.preparation.image_files import FORMATS, ImageOptions, num_cores
from xraygpt.datasets.preparation.image_folder import NAMES, ImageFolderSource
from xraygpt.datasets.preparation.mimic import MIMICSource
from xraygpt.datasets.preparation.openi import OpenISource
from xraygpt.datasets.preparation.pipeline import VIEWS, PrepareOptions, prepare
from xraygpt.datasets.preparation.rewriting import RewriteOptions
from xraygpt.datasets.preparation.study import Source
from xraygpt.datasets.preparation.table import TableColumns, TableSource
from xraygpt.evaluation import read_statuses

BuildSource = Callable[[argparse.Namespace], Source]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the sources and the options of each."""
    sources = parser.add_subparsers(dest="source_kind", required=True, metavar="SOURCE")
    _add_openi(sources.add_parser("openi", help="Open-i: the official XML and PNG or DICOM files, or the indiana_*.csv tables"))
    _add_mimic(sources.add_parser("mimic", help="MIMIC-CXR-JPG or MIMIC-CXR with its reports, as PhysioNet lays them out"))
    _add_table(sources.add_parser("table", help="your own data: a CSV, JSON lines or Parquet table beside your images"))
    _add_images(sources.add_parser("images", help="a folder of images or DICOM files without reports, for generation"))


def run(args: argparse.Namespace) -> int:
    """Prepare the chosen source and print what was kept."""
    source = args.build_source(args)
    manifest = prepare(source, _options(args), read_statuses=read_statuses)
    print(printable_text(format_counts(manifest)))
    print(f"\nfingerprint {manifest['fingerprint']}")
    print(f"Written to {printable_line(args.out)}: image/, filter_cap.json, manifest.json, sources.csv, dropped.csv, README.md")
    return 0


def format_counts(manifest: Mapping[str, Any]) -> str:
    """The counts of a manifest as a table: what each filter dropped, then the splits."""
    lines = [f"{name:<40}{count:>9,}" for name, count in (manifest["counts"] | manifest["notes"]).items()]
    lines.append("")
    for split, numbers in manifest["splits"].items():
        lines.append(f"{split:<8}" + ", ".join(f"{count:,} {name}" for name, count in numbers.items()))
    return "\n".join(lines)


# The sources ------------------------------------------------------------------------------------------------------------


def _add_openi(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(build_source=_openi, text="summary")
    parser.add_argument("--source", type=Path, required=True, metavar="DIR", help="the folder of the download")
    parser.add_argument("--projections", type=Path, metavar="CSV", help="table of views (default: images.csv or indiana_projections.csv)")
    parser.add_argument("--download", action="store_true", help="first fetch the official archives into --source; goes on where it was")
    parser.add_argument("--download-images", choices=("png", "dcm"), default="png", help="which images to fetch (default: png)")
    parser.add_argument("--mirror", default=OPENI_COLLECTION, metavar="URL", help="where the archives lie (default: %(default)s)")
    parser.add_argument("--sha256", nargs="+", default=[], metavar="FILE=HEX", help="what the archives must be, such as NLMCXR_png.tgz=…")
    _add_common(parser, view="frontal")
    _add_summary(parser)


def _openi(args: argparse.Namespace) -> Source:
    if args.download:
        fetch_archives(_archives(args), args.source, base_url=args.mirror)
    return OpenISource(args.source, projections=args.projections)


def _archives(args: argparse.Namespace) -> list[Archive]:
    """The archives to fetch, with the checksums that the user knows."""
    archives = [OPENI_ARCHIVES["reports"], OPENI_ARCHIVES[args.download_images]]
    names = [archive.name for archive in archives]
    given = dict(text.partition("=")[::2] for text in args.sha256)
    if unknown := given.keys() - set(names):
        raise DataError(f"--sha256: {unknown.pop()} is not fetched. Write FILE=HEX for one of {', '.join(names)}.")
    return [replace(archive, sha256=given.get(archive.name, archive.sha256).lower()) for archive in archives]


def _add_mimic(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(build_source=lambda args: MIMICSource(roots=tuple(args.source), prefer=args.prefer), text="summary")
    parser.add_argument(
        "--source", type=Path, nargs="+", required=True, metavar="DIR", help="folders with images, reports (or their .zip) and tables"
    )
    parser.add_argument("--prefer", choices=("jpg", "dicom"), default="jpg", help="which images, where both are there (default: jpg)")
    _add_common(parser, view="frontal")
    _add_summary(parser)


def _add_table(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(build_source=_table)
    parser.add_argument("--source", type=Path, required=True, metavar="FILE", help="a .csv, .tsv, .jsonl or .parquet file")
    parser.add_argument("--image-column", required=True, metavar="NAME", help="paths of the images, relative to --image-root")
    parser.add_argument("--report-column", default="", metavar="NAME", help="the report or caption")
    parser.add_argument("--findings-column", default="", metavar="NAME", help="findings, where they stand in a column of their own")
    parser.add_argument("--impression-column", default="", metavar="NAME", help="impression, likewise")
    parser.add_argument("--group-column", default="", metavar="NAME", help="the patient: all of a patient goes into one split")
    parser.add_argument("--study-column", default="", metavar="NAME", help="the study; rows of one study have one report")
    parser.add_argument("--split-column", default="", metavar="NAME", help="train, val or test, where the split is given")
    parser.add_argument("--view-column", default="", metavar="NAME", help="frontal, lateral, PA, AP, LATERAL or LL")
    parser.add_argument("--image-root", type=Path, metavar="DIR", help="folder of the images (default: the table's)")
    parser.add_argument(
        "--text",
        choices=("as-is", "summary"),
        default="as-is",
        help="keep texts as they are, or filter and clean English reports (default: as-is)",
    )
    _add_common(parser, view="all")
    _add_summary(parser)


def _table(args: argparse.Namespace) -> Source:
    names = ("image", "report", "findings", "impression", "group", "study", "view", "split")
    columns = TableColumns(**{name: getattr(args, f"{name}_column") for name in names})
    return TableSource(args.source, columns, image_root=args.image_root, text=args.text)


def _add_images(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(build_source=lambda args: ImageFolderSource(args.source, names=args.names), text="none")
    parser.add_argument("--source", type=Path, required=True, metavar="PATH", help="a folder, searched whole, or one file")
    parser.add_argument(
        "--names", choices=NAMES, default="auto", help="identifiers: auto numbers DICOM files, whose names may tell a patient"
    )
    _add_common(parser, view="all")


# Options of all sources -------------------------------------------------------------------------------------------------


def _add_common(parser: argparse.ArgumentParser, *, view: str) -> None:
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="the folder to write, such as data/openi")
    parser.add_argument("--views", nargs="+", choices=VIEWS, default=[view], help=f"images kept; all: unknown views too (default: {view})")
    parser.add_argument("--resize", type=int, default=0, metavar="PIXELS", help="make the shorter side of larger images this long")
    parser.add_argument("--format", choices=FORMATS, default="jpeg", help="of images written anew: DICOM, resized (default: jpeg)")
    parser.add_argument(
        "--window", default="0", metavar="N|NAME", help="DICOM: which of several windows, by number or by name (default: 0)"
    )
    parser.add_argument("--force-modality", action="store_true", help="DICOM: also take what is no radiograph (CT, MR)")
    parser.add_argument("--on-error", choices=ON_ERROR, default="skip", help="list what cannot be read, or stop at it (default: skip)")
    parser.add_argument("--workers", type=int, default=num_cores(), metavar="N", help="processes; the result is the same (default: cores)")
    parser.add_argument("--overwrite", action="store_true", help="replace a prepared folder that is there already")


def _add_summary(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--min-findings-words", type=int, default=10, metavar="N", help="drop reports with shorter findings (default: 10)")
    parser.add_argument("--min-impression-words", type=int, default=2, metavar="N", help="… with a shorter impression (default: 2)")
    parser.add_argument("--rewriter", choices=("openai",), help="let a language model rewrite the summaries (an OpenAI-compatible server)")
    parser.add_argument("--base-url", metavar="URL", help="the rewriter's server, such as http://127.0.0.1:8000/v1")
    parser.add_argument("--model", metavar="NAME", help="the rewriter's model, as the server calls it")
    parser.add_argument("--rewrite-cache", type=Path, metavar="FILE", help="answers, kept for the next time (default: OUT.rewrites.sqlite)")
    parser.add_argument("--concurrency", type=int, default=8, metavar="N", help="requests at a time (default: 8)")


def _options(args: argparse.Namespace) -> PrepareOptions:
    if args.workers < 1:
        raise DataError(f"--workers must be at least 1, got {args.workers}.")
    summary = (
        {"min_findings_words": args.min_findings_words, "min_impression_words": args.min_impression_words, "rewriter": _rewriter(args)}
        if "rewriter" in args
        else {}
    )
    window = int(args.window) if args.window.isdecimal() else args.window
    images = ImageOptions(resize=args.resize, format=args.format, window=window, force_modality=args.force_modality)
    return PrepareOptions(
        out=args.out,
        text=args.text,
        views=tuple(args.views),
        images=images,
        on_error=args.on_error,
        workers=args.workers,
        overwrite=args.overwrite,
        **summary,
    )


def _rewriter(args: argparse.Namespace) -> RewriteOptions | None:
    if args.rewriter is None:
        return None
    if not args.base_url or not args.model:
        raise ConfigError("--rewriter openai needs --base-url (such as http://127.0.0.1:8000/v1) and --model.")
    if args.text != "summary":
        raise ConfigError("--rewriter rewrites summaries: add --text summary.")
    cache = args.rewrite_cache or args.out.with_name(f"{args.out.name}.rewrites.sqlite")
    return RewriteOptions(base_url=args.base_url, model=args.model, cache=cache, concurrency=args.concurrency)
