"""The header elements of a DICOM file that an image is made from, and no others.

Whatever identifies a patient is not among `KEYWORDS` and is never read. A damaged length can still make one element swallow its
neighbours. So errors name an element and not its value, and pydicom, which quotes odd values in warnings and errors, is not heard.

pydicom makes some hundred bytes of objects of each element, item and value, though they may have two to eight bytes in the file. What is
read besides the pixel data is therefore limited, in bytes and in number.
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
    from pydicom.dataelem import DataElement, RawDataElement
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

MAX_HEADER_READS = 50_000
"""An element or item takes one to three. Radiographs have some hundreds; 50,000 take about 30 MB and a second."""

MAX_HEADER_BYTES = 2**22
"""Of the elements that are read, the sequences of undefined length among them. Elements that are skipped do not count."""

MAX_ELEMENT_BYTES = 2**14
"""Of an element of `KEYWORDS` that is no table: a hundred windows with their explanations have half of it."""

MAX_LUT_BYTES = 2**21
"""Of a LUT sequence: a table of 65,536 entries has 2**17."""

_MAX_LUTS = 100
_LUT_SEQUENCES = ("ModalityLUTSequence", "VOILUTSequence")
_UNDEFINED_LENGTH = 0xFFFFFFFF
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
    from pydicom.uid import UID  # pydicom takes half a second, which only a DICOM file need wait for

    try:
        with _silent_pydicom():
            dataset, syntax = _read_dataset(content, name, max_bytes)
            if not (isinstance(syntax, UID) and re.fullmatch(r"[0-9.]{1,64}", syntax)):
                raise DataError(f"{name}: the DICOM header is damaged (TransferSyntaxUID).")
            is_little_endian = bool(dataset.original_encoding[1])
            values = {keyword: _plain_values(dataset, keyword, name, is_little_endian) for keyword in KEYWORDS}
            if values["PixelData"]:  # bytes or words: in big endian files they differ
                values["PixelDataVR"] = ["OB" if dataset["PixelData"].VR == "OB" else "OW"]
    except unreadable() as error:
        if isinstance(error.__context__, DataError):  # within a sequence, pydicom turns every error into its own
            raise error.__context__ from None
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


class _BoundedFile(BytesIO):
    """A DICOM file of which no more is read, besides the pixel data, than a radiograph's header needs."""

    def __init__(self, content: bytes, name: str) -> None:
        from pydicom.datadict import tag_for_keyword

        super().__init__(content)
        self._name = name
        self._num_reads = self._num_bytes = 0
        self._is_pixel_data = False
        self._keywords = {tag_for_keyword(keyword): keyword for keyword in ("SpecificCharacterSet", "TransferSyntaxUID", *KEYWORDS)}

    def read(self, size: int | None = -1, /) -> bytes:
        """Read as a file does."""
        data = super().read(size)
        if not self._is_pixel_data:
            self._num_reads += 1
            self._num_bytes += len(data)
            if self._num_reads > MAX_HEADER_READS or self._num_bytes > MAX_HEADER_BYTES:
                most = f"{MAX_HEADER_BYTES} bytes in {MAX_HEADER_READS} pieces"
                raise DataError(f"{self._name}: the DICOM header is larger than {most}, which no radiograph needs.")
        return data

    def check_element(self, tag: BaseTag, vr: str | None, length: int) -> bool:
        """For pydicom to ask before it reads the value of an element: too large a one is refused, and none ends the reading."""
        keyword = self._keywords.get(tag)
        self._is_pixel_data = keyword == "PixelData"
        if self._is_pixel_data:
            is_allowed = vr in (None, "OB", "OW") or (vr == "UN" and length != _UNDEFINED_LENGTH)
        elif keyword in _LUT_SEQUENCES:
            is_allowed = vr in (None, "SQ", "UN") and (length <= MAX_LUT_BYTES or length == _UNDEFINED_LENGTH)
        else:
            is_allowed = keyword is None or length <= MAX_ELEMENT_BYTES
        if not is_allowed:
            raise DataError(f"{self._name}: the DICOM element {keyword} is damaged, or larger than a radiograph needs.")
        return False

    def check_file_meta(self, tag: BaseTag, vr: str | None, length: int) -> bool:
        """The same for the elements of the file meta information, after which the reading ends."""
        return tag.group != 2 or self.check_element(tag, vr, length)


def _read_dataset(content: bytes, name: str, max_bytes: int) -> tuple[Dataset, Any]:
    """The elements and the transfer syntax, read within the limits above; a deflated file is unpacked up to `max_bytes`, not endlessly."""
    from pydicom.filereader import read_dataset, read_partial, read_preamble
    from pydicom.tag import Tag
    from pydicom.uid import DeflatedExplicitVRLittleEndian

    tags: list[BaseTag | int] = [Tag(keyword) for keyword in KEYWORDS]
    file = _BoundedFile(content, name)
    read_preamble(file, force=True)
    meta = read_dataset(file, False, True, stop_when=file.check_file_meta)
    if meta.get("TransferSyntaxUID") != DeflatedExplicitVRLittleEndian:
        file = _BoundedFile(content, name)
        dataset = read_partial(file, stop_when=file.check_element, force=True, specific_tags=tags)
        return dataset, dataset.file_meta.get("TransferSyntaxUID") or _parsed_syntax(dataset)
    inflated = zlib.decompressobj(-zlib.MAX_WBITS).decompress(content[file.tell() :], max_bytes + 1)
    if len(inflated) > max_bytes:
        raise DataError(f"{name}: the deflated DICOM file unpacks to more than {max_bytes} bytes, which no radiograph needs.")
    file = _BoundedFile(inflated, name)
    return read_dataset(file, False, True, stop_when=file.check_element, specific_tags=tags), DeflatedExplicitVRLittleEndian


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
        if keyword in _LUT_SEQUENCES and _has_too_many_items(dataset.get_item(keyword), is_little_endian):
            return None
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


def _has_too_many_items(element: DataElement | RawDataElement | None, is_little_endian: bool) -> bool:
    """Whether a sequence that is still bytes has more items than a file has tables; each would become a kilobyte of objects."""
    item = b"\xfe\xff\x00\xe0" if is_little_endian else b"\xff\xfe\xe0\x00"
    return element is not None and isinstance(element.value, bytes) and element.value.count(item) > _MAX_LUTS
