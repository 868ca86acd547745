"""Reading Open-i's reports and its table of views: the official XML files, and the tables made from them."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from xml.etree.ElementTree import Element, ParseError

from defusedxml import DefusedXmlException
from defusedxml.ElementTree import parse as parse_xml

from xraygpt.common.errors import DataError
from xraygpt.datasets.preparation.account import Account
from xraygpt.datasets.preparation.study import require_safe_id
from xraygpt.datasets.preparation.table_files import Row, read_rows

VIEWS = ("frontal", "lateral")

_IMAGE_NAME = re.compile(r"(?:CXR)?(\d+)_(?:\1_)?(IM-[\w-]+)")


@dataclass(frozen=True, kw_only=True, slots=True)
class OpenIReport:
    """One report as Open-i has it.

    Attributes:
        study_id: such as "CXR4".
        findings: the section, "" if it is empty.
        impression: the section, "" if it is empty.
        image_ids: its images; None where the source does not say.
        where: file and line.
    """

    study_id: str
    findings: str
    impression: str
    image_ids: tuple[str, ...] | None
    where: str


def canonical_id(name: str) -> str:
    """An image's identifier from its name in any layout.

    `CXR4_IM-2050-1001.png`, `4_IM-2050-1001.dcm.png` and `4_IM-2050-1001.dcm` are `CXR4_IM-2050-1001`; study 1, whose number the official
    files repeat (`CXR1_1_IM-0001-3001`), is `CXR1_IM-0001-3001`. Other names lose their suffix.
    """
    stem = name.split(".")[0]
    found = _IMAGE_NAME.fullmatch(stem)
    return f"CXR{found[1]}_{found[2]}" if found else stem


def read_xml_folder(folder: Path, account: Account) -> Iterator[OpenIReport]:
    """The reports of `ecgen-radiology/*.xml`; those that cannot be read, and studies that occur twice, go to the account.

    Raises:
        DataError: there are no XML files.
    """
    paths = sorted(folder.glob("*.xml"))
    if not paths:
        raise DataError(f"No report was found as {folder}/*.xml.")
    seen: dict[str, Path] = {}
    for path in paths:
        try:
            content = path.read_bytes()
            report = parse_xml_report(content, path)
            if (other := seen.setdefault(report.study_id, path)) is not path:
                raise DataError(f"{path}: the study {report.study_id} has been read already, from {other.name}; each study is one file.")
        except OSError as error:
            account.problem("reports unreadable", f"{path}: cannot be read ({error.strerror}).", kind="report", where=path.name)
        except DataError as error:
            account.problem("reports unreadable", str(error), kind="report", where=path.name)
        else:
            account.source_content("report", report.study_id, path, content)
            yield report


def parse_xml_report(content: bytes, path: Path) -> OpenIReport:
    """One XML file.

    Raises:
        DataError: it is damaged, declares entities (no report does), or holds an identifier that cannot be a file name.
    """
    try:
        root = parse_xml(BytesIO(content)).getroot()
    except (ParseError, DefusedXmlException, ValueError, LookupError) as error:  # LookupError: an encoding that there is not
        raise DataError(f"{path}: no readable Open-i report ({error}).") from error
    study = root.find("uId")
    study_id = require_safe_id("" if study is None else study.get("id", ""), str(path))
    image_ids = tuple(canonical_id(require_safe_id(image.get("id", ""), str(path))) for image in root.iter("parentImage"))
    sections = {label: _section(root, label) for label in ("FINDINGS", "IMPRESSION")}
    return OpenIReport(
        study_id=study_id, findings=sections["FINDINGS"], impression=sections["IMPRESSION"], image_ids=image_ids, where=path.name
    )


def _section(root: Element, label: str) -> str:
    texts = (element.text or "" for element in root.iter("AbstractText") if element.get("Label") == label)
    return " ".join(" ".join(texts).split())


def read_table(path: Path, account: Account) -> Iterator[OpenIReport]:
    """The reports of `indiana_reports.csv`; studies that occur twice go to the account.

    Raises:
        DataError: the table cannot be read or lacks a column.
    """
    account.source_content("table", "", path, path.read_bytes())
    seen: dict[str, int] = {}
    for row in read_rows(path):
        where = f"{path.name}, line {row.line}"
        uid, findings, impression = (_cell(row, name, path) for name in ("uid", "findings", "impression"))
        study_id = f"CXR{uid}"
        if not uid.isdecimal():
            account.problem("reports unreadable", f"{where}: the uid must be a number, not {uid!r:.40}.", kind="report", where=where)
        elif study_id in seen:
            message = f"{where}: the study {study_id} has been read already, from line {seen[study_id]}."
            account.problem("reports unreadable", message, kind="report", id=study_id, where=where)
        else:
            seen[study_id] = row.line
            sections = {"findings": " ".join(findings.split()), "impression": " ".join(impression.split())}
            yield OpenIReport(study_id=study_id, image_ids=None, where=where, **sections)


def read_projections(path: Path, account: Account) -> dict[str, str]:
    """Read a table with the columns `projection` and `image` (identifiers) or `filename` (`1_IM-0001-4001.dcm.png`).

    Returns:
        Image identifier → "frontal" or "lateral".

    Raises:
        DataError: the table cannot be read, or a line holds no identifier or another projection.
    """
    views = {}
    for row in read_rows(path):
        image_id = canonical_id(row.values.get("image") or row.values.get("filename") or "")
        view = (row.values.get("projection") or "").lower()
        if not image_id or view not in VIEWS:
            raise DataError(
                f"{path}, line {row.line}: the columns 'image' or 'filename', and 'projection' (Frontal or Lateral) were expected; "
                f"the line is {row.values}."
            )
        views[image_id] = view
    account.source_content("table", "", path, path.read_bytes())
    return views


def _cell(row: Row, name: str, path: Path) -> str:
    if name not in row.values:
        raise DataError(f"{path}: there is no column {name!r}; found {', '.join(row.values)}.")
    return row.values[name]
