"""Open-i (Indiana University chest X-rays), as its official download lies on disk → a prepared folder.

    <source>/ecgen-radiology/*.xml             one report each, sections labelled FINDINGS and IMPRESSION, images by `parentImage`
    <source>/NLMCXR_png/<image_id>.png         (or .jpg, .jpeg)
    <source>/indiana_projections.csv           which image is frontal, which lateral, by human annotation; also `images.csv`

Neither the report nor the file name says reliably whether an image is frontal: the caption in the XML describes the whole study ("PA and
lateral chest"), and the number in the image's name only the order of exposure. So the view comes from the projections table alone; without
it an image's view is unknown, and only `views="both"` keeps it.

Open-i holds one study a patient, so the split by study is a split by patient. It is always the hash of `splits`, never a table's: the
same study is then in the same split in every preparation.
"""

import csv
import re
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element, ParseError

from defusedxml import DefusedXmlException
from defusedxml.ElementTree import parse as parse_xml

from xraygpt.common.errors import DataError
from xraygpt.datasets.preparation.cleaning import clean_caption
from xraygpt.datasets.preparation.filters import Report, filter_reports
from xraygpt.datasets.preparation.prepared_folder import SourceFile, fingerprint, new_folder, place_images, write_annotations
from xraygpt.datasets.preparation.splits import split_of

REPORTS_FOLDER = "ecgen-radiology"
IMAGES_FOLDER = "NLMCXR_png"
PROJECTION_TABLES = ("images.csv", "indiana_projections.csv")
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg")
VIEWS = ("frontal", "lateral")

_SAFE_ID = re.compile(r"\w[\w.-]*")  # it becomes a file name


@dataclass(frozen=True, kw_only=True)
class OpenIOptions:
    """What `prepare_openi` does."""

    source: Path
    """The folder of the download."""
    out: Path
    """The folder to write."""
    views: str = "frontal"
    """"frontal", "lateral", or "both", which keeps every image whatever its view. Reports are read off the frontal view."""
    projections: Path | None = None
    """Table of views; None looks for `PROJECTION_TABLES` in the source."""
    min_findings_words: int = 10
    """Reports with shorter findings are dropped (the paper's number)."""
    min_impression_words: int = 2
    """Reports with a shorter impression are dropped (the paper's number)."""
    overwrite: bool = False
    """Replace a prepared folder that is there already."""


def prepare_openi(options: OpenIOptions) -> dict[str, Any]:
    """Write the prepared folder and return its manifest.

    Raises:
        DataError: a source is missing or damaged, `out` exists, or no image is left.
    """
    xml_paths = sorted((options.source / REPORTS_FOLDER).glob("*.xml"))
    if not xml_paths:
        raise DataError(
            f"No report was found as {options.source / REPORTS_FOLDER}/*.xml. --source is the folder that holds {REPORTS_FOLDER}."
        )
    table = find_projections(options)
    views = read_projections(table) if table else {}
    reports, dropped = filter_reports(
        read_reports(xml_paths),
        min_findings_words=options.min_findings_words,
        min_impression_words=options.min_impression_words,
    )
    counts = {"reports": len(xml_paths), **dropped}
    with new_folder(options.out, overwrite=options.overwrite) as folder:
        annotations = _annotate(reports, views, options.views, counts)
        files = _find_images(options.source / IMAGES_FOLDER, annotations)
        placed, problems = place_images(files, folder / "image")
        kept = [annotation for annotation in annotations if annotation["image_id"] in placed]
        counts |= {"images missing": len(annotations) - len(files), "images unreadable": len(problems), "images kept": len(kept)}
        if not kept:
            raise DataError(_nothing_left(options, counts))
        sources = {
            "reports": fingerprint(map(SourceFile.of, xml_paths)),
            "projections": fingerprint([SourceFile.of(table)] if table else []),
            "images": fingerprint(placed.values()),
        }
        return write_annotations(folder, kept, dataset="openi", options=_plain(options), sources=sources, counts=counts)


# Reading ---------------------------------------------------------------------------------------------------------------


def read_reports(paths: list[Path]) -> list[Report]:
    """Read Open-i's XML files, one report each; a study that occurs twice is an error."""
    reports: dict[str, Report] = {}
    for path in paths:
        report = read_report(path)
        if report.study_id in reports:
            raise DataError(f"{path}: the study {report.study_id} has been read already; each study is one file.")
        reports[report.study_id] = report
    return list(reports.values())


