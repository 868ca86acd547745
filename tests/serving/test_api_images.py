"""Images in data URIs."""

import socket
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from tests.processors.made_dicom import STORED, dicom
from tests.serving.made_api import data_uri, film
from xraygpt.serving.api_images import open_data_uri
from xraygpt.serving.api_limits import ApiError


def opened(uri: str, max_pixels: int = 10_000) -> Image.Image:
    return open_data_uri(uri, param="messages.0", max_pixels=max_pixels)


def huge_png(width: int, height: int) -> bytes:
    """A PNG whose header announces more pixels than it has."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0"))


@pytest.mark.parametrize("kind", ["png", "jpeg"])
def test_png_and_jpeg(kind: str) -> None:
    assert opened(data_uri(film(90), kind)).getpixel((3, 3)) == 90


def test_the_bytes_decide_what_it_is() -> None:
    assert opened(data_uri(film(90), "png").replace("image/png", "image/jpeg")).getpixel((3, 3)) == 90
    assert opened(data_uri(film(90)).replace("data:image/png", "DATA:application/octet-stream")).size == (40, 40)


def test_dicom() -> None:
    image = opened(data_uri(dicom(WindowCenter=2048, WindowWidth=4096).getvalue(), "dicom"))
    assert np.asarray(image)[0].tolist() == [0, 62, 125, 255]


@pytest.mark.parametrize("max_pixels", [STORED.size - 1])
def test_the_pixels_of_a_dicom_file_are_counted_too(max_pixels: int) -> None:
    with pytest.raises(ApiError, match="at most 3"):
        opened(data_uri(dicom().getvalue()), max_pixels)


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("http://127.0.0.1/x.png", "fetches no addresses"),
        ("https://example.org/x.png", "fetches no addresses"),
        ("file:///etc/passwd", "fetches no addresses"),
        ("/etc/passwd", "fetches no addresses"),
        ("data:image/png,abc", "must be in base64"),
        ("data:image/png;base64", "must be in base64"),
        ("data:image/png;base64,&&&", "not base64"),
        ("data:image/png;base64,ä", "not base64"),
        ("data:image/png;base64,", "messages.0: the file is empty"),
        (data_uri(b"no image at all"), "messages.0: not a PNG, JPEG or DICOM"),
        (data_uri(huge_png(200, 100)), "200 x 100 pixels; at most 10000"),
        (data_uri(huge_png(60_000, 60_000)), "pixels"),
        (data_uri(huge_png(10, 10)), "messages.0"),
    ],
)
def test_what_cannot_be_used_is_refused(uri: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "socket", None)  # an attempt to fetch it would fail in another way
    with pytest.raises(ApiError, match=message) as refused:
        opened(uri)
    assert (refused.value.status, refused.value.param) == (400, "messages.0")
