"""A header that is damaged, or made to harm: always a DataError, and never a word about the patient."""

import logging
import struct
import warnings
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import DeflatedExplicitVRLittleEndian, ImplicitVRLittleEndian

from tests.processors.made_dicom import WHOLE_RANGE, dicom, lut
from xraygpt.common.errors import DataError
from xraygpt.processors import dicom_header, image_io, open_image

PATIENT = {
    "SpecificCharacterSet": "ISO_IR 100",
    "PatientName": "SECRET^NAME",
    "PatientID": "SECRET1",
    "PatientBirthDate": "19000101",
    "AccessionNumber": "SECRET2",
    "InstitutionName": "SECRET HOSPITAL",
    "StudyDescription": "SECRET STUDY",
    "PatientComments": "SECRET",
}
DESCRIBED = {"BurnedInAnnotation": "YES", "PixelSpacing": [0.1, 0.1], "WindowCenterWidthExplanation": "NORMAL", **WHOLE_RANGE}


def named_patient(**elements: object) -> bytes:
    stored = np.random.default_rng(0).integers(0, 4096, (8, 8)).astype(np.uint16)
    return dicom(stored, **PATIENT, **DESCRIBED, VOILUTSequence=[lut(list(range(256)))], **elements).getvalue()


def all_that_is_said(source: BytesIO | Path, capfd: pytest.CaptureFixture, caplog: pytest.LogCaptureFixture) -> str:
    """The error with its causes, the log of every library from DEBUG on, the warnings and the output of opening an image."""
    caplog.clear()
    said = []
    with caplog.at_level(logging.DEBUG), pytest.warns(Warning) as warned:
        warnings.warn("so that there is one", UserWarning, stacklevel=1)
        try:
            said.append(str(open_image(source).info))
        except DataError as error:
            said += [str(error), str(error.__cause__)]
    return "\n".join([*said, caplog.text, *(str(warning.message) for warning in warned), *capfd.readouterr()])


def test_nothing_about_the_patient_is_said(tmp_path: Path, capfd: pytest.CaptureFixture, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "film.dcm"
    path.write_bytes(named_patient())
    said = all_that_is_said(path, capfd, caplog)
    assert "annotation is burned into its pixels" in said
    assert "SECRET" not in said


CHARACTER_SET, MODALITY, TRANSFER_SYNTAX = b"\x08\x00\x05\x00CS", b"\x08\x00\x60\x00CS", b"\x02\x00\x10\x00UI"


@pytest.mark.parametrize("element", [CHARACTER_SET, MODALITY, TRANSFER_SYNTAX])
def test_an_element_that_swallows_its_neighbours_is_not_quoted(
    element: bytes, capfd: pytest.CaptureFixture, caplog: pytest.LogCaptureFixture
) -> None:
    content = bytearray(named_patient())
    place = content.index(element) + len(element)
    content[place : place + 2] = (400).to_bytes(2, "little")
    assert "SECRET" not in all_that_is_said(BytesIO(content), capfd, caplog)


@pytest.mark.parametrize("syntax", [pydicom.uid.ExplicitVRLittleEndian, ImplicitVRLittleEndian])
def test_damaged_bytes_end_in_an_image_or_a_data_error(
    syntax: pydicom.uid.UID, capfd: pytest.CaptureFixture, caplog: pytest.LogCaptureFixture
) -> None:
    whole = named_patient(TransferSyntaxUID=syntax)
    rng = np.random.default_rng(0)
    for _ in range(200):
        content = bytearray(whole)
        for place in rng.integers(132, len(content), rng.integers(1, 4)):
            content[place] = rng.choice([0, 1, 0x7F, 0xFF, rng.integers(256)])
        assert "SECRET" not in all_that_is_said(BytesIO(content), capfd, caplog)


def test_a_file_cut_anywhere_is_a_data_error() -> None:
    whole = named_patient()
    for length in range(1, len(whole), 7):
        with pytest.raises(DataError, match="the image stream: "):
            open_image(BytesIO(whole[:length]))


def test_pydicom_is_heard_again_afterwards() -> None:
    level, filters = logging.getLogger("pydicom").level, list(warnings.filters)
    open_image(BytesIO(named_patient()))
    assert (logging.getLogger("pydicom").level, list(warnings.filters)) == (level, filters)


def test_a_file_that_inflates_without_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_io, "MAX_PIXELS", 100_000)
    content = dicom(TransferSyntaxUID=DeflatedExplicitVRLittleEndian).getvalue()
    start = content.index(DeflatedExplicitVRLittleEndian.encode()) + len(DeflatedExplicitVRLittleEndian)  # the last of the file meta
    deflater = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    bomb = content[:start] + deflater.compress(bytes(2_000_000)) + deflater.flush()
    assert len(bomb) < 4_000
    with pytest.raises(DataError, match="the deflated DICOM file unpacks to more than 400000 bytes"):
        open_image(BytesIO(bomb))


def test_sequences_nested_without_end_are_refused() -> None:
    opening = b"\x28\x00\x10\x30SQ\x00\x00\xff\xff\xff\xff" + b"\xfe\xff\x00\xe0\xff\xff\xff\xff"  # a VOI LUT sequence, its first item
    with pytest.raises(DataError, match="the DICOM header is damaged or cut short"):
        open_image(BytesIO(dicom(PixelData=None).getvalue() + opening * 20_000))


