"""Open-i (Indiana University chest X-rays), in both layouts that people have.

    <source>/ecgen-radiology/*.xml              the official download: one report each, images by `parentImage`
    <source>/NLMCXR_png/<image_id>.png          or NLMCXR_dcm/…/<image_id>.dcm
    <source>/indiana_projections.csv            which image is frontal, which lateral, by human annotation; also `images.csv`

    <source>/indiana_reports.csv                the table layout: uid, findings, impression, …
    <source>/indiana_projections.csv            uid, filename, projection
    <source>/images/images_normalized/4_IM-2050-1001.dcm.png

Studies and images have the same identifiers in both (`CXR4`, `CXR4_IM-2050-1001`), and the same study gets the same text.

Neither the report nor the file name says reliably whether an image is frontal: the caption in the XML describes the whole study ("PA and
lateral chest"), the number in the image's name only the order of exposure, and the DICOM tag is often wrong. So the view comes from the
table of projections alone; without it an image's view is unknown, and only `--views all` keeps it.

Open-i holds one study a patient, so the split by study is a split by patient. It is always the hash of `splits`, never a table's: the
same study is then in the same split in every preparation.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from xraygpt.common.errors import DataError
from xraygpt.datasets.preparation.account import Account
from xraygpt.datasets.preparation.image_files import IMAGE_SUFFIXES, walk_files
from xraygpt.datasets.preparation.openi_reports import canonical_id, read_projections, read_table, read_xml_folder
from xraygpt.datasets.preparation.study import About, Study, StudyImage

REPORTS_FOLDER = "ecgen-radiology"
REPORTS_TABLE = "indiana_reports.csv"
IMAGE_FOLDERS = ("NLMCXR_png", "NLMCXR_dcm", "images/images_normalized", "images_normalized", "images")
PROJECTION_TABLES = ("images.csv", "indiana_projections.csv")

ABOUT = About(
    title="Open-i: Indiana University chest X-rays",
    licence="CC BY-NC-ND 4.0; the images and reports may not be passed on in changed form.",
    citation="Demner-Fushman et al., Preparing a collection of radiology examinations for distribution and retrieval, JAMIA 2016.",
    notes=(
        "XXXX in the reports is de-identification: it hides names and dates, and by accident ordinary words.",
        "One study a patient. Views by human annotation (the table of projections).",
        "A finding that a report does not mention is not thereby absent.",
    ),
)


class OpenISource:
    """The studies of Open-i.

    Args:
        source: the folder of the download; `ecgen-radiology` decides for the official layout, else `indiana_reports.csv` for tables.
        projections: table of views; None looks for `PROJECTION_TABLES` in the source.

    Raises:
        DataError: the source holds neither layout, or no folder of images.
    """

    name = "openi"
    about = ABOUT
    unit = "reports"
    filters: tuple[str, ...] = ("reports unreadable",)

    def __init__(self, source: Path, *, projections: Path | None = None) -> None:
        self.roots: tuple[Path, ...] = (source,)
        self.reports = next((path for path in (source / REPORTS_FOLDER, source / REPORTS_TABLE) if path.exists()), None)
        if self.reports is None:
            raise DataError(
                f"{source.absolute()} holds neither {REPORTS_FOLDER}/ (the official download) nor {REPORTS_TABLE} (the tables). "
                "--source is the folder that holds one of them; --download fetches the official files into it."
            )
        self.image_folder = next((path for name in IMAGE_FOLDERS if (path := source / name).is_dir()), None)
        if self.image_folder is None:
            raise DataError(f"{source.absolute()} holds no folder of images; looked for {', '.join(IMAGE_FOLDERS)}.")
        tables = (source / name for name in PROJECTION_TABLES)
        self.projections = projections or next((path for path in tables if path.is_file()), None)
        layout = "xml" if self.reports.is_dir() else "csv"
        self.options: Mapping[str, Any] = {"layout": layout, "projections": self.projections.name if self.projections else None}

    def studies(self, account: Account) -> Iterator[Study]:
        """Every study, in the order of its number."""
        assert self.reports is not None and self.image_folder is not None
        views = read_projections(self.projections, account) if self.projections else {}
        files = find_images(self.image_folder)
        images_of: dict[str, list[str]] = {}
        for image_id in sorted({*views, *files}):
            images_of.setdefault(image_id.split("_")[0], []).append(image_id)
        read = read_xml_folder if self.reports.is_dir() else read_table
        for report in sorted(read(self.reports, account), key=lambda report: (len(report.study_id), report.study_id)):
            # The tables do not say which images a report is about; their identifiers do.
            named = images_of.get(report.study_id, []) if report.image_ids is None else report.image_ids
            images = (
                StudyImage(
                    image_id=image_id,
                    path=files.get(image_id, self.image_folder / f"{image_id}.png"),
                    view=views.get(image_id, ""),
                    where=report.where,
                )
                for image_id in sorted(named)
            )
            yield Study(
                study_id=report.study_id,
                images=tuple(images),
                where=report.where,
                findings=report.findings,
                impression=report.impression,
            )


def find_images(folder: Path) -> dict[str, Path]:
    """Image identifier → its file, in the folder and those below it."""
    return {canonical_id(path.name): path for path in walk_files(folder) if path.suffix.lower() in IMAGE_SUFFIXES}
