"""What a JPEG 2000 code stream says before its first coded byte, found where decoders find it (ISO 15444-1, annexes A and I).

OpenJPEG reserves memory for each tile, precinct and code block that these headers describe, and visits each packet (precinct x layer),
whether or not any data follow. All of them are therefore counted first. The decoder is given the bare code stream without comments and
tables of positions. What was checked is therefore what is decoded.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from xraygpt.common.errors import DataError
from xraygpt.processors.jpeg_streams import StreamHeader

MAX_TILES = 2_048
"""80 million pixels in tiles of 256 x 256 are 1,221; most encoders write a single one."""

MAX_CODE_BLOCKS = 500_000
"""80 million pixels in blocks of 16 x 16 are about 420,000; usual are 64 x 64."""

MAX_PACKETS = 1_000_000
"""Precincts x layers. 80 million pixels in precincts of 128 x 128 with 20 layers are about 130,000."""

MAX_TILE_PARTS = 20_000
"""The tiles of 256 x 256 above, each cut by resolution, have 7,300 parts."""

MAX_SEGMENTS = 50_000
"""Of all headers together: the parts above with some tables each."""

_MAX_BOXES = 1_000
_SIGNATURE = b"\x00\x00\x00\x0cjP  \r\n\x87\n"
_START, _SIZE = 0xFF4F, 0xFF51
_CODING_STYLE, _TILE_PART, _DATA, _END = 0xFF52, 0xFF90, 0xFF93, 0xFFD9
_INFORMATION = {0xFF55, 0xFF56, 0xFF57, 0xFF58, 0xFF63, 0xFF64}  # TLM, PRF, PLM, PLT, CRG, COM
_OF_TILE = {0xFF5C, 0xFF5D, 0xFF5E, *_INFORMATION}  # QCD, QCC, RGN
_MAIN = {0xFF50, _CODING_STYLE, 0xFF59, *_OF_TILE}  # CAP, CPF
_TILE_PART_BYTES = 12


@dataclass(frozen=True, kw_only=True)
class _Image:
    """The size segment: the image, columns and rows of a tile, and where the next segment begins."""

    header: StreamHeader
    tile_columns: int
    tile_rows: int
    end: int


def jpeg_2000_size(frame: bytes) -> tuple[StreamHeader, bytes]:
    """What a JPEG 2000 says of its size, and its code stream, bare or from within a JP2 file.

    Raises:
        ValueError: it is damaged, or uses what no radiograph needs: an image or tiles that do not begin at 0, 0, or subsampling.
    """
    said, stream = _unboxed(frame)
    if stream[:4] != struct.pack(">HH", _START, _SIZE):
        raise ValueError("no JPEG 2000 code stream where one must begin")
    header = _image_and_tiles(stream).header
    if said is not None and said != (header.rows, header.columns, header.components):
        raise ValueError("the JP2 file and its code stream differ in the image size")
    return header, stream


def bounded_jpeg_2000(stream: bytes, name: str) -> bytes:
    """The code stream to decode, after what it makes a decoder reserve and visit was counted.

    Raises:
        ValueError: it is damaged, or a tile has a coding style of its own.
        DataError: it has more tiles, code blocks or packets than are decoded.
    """
    image = _image_and_tiles(stream)
    kept, style, budget = [stream[: image.end]], b"", iter(range(MAX_SEGMENTS))
    for code, start, end in _segments(stream, image.end, _MAIN, last=_TILE_PART, budget=budget):
        if code == _TILE_PART:
            _require_known_tile_parts(stream, start, budget)
            kept.append(stream[start:])
        elif code == _CODING_STYLE:
            if style:
                raise ValueError("a JPEG 2000 of two coding styles")
            style = stream[start + 4 : end]
        if code not in (_TILE_PART, *_INFORMATION):
            kept.append(stream[start:end])
    _require_moderate(image, style, name)
    return b"".join(kept)


def _unboxed(frame: bytes) -> tuple[tuple[int, int, int] | None, bytes]:
    """Rows, columns and components that a JP2 file says, and its code stream; a bare code stream says nothing beside itself."""
    if not frame.startswith(_SIGNATURE):
        return None, frame
    said = None
    for kind, start, end in _boxes(frame, 0, len(frame)):
        if kind == b"jp2h":
            for inner, inner_start, inner_end in _boxes(frame, start, end):
                if inner == b"ihdr" and said is None and inner_end - inner_start >= 10:
                    said = struct.unpack_from(">IIH", frame, inner_start)
        if kind == b"jp2c":
            if said is None:
                raise ValueError("a JP2 file without an image header")
            return said, frame[start:end]
    raise ValueError("a JP2 file without a code stream")


def _boxes(frame: bytes, position: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Kind, start and end of the content of each box (I.4)."""
    for _ in range(_MAX_BOXES):
        if position == end:
            return
        length, kind = struct.unpack_from(">I4s", frame, position)
        header = 8
        if length == 1:
            (length,) = struct.unpack_from(">Q", frame, position + 8)
            header = 16
        elif length == 0:  # to the end of the file
            length = end - position
        if length < header or position + length > end:
            raise ValueError(f"a JP2 box of {length} bytes where {end - position} are left")
        yield kind, position + header, position + length
        position += length
    raise ValueError(f"a JP2 file of more than {_MAX_BOXES} boxes")


