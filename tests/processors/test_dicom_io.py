"""Which DICOM files are radiographs, the shape of their pixels, what is said of burned-in text, and real files."""

import logging
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest

from tests.processors.made_dicom import STORED, WHOLE_RANGE, dicom, lut
from xraygpt.common.errors import DataError
from xraygpt.processors import dicom_io, image_io, open_image
from xraygpt.processors.dicom_io import DicomOptions


@pytest.mark.parametrize("modality", ["CR", "DX", "RG", "", None])
def test_radiographs_and_files_without_a_modality_are_read(modality: str | None) -> None:
    assert open_image(dicom(Modality=modality)).size == (4, 1)


@pytest.mark.parametrize("modality", ["CT", "MR", "US", "MG"])
def test_another_modality_is_refused_unless_forced(modality: str) -> None:
    with pytest.raises(DataError, match=rf"modality {modality}; only radiographs \(CR, DX, RG\) are read\. .*--force-modality"):
        open_image(dicom(Modality=modality))
    assert open_image(dicom(Modality=modality), dicom=DicomOptions(force_modality=True)).size == (4, 1)


@pytest.mark.parametrize(
    ("elements", "reason"),
    [
        ({"NumberOfFrames": 2, "PixelData": STORED.tobytes() * 2}, "2 frames; a radiograph has one"),
        ({"NumberOfFrames": 0}, "0 frames"),
        ({"PhotometricInterpretation": "RGB", "SamplesPerPixel": 3}, "photometric interpretation RGB with 3 samples a pixel"),
        ({"PhotometricInterpretation": None}, "photometric interpretation missing"),
        ({"SamplesPerPixel": 3}, "MONOCHROME2 with 3 samples"),
        ({"PixelData": None}, "no pixel data"),
        ({"PixelData": b""}, "no pixel data"),
        ({"RescaleSlope": "1e999", "RescaleIntercept": 0}, "RescaleSlope is missing or damaged"),
        ({"WindowCenter": [5, 6], "WindowWidth": [9, "nan"]}, "WindowWidth is missing or damaged"),
    ],
)
@pytest.mark.filterwarnings("ignore:Invalid value for VR DS")
def test_what_is_no_single_grey_image(elements: dict[str, Any], reason: str) -> None:
    with pytest.raises(DataError, match=f"the image stream: .*{reason}"):
        open_image(dicom(**elements), dicom=DicomOptions(force_modality=True))


def test_a_file_that_only_begins_like_dicom_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "cut.dcm"
    path.write_bytes(bytes(128) + b"DICM")
    with pytest.raises(DataError, match=r"cut\.dcm: "):
        open_image(path)


def test_signature() -> None:
    assert dicom_io.is_dicom(bytes(128) + b"DICM")
    assert dicom_io.is_dicom(b"\x08\x00\x05\x00")
    assert not dicom_io.is_dicom(b"\x89PNG\r\n\x1a\n")


TALL = np.tile(np.array([[0, 4095]], dtype=np.uint16), (10, 10))  # 20 wide, 10 high, upright lines


@pytest.mark.parametrize(
    ("elements", "size"),
    [
        ({"PixelSpacing": [0.2, 0.1]}, (20, 20)),  # between rows, between columns: pixels twice as high as wide
        ({"PixelSpacing": [0.1, 0.2]}, (40, 10)),
        ({"ImagerPixelSpacing": [0.3, 0.2]}, (20, 15)),
        ({"NominalScannedPixelSpacing": [0.2, 0.3]}, (30, 10)),
        ({"PixelAspectRatio": [2, 1]}, (20, 20)),
        ({"PixelAspectRatio": [1, 2]}, (40, 10)),
        ({"PixelSpacing": [0.1, 0.1], "PixelAspectRatio": [2, 1]}, (20, 10)),  # the spacing is the measurement
        ({"PixelSpacing": [0, 0], "ImagerPixelSpacing": [0.2, 0.1]}, (20, 20)),  # nothing stated is no statement
        ({"PixelAspectRatio": 1}, (20, 10)),
        ({"PixelSpacing": [0.1391, 0.1390]}, (20, 10)),  # rounding
        ({}, (20, 10)),
    ],
)
def test_pixels_become_square(elements: dict[str, Any], size: tuple[int, int]) -> None:
    assert open_image(dicom(TALL, **elements)).size == size


def test_the_finer_axis_keeps_its_pixels() -> None:
    image = np.asarray(open_image(dicom(TALL, PixelSpacing=[0.2, 0.1], **WHOLE_RANGE)))
    assert np.array_equal(image, np.tile([[0, 255]], (20, 10)))


