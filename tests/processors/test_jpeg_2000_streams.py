"""What a JPEG 2000 makes its decoder reserve is counted first, and the decoder gets the stream that was counted."""

import struct
from typing import Any

import pytest

from tests.processors.made_dicom import box, j2k_stream, jp2
from xraygpt.common.errors import DataError
from xraygpt.processors import jpeg_2000_streams
from xraygpt.processors.jpeg_2000_streams import bounded_jpeg_2000, jpeg_2000_size
from xraygpt.processors.jpeg_streams import StreamHeader

HEADER = StreamHeader(columns=48, rows=32, components=1, bits=12)
DECOY = box(b"uuid", j2k_stream(columns=9, rows=9))


def checked(frame: bytes) -> bytes:
    return bounded_jpeg_2000(jpeg_2000_size(frame)[1], "a.dcm")


def segment(code: int, data: bytes) -> bytes:
    return struct.pack(">HH", code, 2 + len(data)) + data


@pytest.mark.parametrize(
    "frame",
    [
        j2k_stream(),
        j2k_stream(main=segment(0xFF64, j2k_stream(columns=9, rows=9))),
        jp2(j2k_stream()),
        jp2(j2k_stream(), before=DECOY),
        jp2(j2k_stream(), before=struct.pack(">I4sQ", 1, b"uuid", 16 + len(DECOY)) + DECOY),
        jp2(j2k_stream())[: -8 - len(j2k_stream())] + struct.pack(">I4s", 0, b"jp2c") + j2k_stream(),
        jp2(j2k_stream()) + box(b"jp2c", j2k_stream(columns=9, rows=9)),
    ],
    ids=["bare", "comment", "boxed", "decoy", "long box", "last box", "second stream"],
)
def test_the_first_code_stream_says_the_size(frame: bytes) -> None:
    assert jpeg_2000_size(frame)[0] == HEADER
    assert checked(frame) == j2k_stream()


@pytest.mark.parametrize(
    ("frame", "reason"),
    [
        (b"\0" + j2k_stream(), "no JPEG 2000 code stream where one must begin"),
        (j2k_stream()[:30], "unpack"),
        (jp2(j2k_stream(columns=9)), "differ in the image size"),
        (jp2(b"\0\0" + j2k_stream()), "no JPEG 2000 code stream where one must begin"),
        (jp2(b"")[:-8], "a JP2 file without a code stream"),
        (jp2(j2k_stream(), before=box(b"uuid", b"")[:3] + b"\x07uuid"), "a JP2 box of 7 bytes"),
        (jp2(j2k_stream(), before=b"\xff\xff\xff\xffuuid"), "a JP2 box of 4294967295 bytes"),
        (jp2(j2k_stream()).replace(b"jp2h", b"free"), "a JP2 file without an image header"),
        (j2k_stream(columns=0), "says nothing"),
        (j2k_stream(tile=(0, 32)), "says nothing"),
        (j2k_stream(components=0), "says nothing"),
        (j2k_stream(origin=(4, 0)), "does not begin at 0, 0"),
        (j2k_stream(step=2), "subsampled"),
        (j2k_stream(main=segment(0xFF52, bytes(10))), "two coding styles"),
        (j2k_stream(main=segment(0xFF53, bytes(7))), "marker FF53 in a header"),  # of a component
        (j2k_stream(main=segment(0xFF5F, bytes(7))), "marker FF5F in a header"),  # a change of the progression
        (j2k_stream(main=b"\xff\x64\x00\x01"), "a JPEG 2000 segment without a length"),
        (j2k_stream(tile_header=segment(0xFF52, bytes(10))), "marker FF52 in a header"),
        (j2k_stream() + b"\0" * 20, None),
        (j2k_stream()[:-2] + b"\0" * 20, "no JPEG 2000 tile-part where one must begin"),
        (j2k_stream(blocks=(9, 0)), "a JPEG 2000 coding style that does not exist"),
    ],
)
def test_what_a_decoder_could_read_in_two_ways_is_refused(frame: bytes, reason: str | None) -> None:
    if reason is None:  # after the end of the code stream no decoder reads
        assert checked(frame)
        return
    with pytest.raises((ValueError, struct.error), match=reason):
        checked(frame)


@pytest.mark.parametrize(
    ("limit", "stream", "found"),
    [
        ("MAX_TILES", {"tile": (8, 8)}, "24 tiles"),
        ("MAX_CODE_BLOCKS", {"blocks": (0, 0)}, r"\d+ code blocks"),
        ("MAX_CODE_BLOCKS", {"precincts": (0x22, 0x22)}, r"\d+ code blocks"),
        ("MAX_PACKETS", {"layers": 10}, "80 packets"),
        ("MAX_PACKETS", {"precincts": (0x33, 0x33), "blocks": (4, 4)}, r"\d+ packets"),
    ],
)
def test_what_the_decoder_would_reserve_is_limited(limit: str, stream: dict[str, Any], found: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert checked(j2k_stream(**stream))
    monkeypatch.setattr(jpeg_2000_streams, limit, 20)
    assert checked(j2k_stream())
    with pytest.raises(DataError, match=rf"a\.dcm: a JPEG 2000 of {found}; at most 20 are decoded"):
        checked(j2k_stream(**stream))


def test_parts_boxes_and_segments_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    part = j2k_stream()[-16:-2]
    many = j2k_stream()[:-2] + part * 30
    assert checked(many) == many
    monkeypatch.setattr(jpeg_2000_streams, "MAX_TILE_PARTS", 20)
    with pytest.raises(ValueError, match="more than 20 tile-parts"):
        checked(many)
    monkeypatch.setattr(jpeg_2000_streams, "MAX_SEGMENTS", 20)
    with pytest.raises(ValueError, match="more than 20 segments"):
        checked(j2k_stream(main=segment(0xFF64, b"") * 20))
    monkeypatch.setattr(jpeg_2000_streams, "_MAX_BOXES", 20)
    with pytest.raises(ValueError, match="more than 20 boxes"):
        checked(jp2(j2k_stream(), before=DECOY * 20))


def test_comments_and_tables_of_positions_do_not_reach_the_decoder() -> None:
    information = [segment(code, b"\0\0\0\0") for code in (0xFF55, 0xFF57, 0xFF63, 0xFF64)]
    assert checked(j2k_stream(main=b"".join(information))) == j2k_stream()
    kept = segment(0xFF50, b"\0\0\0\0")  # the capabilities, which High-Throughput JPEG 2000 needs
    assert checked(j2k_stream(main=kept)) == j2k_stream(main=kept)
