"""The header elements of a DICOM file that an image is made from, and no others.

Whatever identifies a patient is not among `KEYWORDS` and is never read. A damaged length can still make one element swallow its
neighbours. So errors name an element and not its value, and pydicom, which quotes odd values in warnings and errors, is not heard.
"""

from __future__ import annotations

import logging
import math
import re
import struct
import threading
import warnings
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from io import BytesIO
from typing import TYPE_CHECKING, Any

from xraygpt.common.errors import DataError

if TYPE_CHECKING:
    from pydicom.dataset import Dataset
    from pydicom.tag import BaseTag
    from pydicom.uid import UID

KEYWORDS = (
    "Modality",
    "BurnedInAnnotation",
    "PixelSpacing",
    "ImagerPixelSpacing",
    "NominalScannedPixelSpacing",
    "PixelAspectRatio",
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "NumberOfFrames",
    "Rows",
    "Columns",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
    "RescaleSlope",
    "RescaleIntercept",
    "ModalityLUTSequence",
    "VOILUTSequence",
    "VOILUTFunction",
    "WindowCenter",
    "WindowWidth",
    "WindowCenterWidthExplanation",
    "PixelData",
)
_LUT_KEYWORDS = ("LUTDescriptor", "LUTData", "LUTExplanation")  # of an item of the two LUT sequences

_SILENCE = threading.Lock()  # the filters of `warnings` belong to the whole process


class Elements:
    """Header elements as plain values, each checked when it is asked for."""

    def __init__(self, values: Mapping[str, list[Any] | None], *, name: str, is_little_endian: bool) -> None:
        """
        Args:
            values: keyword → values; [] where the element is absent or empty, None where it could not be read.
            name: what errors call the file.
            is_little_endian: the byte order of values that are left as bytes.
        """
        self._values = values
        self.name = name
        self.is_little_endian = is_little_endian

    def values(self, keyword: str) -> list[Any]:
        """All values of an element, [] where it is absent or empty."""
        values = self._values.get(keyword, [])
        if values is None:
            raise self.damaged(keyword)
        return values

    def numbers(self, keyword: str) -> list[float]:
        """The values of an element of finite numbers."""
        try:
            numbers = [float(value) for value in self.values(keyword)]
        except (TypeError, ValueError):
            raise self.damaged(keyword) from None
        if not all(map(math.isfinite, numbers)):
            raise self.damaged(keyword)
        return numbers

    def integer(self, keyword: str, default: int | None = None) -> int:
        """The one whole number of an element."""
        numbers = self.numbers(keyword)
        if not numbers and default is not None:
            return default
        if len(numbers) != 1 or numbers[0] != int(numbers[0]):
            raise self.damaged(keyword)
        return int(numbers[0])

    def code(self, keyword: str) -> str:
        """The one word of an element of coded strings, "" where it is absent; only what the standard allows in one."""
        values = self.values(keyword)
        if not values:
            return ""
        if len(values) != 1 or not re.fullmatch(r"[A-Z0-9 _]{0,16}", word := str(values[0]).strip().upper()):
            raise self.damaged(keyword)
        return word

    def label(self, keyword: str, index: int = 0) -> str:
        """One of the short descriptions of an element, printable and cut to 40 characters; "" where there is none."""
        values = self.values(keyword)
        return "".join(filter(str.isprintable, str(values[index])))[:40].strip() if index < len(values) else ""

    def damaged(self, keyword: str) -> DataError:
        """The error for an element that is absent where it must not be, or holds what it cannot."""
        return DataError(f"{self.name}: the DICOM element {keyword} is missing or damaged.")


