"""Every way the pixels of a radiograph are stored: packed with other bits, compressed, or not what the header says."""

import struct
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.encaps import encapsulate, get_frame
from pydicom.pixels.decoders.base import Decoder
from pydicom.uid import (
    MPEG2MPML,
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from tests.processors.made_dicom import WHOLE_RANGE, box, changed, dicom, gdcm_compressed, grey, j2k_stream, jp2, written
from xraygpt.common.errors import DataError
from xraygpt.processors import dicom_pixels, open_image

FILM = (np.mgrid[0:32, 0:48].sum(axis=0) * 50 + np.random.default_rng(0).integers(0, 8, (32, 48))).astype(np.uint16)  # 12 bits
GDCM_SYNTAXES = ["JPEGLosslessProcess14", "JPEGLosslessProcess14_1", "JPEGLSLossless", "JPEG2000Lossless"]


def expected_film() -> np.ndarray:
    return np.rint(np.clip((FILM - 2047.5) / 4095 + 0.5, 0, 1) * 255)


def compressed(stored: np.ndarray, syntax: UID) -> BytesIO:
    dataset = pydicom.dcmread(dicom(stored, **WHOLE_RANGE))
    dataset.compress(syntax)
    return written(dataset)


def jpeg(pixels: np.ndarray, **options: Any) -> bytes:
    buffer = BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", **options)
    return buffer.getvalue()


def test_transfer_syntaxes_are_the_compressed_ones_that_pydicom_names() -> None:
    assert all(UID(syntax).is_compressed for syntax in dicom_pixels.PLUGINS)
    assert (UID(dicom_pixels.JPEG_LOSSLESS_SV1), UID(dicom_pixels.RLE_LOSSLESS)) == (JPEGLosslessSV1, RLELossless)
    assert UID(dicom_pixels.HTJ2K).keyword == "HTJ2K"


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian])
def test_uncompressed(syntax: UID) -> None:
    stored = FILM.astype(">u2") if syntax == ExplicitVRBigEndian else FILM
    assert np.array_equal(open_image(dicom(stored, TransferSyntaxUID=syntax, **WHOLE_RANGE)), expected_film())


@pytest.mark.parametrize(("vr", "expected"), [("OB", [10, 20, 30, 40]), ("OW", [20, 10, 40, 30])])
def test_eight_bit_pixels_in_big_endian_files_are_bytes_or_words(vr: str, expected: list[int]) -> None:
    dataset = pydicom.dcmread(dicom(np.array([[10, 20, 30, 40]], dtype=np.uint8), TransferSyntaxUID=ExplicitVRBigEndian))
    dataset["PixelData"].VR = vr
    assert grey(written(dataset)) == expected


@pytest.mark.parametrize("syntax", [RLELossless, JPEG2000Lossless])
def test_losslessly_compressed(syntax: UID) -> None:
    assert np.array_equal(open_image(compressed(FILM, syntax)), expected_film())


@pytest.mark.parametrize("syntax", GDCM_SYNTAXES)
def test_losslessly_compressed_by_gdcm(syntax: str, tmp_path: Path) -> None:
    assert np.array_equal(open_image(gdcm_compressed(dicom(FILM, **WHOLE_RANGE), syntax, tmp_path)), expected_film())


@pytest.mark.parametrize("syntax", GDCM_SYNTAXES)
def test_signed_values_survive_compression(syntax: str, tmp_path: Path) -> None:
    film = FILM.astype(np.int16) - 2048
    stream = dicom(film, WindowCenter=0, WindowWidth=4096)
    assert np.array_equal(open_image(gdcm_compressed(stream, syntax, tmp_path)), expected_film())


