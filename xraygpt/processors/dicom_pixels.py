"""From the pixel data of a DICOM file to stored codes: unpacked or decompressed, and cut to the bits that are the image's own.

| stored as                                      | decoded by                                                           |
| ---------------------------------------------- | -------------------------------------------------------------------- |
| uncompressed                                   | pydicom                                                              |
| RLE                                            | Pillow, as PackBits: pydicom unpacks more than the image, and slowly |
| JPEG Baseline, JPEG Extended of 8 bits         | Pillow                                                               |
| JPEG 2000, High-Throughput JPEG 2000           | pylibjpeg-openjpeg                                                   |
| JPEG Lossless, JPEG-LS                         | python-gdcm (the extra `gdcm`)                                       |
| JPEG Extended of 12 bits                       | nothing of a free licence; the error says how to convert the file    |

pylibjpeg-libjpeg, which reads every JPEG, is used where it is installed; it is under GPLv3 and therefore not offered. pyjpegls is not
used: on some damaged code streams it computes for many seconds.

Decoders trust a compressed frame. One that is larger than the file says could fill the memory, and ends the process in gdcm. Its own
header is therefore held against that of the file before any decoder sees it, and the decoder gets what was checked: `jpeg_streams`,
`jpeg_2000_streams`.
"""

from __future__ import annotations

import itertools
import logging
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from xraygpt.common.errors import DataError
from xraygpt.processors.dicom_header import Elements, unreadable
from xraygpt.processors.jpeg_2000_streams import bounded_jpeg_2000, jpeg_2000_size
from xraygpt.processors.jpeg_streams import StreamHeader, read_jpeg

if TYPE_CHECKING:
    from pydicom.pixels.decoders.base import Decoder
    from pydicom.uid import UID

# DICOM PS3.6, table A-1. pydicom has names for them, but takes half a second to import, which only a DICOM file need wait for.
RLE_LOSSLESS = "1.2.840.10008.1.2.5"
JPEG_BASELINE = "1.2.840.10008.1.2.4.50"
JPEG_EXTENDED = "1.2.840.10008.1.2.4.51"
JPEG_2000_LOSSLESS = "1.2.840.10008.1.2.4.90"
JPEG_2000 = "1.2.840.10008.1.2.4.91"
HTJ2K_LOSSLESS = "1.2.840.10008.1.2.4.201"
HTJ2K_LOSSLESS_RPCL = "1.2.840.10008.1.2.4.202"
HTJ2K = "1.2.840.10008.1.2.4.203"
JPEG_LOSSLESS = "1.2.840.10008.1.2.4.57"
JPEG_LOSSLESS_SV1 = "1.2.840.10008.1.2.4.70"
JPEG_LS_LOSSLESS = "1.2.840.10008.1.2.4.80"
JPEG_LS_NEAR_LOSSLESS = "1.2.840.10008.1.2.4.81"

PLUGINS: dict[str, tuple[str, ...]] = {
    JPEG_BASELINE: ("pillow",),
    JPEG_EXTENDED: ("pillow", "pylibjpeg"),
    JPEG_2000_LOSSLESS: ("pylibjpeg",),
    JPEG_2000: ("pylibjpeg",),
    HTJ2K_LOSSLESS: ("pylibjpeg",),
    HTJ2K_LOSSLESS_RPCL: ("pylibjpeg",),
    HTJ2K: ("pylibjpeg",),
    JPEG_LOSSLESS: ("gdcm", "pylibjpeg"),
    JPEG_LOSSLESS_SV1: ("gdcm", "pylibjpeg"),
    JPEG_LS_LOSSLESS: ("gdcm", "pylibjpeg"),
    JPEG_LS_NEAR_LOSSLESS: ("gdcm", "pylibjpeg"),
}
"""Compressed transfer syntax → pydicom's plugins for it, best first: what else is installed does not change an image. RLE needs none."""

MAX_FRAGMENTS = 20_000
"""Pieces that a compressed frame is cut into: usually one. At the size of a memory page they would be 80 MB."""

