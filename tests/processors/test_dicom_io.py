"""The grey-scale pipeline of DICOM on files made here, and real files."""

from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, JPEGLSLossless

from xraygpt.common.errors import DataError
from xraygpt.processors import dicom_io, open_image

STORED = np.array([[0, 1000, 2000, 4095]], dtype=np.uint16)


def dicom(stored: np.ndarray = STORED, **elements: Any) -> BytesIO:
    """A radiograph of 12 bits, MONOCHROME2, with `elements` changed; None removes one."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = elements.pop("TransferSyntaxUID", ExplicitVRLittleEndian)
    dataset = FileDataset("made.dcm", {}, file_meta=meta, preamble=bytes(128))
    dataset.Modality = "DX"
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.SamplesPerPixel = 1
    dataset.Rows, dataset.Columns = stored.shape
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 8 * stored.itemsize, 12 if stored.itemsize == 2 else 8, 11
    dataset.HighBit = dataset.BitsStored - 1
    dataset.PixelRepresentation = 0
    dataset.PixelData = stored.tobytes()
    for keyword, value in elements.items():
        if value is None:
            delattr(dataset, keyword)
        else:
            setattr(dataset, keyword, value)
    buffer = BytesIO()
    dataset.save_as(buffer, enforce_file_format=False)
    buffer.seek(0)
    return buffer


def grey(stream: BytesIO) -> list[int]:
    return np.asarray(open_image(stream))[0].tolist()


@pytest.mark.parametrize(
    ("elements", "expected"),
    [
        # window 0..2000: LINEAR, black at centre - 0.5 - (width - 1) / 2
        ({"WindowCenter": 1000.5, "WindowWidth": 2001}, [0, 128, 255, 255]),
        ({"WindowCenter": [1000.5, 40], "WindowWidth": [2001, 80]}, [0, 128, 255, 255]),  # the first of several
        ({"WindowCenter": 1000.5, "WindowWidth": 2001, "PhotometricInterpretation": "MONOCHROME1"}, [255, 127, 0, 0]),
        # a window wider than the data is kept, not stretched to the data
        ({"WindowCenter": 4096, "WindowWidth": 8192, "VOILUTFunction": "LINEAR_EXACT"}, [0, 31, 62, 127]),
        # the rescale comes before the window
        ({"WindowCenter": 0.5, "WindowWidth": 2001, "RescaleSlope": 1, "RescaleIntercept": -1000}, [0, 128, 255, 255]),
        # no window: percentiles 0.5 and 99.5 of the pixels
        ({}, [0, 61, 124, 255]),
    ],
)
def test_window_rescale_and_inversion(elements: dict[str, Any], expected: list[int]) -> None:
    assert grey(dicom(**elements)) == pytest.approx(expected, abs=1)


def test_voi_lut_sequence() -> None:
    lut = Dataset()
    lut.LUTDescriptor = [4, 0, 8]  # 4 entries, the first for the value 0, 8 bits each
    lut.LUTData = [0, 50, 100, 255]
    stored = np.array([[0, 1, 2, 3]], dtype=np.uint16)
    stream = dicom(stored)
    dataset = pydicom.dcmread(stream)
    dataset.VOILUTSequence = [lut]
    dataset["VOILUTSequence"].value[0]["LUTData"].VR = "US"
    dataset["VOILUTSequence"].value[0]["LUTDescriptor"].VR = "US"
    buffer = BytesIO()
    dataset.save_as(buffer)
    assert grey(BytesIO(buffer.getvalue())) == [0, 50, 100, 255]


def test_eight_bits_without_a_window_are_display_values() -> None:
    assert grey(dicom(np.array([[3, 100, 200, 210]], dtype=np.uint8))) == [3, 100, 200, 210]


def test_a_missing_modality_is_let_through() -> None:
    assert open_image(dicom(Modality=None)).size == (4, 1)


@pytest.mark.parametrize(
    ("elements", "reason"),
    [
        ({"Modality": "CT"}, "modality CT"),
        ({"NumberOfFrames": 2, "PixelData": STORED.tobytes() * 2}, "2 frames"),
        ({"PhotometricInterpretation": "RGB"}, "photometric interpretation RGB"),
        ({"PixelData": None}, "no pixel data"),
        ({"PixelData": STORED.tobytes()[:4]}, "damaged or incomplete"),
        ({"Rows": 60_000, "Columns": 60_000}, "pixels; at most"),
        ({"BitsAllocated": None}, "damaged or incomplete"),
        ({"WindowCenter": 5, "WindowWidth": 0}, "damaged or incomplete"),
        ({"TransferSyntaxUID": JPEGLSLossless, "PixelData": pydicom.encaps.encapsulate([b"\x00\x01"])}, "no installed decoder|damaged"),
    ],
)
def test_what_is_refused(elements: dict[str, Any], reason: str) -> None:
    with pytest.raises(DataError, match=reason):
        open_image(dicom(**elements))


def test_a_file_that_only_begins_like_dicom_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "cut.dcm"
    path.write_bytes(bytes(128) + b"DICM")
    with pytest.raises(DataError, match=r"cut\.dcm: "):
        open_image(path)


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


@pytest.mark.parametrize(("name", "reason"), [("CT_small", "modality CT"), ("MR_truncated", "modality MR")])
def test_real_slices_are_refused(test_data: Path, name: str, reason: str) -> None:
    with pytest.raises(DataError, match=rf"{name}\.dcm: {reason}"):
        open_image(test_data / "dicom" / f"{name}.dcm")


def test_monochrome1_chest_shows_the_mediastinum_white(test_data: Path) -> None:
    image = np.asarray(open_image(test_data / "dicom" / "RG1_J2KI.dcm").resize((64, 64)))
    assert image[40:56, 28:36].mean() > image[20:40, 12:22].mean()  # spine and heart against a lung


def test_signature() -> None:
    assert dicom_io.is_dicom(bytes(128) + b"DICM")
    assert dicom_io.is_dicom(b"\x08\x00\x05\x00")
    assert not dicom_io.is_dicom(b"\x89PNG\r\n\x1a\n")