def test_a_file_without_file_meta_is_read_as_it_parses() -> None:
    dataset = pydicom.dcmread(dicom(**WHOLE_RANGE, TransferSyntaxUID=ImplicitVRLittleEndian))
    bare = Dataset(dataset)
    buffer = BytesIO()
    bare.save_as(buffer, implicit_vr=True, little_endian=True)
    assert buffer.getvalue()[:2] == b"\x08\x00"
    buffer.seek(0)
    assert np.asarray(open_image(buffer)).tolist() == [[0, 62, 125, 255]]


ITEM = b"\xfe\xff\x00\xe0\x00\x00\x00\x00"
STUDIES, WINDOW_CENTER, SPECIFIC_CHARACTER_SET, VOI_LUTS, PIXEL_DATA = 0x00081110, 0x00281050, 0x00080005, 0x00283010, 0x7FE00010


def element(tag: int, vr: bytes, value: bytes, *, is_open: bool = False) -> bytes:
    """An element of explicit value type with a long length, or of undefined length."""
    end = b"\xfe\xff\xdd\xe0" + bytes(4) if is_open else b""
    return struct.pack("<HH2sHI", tag >> 16, tag & 0xFFFF, vr, 0, 0xFFFFFFFF if is_open else len(value)) + value + end


def item_of(num_elements: int) -> bytes:
    elements = b"".join(struct.pack("<HH2sH", 0x0009, number, b"LO", 0) for number in range(num_elements))
    return b"\xfe\xff\x00\xe0\xff\xff\xff\xff" + elements + b"\xfe\xff\x0d\xe0" + bytes(4)


def nested_item() -> bytes:
    return b"\xfe\xff\x00\xe0\xff\xff\xff\xff" + element(STUDIES, b"SQ", ITEM, is_open=True) + b"\xfe\xff\x0d\xe0" + bytes(4)


SMALL_BUT_MANY = {
    "empty items": (element(STUDIES, b"SQ", ITEM * 500, is_open=True), "the DICOM header is larger than"),
    "an item of many elements": (element(STUDIES, b"SQ", item_of(500), is_open=True), "the DICOM header is larger than"),
    "items within items": (element(STUDIES, b"SQ", nested_item() * 200, is_open=True), "the DICOM header is larger than"),
    "bytes without a length": (element(0x00091001, b"OB", bytes(30_000), is_open=True), "the DICOM header is larger than"),
    "look-up tables": (element(VOI_LUTS, b"SQ", ITEM * 200), "VOILUTSequence is missing or damaged"),
    "a long sequence": (element(VOI_LUTS, b"SQ", bytes(40_000)), "VOILUTSequence is damaged, or larger"),
    "look-up tables that are texts": (element(VOI_LUTS, b"UT", b"1\\" * 20), "VOILUTSequence is damaged, or larger"),
    "windows": (element(WINDOW_CENTER, b"UT", b"1\\" * 2_000), "WindowCenter is damaged, or larger"),
    "windows without a length": (element(WINDOW_CENTER, b"UT", b"1\\" * 9, is_open=True), "WindowCenter is damaged, or larger"),
    "character sets": (element(SPECIFIC_CHARACTER_SET, b"UT", b"a\\" * 2_000), "SpecificCharacterSet is damaged, or larger"),
    "pixels that are texts": (element(PIXEL_DATA, b"UT", b"1\\" * 20), "PixelData is damaged, or larger"),
    "pixels that are items": (element(PIXEL_DATA, b"SQ", ITEM * 20), "PixelData is damaged, or larger"),
    "pixels of an unknown kind": (element(PIXEL_DATA, b"UN", ITEM * 20, is_open=True), "PixelData is damaged, or larger"),
}  # fmt: skip


@pytest.mark.parametrize("is_deflated", [False, True])
@pytest.mark.parametrize("case", SMALL_BUT_MANY)
def test_a_header_of_very_many_pieces_is_refused(case: str, is_deflated: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each would become some hundred bytes of objects, for as little as two bytes of the file."""
    many, reason = SMALL_BUT_MANY[case]
    monkeypatch.setattr(dicom_header, "MAX_HEADER_READS", 400)
    for limit in ("MAX_HEADER_BYTES", "MAX_LUT_BYTES", "MAX_ELEMENT_BYTES"):
        monkeypatch.setattr(dicom_header, limit, {"MAX_ELEMENT_BYTES": 2_000}.get(limit, 20_000))
    content = dicom().getvalue()
    assert open_image(BytesIO(content)).size == (4, 1)
    start = content.index(b"\x08\x00\x16\x00UI")  # the first element after the file meta
    content = content[:start] + many + content[start:]
    if is_deflated:
        deflater = zlib.compressobj(wbits=-zlib.MAX_WBITS)
        dataset, meta = content[start:], dicom(TransferSyntaxUID=DeflatedExplicitVRLittleEndian).getvalue()
        end = meta.index(DeflatedExplicitVRLittleEndian.encode()) + len(DeflatedExplicitVRLittleEndian)
        content = meta[:end] + deflater.compress(dataset) + deflater.flush()
    with pytest.raises(DataError, match=f"the image stream: .*{reason}"):
        open_image(BytesIO(content))


def test_an_element_that_is_not_read_may_be_large() -> None:
    content = dicom(**WHOLE_RANGE).getvalue()
    start = content.index(b"\x08\x00\x16\x00UI")
    private = element(0x00091001, b"OB", bytes(2 * dicom_header.MAX_HEADER_BYTES))
    assert open_image(BytesIO(content[:start] + private + content[start:])).size == (4, 1)
