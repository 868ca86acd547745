"""A made MIMIC-CXR: the trees, tables and report style of PhysioNet's two data sets, with invented reports and images of noise.

    <root>/mimic-cxr-jpg/2.0.0/files/p10/p10000032/s50414267/<dicom_id>.jpg     not with dicom=True
    <root>/mimic-cxr-jpg/2.0.0/mimic-cxr-2.0.0-{metadata,split,chexpert,negbio}.csv.gz
    <root>/mimic-cxr/2.0.0/files/p10/p10000032/s50414267/<dicom_id>.dcm         with dicom=True
    <root>/mimic-cxr/2.0.0/mimic-cxr-reports/files/p10/p10000032/s50414267.txt  or mimic-cxr-reports.zip
    <root>/mimic-cxr/2.0.0/cxr-{record,study}-list.csv.gz

The same arguments make the same files.
"""

import csv
import gzip
import io
import random
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import UID, DigitalXRayImageStorageForPresentation, ExplicitVRLittleEndian

from tests.datasets.preparation.mimic_text import MadeReport, make_report

LABEL_HEADER = (
    "subject_id,study_id,Atelectasis,Cardiomegaly,Consolidation,Edema,Enlarged Cardiomediastinum,Fracture,Lung Lesion,Lung Opacity,"
    "No Finding,Pleural Effusion,Pleural Other,Pneumonia,Pneumothorax,Support Devices"
)
METADATA_HEADER = (
    "dicom_id,subject_id,study_id,PerformedProcedureStepDescription,ViewPosition,Rows,Columns,StudyDate,StudyTime,"
    "ProcedureCodeSequence_CodeMeaning,ViewCodeSequence_CodeMeaning,PatientOrientationCodeSequence_CodeMeaning"
)
VIEWS = ("PA", "AP", "LATERAL", "LL", "AP AXIAL", "LAO", "SWIMMERS", "XTABLE LATERAL", "")
VIEW_WEIGHTS = (28, 35, 17, 14, 1, 1, 1, 1, 2)
VIEW_CODES = {"PA": "postero-anterior", "AP": "antero-posterior", "LATERAL": "lateral", "LL": "left lateral"}


@dataclass(frozen=True, slots=True)
class MadeImage:
    """An image: its DICOM id and its ViewPosition."""

    dicom_id: str
    view_position: str


@dataclass(frozen=True, kw_only=True, slots=True)
class MadeStudy:
    """A study as it was made.

    Attributes:
        subject_id: 8 digits.
        study_id: 8 digits.
        split: "train", "validate" or "test".
        images: none for a report that no table of images knows.
        report: its report.
    """

    subject_id: int
    study_id: int
    split: str
    images: tuple[MadeImage, ...]
    report: MadeReport

    @property
    def folder(self) -> str:
        """The folder of its images, and but for ".txt" its report, below `files`."""
        return f"p{str(self.subject_id)[:2]}/p{self.subject_id}/s{self.study_id}"


@dataclass(frozen=True, kw_only=True)
class MadeTree:
    """Where everything lies, and what is in it.

    Attributes:
        root: holds both data sets.
        jpg: folder of MIMIC-CXR-JPG 2.0.0, with the tables.
        cxr: folder of MIMIC-CXR 2.0.0.
        images: the tree of the images.
        reports: the tree of the reports, or their archive.
        studies: all studies, by subject and number.
    """

    root: Path
    jpg: Path
    cxr: Path
    images: Path
    reports: Path
    studies: tuple[MadeStudy, ...]

    def table(self, name: str) -> Path:
        """The path of one of the four tables of MIMIC-CXR-JPG."""
        return self.jpg / f"mimic-cxr-2.0.0-{name}.csv.gz"

    def num_images(self, *view_positions: str) -> int:
        """Images of these ViewPositions."""
        return sum(image.view_position in view_positions for study in self.studies for image in study.images)


