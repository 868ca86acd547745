"""Of a PNG or JPEG nothing but pixels and orientation reaches Pillow."""

import struct
import zlib
from collections.abc import Callable
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps, PngImagePlugin, TiffImagePlugin

from xraygpt.common.errors import DataError
from xraygpt.processors import image_container, open_image
from xraygpt.processors.image_container import pixels_only

PIXELS = np.repeat(np.arange(6 * 4, dtype=np.uint8).reshape(6, 4) * 10, 8, axis=0).repeat(8, axis=1)
XMP = '<x:xmpmeta><rdf:Description tiff:Orientation="{}"/></x:xmpmeta>'


def exif(orientation: int, *, endian: str = "<") -> bytes:
    data = Image.Exif()
    data.endian = endian
    data[0x0112] = orientation
    data[0x010E] = "a description"
    return data.tobytes()


def saved(kind: str, **options: Any) -> bytes:
    buffer = BytesIO()
    Image.fromarray(PIXELS).save(buffer, kind, **options)
    return buffer.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(*chunks: bytes, after: bytes = b"") -> bytes:
    """A PNG with chunks between the header and the image data, and others after these."""
    content = saved("PNG")
    return content[:33] + b"".join(chunks) + content[33:-12] + after + content[-12:]


def raw_profile(orientation: int) -> bytes:
    data = exif(orientation)
    return f"\nexif\n{len(data):8}\n{data.hex()}\n".encode()


ORIENTED: dict[str, Callable[[int], bytes]] = {
    "JPEG": lambda orientation: saved("JPEG", quality=95, exif=exif(orientation)),
    "JPEG, big endian": lambda orientation: saved("JPEG", quality=95, exif=exif(orientation, endian=">")),
    "JPEG, XMP": lambda orientation: saved("JPEG", quality=95, xmp=XMP.format(orientation).encode()),
    "PNG": lambda orientation: png(chunk(b"eXIf", exif(orientation)[6:])),
    "PNG, at the end": lambda orientation: png(after=chunk(b"eXIf", exif(orientation)[6:])),
    "PNG, raw profile": lambda orientation: png(chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(raw_profile(orientation)))),
    "PNG, plain profile": lambda orientation: png(chunk(b"tEXt", b"Raw profile type exif\0" + raw_profile(orientation))),
    "PNG, XMP": lambda orientation: png(chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + XMP.format(orientation).encode())),
    "PNG, compressed XMP": lambda orientation: png(
        chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0en\0\0" + zlib.compress(XMP.format(orientation).encode()))
    ),
}


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("place", ORIENTED)
def test_the_orientation_is_found_wherever_pillow_finds_it(place: str, orientation: int) -> None:
    content = ORIENTED[place](orientation)
    image = Image.open(BytesIO(content))
    image.load()
    assert pixels_only(content, "a")[1] == orientation
    assert np.array_equal(open_image(BytesIO(content)), ImageOps.exif_transpose(image))


@pytest.mark.parametrize("damaged", [b"", b"II*\0", b"II*\0\xff\xff\xff\xff", b"II*\0\x08\0\0\0\xff\xff", b"no table"])
def test_damaged_exif_says_no_orientation(damaged: bytes) -> None:
    assert np.array_equal(open_image(BytesIO(png(chunk(b"eXIf", damaged)))), PIXELS)
    assert np.array_equal(open_image(BytesIO(saved("JPEG", exif=b"Exif\0\0" + damaged))), open_image(BytesIO(saved("JPEG"))))


@pytest.mark.parametrize("damaged", [b"no deflated data", zlib.compress(b"\n\n\nno digits"), zlib.compress(raw_profile(6))[:20]])
def test_a_damaged_text_says_no_orientation(damaged: bytes) -> None:
    content = png(chunk(b"zTXt", b"Raw profile type exif\0\0" + damaged))
    assert np.array_equal(open_image(BytesIO(content)), PIXELS)


def multi_picture() -> bytes:
    """A JPEG of two pictures, the second a preview."""
    buffer = BytesIO()
    Image.fromarray(PIXELS).save(buffer, "MPO", save_all=True, append_images=[Image.new("L", (8, 8))])
    return buffer.getvalue()


def text(kind: bytes, key: bytes) -> bytes:
    separator = b"\0\1\0\0\0" if kind == b"iTXt" else b"\0\0"
    return chunk(kind, key + separator + zlib.compress(bytes(5_000)))


@pytest.mark.parametrize(
    "content",
    [
        png(text(b"zTXt", b"Comment"), text(b"iTXt", b"Comment"), text(b"iCCP", b"profile"), text(b"zTXt", b"")),
        png(after=text(b"zTXt", b"Comment")),
        png(chunk(b"eXIf", exif(1)[6:])),
        saved("JPEG", exif=exif(1), icc_profile=b"profile", comment=b"text"),
        multi_picture(),
    ],
    ids=["texts", "texts at the end", "PNG tables", "JPEG tables", "several pictures"],
)
def test_pillow_neither_inflates_texts_nor_copies_tables(content: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PngImagePlugin, "_safe_zlib_decompress", lambda *_: pytest.fail("inflated"))
    monkeypatch.setattr(TiffImagePlugin.ImageFileDirectory_v2, "load", lambda *_: pytest.fail("tables read"))
    assert open_image(BytesIO(content)).size == (32, 48)


def test_a_text_is_unpacked_up_to_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    packed = zlib.compress(bytes(50_000) + XMP.format(6).encode())
    content = png(chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + packed))
    assert open_image(BytesIO(content)).size == (48, 32)
    monkeypatch.setattr(image_container, "MAX_TEXT_BYTES", 1_000)
    assert open_image(BytesIO(content)).size == (32, 48)


def test_of_an_animation_the_image_is_its_default() -> None:
    buffer = BytesIO()
    Image.fromarray(PIXELS).save(buffer, "PNG", save_all=True, append_images=[Image.new("L", (32, 48), 255)] * 3)
    assert b"acTL" in buffer.getvalue()
    assert np.array_equal(open_image(BytesIO(buffer.getvalue())), PIXELS)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (png(chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0))), "a PNG of several headers"),
        (png(struct.pack(">I4s", 2**31, b"tEXt")), "a PNG that ends within a chunk"),
        (png(after=struct.pack(">I4s", 5_000, b"zTXt")), "a PNG that ends within a chunk"),
    ],
)
def test_a_file_that_contradicts_itself_is_refused(content: bytes, reason: str) -> None:
    with pytest.raises(DataError, match=f"the image stream: .*{reason}"):
        open_image(BytesIO(content))


def test_chunks_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    content = png(chunk(b"tIME", bytes(7)) * 20)
    assert np.array_equal(open_image(BytesIO(content)), PIXELS)
    monkeypatch.setattr(image_container, "MAX_CHUNKS", 20)
    with pytest.raises(DataError, match="a PNG of more than 20 chunks"):
        open_image(BytesIO(content))