_OFFSET_BYTES = 4  # of the offset table, which has one entry a frame
_RLE_HEADER = struct.Struct("<16I")  # number of segments, then where each begins
_JPEG_2000_SYNTAXES = (JPEG_2000_LOSSLESS, JPEG_2000, HTJ2K_LOSSLESS, HTJ2K_LOSSLESS_RPCL, HTJ2K)
_LOSSY = (JPEG_BASELINE, JPEG_EXTENDED, JPEG_LS_NEAR_LOSSLESS, JPEG_2000, HTJ2K)
_INSTALL_HINTS = {
    "gdcm": "Install its decoder with `make install-extras EXTRAS=gdcm`.",
    "pylibjpeg": "Install its decoder with `make install-runtime`.",
    "pillow": "Install a Pillow that has the JPEG codec.",
}
_CONVERT_HINT = "Convert the file to an uncompressed one first, for example with `dcmdjpeg` of DCMTK."

logging.getLogger("pydicom.pixels.decoders").setLevel(logging.CRITICAL)  # it logs a traceback beside the error that it raises


@dataclass(frozen=True, kw_only=True)
class PixelLayout:
    """How the pixels of one frame are stored; see PS3.3 C.7.6.3."""

    rows: int
    columns: int
    bits_allocated: int
    bits_stored: int
    high_bit: int
    is_signed: bool


def read_layout(elements: Elements, *, max_pixels: int) -> PixelLayout:
    """Read how the pixels are stored.

    Raises:
        DataError: an element is missing or contradicts another, or rows x columns are more than `max_pixels`.
    """
    bits_stored = elements.integer("BitsStored")
    layout = PixelLayout(
        rows=elements.integer("Rows"),
        columns=elements.integer("Columns"),
        bits_allocated=elements.integer("BitsAllocated"),
        bits_stored=bits_stored,
        high_bit=elements.integer("HighBit", bits_stored - 1),
        is_signed=elements.integer("PixelRepresentation", 0) == 1,
    )
    if layout.rows < 1 or layout.columns < 1:
        raise DataError(f"{elements.name}: {layout.columns} x {layout.rows} pixels; there is no image.")
    if layout.rows * layout.columns > max_pixels:
        raise DataError(f"{elements.name}: {layout.columns} x {layout.rows} pixels; at most {max_pixels} are decoded.")
    if layout.bits_allocated not in (8, 16) or not 1 <= layout.bits_stored <= layout.high_bit + 1 <= layout.bits_allocated:
        bits = f"bits allocated {layout.bits_allocated}, bits stored {layout.bits_stored}, high bit {layout.high_bit}"
        raise DataError(f"{elements.name}: {bits}; 8 or 16 allocated, and the others within them, were expected.")
    return layout


def decode_codes(elements: Elements, layout: PixelLayout, syntax: UID) -> np.ndarray:
    """Decode the one frame.

    Returns:
        Array [rows, columns] of unsigned integers below 2^BitsStored; a signed value is left as its two's complement. What some
        files keep in the remaining bits, old overlays among it, is gone.

    Raises:
        DataError: the pixel data are damaged or cut short, or no installed decoder reads them.
    """
    data = elements.values("PixelData")[0]
    if not isinstance(data, bytes):
        raise elements.damaged("PixelData")
    holds_words = syntax not in PLUGINS  # all bits of a word are kept, not only the image's own
    options: dict[str, Any] = {
        "rows": layout.rows,
        "columns": layout.columns,
        "number_of_frames": 1,
        "samples_per_pixel": 1,
        "photometric_interpretation": "MONOCHROME2",
        "bits_allocated": layout.bits_allocated,
        "bits_stored": layout.bits_allocated if holds_words else layout.bits_stored,  # pydicom would drop the high ones, see _own_bits
        "pixel_representation": int(layout.is_signed),
        "pixel_keyword": "PixelData",
        "pixel_vr": elements.code("PixelDataVR"),
    }
    try:
        if syntax == RLE_LOSSLESS:
            stored = _decode_rle(_only_frame(data), layout)
        else:
            decoder, plugin, data = _decoder(data, layout, syntax, elements.name)
            stored, _ = decoder.as_array(data, index=0, decoding_plugin=plugin, **options)
    except unreadable() as error:
        reason = " ".join(str(error).split())[:200]
        raise DataError(f"{elements.name}: the pixel data are damaged or cut short ({reason}).") from error
    return _own_bits(stored, layout, shift=layout.high_bit + 1 - layout.bits_stored if holds_words else 0, is_lossy=syntax in _LOSSY)