def write_mimic_tree(
    root: Path,
    *,
    num_subjects: int,
    seed: int = 0,
    image_size: tuple[int, int] = (64, 80),
    dicom: bool = False,
    zipped_reports: bool = False,
) -> MadeTree:
    """Write a made MIMIC-CXR below `root`.

    Args:
        root: a new or empty folder.
        num_subjects: with 1 to 4 studies each, of 1 to 3 images; one subject in 50, and the first, also has a report without images.
        seed: of everything.
        image_size: width and height.
        dicom: the images of MIMIC-CXR, not those of MIMIC-CXR-JPG.
        zipped_reports: the reports as they are downloaded.
    """
    jpg, cxr = root / "mimic-cxr-jpg" / "2.0.0", root / "mimic-cxr" / "2.0.0"
    for folder in (jpg, cxr):
        folder.mkdir(parents=True)
        (folder / "LICENSE.txt").write_text("Made for tests.\n")
    studies = list(_make_studies(random.Random(seed), num_subjects))
    reports = {f"{study.folder}.txt": study.report.text for study in studies}
    _write_tables(jpg, cxr, studies, image_size)
    images = (cxr if dicom else jpg) / "files"
    _write_images(images, studies, np.random.default_rng(seed), image_size, dicom=dicom)
    place = cxr / ("mimic-cxr-reports.zip" if zipped_reports else "mimic-cxr-reports/files")
    (_write_archive if zipped_reports else _write_reports)(place, reports)
    return MadeTree(root=root, jpg=jpg, cxr=cxr, images=images, reports=place, studies=tuple(studies))


# Studies and reports ----------------------------------------------------------------------------------------------------


def _make_studies(rng: random.Random, num_subjects: int) -> Iterator[MadeStudy]:
    """The studies in the order of their numbers."""
    subject_ids = sorted(rng.sample(range(10_000_000, 20_000_000), num_subjects))
    unused = iter(rng.sample(range(50_000_000, 60_000_000), 5 * num_subjects))
    for index, subject_id in enumerate(subject_ids):
        num_studies = rng.randint(1, 4)
        study_ids = [next(unused) for _ in range(num_studies)]
        orphans = {next(unused)} if index % 50 == 0 else set()
        for study_id in sorted([*study_ids, *orphans]):
            num_images = 0 if study_id in orphans else rng.randint(1, 3)
            images = tuple(MadeImage(_dicom_id(rng), rng.choices(VIEWS, VIEW_WEIGHTS)[0]) for _ in range(num_images))
            lateral = any(image.view_position in ("LATERAL", "LL") for image in images)
            yield MadeStudy(
                subject_id=subject_id,
                study_id=study_id,
                split={3: "validate", 7: "test"}.get(index % 10, "train"),
                images=images,
                report=make_report(rng, lateral=lateral),
            )


def _dicom_id(rng: random.Random) -> str:
    return "-".join(f"{rng.getrandbits(32):08x}" for _ in range(5))


def _write_reports(tree: Path, reports: dict[str, str]) -> None:
    for name, text in reports.items():
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_text(text, encoding="utf-8")


def _write_archive(path: Path, reports: dict[str, str]) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        folders = {f"files/{parent}/" for name in reports for parent in Path(name).parents if parent.name} | {"files/"}
        entries = dict.fromkeys(folders, "") | {f"files/{name}": text for name, text in reports.items()}
        for name in sorted(entries):
            info = zipfile.ZipInfo(name)
            info.compress_type = zipfile.ZIP_STORED if name.endswith("/") else zipfile.ZIP_DEFLATED
            archive.writestr(info, entries[name])


# Tables -----------------------------------------------------------------------------------------------------------------


def _write_tables(jpg: Path, cxr: Path, studies: Sequence[MadeStudy], image_size: tuple[int, int]) -> None:
    images = [(study, image) for study in studies for image in study.images]
    write_table(jpg / "mimic-cxr-2.0.0-metadata.csv.gz", METADATA_HEADER, (_metadata(study, image, image_size) for study, image in images))
    write_table(
        jpg / "mimic-cxr-2.0.0-split.csv.gz",
        "dicom_id,study_id,subject_id,split",
        ((image.dicom_id, study.study_id, study.subject_id, study.split) for study, image in images),
    )
    for name in ("chexpert", "negbio"):
        rows = ((study.subject_id, study.study_id, *_label_cells(study, name)) for study in studies if study.images)
        write_table(jpg / f"mimic-cxr-2.0.0-{name}.csv.gz", LABEL_HEADER, rows)
    write_table(
        cxr / "cxr-record-list.csv.gz",
        "subject_id,study_id,dicom_id,path",
        ((study.subject_id, study.study_id, image.dicom_id, f"files/{study.folder}/{image.dicom_id}.dcm") for study, image in images),
    )
    paths = ((study.subject_id, study.study_id, f"files/{study.folder}.txt") for study in studies)
    write_table(cxr / "cxr-study-list.csv.gz", "subject_id,study_id,path", paths)


