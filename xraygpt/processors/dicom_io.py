"""A radiograph in DICOM → 8-bit display values, as the standard's grey-scale pipeline orders them.

    stored values → modality LUT or rescale → VOI LUT or window → inversion of MONOCHROME1 → 0..255

(DICOM PS3.3 C.11.1, C.11.2 and C.7.6.3.1.2.) The result shows air black and bone white whatever the file stores.
Only projection radiographs (CR, DX, RG) are accepted: the model has never seen a CT slice, and would describe one all the same.
"""

import struct
from typing import Any, BinaryIO

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.errors import InvalidDicomError
from pydicom.multival import MultiValue
from pydicom.pixels import apply_modality_lut, apply_voi, apply_windowing
from pydicom.uid import UID, ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from xraygpt.common.errors import DataError

RADIOGRAPH_MODALITIES = ("CR", "DX", "RG")
"""Computed radiography, digital radiography, film; an absent modality (some de-identified sets drop it) is let through."""

FALLBACK_PERCENTILES = (0.5, 99.5)
"""The window where a file of more than 8 bits brings none: all but the darkest and brightest 0.5 % of its pixels."""

_FIRST_GROUPS = (b"\x02\x00", b"\x08\x00")  # the first data element of files that lack the preamble, little endian
_DAMAGED = (InvalidDicomError, OSError, EOFError, AttributeError, KeyError, TypeError, ValueError, struct.error)


def is_dicom(signature: bytes) -> bool:
    """Whether a file that begins with these bytes (132 are enough) is DICOM, with or without the preamble."""
    return signature[128:132] == b"DICM" or signature[:2] in _FIRST_GROUPS


def read_dicom(stream: BinaryIO, *, name: str, max_pixels: int) -> np.ndarray:
    """Read one radiograph.

    Args:
        stream: the file's content.
        name: what to call it in an error.
        max_pixels: the largest rows x columns that is decoded.

    Returns:
        uint8 array [rows, columns], 0 = black (air), 255 = white.

    Raises:
        DataError: no radiograph, several frames, colour, too large, damaged, or compressed in a way that no installed decoder reads.
    """
    try:
        dataset = pydicom.dcmread(stream, force=True)
        _require_radiograph(dataset, name, max_pixels)
        return _display_values(_decode_pixels(dataset, name), dataset)
    except _DAMAGED as error:
        raise DataError(f"{name}: the DICOM file is damaged or incomplete ({error}).") from error


def _require_radiograph(dataset: Dataset, name: str, max_pixels: int) -> None:
    modality = dataset.get("Modality") or ""
    if modality and modality not in RADIOGRAPH_MODALITIES:
        raise DataError(f"{name}: modality {modality}; only radiographs ({', '.join(RADIOGRAPH_MODALITIES)}) are read.")
    if "PixelData" not in dataset:
        raise DataError(f"{name}: the DICOM file holds no pixel data.")
    if (frames := int(dataset.get("NumberOfFrames") or 1)) != 1:
        raise DataError(f"{name}: {frames} frames; a radiograph has one. Export the frame that is meant.")
    photometric = dataset.get("PhotometricInterpretation")
    if photometric not in ("MONOCHROME1", "MONOCHROME2"):
        raise DataError(f"{name}: photometric interpretation {photometric}; a radiograph is MONOCHROME1 or MONOCHROME2.")
    if dataset.Rows * dataset.Columns > max_pixels:
        raise DataError(f"{name}: {dataset.Columns} x {dataset.Rows} pixels; at most {max_pixels} are decoded.")


def _decode_pixels(dataset: Dataset, name: str) -> np.ndarray:
    if "TransferSyntaxUID" not in getattr(dataset, "file_meta", {}):
        dataset.file_meta = FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = _parsed_syntax(dataset)
    try:
        return dataset.pixel_array
    except RuntimeError as error:  # how pydicom reports that every decoder of a compression is missing or failed
        syntax = dataset.file_meta.TransferSyntaxUID.name
        raise DataError(
            f"{name}: no installed decoder reads {syntax!r}. Install pylibjpeg with pylibjpeg-openjpeg (JPEG 2000), "
            f"pyjpegls (JPEG-LS) or python-gdcm (every JPEG). pydicom says: {error}"
        ) from error


def _parsed_syntax(dataset: Dataset) -> UID:
    """A bare dataset (no file meta) is uncompressed; its transfer syntax is how its elements were just parsed."""
    is_implicit, is_little_endian = dataset.original_encoding
    if is_implicit:
        return ImplicitVRLittleEndian
    return ExplicitVRLittleEndian if is_little_endian else ExplicitVRBigEndian


def _display_values(stored: np.ndarray, dataset: Dataset) -> np.ndarray:
    values = apply_modality_lut(stored, dataset)
    values, low, high = _values_of_interest(values, dataset)
    unit = np.clip((values.astype(np.float64) - low) / max(high - low, np.finfo(np.float64).tiny), 0, 1)
    if dataset.PhotometricInterpretation == "MONOCHROME1":  # the lowest value is meant to be shown white
        unit = 1 - unit
    return np.rint(unit * 255).astype(np.uint8)


def _values_of_interest(values: np.ndarray, dataset: Dataset) -> tuple[np.ndarray, float, float]:
    """Apply the file's first VOI LUT or window; return the result and the values that mean black and white."""
    if dataset.get("VOILUTSequence"):
        entry_bits = dataset.VOILUTSequence[0].LUTDescriptor[2]
        return apply_voi(values, dataset), 0, 2**entry_bits - 1
    if dataset.get("WindowCenter") is not None and dataset.get("WindowWidth") is not None:
        center, width = _first(dataset.WindowCenter), _first(dataset.WindowWidth)
        low, high = apply_windowing(np.array([center - 100 * width, center + 100 * width]), dataset)  # far outside the window
        return apply_windowing(values, dataset), low, high
    if dataset.BitsStored == 8 and dataset.PixelRepresentation == 0:  # display values already, up to the rescale
        low, high = apply_modality_lut(np.array([0, 255], dtype=np.uint8), dataset)
    else:
        low, high = np.percentile(values, FALLBACK_PERCENTILES)
    return values, float(low), float(high)


def _first(value: Any) -> float:
    return float(value[0] if isinstance(value, MultiValue) else value)
