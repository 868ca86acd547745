"""A header that is damaged, or made to harm: always a DataError, and never a word about the patient."""

import logging
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
from xraygpt.processors import image_io, open_image

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
