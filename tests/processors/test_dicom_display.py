"""The grey-scale pipeline: modality step, then VOI LUT or window, then inversion; and which of several windows is taken."""

from typing import Any

import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.pixels import apply_modality_lut, apply_windowing
from pydicom.uid import ExplicitVRBigEndian

from tests.processors.made_dicom import STORED, dicom, grey, lut
from xraygpt.common.errors import DataError
from xraygpt.processors.dicom_io import DicomOptions


@pytest.mark.parametrize(
    ("elements", "expected"),
    [
        # window 0..2000: LINEAR, black at centre - 0.5 - (width - 1) / 2
        ({"WindowCenter": 1000.5, "WindowWidth": 2001}, [0, 128, 255, 255]),
        ({"WindowCenter": [1000.5, 40], "WindowWidth": [2001, 80]}, [0, 128, 255, 255]),  # the first of several
        ({"WindowCenter": 1000.5, "WindowWidth": 2001, "PhotometricInterpretation": "MONOCHROME1"}, [255, 127, 0, 0]),
        ({"WindowCenter": 1000, "WindowWidth": 1}, [0, 255, 255, 255]),  # a threshold at 999.5
        # a window wider than the data is kept, not stretched to the data
        ({"WindowCenter": 4096, "WindowWidth": 8192, "VOILUTFunction": "LINEAR_EXACT"}, [0, 31, 62, 127]),
        ({"WindowCenter": 2000, "WindowWidth": 4000, "VOILUTFunction": "SIGMOID"}, [30, 69, 128, 227]),
        ({"WindowCenter": 2000, "WindowWidth": 4000, "VOILUTFunction": ""}, [0, 64, 128, 255]),
        # the rescale comes before the window
        ({"WindowCenter": 0.5, "WindowWidth": 2001, "RescaleSlope": 1, "RescaleIntercept": -1000}, [0, 128, 255, 255]),
        ({"WindowCenter": 1000.5, "WindowWidth": 2001, "RescaleSlope": -1, "RescaleIntercept": 2000}, [255, 128, 0, 0]),
        # no window: percentiles 0.5 and 99.5 of the pixels
        ({}, [0, 61, 124, 255]),
        ({"WindowCenter": None}, [0, 61, 124, 255]),
        ({"PhotometricInterpretation": "MONOCHROME1"}, [255, 194, 131, 0]),
    ],
)
def test_window_rescale_and_inversion(elements: dict[str, Any], expected: list[int]) -> None:
    given_elements = {keyword: value for keyword, value in elements.items() if value is not None}
    assert grey(dicom(**given_elements)) == pytest.approx(expected, abs=1)


