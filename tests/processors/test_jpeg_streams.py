"""JPEG and JPEG-LS are read as their decoders read them, and no more of them is kept than is decoded."""

import struct
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from xraygpt.common.errors import DataError
from xraygpt.processors import jpeg_streams
from xraygpt.processors.jpeg_streams import StreamHeader, read_jpeg

FRAME_HEADER = b"\xff\xc0\x00\x0b\x08\x00\x20\x00\x30\x01\x01\x11\x00"


def jpeg(**options: object) -> bytes:
    """An image of 48 x 32."""
    buffer = BytesIO()
    Image.fromarray(np.arange(48 * 32, dtype=np.uint8).reshape(32, 48)).save(buffer, "JPEG", **options)
    return buffer.getvalue()


def segment(code: int, data: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, code, 2 + len(data)) + data


def with_segments(inserted: bytes, **options: object) -> bytes:
    content = jpeg(**options)
    return content[:20] + inserted + content[20:]  # after the start and the JFIF segment


@pytest.mark.parametrize(
    "inserted",
    [
        b"",
        b"\xff\xff\xff",
        b"\x00\x13\xff\x00",
        b"\xff\xd3\x00\x0d",
        segment(0xE1, jpeg()) + segment(0xED, FRAME_HEADER),
        segment(0xFE, FRAME_HEADER),
    ],
    ids=["plain", "fill", "bytes between", "no length", "preview", "comment"],
)
@pytest.mark.parametrize("progressive", [False, True])
def test_the_stream_is_read_as_libjpeg_reads_it(inserted: bytes, progressive: bool) -> None:
    content = with_segments(inserted, progressive=progressive)
    stream = read_jpeg(content, "a.jpg")
    assert stream.header == StreamHeader(columns=48, rows=32, components=1, bits=8)
    assert np.array_equal(Image.open(BytesIO(stream.content)), Image.open(BytesIO(content)))
    assert stream.content.count(b"\xff\xc0") + stream.content.count(b"\xff\xc2") == 1


def test_only_what_says_the_colour_space_is_kept_beside_the_image() -> None:
    inserted = (
        segment(0xEE, b"Adobe\0\x64\0\0\0\0\0") + segment(0xE2, b"ICC_PROFILE\0") + segment(0xFE, b"a comment") + segment(0xE1, b"more")
    )
    stream = read_jpeg(with_segments(inserted), "a.jpg")
    assert [number for number, _ in stream.application] == [0, 14, 2, 1]
    assert b"Adobe" in stream.content and b"JFIF" in stream.content
    assert all(word not in stream.content for word in (b"ICC", b"comment", b"more"))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (with_segments(FRAME_HEADER), "several frames"),
        (with_segments(segment(0xDE, FRAME_HEADER[4:])), "marker FFDE"),  # hierarchical
        (with_segments(segment(0xDC, b"\0\x20")), "marker FFDC"),  # the number of lines
        (with_segments(b"\xff\xd8"), "marker FFD8"),
        (with_segments(segment(0xF8, b"\x04\x02\x00\x20\x00\x30")), "a second size"),  # of JPEG-LS
        (with_segments(segment(0xF8, b"\x02")), "a palette"),
        (with_segments(b"\xff\xe1\xff\xff"), "longer than the file"),
        (with_segments(b"\xff\xe1\x00\x01"), "longer than the file"),
        (b"\xff\xd8" + FRAME_HEADER, "without a scan"),
        (b"\xff\xd8" + segment(0xDA, bytes(6)), "without a frame header"),
        (b"\xff\xd8" + FRAME_HEADER[:9] + b"\x02" + FRAME_HEADER[10:] + segment(0xDA, bytes(6)), "frame header of the wrong length"),
        (b"\x00" + jpeg(), "does not begin with its start marker"),
    ],
)
def test_what_a_decoder_could_read_in_two_ways_is_refused(content: bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        read_jpeg(content, "a.jpg")


def test_segments_and_scans_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jpeg_streams, "MAX_SEGMENTS", 20)
    with pytest.raises(ValueError, match="more than 20 segments before its first scan"):
        read_jpeg(with_segments(segment(0xE1, b"") * 21), "a.jpg")
    monkeypatch.setattr(jpeg_streams, "MAX_SCANS", 3)
    with pytest.raises(DataError, match=r"a\.jpg: a JPEG of \d scans; at most 3"):
        read_jpeg(jpeg(progressive=True), "a.jpg")