def _metadata(study: MadeStudy, image: MadeImage, image_size: tuple[int, int]) -> list[Any]:
    view, (width, height) = image.view_position, image_size
    lateral = view in ("LATERAL", "LL")
    exam = "CHEST (PA AND LAT)" if lateral or view == "PA" else "CHEST (PORTABLE AP)"
    date, time = 21000101 + study.study_id % 90, f"{study.study_id % 235959:06d}.{study.study_id % 1000:03d}"
    orientation = "" if not view else "Recumbent" if view == "AP" else "Erect"
    return [
        image.dicom_id,
        study.subject_id,
        study.study_id,
        exam,
        view,
        height,
        width,
        date,
        time,
        exam,
        VIEW_CODES.get(view, ""),
        orientation,
    ]


def _label_cells(study: MadeStudy, table: str) -> list[str]:
    """The labels as the table has them; the second labeller calls every uncertain fracture present."""
    labels = dict(study.report.labels)
    if table == "negbio" and labels.get("Fracture") == -1:
        labels["Fracture"] = 1
    return [f"{labels[name]:.1f}" if name in labels else "" for name in LABEL_HEADER.split(",")[2:]]


def write_table(path: Path, header: str, rows: Iterable[Sequence[Any]]) -> None:
    """Write a table, packed, without the time of writing."""
    text = io.StringIO()
    text.write(f"{header}\n")
    csv.writer(text, lineterminator="\n").writerows(rows)
    path.write_bytes(gzip.compress(text.getvalue().encode(), mtime=0))


# Images -----------------------------------------------------------------------------------------------------------------


def _write_images(tree: Path, studies: Sequence[MadeStudy], rng: np.random.Generator, image_size: tuple[int, int], *, dicom: bool) -> None:
    """A few soft patterns, each image with its own number drawn into a corner."""
    small = [Image.fromarray(rng.integers(0, 256, (6, 6), dtype=np.uint8)) for _ in range(8)]
    patterns = [np.asarray(image.resize(image_size, Image.Resampling.BICUBIC)) for image in small]
    names = [f"{study.folder}/{image.dicom_id}" for study in studies for image in study.images]
    for number, name in enumerate(names):
        pixels = patterns[number % len(patterns)].copy()
        bits = (number >> np.arange(24)) & 1
        pixels[:16, :24] = np.kron(bits.reshape(4, 6), np.full((4, 4), 255)).astype(np.uint8)
        path = tree / f"{name}{'.dcm' if dicom else '.jpg'}"
        path.parent.mkdir(parents=True, exist_ok=True)
        if dicom:
            _write_dicom(path, pixels.astype(np.uint16) * 16, number)
        else:
            Image.fromarray(pixels).save(path, quality=95)


def _write_dicom(path: Path, pixels: np.ndarray, number: int) -> None:
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = DigitalXRayImageStorageForPresentation
    meta.MediaStorageSOPInstanceUID = UID(f"1.2.826.0.1.3680043.10.1.{number}")
    dataset = FileDataset(path.name, {}, file_meta=meta, preamble=bytes(128))
    dataset.SOPClassUID, dataset.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    dataset.Modality = "DX"
    dataset.PhotometricInterpretation, dataset.SamplesPerPixel = "MONOCHROME2", 1
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 12, 11, 0
    dataset.WindowCenter, dataset.WindowWidth = 2048, 4096
    dataset.PixelData = pixels.tobytes()
    dataset.save_as(path, enforce_file_format=True)