def read_header(content: bytes, *, name: str, max_bytes: int) -> tuple[Elements, UID]:
    """Read the elements of `KEYWORDS`, and the transfer syntax that the pixels are stored in.

    Args:
        content: the whole file.
        name: what errors call it.
        max_bytes: the most that a deflated file may unpack to.

    Raises:
        DataError: the bytes are no DICOM, or unpack to more than `max_bytes`.
    """
    import pydicom  # half a second, which only a DICOM file need wait for
    from pydicom.uid import UID

    try:
        with _silent_pydicom():
            _refuse_inflation(content, name, max_bytes)
            dataset = pydicom.dcmread(BytesIO(content), force=True, specific_tags=list(KEYWORDS))
            syntax = getattr(dataset, "file_meta", {}).get("TransferSyntaxUID") or _parsed_syntax(dataset)
            if not (isinstance(syntax, UID) and re.fullmatch(r"[0-9.]{1,64}", syntax)):
                raise DataError(f"{name}: the DICOM header is damaged (TransferSyntaxUID).")
            is_little_endian = bool(dataset.original_encoding[1])
            values = {keyword: _plain_values(dataset, keyword, name, is_little_endian) for keyword in KEYWORDS}
            if values["PixelData"]:  # bytes or words: in big endian files they differ
                values["PixelDataVR"] = ["OB" if dataset["PixelData"].VR == "OB" else "OW"]
    except unreadable() as error:
        raise DataError(f"{name}: the DICOM header is damaged or cut short ({type(error).__name__}).") from None
    return Elements(values, name=name, is_little_endian=is_little_endian), syntax


def unreadable() -> tuple[type[Exception], ...]:
    """What pydicom raises on bytes that are no DICOM. RuntimeError covers sequences nested without end and unknown value types."""
    from pydicom.errors import BytesLengthException, InvalidDicomError

    return (
        ArithmeticError,
        AttributeError,
        BytesLengthException,
        EOFError,
        InvalidDicomError,
        LookupError,
        OSError,
        RuntimeError,
        TypeError,
        ValueError,
        struct.error,
        zlib.error,
    )


@contextmanager
def _silent_pydicom() -> Iterator[None]:
    logger = logging.getLogger("pydicom")
    with _SILENCE, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        level = logger.level
        logger.setLevel(logging.CRITICAL + 1)
        try:
            yield
        finally:
            logger.setLevel(level)


def _refuse_inflation(content: bytes, name: str, max_bytes: int) -> None:
    """Unpack a deflated data set up to a limit: pydicom would unpack a few kilobytes to as many gigabytes as they claim."""
    from pydicom.filereader import read_dataset, read_preamble
    from pydicom.uid import DeflatedExplicitVRLittleEndian

    stream = BytesIO(content)
    read_preamble(stream, force=True)
    meta = read_dataset(stream, False, True, stop_when=_is_past_file_meta)
    if meta.get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian:
        inflated = zlib.decompressobj(-zlib.MAX_WBITS).decompress(stream.read(), max_bytes + 1)
        if len(inflated) > max_bytes:
            raise DataError(f"{name}: the deflated DICOM file unpacks to more than {max_bytes} bytes, which no radiograph needs.")


def _is_past_file_meta(tag: BaseTag, _vr: str | None, _length: int) -> bool:
    return tag.group != 2


def _parsed_syntax(dataset: Dataset) -> UID:
    """A bare dataset (no file meta) is uncompressed; its transfer syntax is how its elements were just parsed."""
    from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

    is_implicit, is_little_endian = dataset.original_encoding
    if is_implicit:
        return ImplicitVRLittleEndian
    return ExplicitVRLittleEndian if is_little_endian else ExplicitVRBigEndian


def _plain_values(dataset: Dataset, keyword: str, name: str, is_little_endian: bool) -> list[Any] | None:
    """The values of one element: numbers, strings or bytes, and `Elements` for the items of a sequence."""
    from pydicom.multival import MultiValue
    from pydicom.sequence import Sequence

    try:
        value = dataset.get(keyword)
        if isinstance(value, Sequence):
            return [
                Elements(
                    {key: _plain_values(item, key, name, is_little_endian) for key in _LUT_KEYWORDS},
                    name=name,
                    is_little_endian=is_little_endian,
                )
                for item in value
            ]
    except unreadable():
        return None  # an error for whoever asks for it; most files never need this element
    if isinstance(value, MultiValue | list):
        return list(value)
    return [] if value is None or value in ("", b"") else [value]