@pytest.mark.parametrize(("bits", "expected"), [(10, [0, 64, 255]), (12, [0, 64, 255]), (14, [0, 64, 255]), (16, [0, 64, 255])])
@pytest.mark.parametrize("has_window", [True, False])
def test_every_depth_fills_the_grey_scale(bits: int, expected: list[int], has_window: bool) -> None:
    stored = np.array([[0, 2**bits // 4, 2**bits - 1]], dtype=np.uint16)
    window = {"WindowCenter": 2 ** (bits - 1), "WindowWidth": 2**bits} if has_window else {}
    assert grey(dicom(stored, BitsStored=bits, **window)) == pytest.approx(expected, abs=3)


@pytest.mark.filterwarnings("ignore:overflow encountered in exp:RuntimeWarning")  # of pydicom
@settings(max_examples=30)
@given(
    center=st.floats(-3000, 6000),
    width=st.floats(1, 6000),
    slope=st.sampled_from([1.0, 0.25, 3.0]),
    intercept=st.sampled_from([0.0, -1024.0, 7.5]),
    function=st.sampled_from(["LINEAR", "LINEAR_EXACT", "SIGMOID"]),
)
def test_windows_agree_with_pydicom(center: float, width: float, slope: float, intercept: float, function: str) -> None:
    stored = np.linspace(0, 4095, 64, dtype=np.uint16)[None]
    window = {"WindowCenter": f"{center:.6g}", "WindowWidth": f"{width:.6g}", "VOILUTFunction": function}
    stream = dicom(stored, RescaleSlope=slope, RescaleIntercept=intercept, **window)
    dataset = pydicom.dcmread(stream)
    shown = apply_windowing(apply_modality_lut(stored, dataset), dataset)
    expected = (shown - intercept) / (4095 * slope) * 255  # pydicom's output is in units of the rescale
    stream.seek(0)
    assert grey(stream) == pytest.approx(expected[0].tolist(), abs=0.51)


def test_signed_values_are_shown_in_their_order() -> None:
    stored = np.array([[-2048, -1, 0, 2047]], dtype=np.int16)
    assert grey(dicom(stored, WindowCenter=0, WindowWidth=4096)) == [0, 127, 128, 255]


def test_eight_bits_without_a_window_are_display_values() -> None:
    stored = np.array([[3, 100, 200, 210]], dtype=np.uint8)
    assert grey(dicom(stored)) == [3, 100, 200, 210]
    assert grey(dicom(stored, RescaleSlope=-1, RescaleIntercept=255)) == [252, 155, 55, 45]


RAMP = (np.arange(4096) // 16).astype(int).tolist()  # 8-bit output for each 12-bit value: what pydicom 3.0.2 gets wrong
PACKED = np.array(RAMP, dtype=np.uint8).tobytes()
TWELVE = np.arange(4096, dtype="<u2").tobytes()


@pytest.mark.parametrize(
    ("item", "expected"),
    [
        (lut(RAMP), [0, 62, 125, 255]),
        (lut(PACKED, vr="OW"), [0, 62, 125, 255]),
        (lut(TWELVE, bits=12, vr="OW"), [0, 62, 125, 255]),
        (lut([0, 50, 100, 255], first=1000), [0, 0, 255, 255]),  # below the first entry, and beyond the last
        (lut([0, 1023, 2047, 4095], first=1999, bits=12), [0, 0, 64, 255]),
        (lut([65535], bits=16), [255, 255, 255, 255]),
    ],
    ids=["words", "packed", "12 bits", "first entry", "few entries", "one entry"],
)
@pytest.mark.parametrize("kind", ["VOILUTSequence", "ModalityLUTSequence"])
def test_lookup_tables(item: Any, expected: list[int], kind: str) -> None:
    bits = item.LUTDescriptor[2]
    window = {"WindowCenter": 2 ** (bits - 1), "WindowWidth": 2**bits} if kind == "ModalityLUTSequence" else {}
    assert grey(dicom(**{kind: [item]}, **window)) == pytest.approx(expected, abs=1)


def test_a_big_endian_table() -> None:
    item = lut(np.arange(4096, dtype=">u2").tobytes(), bits=12, vr="OW")
    stream = dicom(STORED.astype(">u2"), VOILUTSequence=[item], TransferSyntaxUID=ExplicitVRBigEndian)
    assert grey(stream) == pytest.approx([0, 62, 125, 255], abs=1)


def test_the_table_follows_the_rescale_and_comes_before_the_inversion() -> None:
    item = lut([0, 50, 100, 255], first=-1000)
    elements = {"RescaleSlope": 1, "RescaleIntercept": -1000, "PhotometricInterpretation": "MONOCHROME1"}
    assert grey(dicom(np.array([[0, 1, 2, 3]], dtype=np.uint16), VOILUTSequence=[item], **elements)) == [255, 205, 155, 0]


SEVERAL = {
    "VOILUTSequence": [lut([0, 0, 0, 255], explanation="Lung")],
    "WindowCenter": [1.5, 2],
    "WindowWidth": [4, 2],
    "WindowCenterWidthExplanation": ["NORMAL", "BONE"],
}
FEW_VALUES = np.array([[0, 1, 2, 3]], dtype=np.uint16)


@pytest.mark.parametrize(
    ("window", "expected"),
    [
        (0, [0, 0, 0, 255]),
        (1, [43, 128, 213, 255]),
        (2, [0, 0, 255, 255]),
        ("lung", [0, 0, 0, 255]),
        ("BONE", [0, 0, 255, 255]),
        (" bone ", [0, 0, 255, 255]),
    ],
)
def test_a_window_is_chosen_by_number_or_name(window: int | str, expected: list[int]) -> None:
    assert grey(dicom(FEW_VALUES, **SEVERAL), dicom=DicomOptions(window=window)) == pytest.approx(expected, abs=1)


@pytest.mark.parametrize("window", [3, -1, "HEART", ""])
def test_an_absent_window_lists_those_that_there_are(window: int | str) -> None:
    with pytest.raises(DataError, match=r"there is no window .*; the file has 0 \(Lung\), 1 \(NORMAL\), 2 \(BONE\)"):
        grey(dicom(FEW_VALUES, **SEVERAL), dicom=DicomOptions(window=window))


def test_a_nameless_window_is_listed_and_not_found_by_an_empty_name() -> None:
    with pytest.raises(DataError, match=r"the file has 0 \(no name\)"):
        grey(dicom(WindowCenter=2000, WindowWidth=4000), dicom=DicomOptions(window=""))


def test_any_window_of_a_file_without_one_is_the_percentiles() -> None:
    assert grey(dicom(), dicom=DicomOptions(window="BONE")) == grey(dicom())


@pytest.mark.parametrize(
    ("elements", "reason"),
    [
        ({"WindowCenter": 5, "WindowWidth": 0}, "window 0 has the width 0"),
        ({"WindowCenter": 5, "WindowWidth": 0.5}, "window 0 has the width 0.5"),
        ({"WindowCenter": 5, "WindowWidth": -3, "VOILUTFunction": "SIGMOID"}, "window 0 has the width -3"),
        ({"WindowCenter": 5, "WindowWidth": 9, "VOILUTFunction": "CUBIC"}, "VOI LUT function CUBIC is unknown"),
        ({"VOILUTSequence": [lut([0, 1], bits=9)]}, "LUTDescriptor is missing or damaged"),
        ({"VOILUTSequence": [lut(b"\x00\x01" * 3, bits=16, vr="OW"), pydicom.Dataset()]}, "LUTDescriptor is missing or damaged"),
    ],
)
def test_what_cannot_be_shown(elements: dict[str, Any], reason: str) -> None:
    with pytest.raises(DataError, match=f"the image stream: .*{reason}"):
        grey(dicom(**elements))


def test_a_table_shorter_than_it_says_is_refused() -> None:
    item = lut([0, 50, 100, 255])
    item.LUTDescriptor = [400, 0, 8]
    with pytest.raises(DataError, match="LUTData is missing or damaged"):
        grey(dicom(VOILUTSequence=[item]))
