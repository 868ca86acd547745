"""Damaged PNG, JPEG and DICOM files end in an image or in a DataError."""

import struct
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin
from pydicom.uid import ExplicitVRBigEndian, ImplicitVRLittleEndian, JPEG2000Lossless, JPEGBaseline8Bit, RLELossless

from tests.processors.made_dicom import box, changed, dicom, gdcm_compressed, jp2, lut, written
from tests.reliability.fuzzing import attempt, damaged, fuzz
from xraygpt.evaluation.report_html import image_data_uri
from xraygpt.processors import open_image

PIXELS = np.arange(40 * 32, dtype=np.uint16).reshape(40, 32) * 3


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    """The bytes of a file."""
    stream = BytesIO()
    image.save(stream, kind, **options)  # type: ignore[arg-type]
    return stream.getvalue()


def pillow_files() -> list[bytes]:
    """PNG of each mode, JPEG of each kind."""
    grey = Image.fromarray(PIXELS.astype(np.uint8))
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "a description"
    texts = PngImagePlugin.PngInfo()
    texts.add_text("Raw profile type exif", f"\nexif\n9\n{exif.tobytes().hex()}", zip=True)
    texts.add_itxt("XML:com.adobe.xmp", "tiff:Orientation>6<", zip=True)
    palette = grey.convert("P")
    return [
        saved(grey, "PNG"),
        saved(Image.fromarray(PIXELS), "PNG"),
        saved(grey.convert("RGBA"), "PNG", exif=exif, pnginfo=texts, icc_profile=b"profile"),
        saved(palette, "PNG", transparency=3),
        saved(grey.convert("1"), "PNG", optimize=True),
        saved(grey, "JPEG"),
        saved(grey.convert("RGB"), "JPEG", exif=exif, progressive=True),
        saved(grey.convert("CMYK"), "JPEG", optimize=True),
    ]


def jpeg_dicom() -> bytes:
    """JPEG Baseline in DICOM."""
    frame = saved(Image.fromarray(PIXELS.astype(np.uint8)), "JPEG")
    data = pydicom.encaps.encapsulate([frame])
    return dicom(PIXELS.astype(np.uint8), TransferSyntaxUID=JPEGBaseline8Bit, PixelData=data).getvalue()


def compressed(syntax: str) -> bytes:
    """A file that pydicom compresses."""
    dataset = pydicom.dcmread(dicom(PIXELS))
    dataset.compress(syntax)
    return written(dataset).getvalue()


def dicom_files() -> list[bytes]:
    """DICOM in several syntaxes, with windows and look-up tables."""
    return [
        dicom(PIXELS, WindowCenter=2048, WindowWidth=4096, PixelSpacing=[0.2, 0.3], RescaleSlope=2, RescaleIntercept=-5).getvalue(),
        dicom(PIXELS, TransferSyntaxUID=ImplicitVRLittleEndian, PhotometricInterpretation="MONOCHROME1").getvalue(),
        dicom(PIXELS, TransferSyntaxUID=ExplicitVRBigEndian).getvalue(),
        dicom(PIXELS, VOILUTSequence=[lut([0, 9, 255], explanation="BONE")], ModalityLUTSequence=[lut([0, 1, 2, 3], bits=16)]).getvalue(),
        compressed(RLELossless),
        compressed(JPEG2000Lossless),
        jpeg_dicom(),
    ]


def opened(content: bytes, min_side: int | None = None) -> None:
    """The image is as promised, or the error is named."""
    image = attempt(lambda: open_image(BytesIO(content), min_side=min_side))
    if image is not None:
        assert image.mode in ("L", "RGB") and set(image.info) <= {"burned_in_annotation"}


@fuzz()
@given(content=damaged(pillow_files()), min_side=st.sampled_from([None, 1, 8]))
def test_png_and_jpeg(content: bytes, min_side: int | None) -> None:
    opened(content, min_side)


@fuzz()
@given(content=damaged(dicom_files()))
def test_dicom(content: bytes) -> None:
    opened(content)


