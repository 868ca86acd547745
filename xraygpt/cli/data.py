"""`xraygpt data show FOLDER`: what a prepared folder holds, what is wrong with it, and a page of random images with their texts."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from xraygpt.common.errors import DataError
from xraygpt.common.printable import printable_line, printable_text
from xraygpt.datasets.preparation.contact_sheet import make_tile, write_contact_sheet
from xraygpt.datasets.preparation.folder_checks import Issue, find_issues, hash_images, image_files, read_manifest
from xraygpt.datasets.preparation.folder_summary import (
    STATUSES,
    FindingCounts,
    FolderSummary,
    Lengths,
    choose,
    of_split,
    read_samples,
    summarize,
    summary_rows,
)
from xraygpt.evaluation import FINDINGS, read_statuses
from xraygpt.evaluation.report_html import NOTICE

BAR_WIDTH = 40  # characters of the histogram's longest bar


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the actions and the options of each."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    show = actions.add_parser("show", help="count, check and look at a prepared folder")
    show.add_argument("folder", type=Path, metavar="FOLDER", help="a prepared folder, such as data/openi")
    show.add_argument("--split", metavar="NAME", help="count and show this split alone; the checks are always of all")
    show.add_argument("--page", type=Path, metavar="FILE", help="the page to write (default: output/data/<name of FOLDER>.html)")
    show.add_argument("--images", type=int, default=24, metavar="N", help="images on the page, drawn at random (default: 24)")
    show.add_argument("--seed", type=int, default=0, help="seed of that draw (default: 0)")
    show.add_argument("--no-page", action="store_true", help="print only")


def run(args: argparse.Namespace) -> int:
    """Print the summary and the issues, write the page. Returns 1 if there is leakage between splits."""
    if args.images < 0:
        raise DataError(f"--images must be 0 or more, got {args.images}.")
    if args.page and args.page.is_dir():
        raise DataError(f"--page {args.page} is a folder; name the file to write in it, such as {args.page / 'data.html'}.")
    samples = read_samples(args.folder)
    shown = of_split(samples, args.split) if args.split else samples
    files = image_files(args.folder)
    hashes = hash_images(args.folder, samples, files)
    issues = find_issues(args.folder, samples, files, hashes)
    summary = summarize(shown, read_statuses=read_statuses, findings=FINDINGS, seed=args.seed)
    print(printable_text(format_summary(summary)))
    print(printable_text(f"\n{format_issues(issues)}"))
    if not args.no_page:
        page = args.page or Path("output", "data", f"{args.folder.resolve().name}.html")
        drawn = choose(shown, count=args.images, seed=args.seed, key=lambda sample: sample.image_id)
        write_contact_sheet(
            page,
            title=f"Data: {args.folder.resolve().name}",
            notice=NOTICE,
            details=_details(args, hashes.origin),
            summary=summary,
            issues=issues,
            tiles=[make_tile(sample, args.folder, files) for sample in drawn],
        )
        print(f"\nWritten: {printable_line(page)}. It holds images and texts of the data: keep it only where the data may be kept.")
    return 1 if any(issue.level == "error" for issue in issues) else 0


def _details(args: argparse.Namespace, origin: str) -> dict[str, str]:
    """What the page shows, for its head."""
    manifest = read_manifest(args.folder)
    known = {"Data set": manifest.get("dataset"), "Fingerprint": manifest.get("fingerprint")}
    made = {label: str(value) for label, value in known.items() if value}
    return {"Folder": str(args.folder), **made, "Split": args.split or "all", "Identical images found by": origin}


def format_summary(summary: FolderSummary) -> str:
    """The numbers as text: single ones, splits, lengths, findings."""
    lines = [f"{what:<24}{value}" for what, value in summary_rows(summary)]
    lines += ["", f"{'split':<16}{'studies':>12}{'images':>12}"]
    for split, size in summary.splits.items():
        studies = f"{size.studies:,}" if summary.studies is not None else "–"
        lines.append(f"{printable_line(split) or 'not named':<16}{studies:>12}{size.images:>12,}")
    if summary.lengths:
        lines += ["", *_length_lines(summary.lengths)]
    if summary.findings:
        lines += ["", *_finding_lines(summary.findings)]
    return "\n".join(lines)


def format_issues(issues: Sequence[Issue]) -> str:
    """One line an issue, and one with its examples."""
    lines = ["checks of the whole folder" + ("" if issues else ": nothing was found")]
    for issue in issues:
        lines.append(f"{issue.level.upper() if issue.level == 'error' else issue.level:<8}{issue.count:>9,} {printable_line(issue.what)}")
        if issue.examples:
            lines.append(f"{'':<18}{printable_line(', '.join(issue.examples))}{', …' if issue.count > len(issue.examples) else ''}")
    return "\n".join(lines)


def _length_lines(lengths: Lengths) -> list[str]:
    most = max(count for _, _, count in lengths.bins)
    lines = [f"words of a text: min {lengths.minimum:,}, median {lengths.median:,}, p95 {lengths.p95:,}, max {lengths.maximum:,}"]
    for first, last, count in lengths.bins:
        label = f"{first}+" if last is None else f"{first}–{last}" if last > first else f"{first}"
        bar = "█" * round(BAR_WIDTH * count / most) or ("▏" if count else "")
        lines.append(f"{label:>11}{count:>10,}  {bar}".rstrip())
    return lines


def _finding_lines(findings: FindingCounts) -> list[str]:
    sample = f" drawn at random from {findings.studies_with_text:,}" if findings.studies_read < findings.studies_with_text else ""
    lines = [
        f"findings that the texts of {findings.studies_read:,} studies{sample} state",
        f"{'':<28}" + "".join(f"{status:>18}" for status in STATUSES),
    ]
    for finding, counts in findings.counts.items():
        numbers = "".join(f"{counts[status]:>9,} ({counts[status] / findings.studies_read:6.1%})" for status in STATUSES)
        lines.append(f"{finding.replace('_', ' '):<28}{numbers}")
    if findings.unmentioned:
        lines.append(f"mentioned by none: {', '.join(findings.unmentioned).replace('_', ' ')}")
    return lines