def read_report(path: Path) -> Report:
    """Read one XML file; entity declarations, which no report has, are refused."""
    try:
        root = parse_xml(path).getroot()
    except (ParseError, DefusedXmlException, OSError) as error:
        raise DataError(f"{path}: no readable Open-i report ({error}).") from error
    study = root.find("uId")
    study_id = "" if study is None else study.get("id", "")
    image_ids = tuple(image.get("id", "") for image in root.iter("parentImage"))
    for identifier in (study_id, *image_ids):
        if not _SAFE_ID.fullmatch(identifier):
            raise DataError(f"{path}: {identifier!r} cannot be a study or image identifier (letters, digits, '.', '_' and '-').")
    return Report(study_id=study_id, findings=_section(root, "FINDINGS"), impression=_section(root, "IMPRESSION"), image_ids=image_ids)


def _section(root: Element, label: str) -> str:
    return " ".join((element.text or "").strip() for element in root.iter("AbstractText") if element.get("Label") == label)


def find_projections(options: OpenIOptions) -> Path | None:
    """The table of views: the one asked for, else the first of `PROJECTION_TABLES` that the source holds, else None."""
    if options.projections is not None:
        return options.projections
    return next((path for name in PROJECTION_TABLES if (path := options.source / name).is_file()), None)


def read_projections(path: Path) -> dict[str, str]:
    """Read a table with the columns `projection` and `image` (identifiers) or `filename` (`1_IM-0001-4001.dcm.png`).

    Returns:
        Image identifier → "frontal" or "lateral".
    """
    try:
        with open(path, newline="", encoding="utf-8-sig") as handle:
            rows = list(csv.DictReader(handle))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: the table of projections cannot be read ({error}).") from error
    views = {}
    for line, row in enumerate(rows, start=2):
        image_id = row.get("image") or _id_of(row.get("filename") or "")
        view = (row.get("projection") or "").lower()
        if not image_id or view not in VIEWS:
            raise DataError(
                f"{path}, line {line}: the columns 'image' or 'filename', and 'projection' (Frontal or Lateral) were expected; "
                f"the line is {row}."
            )
        views[image_id] = view
    return views


def _id_of(filename: str) -> str:
    """`1_IM-0001-4001.dcm.png` is the official download's `CXR1_IM-0001-4001`."""
    return "CXR" + filename.split(".dcm")[0] if filename else ""


# Choosing --------------------------------------------------------------------------------------------------------------


def _annotate(reports: list[Report], views: dict[str, str], wanted: str, counts: dict[str, int]) -> list[dict[str, Any]]:
    """One annotation for each image of the wanted view of each report with a caption; `counts` gets what fell away."""
    dropped: Counter[str] = Counter()
    annotations = []
    for report in reports:
        caption = clean_caption(report.findings, report.impression)
        if not caption:
            dropped["nothing left after cleaning"] += 1
            continue
        dropped["without images"] += not report.image_ids
        for image_id in report.image_ids:
            view = views.get(image_id, "unknown")
            if wanted not in ("both", view):
                dropped[f"images of {view} view"] += 1
                continue
            known_view = {"view": view} if view != "unknown" else {}
            row = {"image_id": image_id, "caption": caption, "study_id": report.study_id, "split": split_of(report.study_id)}
            annotations.append(row | known_view)
    other_views = [f"images of {view} view" for view in (*VIEWS, "unknown") if wanted not in ("both", view)]
    counts |= {name: dropped[name] for name in ("nothing left after cleaning", "without images", *other_views)}
    return annotations


def _find_images(folder: Path, annotations: list[dict[str, Any]]) -> dict[str, Path]:
    """Image identifier → its file, for those that have one."""
    if not folder.is_dir():
        raise DataError(f"No image folder was found as {folder}. --source is the folder that holds {IMAGES_FOLDER}.")
    available = {path.stem: path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES}
    wanted = (annotation["image_id"] for annotation in annotations)
    return {image_id: available[image_id] for image_id in wanted if image_id in available}


def _nothing_left(options: OpenIOptions, counts: dict[str, int]) -> str:
    told = "; ".join(f"{name}: {count}" for name, count in counts.items())
    hint = " Give a table of views with --projections, or keep all with --views both." if counts.get("images of unknown view") else ""
    return f"No image of {options.source} is left ({told}).{hint}"


def _plain(options: OpenIOptions) -> dict[str, Any]:
    return {name: str(value) if isinstance(value, Path) else value for name, value in asdict(options).items() if name != "overwrite"}