@pytest.mark.parametrize("spacing", [[10, 0.1], [0.1, 10], [1e-9, 1]])
def test_absurd_pixels_are_refused(spacing: list[float]) -> None:
    with pytest.raises(DataError, match=r"pixels of .* by .* \(PixelSpacing\), which no detector makes"):
        open_image(dicom(TALL, PixelSpacing=spacing))


def test_square_pixels_count_towards_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_io, "MAX_PIXELS", 300)
    with pytest.raises(DataError, match="20 x 20 pixels once they are square; at most 300 are made"):
        open_image(dicom(TALL, PixelSpacing=[0.2, 0.1]))


def test_burned_in_annotation_is_warned_about_once_for_a_file(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "portable.dcm"
    path.write_bytes(dicom(BurnedInAnnotation="YES", PixelSpacing=[0.2, 0.1]).getvalue())
    with caplog.at_level(logging.WARNING, logger="xraygpt"):
        images = [open_image(path) for _ in range(3)]
    assert [record.getMessage() for record in caplog.records] == [
        f"{path}: the file says that annotation is burned into its pixels; it may name the patient."
    ]
    assert [image.info for image in images] == [{"burned_in_annotation": True}] * 3


@pytest.mark.parametrize("flag", ["NO", "", None])
def test_no_warning_without_burned_in_annotation(flag: str | None, caplog: pytest.LogCaptureFixture) -> None:
    assert open_image(dicom(BurnedInAnnotation=flag) if flag is not None else dicom()).info == {}
    assert caplog.records == []


def test_a_saved_image_holds_nothing_but_pixels() -> None:
    stream = dicom(
        PatientName="SECRET", StudyDescription="SECRET", BurnedInAnnotation="YES", VOILUTSequence=[lut([0, 1], explanation="SECRET")]
    )
    for kind in ("PNG", "JPEG"):
        stream.seek(0)
        buffer = BytesIO()
        open_image(stream).save(buffer, kind)
        assert b"SECRET" not in buffer.getvalue()
        assert b"burned" not in buffer.getvalue()


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("RG1_J2KI", (1841, 1955)),  # JPEG 2000, 15 bits
        ("RG3_RLE", (1760, 1760)),
        ("fodicom-CR-MONO1-10-chest", (440, 440)),  # no file meta
        ("txrv_jpeg_baseline_chest", (1024, 1024)),
    ],
)
def test_real_radiographs(test_data: Path, name: str, size: tuple[int, int]) -> None:
    image = open_image(test_data / "dicom" / f"{name}.dcm")
    assert (image.mode, image.size) == ("L", size)
    low, high = image.getextrema()
    assert high - low > 200  # the window uses the grey scale


@pytest.mark.parametrize("name", ["RG1_J2KI", "RG3_RLE", "fodicom-CR-MONO1-10-chest", "txrv_jpeg_baseline_chest"])
def test_the_patient_of_a_real_file_is_not_in_the_saved_image(test_data: Path, name: str) -> None:
    path = test_data / "dicom" / f"{name}.dcm"
    buffer = BytesIO()
    open_image(path).save(buffer, "PNG")
    dataset = pydicom.dcmread(path, force=True, stop_before_pixels=True)
    patient = [str(dataset.get(keyword, "")).encode() for keyword in ("PatientName", "PatientID", "StudyInstanceUID", "SOPInstanceUID")]
    assert any(patient)
    assert [value for value in patient if len(value) > 4 and value in buffer.getvalue()] == []


@pytest.mark.parametrize(("name", "reason"), [("CT_small", "modality CT"), ("MR_truncated", "modality MR")])
def test_real_slices_are_refused(test_data: Path, name: str, reason: str) -> None:
    with pytest.raises(DataError, match=rf"{name}\.dcm: {reason}"):
        open_image(test_data / "dicom" / f"{name}.dcm")


def test_forced_slices_are_read_unless_they_are_damaged(test_data: Path) -> None:
    forced = DicomOptions(force_modality=True)
    assert open_image(test_data / "dicom" / "CT_small.dcm", dicom=forced).size == (128, 128)
    with pytest.raises(DataError, match=r"MR_truncated\.dcm: the pixel data are damaged or cut short"):
        open_image(test_data / "dicom" / "MR_truncated.dcm", dicom=forced)


def test_monochrome1_chest_shows_the_mediastinum_white(test_data: Path) -> None:
    image = np.asarray(open_image(test_data / "dicom" / "RG1_J2KI.dcm").resize((64, 64)))
    assert image[40:56, 28:36].mean() > image[20:40, 12:22].mean()  # spine and heart against a lung