def _image_and_tiles(stream: bytes) -> _Image:
    """ISO 15444-1, A.5.1."""
    length, _, right, bottom, left, top, tile_columns, tile_rows, tile_left, tile_top, components = struct.unpack_from(">HH8IH", stream, 4)
    if not (right and bottom and tile_columns and tile_rows and components) or length != 38 + 3 * components:
        raise ValueError("a JPEG 2000 size segment that says nothing or is of the wrong length")
    depth, step_x, step_y = struct.unpack_from(">BBB", stream, 42)
    if left or top or tile_left or tile_top or (step_x, step_y) != (1, 1):  # pylibjpeg-openjpeg would reserve for the offset too
        raise ValueError("a JPEG 2000 image that is subsampled, or does not begin at 0, 0")
    header = StreamHeader(columns=right, rows=bottom, components=components, bits=(depth & 0x7F) + 1)
    return _Image(header=header, tile_columns=min(tile_columns, right), tile_rows=min(tile_rows, bottom), end=4 + length)


def _segments(stream: bytes, position: int, known: set[int], *, last: int, budget: Iterator[int]) -> Iterator[tuple[int, int, int]]:
    """Marker, start and end of each segment up to the marker `last`, which is the last one that is given."""
    for _ in budget:
        (code,) = struct.unpack_from(">H", stream, position)
        if code == last:
            yield code, position, position + 2
            return
        if code not in known:
            raise ValueError(f"a JPEG 2000 with the marker {code:04X} in a header")
        (length,) = struct.unpack_from(">H", stream, position + 2)
        if length < 2:
            raise ValueError("a JPEG 2000 segment without a length")
        yield code, position, position + 2 + length
        position += 2 + length
    raise ValueError(f"a JPEG 2000 of more than {MAX_SEGMENTS} segments")


def _require_known_tile_parts(stream: bytes, position: int, budget: Iterator[int]) -> None:
    """Walk through the tile-parts: none may change the coding style that the main header was judged by (A.4.2)."""
    for _ in range(MAX_TILE_PARTS):
        if len(stream) - position < _TILE_PART_BYTES:  # the end, with or without its marker
            return
        (code,) = struct.unpack_from(">H", stream, position)
        if code == _END:
            return
        if code != _TILE_PART:
            raise ValueError("no JPEG 2000 tile-part where one must begin")
        (length,) = struct.unpack_from(">I", stream, position + 6)
        *_, (_, start_of_data, _) = _segments(stream, position + _TILE_PART_BYTES, _OF_TILE, last=_DATA, budget=budget)
        if not length:  # up to the end of the stream
            return
        if position + length < start_of_data + 2:
            raise ValueError("a JPEG 2000 tile-part that ends in its header")
        position += length
    raise ValueError(f"a JPEG 2000 of more than {MAX_TILE_PARTS} tile-parts")


def _require_moderate(image: _Image, style: bytes, name: str) -> None:
    """Count tiles, code blocks and packets (A.6.1, B.6 and B.7); a tile that crosses its grid has one more of each a side."""
    tiles = math.ceil(image.header.columns / image.tile_columns) * math.ceil(image.header.rows / image.tile_rows)
    defines_precincts, layers, levels, block_x, block_y = struct.unpack_from(">BxHxBBB", style)
    if levels > 32 or block_x > 8 or block_y > 8:
        raise ValueError("a JPEG 2000 coding style that does not exist")
    sizes = struct.unpack_from(f">{levels + 1}B", style, 10) if defines_precincts & 1 else (0xFF,) * (levels + 1)
    precincts = blocks = 0
    for resolution, size in enumerate(sizes):
        scale = 2 ** (levels - resolution)
        columns, rows = math.ceil(image.tile_columns / scale), math.ceil(image.tile_rows / scale)
        right, down = size & 0xF, size >> 4
        precincts += _cells(columns, right) * _cells(rows, down)
        if resolution:  # three bands of half the size, each precinct halved likewise
            columns, rows, right, down = -(-columns // 2), -(-rows // 2), right - 1, down - 1
        bands = 3 if resolution else 1
        blocks += bands * _cells(columns, min(right, block_x + 2)) * _cells(rows, min(down, block_y + 2))
    found = {"tiles": tiles, "code blocks": tiles * blocks, "packets": tiles * precincts * layers}
    limits = {"tiles": MAX_TILES, "code blocks": MAX_CODE_BLOCKS, "packets": MAX_PACKETS}
    for what, number in found.items():
        if number > limits[what]:
            raise DataError(f"{name}: a JPEG 2000 of {number} {what}; at most {limits[what]} are decoded. Save the image as one tile.")


def _cells(side: int, exponent: int) -> int:
    return math.ceil(side / 2 ** max(exponent, 0)) + 1