@pytest.fixture(scope="module")
def lossless_files(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    """DICOM that gdcm compresses and decompresses."""
    folder = tmp_path_factory.mktemp("gdcm")
    return [gdcm_compressed(dicom(PIXELS), kind, folder).read_bytes() for kind in ("JPEGLosslessProcess14_1", "JPEGLSLossless")]


@fuzz(0.5)
@given(data=st.data())
def test_dicom_of_gdcm(data: st.DataObject, lossless_files: list[bytes]) -> None:
    opened(data.draw(damaged(lossless_files)))


CODE_STREAM_HEADER = 120
"""Bytes of a compressed frame within which sizes, tiles, tables and segments are described."""


@st.composite
def damaged_frame(draw: st.DrawFn, originals: list[bytes]) -> bytes:
    """A DICOM file whose header is whole, and whose compressed frame says something else in its own; or is a JP2 file."""
    dataset = pydicom.dcmread(BytesIO(draw(st.sampled_from(originals))))
    frame = pydicom.encaps.get_frame(dataset.PixelData, 0, number_of_frames=1)
    if dataset.file_meta.TransferSyntaxUID == JPEG2000Lossless and draw(st.booleans()):
        frame = jp2(frame, columns=PIXELS.shape[1], rows=PIXELS.shape[0], before=box(b"uuid", frame[:60]))
    dataset.PixelData = pydicom.encaps.encapsulate([draw(damaged([frame[:CODE_STREAM_HEADER]])) + frame[CODE_STREAM_HEADER:]])
    return written(dataset).getvalue()


@fuzz()
@given(content=damaged_frame([compressed(RLELossless), compressed(JPEG2000Lossless), jpeg_dicom()]))
def test_headers_of_compressed_frames(content: bytes) -> None:
    opened(content)


@fuzz(0.5)
@given(data=st.data())
def test_headers_of_frames_of_gdcm(data: st.DataObject, lossless_files: list[bytes]) -> None:
    opened(data.draw(damaged_frame(lossless_files)))


@fuzz(0.1)
@given(data=st.data())
@pytest.mark.parametrize("pattern", ["dicom/*.dcm", "openi/NLMCXR_png/*"])
def test_real_files(data: st.DataObject, pattern: str, test_data: Path) -> None:
    files = sorted(path for path in test_data.glob(pattern) if path.is_file() and path.stat().st_size < 2_000_000)
    opened(data.draw(damaged([path.read_bytes() for path in files[:6]])), min_side=64)


@fuzz(0.5)
@given(content=damaged(pillow_files()))
def test_images_of_a_score_page(content: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / "page.png"
    path.write_bytes(content)
    attempt(lambda: image_data_uri(path))


@fuzz(0.5)
@given(
    content=st.binary(max_size=300), start=st.sampled_from([b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"\0" * 128 + b"DICM", b"\x08\0"])
)
def test_bytes_that_begin_like_an_image(content: bytes, start: bytes) -> None:
    opened(start + content)


def huge_tiff() -> bytes:
    """A TIFF header of 65,500 x 65,500 pixels."""
    tags = [(256, 4, 1, 65_500), (257, 4, 1, 65_500), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1), (273, 4, 1, 8), (279, 4, 1, 1)]
    return struct.pack("<2sHIH", b"II", 42, 8, len(tags)) + b"".join(struct.pack("<HHII", *tag) for tag in tags) + bytes(4)


def scans(number: int) -> bytes:
    """A progressive JPEG of a few kilobytes whose last scan stands there many times."""
    content = saved(Image.new("L", (400, 300)), "JPEG", progressive=True)
    start = content.rindex(b"\xff\xda")
    return content[:start] + content[start:-2] * number + content[-2:]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (lambda: dicom(Rows=65_535, Columns=65_535).getvalue(), "65535 x 65535 pixels; at most 80000000"),
        (lambda: dicom(NumberOfFrames=2**31 - 1).getvalue(), "2147483647 frames"),
        (lambda: changed(BytesIO(compressed(RLELossless)), Rows=9_000, Columns=9_000).getvalue(), "9000 x 9000 pixels; at most"),
        (huge_tiff, "not a PNG, JPEG or DICOM"),
        (lambda: b"GIF89a" + b"\xff" * 100, "not a PNG, JPEG or DICOM"),
        (lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not a PNG, JPEG or DICOM"),
        (lambda: scans(101), "a JPEG of 1.. scans; at most 100"),
    ],
)
def test_bombs_are_refused_before_they_are_decoded(content: Callable[[], bytes], reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made = BytesIO(content())
    monkeypatch.setattr(Image.Image, "load", lambda *_: pytest.fail("decoded"))
    with pytest.raises(Exception, match=reason):
        open_image(made)


def test_an_ordinary_number_of_scans_is_decoded() -> None:
    assert open_image(BytesIO(scans(80))).size == (400, 300)
