"""Every way an image can be stored, and every way a file can be bad."""

import struct
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from xraygpt.common.errors import DataError
from xraygpt.processors import image_io, open_image

GRADIENT = np.arange(0, 256, dtype=np.uint8).reshape(16, 16)


def save(folder: Path, image: Image.Image, name: str = "image.png", **options: object) -> Path:
    path = folder / name
    image.save(path, **options)
    return path


def pixels(source: Path | BytesIO) -> list:
    return np.asarray(open_image(source)).tolist()


def test_grey_png_is_read_as_it_is(tmp_path: Path) -> None:
    image = open_image(save(tmp_path, Image.fromarray(GRADIENT)))
    assert image.mode == "L"
    assert np.array_equal(image, GRADIENT)


def test_a_binary_stream_is_read_like_a_file(tmp_path: Path) -> None:
    path = save(tmp_path, Image.fromarray(GRADIENT))
    with open(path, "rb") as handle:
        assert np.array_equal(open_image(handle), GRADIENT)


@pytest.mark.parametrize(
    ("stored", "expected"),
    [
        ([0, 257, 65535], [0, 1, 255]),  # full range: divided by 257
        ([0, 2048, 4095], [0, 128, 255]),  # a 12-bit detector
        ([0, 512, 1023], [0, 128, 255]),  # 10 bits
        ([0, 100, 255], [0, 100, 255]),  # 8-bit values in a 16-bit file
        ([0, 2000, 4000], [0, 125, 249]),  # not stretched to its own maximum
    ],
)
def test_sixteen_bit_grey_is_scaled_by_its_bit_depth(tmp_path: Path, stored: list[int], expected: list[int]) -> None:
    path = save(tmp_path, Image.fromarray(np.array([stored], dtype=np.uint16)))
    assert open_image(path).mode == "L"
    assert pixels(path) == [expected]


@pytest.mark.parametrize(
    ("mode", "pixel", "expected_mode", "expected"),
    [
        ("1", 1, "L", 255),
        ("LA", (200, 255), "L", 200),
        ("LA", (200, 0), "L", 0),  # a transparent pixel is black, whatever lies under it
        ("RGB", (10, 20, 30), "RGB", [10, 20, 30]),
        ("RGBA", (10, 20, 30, 255), "RGB", [10, 20, 30]),
        ("RGBA", (200, 100, 50, 0), "RGB", [0, 0, 0]),
    ],
)
def test_png_modes(tmp_path: Path, mode: str, pixel: object, expected_mode: str, expected: object) -> None:
    path = save(tmp_path, Image.new(mode, (1, 1), pixel))
    assert open_image(path).mode == expected_mode
    assert pixels(path) == [[expected]]


@pytest.mark.parametrize(("palette", "mode", "expected"), [([0, 0, 0, 90, 90, 90], "L", 90), ([0, 0, 0, 90, 10, 10], "RGB", [90, 10, 10])])
def test_palette_images_are_grey_where_their_colours_are(tmp_path: Path, palette: list[int], mode: str, expected: object) -> None:
    image = Image.new("P", (1, 1), 1)
    image.putpalette(palette)
    path = save(tmp_path, image)
    assert open_image(path).mode == mode
    assert pixels(path) == [[expected]]


def test_a_transparent_grey_value_is_laid_over_black(tmp_path: Path) -> None:
    path = save(tmp_path, Image.fromarray(np.array([[200, 100]], dtype=np.uint8)), transparency=200)
    assert pixels(path) == [[0, 100]]


@pytest.mark.parametrize(("mode", "size"), [("L", (32, 16)), ("RGB", (32, 16))])
def test_jpeg(tmp_path: Path, mode: str, size: tuple[int, int]) -> None:
    image = open_image(save(tmp_path, Image.new(mode, size, 128 if mode == "L" else (128, 128, 128)), "image.jpg"))
    assert (image.mode, image.size) == (mode, size)
    assert abs(float(np.mean(np.asarray(image))) - 128) < 2


def test_exif_orientation_is_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    path = save(tmp_path, Image.new("L", (40, 20), 50), "image.jpg", exif=exif)
    assert open_image(path).size == (20, 40)


def test_cmyk_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"image\.jpg: stored as CMYK"):
        open_image(save(tmp_path, Image.new("CMYK", (8, 8)), "image.jpg"))


def png_bytes() -> bytes:
    buffer = BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def jpeg_bytes() -> bytes:
    buffer = BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)).save(buffer, "JPEG")
    return buffer.getvalue()


def flipped(content: bytes, position: int) -> bytes:
    return content[:position] + bytes([content[position] ^ 0xFF]) + content[position + 1 :]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "the file is empty"),
        (b"no image at all", "not a PNG, JPEG or DICOM file"),
        (b"<html>404</html>", "not a PNG, JPEG or DICOM file"),
        (b"GIF89a" + bytes(100), "not a PNG, JPEG or DICOM file"),
        (b"version https://git-lfs.example/spec/v1\noid sha256:0\nsize 1\n", "Git LFS pointer"),
        (png_bytes()[:20], "damaged"),
        (png_bytes()[:1000], "damaged or cut short"),
        (flipped(png_bytes(), 60), "damaged"),
        (jpeg_bytes()[:-800], "damaged or cut short"),
        (jpeg_bytes()[:10], "damaged"),
    ],
    ids=["empty", "text", "html", "gif", "lfs", "png-header", "png-cut", "png-flipped", "jpeg-cut", "jpeg-header"],
)
def test_bad_files_are_named_with_the_reason(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "CXR1.png"
    path.write_bytes(content)
    with pytest.raises(DataError, match=rf"CXR1\.png: .*{reason}"):
        open_image(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"absent\.png: cannot be read"):
        open_image(tmp_path / "absent.png")


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("side", [9_000, 9_600, 60_000])
def test_an_enormous_image_is_refused_by_its_header(tmp_path: Path, side: int) -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    path = tmp_path / "bomb.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b""))
    assert side**2 > image_io.MAX_PIXELS
    with pytest.raises(DataError, match=r"bomb\.png: .*pixels"):
        open_image(path)
