"""Every way an image can be stored, and every way a file can be bad."""

import io
import os
import struct
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

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


def described(folder: Path, kind: str) -> Path:
    """An image whose file says a lot beside its pixels."""
    exif = Image.Exif()
    exif[0x010E] = "SECRET description"
    exif[0x0112] = 3  # upside down: the copy that turns it must be clean too
    if kind == "jpg":
        return save(folder, Image.fromarray(GRADIENT), "a.jpg", exif=exif, comment=b"SECRET", icc_profile=b"SECRET", dpi=(300, 300))
    text = PngImagePlugin.PngInfo()
    text.add_text("Patient", "SECRET")
    text.add_itxt("Study", "SECRET", zip=True)
    return save(folder, Image.fromarray(GRADIENT), "a.png", pnginfo=text, exif=exif, icc_profile=b"SECRET", dpi=(300, 300))


@pytest.mark.parametrize("kind", ["jpg", "png"])
def test_nothing_but_pixels_is_kept(tmp_path: Path, kind: str) -> None:
    path = described(tmp_path, kind)
    assert b"SECRET" in path.read_bytes()
    image = open_image(path)
    assert image.info == {}
    assert not image.getexif()
    for target in ("PNG", "JPEG"):
        buffer = BytesIO()
        image.save(buffer, target)
        assert b"SECRET" not in buffer.getvalue()


@pytest.mark.parametrize("kind", ["jpg", "png"])
def test_what_a_file_says_is_not_logged_even_at_debug(tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("DEBUG"):
        open_image(described(tmp_path, kind))
    assert "SECRET" not in caplog.text


@pytest.mark.parametrize(
    ("size", "min_side", "expected"),
    [
        ((640, 480), None, (640, 480)),
        ((640, 480), 481, (640, 480)),
        ((640, 480), 241, (640, 480)),
        ((640, 480), 240, (320, 240)),
        ((640, 480), 121, (320, 240)),
        ((640, 480), 60, (80, 60)),
        ((640, 480), 1, (80, 60)),  # an eighth is the least
        ((479, 641), 239, (240, 321)),
        ((30, 20), 100, (30, 20)),
    ],
)
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_a_jpeg_may_be_decoded_smaller(
    tmp_path: Path, size: tuple[int, int], min_side: int | None, expected: tuple[int, int], mode: str
) -> None:
    image = open_image(save(tmp_path, Image.new(mode, size, "darkred" if mode == "RGB" else 90), "image.jpg"), min_side=min_side)
    assert (image.mode, image.size) == (mode, expected)
    if mode == "RGB":  # colour is kept
        red, green, _ = image.getpixel((3, 3))
        assert red - green > 100


def test_a_turned_jpeg_may_be_decoded_smaller(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    path = save(tmp_path, Image.new("L", (640, 480), 50), "image.jpg", exif=exif)
    assert open_image(path, min_side=240).size == (240, 320)


def test_a_png_is_always_decoded_in_full(tmp_path: Path) -> None:
    assert open_image(save(tmp_path, Image.new("L", (640, 480))), min_side=10).size == (640, 480)


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


@pytest.mark.parametrize("kept", [0.3, 0.9])
def test_a_jpeg_cut_short_is_refused_when_it_is_decoded_smaller(kept: float) -> None:
    content = jpeg_bytes()
    with pytest.raises(DataError, match="damaged or cut short"):
        open_image(BytesIO(content[: int(kept * len(content))]), min_side=8)


@pytest.mark.parametrize("content", [png_bytes(), jpeg_bytes()], ids=["png", "jpeg"])
def test_damaged_bytes_end_in_an_image_or_a_data_error(content: bytes) -> None:
    rng = np.random.default_rng(0)
    opened = refused = 0
    for _ in range(300):
        damaged = bytearray(content)
        for place in rng.integers(0, min(len(content), 300), rng.integers(1, 4)):
            damaged[place] = rng.choice([0, 1, 0x7F, 0xFF, rng.integers(256)])
        try:
            opened += open_image(BytesIO(damaged), min_side=8).mode in ("L", "RGB")
        except DataError as error:
            refused += str(error).startswith("the image stream: ")
    assert opened + refused == 300


def test_a_pipe_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(DataError, match=r"pipe\.png: a directory, pipe or device, not an image file"):
        open_image(tmp_path / "pipe.png")


@pytest.mark.parametrize("path", ["/dev/zero", "/"])
def test_a_device_or_folder_is_refused(path: str) -> None:
    with pytest.raises(DataError, match=f"^{path}: a directory, pipe or device, not an image file"):
        open_image(path)


@pytest.mark.parametrize("path", ["a\0b.png", "x" * 5000])
def test_a_path_that_cannot_be_is_a_data_error(path: str) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        open_image(path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every file")
def test_a_locked_file_is_named(tmp_path: Path) -> None:
    path = save(tmp_path, Image.new("L", (4, 4)))
    path.chmod(0)
    with pytest.raises(DataError, match=r"image\.png: cannot be read"):
        open_image(path)


def test_an_enormous_file_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "huge.png"
    with open(path, "wb") as handle:
        handle.truncate(image_io.MAX_FILE_BYTES + 1)  # takes no room on the disk
    with pytest.raises(DataError, match=r"huge\.png: larger than 536870912 bytes"):
        open_image(path)


def test_an_endless_stream_is_not_read_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_io, "MAX_FILE_BYTES", 1000)
    with open("/dev/zero", "rb") as endless, pytest.raises(DataError, match="/dev/zero: larger than 1000 bytes"):
        open_image(endless)


@pytest.mark.parametrize("mode", ["text", "closed"])
def test_a_stream_that_delivers_no_bytes_is_refused(mode: str) -> None:
    stream = io.StringIO("text")
    if mode == "closed":
        stream.close()
    with pytest.raises(DataError, match=r"the image stream: (the stream delivers str, not bytes|cannot be read)"):
        open_image(stream)


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