def _decoder(data: bytes, layout: PixelLayout, syntax: UID, name: str) -> tuple[Decoder, str, bytes]:
    """The decoder of a transfer syntax, the plugin that it is to use ("" where it needs none), and the checked data for it."""
    from pydicom.encaps import encapsulate
    from pydicom.pixels import get_decoder

    try:
        decoder = get_decoder(syntax)
    except NotImplementedError:
        decoder = None
    if decoder is None or (syntax.is_encapsulated and syntax not in PLUGINS):  # a later pydicom may read what is not checked here
        raise DataError(f"{name}: stored as {syntax.name}, which is not read. {_CONVERT_HINT}")
    if syntax not in PLUGINS:
        return decoder, "", data
    plugins, hint = PLUGINS[syntax], _INSTALL_HINTS.get(PLUGINS[syntax][0])
    header, stream = _checked_stream(_only_frame(data), layout, syntax, name)
    if syntax == JPEG_EXTENDED and header.bits > 8:
        plugins, hint = ("pylibjpeg",), _CONVERT_HINT
    plugin = next((plugin for plugin in plugins if plugin in decoder.available_plugins), None)
    if plugin is None:
        raise DataError(f"{name}: compressed as {syntax.name}, for which no decoder is installed. {hint}")
    return decoder, plugin, encapsulate([stream], has_bot=False)


def _only_frame(data: bytes) -> bytes:
    """The one frame of encapsulated pixel data (PS3.5 A.4), its fragments joined."""
    from pydicom.encaps import generate_fragments

    offsets, *fragments = itertools.islice(generate_fragments(data), MAX_FRAGMENTS + 2)
    if len(offsets) > _OFFSET_BYTES:
        raise ValueError(f"an offset table of {len(offsets) // _OFFSET_BYTES} frames where there is one")
    if len(fragments) > MAX_FRAGMENTS:
        raise ValueError(f"a frame in more than {MAX_FRAGMENTS} fragments")
    return b"".join(fragments)


def _checked_stream(frame: bytes, layout: PixelLayout, syntax: UID, name: str) -> tuple[StreamHeader, bytes]:
    """What a JPEG, JPEG-LS or JPEG 2000 says of itself, held against the header of the file, and the stream to decode."""
    if syntax in _JPEG_2000_SYNTAXES:
        header, stream = jpeg_2000_size(frame)
    else:
        jpeg = read_jpeg(frame, name)
        header, stream = jpeg.header, jpeg.content
    if (header.columns, header.rows, header.components) != (layout.columns, layout.rows, 1) or header.bits > layout.bits_allocated:
        found = f"{header.columns} x {header.rows} pixels of {header.components} x {header.bits} bits"
        expected = f"{layout.columns} x {layout.rows} of 1 x {layout.bits_allocated} at most"
        raise DataError(f"{name}: the compressed image is of {found}; the DICOM header says {expected}.")
    return header, bounded_jpeg_2000(stream, name) if syntax in _JPEG_2000_SYNTAXES else stream


def _decode_rle(frame: bytes, layout: PixelLayout) -> np.ndarray:
    """Unpack run lengths, one segment for each byte of a pixel, the high byte first (PS3.5 annex G).

    Segments are PackBits. They are read as a single row, since runs of some files cross the ends of rows; what stands beyond the
    image is never unpacked.
    """
    number, *starts = _RLE_HEADER.unpack_from(frame)
    if number != layout.bits_allocated // 8:
        raise ValueError(f"{number} RLE segments for {layout.bits_allocated // 8} bytes a pixel")
    ends = [*starts[1:number], len(frame)]
    size = (layout.rows * layout.columns, 1)
    planes = [Image.frombytes("L", size, frame[start:end], "packbits", "L") for start, end in zip(starts, ends, strict=False)]
    stored = np.stack([np.asarray(plane)[0] for plane in reversed(planes)], axis=-1)  # little endian
    return stored.view(f"<u{number}").reshape(layout.rows, layout.columns)


def _own_bits(stored: np.ndarray, layout: PixelLayout, *, shift: int, is_lossy: bool) -> np.ndarray:
    kind = f"{layout.bits_allocated // 8}"
    words = stored.astype(f"i{kind}" if layout.is_signed else f"u{kind}", copy=False)
    if is_lossy:  # nothing but the image survives there; a value beyond the range is overshoot, not another bit
        low = -(2 ** (layout.bits_stored - 1)) if layout.is_signed else 0
        words = np.clip(words, low, low + 2**layout.bits_stored - 1)
    return words.view(f"u{kind}") >> shift & (2**layout.bits_stored - 1)
