"""What a JPEG or JPEG-LS says before its first scan, found where decoders find it: from the start, segment by segment.

A decoder is then given the stream without comments, previews and colour profiles. What was checked is therefore what is decoded.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass

from xraygpt.common.errors import DataError

MAX_SCANS = 100
"""A progressive JPEG has about 10. Each scan passes over the whole image (0.06 s for 64 million pixels) and may have less than 100 bytes:
32 MB of them would compute for six hours."""

MAX_SEGMENTS = 2_000
"""Before the first scan. A colour profile may have 255, everything else that a camera writes some dozens."""

_START = b"\xff\xd8"
_MARKER = re.compile(rb"\xff([^\x00\xff])", re.DOTALL)  # fill bytes before it, and bytes between segments, are passed over as libjpeg does
_WITHOUT_LENGTH = {0x01, *range(0xD0, 0xD8)}
_SCAN, _COMMENT, _JPEG_LS_PARAMETERS = 0xDA, 0xFE, 0xF8
_TABLES = {0xC4, 0xCC, 0xDB, 0xDD}  # Huffman, arithmetic, quantisation, restart interval
_FRAMES = {*range(0xC0, 0xD0), 0xF7} - {0xC8, *_TABLES}  # 0xC8 is reserved, 0xF7 is JPEG-LS
_APPLICATION = range(0xE0, 0xF0)
_COLOUR_SPACE = {0xE0, 0xEE}  # JFIF and Adobe: they tell libjpeg the colour space
_KNOWN = {*_FRAMES, *_APPLICATION, *_TABLES, _SCAN, _COMMENT, _JPEG_LS_PARAMETERS}
_JPEG_LS_PRESET = 1  # the only kind of parameters that no other image size or colour table can come from


@dataclass(frozen=True, kw_only=True)
class StreamHeader:
    """What a compressed image says about itself.

    Attributes:
        columns: width in pixels.
        rows: height in pixels.
        components: values of a pixel.
        bits: of a value.
    """

    columns: int
    rows: int
    components: int
    bits: int


@dataclass(frozen=True, kw_only=True)
class JpegStream:
    """A JPEG or JPEG-LS that may be decoded.

    Attributes:
        header: of its one frame.
        content: the stream without application segments and comments; JFIF and Adobe stay.
        application: what was left out, as (number of APPn, data).
    """

    header: StreamHeader
    content: bytes
    application: list[tuple[int, bytes]]


def read_jpeg(content: bytes, name: str) -> JpegStream:
    """Read a JPEG or JPEG-LS up to its first scan.

    Raises:
        ValueError: it is damaged, or has several frames (hierarchical JPEG).
        DataError: it has more than `MAX_SCANS` scans.
    """
    _require_few_scans(content, name)
    kept, application, header = [_START], [], None
    segments = _segments(content)
    for code, start, end in segments:
        data = content[start + 4 : end]
        if code in _FRAMES:
            if header is not None:
                raise ValueError("a JPEG of several frames")
            header = _frame_header(data)
        elif code == _JPEG_LS_PARAMETERS and data[:1] != bytes([_JPEG_LS_PRESET]):
            raise ValueError("a JPEG-LS with a palette or a second size")
        if code in _APPLICATION:
            application.append((code - _APPLICATION[0], data))
        if code == _COMMENT or (code in _APPLICATION and code not in _COLOUR_SPACE):
            continue
        kept.append(content[start:end])
    if header is None:
        raise ValueError("a JPEG without a frame header")
    kept.append(content[segments[-1][2] :])
    return JpegStream(header=header, content=b"".join(kept), application=application)


def _require_few_scans(content: bytes, name: str) -> None:
    """Count the scans; their marker cannot occur within their data."""
    if (scans := content.count(bytes([0xFF, _SCAN]))) > MAX_SCANS:
        raise DataError(f"{name}: a JPEG of {scans} scans; at most {MAX_SCANS} are decoded. Save the image again.")


def _segments(content: bytes) -> list[tuple[int, int, int]]:
    """Marker code, start and end of each segment, the first scan's header the last (ISO 10918-1, B.1.1)."""
    if not content.startswith(_START):
        raise ValueError("a JPEG that does not begin with its start marker")
    segments: list[tuple[int, int, int]] = []
    position = len(_START)
    while not segments or segments[-1][0] != _SCAN:
        if len(segments) == MAX_SEGMENTS:
            raise ValueError(f"a JPEG of more than {MAX_SEGMENTS} segments before its first scan")
        if (marker := _MARKER.search(content, position)) is None:
            raise ValueError("a JPEG without a scan")
        code, start = marker[1][0], marker.start()
        position = marker.end()
        if code in _WITHOUT_LENGTH:
            continue
        if code not in _KNOWN:
            raise ValueError(f"a JPEG with the marker FF{code:02X} before its first scan")
        (length,) = struct.unpack_from(">H", content, position)
        position += length
        if length < 2 or position > len(content):
            raise ValueError("a JPEG segment longer than the file")
        segments.append((code, start, position))
    return segments


def _frame_header(data: bytes) -> StreamHeader:
    """ISO 10918-1, B.2.2."""
    bits, rows, columns, components = struct.unpack_from(">BHHB", data)
    if len(data) != 6 + 3 * components:
        raise ValueError("a JPEG frame header of the wrong length")
    return StreamHeader(columns=columns, rows=rows, components=components, bits=bits)