def test_jpeg_baseline() -> None:
    pixels = (FILM // 16).astype(np.uint8)
    stream = dicom(pixels, TransferSyntaxUID=JPEGBaseline8Bit, PixelData=encapsulate([jpeg(pixels, quality=95)]))
    assert np.abs(np.asarray(open_image(stream)).astype(int) - pixels).mean() < 2


@pytest.mark.parametrize(
    ("syntax", "bits", "advice"),
    [
        (JPEGLossless, 12, r"make install-extras EXTRAS=gdcm"),
        (JPEGLosslessSV1, 12, r"make install-extras EXTRAS=gdcm"),
        (JPEGLSLossless, 12, r"make install-extras EXTRAS=gdcm"),
        (JPEG2000Lossless, 12, "make install-runtime"),
        (JPEGExtended12Bit, 12, "dcmdjpeg"),
    ],
)
def test_a_missing_decoder_is_named(syntax: UID, bits: int, advice: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Decoder, "available_plugins", property(lambda self: ()))
    stream = with_frame(frame_header(bits=bits) if syntax != JPEG2000Lossless else j2k_stream(bits=bits), TransferSyntaxUID=syntax)
    with pytest.raises(DataError, match=rf"the image stream: compressed as JPEG.*, for which no decoder is installed\. .*{advice}"):
        open_image(stream)


def test_twelve_bit_jpeg_is_not_left_to_pillow() -> None:
    with pytest.raises(DataError, match=r"JPEG Extended .* no decoder is installed\. .*dcmdjpeg"):
        open_image(with_frame(frame_header(bits=12), TransferSyntaxUID=JPEGExtended12Bit))


def test_a_film_of_video_is_refused() -> None:
    with pytest.raises(DataError, match=r"stored as MPEG2 .*, which is not read"):
        open_image(with_frame(b"\x00\x00\x01\xb3" * 4, TransferSyntaxUID=MPEG2MPML))


def test_a_compressed_syntax_without_a_check_is_refused_though_pydicom_decodes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = compressed(FILM, JPEG2000Lossless)
    monkeypatch.delitem(dicom_pixels.PLUGINS, dicom_pixels.JPEG_2000_LOSSLESS)
    with pytest.raises(DataError, match=r"stored as JPEG 2000 .*, which is not read"):
        open_image(stream)


def with_frame(frame: bytes, **elements: Any) -> BytesIO:
    """A file of 48 x 32 pixels of 12 bits whose compressed frame is this."""
    return dicom(FILM, PixelData=encapsulate([frame]), **elements)


def frame_header(*, columns: int = 48, rows: int = 32, components: int = 1, bits: int = 12, marker: int = 0xC3) -> bytes:
    """The beginning of a JPEG: a comment, a fill byte, the frame header, the first scan's header."""
    comment = b"\xff\xfe\x00\x06ABCD\xff"
    frame = struct.pack(">BBHBHHB", 0xFF, marker, 8 + 3 * components, bits, rows, columns, components) + bytes(3 * components)
    return b"\xff\xd8" + comment + frame + b"\xff\xda\x00\x08" + bytes(6)


@pytest.mark.parametrize(
    "lie", [{"columns": 60_000, "rows": 60_000}, {"rows": 31}, {"components": 3}, {"bits": 17}], ids=["huge", "size", "colour", "bits"]
)
@pytest.mark.parametrize(("header", "syntax"), [(frame_header, JPEGLosslessSV1), (j2k_stream, JPEG2000Lossless)])
def test_a_code_stream_that_is_not_what_the_header_says_is_never_decoded(lie: dict, header: Any, syntax: UID) -> None:
    """A decoder would trust it: fill the memory, or end the process."""
    with pytest.raises(DataError, match=r"the compressed image is of .*; the DICOM header says 48 x 32 of 1 x 16 at most"):
        open_image(with_frame(header(**lie), TransferSyntaxUID=syntax))


LARGE, DECOY = {"columns": 100, "rows": 100}, {"columns": 48, "rows": 32}
JPEG_FRAMES = {
    dicom_pixels.JPEG_BASELINE: 0xC0,
    dicom_pixels.JPEG_EXTENDED: 0xC1,
    dicom_pixels.JPEG_LOSSLESS: 0xC3,
    dicom_pixels.JPEG_LOSSLESS_SV1: 0xC3,
    dicom_pixels.JPEG_LS_LOSSLESS: 0xF7,
    dicom_pixels.JPEG_LS_NEAR_LOSSLESS: 0xF7,
}


def large_frame_with_decoy(syntax: str) -> bytes:
    """A frame of 100 x 100 pixels in which something that no decoder looks at says 48 x 32."""
    if syntax in JPEG_FRAMES:
        bits = 8 if JPEG_FRAMES[syntax] == 0xC0 else 12
        hidden = frame_header(**LARGE, bits=bits, marker=JPEG_FRAMES[syntax])[2:]
        restart = b"\xff\xd0" + struct.pack(">H", 2 + len(hidden))  # a marker without a length; what looks like one is not
        return b"\xff\xd8" + restart + hidden + frame_header(**DECOY, bits=bits, marker=JPEG_FRAMES[syntax])[2:]
    return jp2(j2k_stream(**LARGE), **LARGE, before=box(b"uuid", bytes(16) + j2k_stream(**DECOY)))


@pytest.mark.parametrize("syntax", dicom_pixels.PLUGINS)
def test_the_size_is_read_where_the_decoder_reads_it(syntax: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Decoder, "as_array", lambda *_, **__: pytest.fail("decoded"))
    frame = large_frame_with_decoy(syntax)
    with pytest.raises(DataError, match=r"the compressed image is of 100 x 100 pixels .*; the DICOM header says 48 x 32"):
        open_image(with_frame(frame, TransferSyntaxUID=UID(syntax)), max_pixels=2_000)


def rle_frame(*segments: bytes) -> bytes:
    starts = [64 + sum(map(len, segments[:index])) for index in range(len(segments))]
    return struct.pack("<16I", len(segments), *starts, *[0] * (15 - len(segments))) + b"".join(segments)


@pytest.mark.parametrize(
    ("frame", "reason"),
    [
        (rle_frame(b"\x81\x00" * 12), "1 RLE segments for 2 bytes a pixel"),
        (rle_frame(*[b"\x81\x00" * 12] * 3), "3 RLE segments for 2 bytes a pixel"),
        (struct.pack("<16I", 2**32 - 1, *[64] * 15), "4294967295 RLE segments"),
        (b"\x02\x00", "damaged or cut short"),
    ],
    ids=["one byte", "three bytes", "endless", "cut"],
)
def test_a_run_length_header_that_contradicts_the_file_is_never_unpacked(
    frame: bytes, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Image, "frombytes", lambda *_: pytest.fail("unpacked"))
    with pytest.raises(DataError, match=reason):
        open_image(with_frame(frame, TransferSyntaxUID=RLELossless))


def test_run_lengths_are_unpacked_up_to_the_end_of_the_image(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes, unpack = [], Image.frombytes
    monkeypatch.setattr(Image, "frombytes", lambda mode, size, *rest: sizes.append(size) or unpack(mode, size, *rest))
    high, low = b"\x81\x08" * 12, b"\x81\x07" * 12  # twelve runs of 128 are the image's 48 x 32
    endless = rle_frame(high + b"\x81\x09" * 5_000, low + b"\x80" + b"\x81\x09" * 5_000)
    image = open_image(with_frame(endless, TransferSyntaxUID=RLELossless, **WHOLE_RANGE))
    assert np.asarray(image).tolist() == [[round(0x0807 / 4095 * 255)] * 48] * 32
    assert sizes == [(48 * 32, 1)] * 2


def test_runs_may_cross_the_ends_of_rows() -> None:
    """The standard forbids it, writers do it."""
    content = np.arange(48 * 32) // 100
    runs = b"".join(bytes([257 - number, value]) for value, number in zip(*np.unique(content, return_counts=True), strict=True))
    image = open_image(with_frame(rle_frame(runs, bytes([0x81, 0] * 12)), TransferSyntaxUID=RLELossless, **WHOLE_RANGE))
    assert np.asarray(image).ravel().tolist() == [round(256 * value / 4095 * 255) for value in content]


@pytest.mark.parametrize("syntax", [RLELossless, JPEG2000Lossless])
def test_a_frame_may_come_in_several_fragments_but_not_in_any_number(syntax: UID, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = pydicom.dcmread(compressed(FILM, syntax))
    frame = get_frame(dataset.PixelData, 0, number_of_frames=1)
    dataset.PixelData = encapsulate([frame], fragments_per_frame=5)
    assert np.array_equal(open_image(written(dataset)), expected_film())
    monkeypatch.setattr(dicom_pixels, "MAX_FRAGMENTS", 4)
    with pytest.raises(DataError, match="a frame in more than 4 fragments"):
        open_image(written(dataset))


def test_an_offset_table_of_several_frames_is_refused() -> None:
    stream = j2k_stream()
    with pytest.raises(DataError, match="an offset table of 2 frames where there is one"):
        open_image(dicom(FILM, TransferSyntaxUID=JPEG2000Lossless, PixelData=encapsulate([stream, stream])))


def test_a_code_stream_in_a_jp2_file_is_read() -> None:
    dataset = pydicom.dcmread(compressed(FILM, JPEG2000Lossless))
    stream = get_frame(dataset.PixelData, 0, number_of_frames=1)
    dataset.PixelData = encapsulate([jp2(stream, before=box(b"xml ", j2k_stream(**LARGE)))])
    assert np.array_equal(open_image(written(dataset)), expected_film())


@pytest.mark.parametrize("size", [(16, 16), (200, 200)])
@pytest.mark.parametrize("syntax", GDCM_SYNTAXES)
def test_a_header_that_is_not_what_the_code_stream_says(syntax: str, size: tuple[int, int], tmp_path: Path) -> None:
    stream = BytesIO(gdcm_compressed(dicom(FILM), syntax, tmp_path).read_bytes())
    with pytest.raises(DataError, match="the compressed image is of 48 x 32"):
        open_image(changed(stream, Rows=size[0], Columns=size[1]))


def cut(stream: BytesIO, part: float) -> BytesIO:
    dataset = pydicom.dcmread(stream)
    frame = get_frame(dataset.PixelData, 0, number_of_frames=1)
    dataset.PixelData = encapsulate([frame[: int(part * len(frame))]])
    return written(dataset)


@pytest.mark.parametrize("part", [0.02, 0.5, 0.97])
@pytest.mark.parametrize("syntax", [RLELossless, JPEG2000Lossless])
def test_a_compressed_image_cut_short_is_refused(syntax: UID, part: float) -> None:
    with pytest.raises(DataError, match="the pixel data are damaged or cut short"):
        open_image(cut(compressed(FILM, syntax), part))


@pytest.mark.parametrize("part", [0.5, 0.97])
@pytest.mark.parametrize("syntax", GDCM_SYNTAXES)
def test_a_compressed_image_cut_short_is_refused_by_gdcm(syntax: str, part: float, tmp_path: Path) -> None:
    stream = BytesIO(gdcm_compressed(dicom(FILM), syntax, tmp_path).read_bytes())
    with pytest.raises(DataError, match="the pixel data are damaged or cut short"):
        open_image(cut(stream, part))


def test_a_jpeg_cut_short_is_refused() -> None:
    frame = jpeg((FILM // 16).astype(np.uint8))
    stream = dicom((FILM // 16).astype(np.uint8), TransferSyntaxUID=JPEGBaseline8Bit, PixelData=encapsulate([frame[: len(frame) // 2]]))
    with pytest.raises(DataError, match="the pixel data are damaged or cut short"):
        open_image(stream)


OVERLAY = 0xA000  # what old overlays, or garbage, leave in the upper four bits of a 12-bit image's words


@pytest.mark.parametrize("compress", [False, True])
def test_bits_above_those_stored_are_not_image(compress: bool) -> None:
    stream = dicom(FILM | OVERLAY, **WHOLE_RANGE)
    if compress:
        dataset = pydicom.dcmread(stream)
        dataset.compress(RLELossless)
        stream = written(dataset)
    assert np.array_equal(open_image(stream), expected_film())


def test_bits_above_those_stored_are_not_image_in_jpeg_2000() -> None:
    stream = compressed_as_sixteen_bits(FILM | OVERLAY)
    assert np.array_equal(open_image(stream), expected_film())


def compressed_as_sixteen_bits(stored: np.ndarray) -> BytesIO:
    dataset = pydicom.dcmread(dicom(stored, BitsStored=16, **WHOLE_RANGE))
    dataset.compress(JPEG2000Lossless)
    dataset.BitsStored, dataset.HighBit = 12, 11
    return written(dataset)


def test_a_sign_in_the_highest_stored_bit_is_kept_and_what_stands_above_is_not() -> None:
    signed = FILM.astype(np.int16) - 2048
    garbled = ((signed & 0x0FFF) | 0x5000).astype(np.int16)
    assert np.array_equal(open_image(dicom(garbled, WindowCenter=0, WindowWidth=4096)), expected_film())


def test_bits_below_the_image_are_not_image() -> None:
    """High bit 15 with 12 bits stored: an old layout, with overlays in the lowest four bits."""
    assert np.array_equal(open_image(dicom((FILM << 4) | 0x5, HighBit=15, **WHOLE_RANGE)), expected_film())


def test_an_overlay_of_its_own_group_is_left_out() -> None:
    dataset = pydicom.dcmread(dicom(FILM, **WHOLE_RANGE))
    dataset.add_new(0x60000010, "US", 32)
    dataset.add_new(0x60000011, "US", 48)
    dataset.add_new(0x60000040, "CS", "G")
    dataset.add_new(0x60000050, "SS", [1, 1])
    dataset.add_new(0x60000100, "US", 1)
    dataset.add_new(0x60000102, "US", 0)
    dataset.add_new(0x60003000, "OW", b"\xff" * (32 * 48 // 8))
    assert np.array_equal(open_image(written(dataset)), expected_film())


@pytest.mark.parametrize(
    ("elements", "reason"),
    [
        ({"PixelData": FILM.tobytes()[:-2]}, "the pixel data are damaged or cut short"),
        ({"PixelData": b"\x00\x00"}, "the pixel data are damaged or cut short"),
        ({"Rows": 60_000, "Columns": 60_000}, "60000 x 60000 pixels; at most"),
        ({"Rows": 0}, "48 x 0 pixels; there is no image"),
        ({"Rows": None}, "Rows is missing or damaged"),
        ({"BitsAllocated": None}, "BitsAllocated is missing or damaged"),
        ({"BitsStored": 0}, "bits stored 0"),
        ({"BitsStored": 17}, "bits stored 17"),
        ({"BitsAllocated": 32}, "bits allocated 32"),
        ({"HighBit": 7}, "high bit 7"),
        ({"HighBit": 16}, "high bit 16"),
    ],
)
def test_a_layout_that_contradicts_itself(elements: dict[str, Any], reason: str) -> None:
    with pytest.raises(DataError, match=f"the image stream: .*{reason}"):
        open_image(dicom(FILM, **elements))
