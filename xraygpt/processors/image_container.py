"""A PNG or JPEG file reduced to what its pixels are made from, and which way up they are shown.

Pillow reads whatever else a file holds as soon as it opens it: it inflates texts and colour profiles, and copies each entry of an Exif
table, of which 65,535 may point at the same bytes. A megabyte could take gigabytes. Pillow is therefore given a file without all that.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator

from xraygpt.processors.jpeg_streams import read_jpeg

MAX_CHUNKS = 200_000
"""Of a PNG: 512 MiB in the usual 8 kB are 65,536."""

MAX_TEXT_BYTES = 2**20
"""Of a compressed text that may hold the orientation; Exif ends at 64 KiB, twice that as hexadecimal digits."""

_PNG_START = b"\x89PNG\r\n\x1a\n"
_JPEG_START = b"\xff\xd8\xff"
_PIXEL_CHUNKS = {b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"}
_TEXT_CHUNKS = {b"tEXt", b"zTXt", b"iTXt"}
_EXIF, _XMP = b"Exif\0\0", b"http://ns.adobe.com/xap/1.0/\0"
_XMP_KEY, _RAW_EXIF_KEY = b"XML:com.adobe.xmp", b"Raw profile type exif"
_ORIENTATION = 0x0112  # TIFF 6.0
_NUMBER_FORMATS = {1: "B", 3: "H", 4: "I"}  # of TIFF: byte, short, long


def pixels_only(content: bytes, name: str) -> tuple[bytes, int | None]:
    """Leave out what is not pixels; a file that is neither PNG nor JPEG is left as it is.

    Returns:
        The file, and its Exif orientation (1 to 8) where it has one.

    Raises:
        ValueError, struct.error: it is damaged.
        DataError: it is a JPEG of too many scans.
    """
    if content.startswith(_PNG_START):
        return _png_pixels_only(content)
    if not content.startswith(_JPEG_START):
        return content, None
    jpeg = read_jpeg(content, name)
    described = [data for number, data in jpeg.application if number == 1]
    exif = b"".join(data.removeprefix(_EXIF) for data in described if data.startswith(_EXIF))
    xmp = next((data for data in reversed(described) if data.startswith(_XMP)), b"")
    return jpeg.content, _exif_orientation(exif) or _xmp_orientation(xmp)


def _png_pixels_only(content: bytes) -> tuple[bytes, int | None]:
    kept, exif, num_headers = [_PNG_START], b"", 0
    texts: dict[bytes, tuple[bytes, bytes]] = {}
    for kind, start, end in _chunks(content):
        if kind in _PIXEL_CHUNKS:
            kept.append(content[start:end])
            num_headers += kind == b"IHDR"
        elif end > len(content):
            raise ValueError(f"a PNG that ends within a chunk of {end - start} bytes")
        elif kind == b"eXIf":
            exif = content[start + 8 : end - 4]
        elif kind in _TEXT_CHUNKS:
            key, _, text = content[start + 8 : end - 4].partition(b"\0")
            texts[key] = (kind, text)
    if num_headers > 1:
        raise ValueError("a PNG of several headers")
    return b"".join(kept), _exif_orientation(exif) or _text_orientation(texts)


def _chunks(content: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Kind, start and end of each PNG chunk (ISO 15948, 5.3)."""
    position = len(_PNG_START)
    for _ in range(MAX_CHUNKS):
        if position + 8 > len(content):
            return
        length, kind = struct.unpack_from(">I4s", content, position)
        yield kind, position, position + 12 + length
        if kind == b"IEND":
            return
        position += 12 + length
    raise ValueError(f"a PNG of more than {MAX_CHUNKS} chunks")


def _text_orientation(texts: dict[bytes, tuple[bytes, bytes]]) -> int | None:
    """The orientation in the texts of a PNG; None where they do not say one, or are damaged."""
    try:
        if _RAW_EXIF_KEY in texts:  # as ImageMagick writes it: three lines, then hexadecimal digits
            digits = "".join(_text(*texts[_RAW_EXIF_KEY]).decode("latin-1").split("\n")[3:])
            if orientation := _exif_orientation(bytes.fromhex(digits)):
                return orientation
        return _xmp_orientation(_text(*texts[_XMP_KEY])) if _XMP_KEY in texts else None
    except (ValueError, zlib.error):
        return None


def _text(kind: bytes, value: bytes) -> bytes:
    """What stands after the key of a text chunk (ISO 15948, 11.3.4), unpacked as far as `MAX_TEXT_BYTES`."""
    if kind == b"iTXt":  # flag, method, language, translated key
        is_compressed, value = value[:1] == b"\1", value[2:].split(b"\0", 2)[-1]
    else:
        is_compressed = kind == b"zTXt"
        value = value[1:] if is_compressed else value
    return zlib.decompressobj().decompress(value, MAX_TEXT_BYTES) if is_compressed else value


def _exif_orientation(exif: bytes) -> int | None:
    """The orientation in the first table of Exif data (TIFF 6.0, section 2); None where it does not say one, or is damaged."""
    exif = exif.removeprefix(_EXIF)
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(exif[:4])
    if order is None:
        return None
    try:
        (start,) = struct.unpack_from(f"{order}I", exif, 4)
        (number,) = struct.unpack_from(f"{order}H", exif, start)
        for place in range(start + 2, start + 2 + 12 * number, 12):
            tag, kind, count = struct.unpack_from(f"{order}HHI", exif, place)
            if tag == _ORIENTATION and count == 1 and kind in _NUMBER_FORMATS:
                return struct.unpack_from(order + _NUMBER_FORMATS[kind], exif, place + 8)[0]
    except struct.error:
        return None
    return None


def _xmp_orientation(xmp: bytes) -> int | None:
    match = re.search(rb'tiff:Orientation(?:="|>)([0-9])', xmp)
    return int(match[1]) if match else None
