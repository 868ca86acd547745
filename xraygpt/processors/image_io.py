"""The one place that opens an image file: PNG, JPEG or DICOM in, an 8-bit Pillow image out.

Grey images stay grey (mode "L", one byte a pixel); only files that store colour become "RGB". How each kind is brought there:

| stored as                | becomes                                                                                             |
| ------------------------ | --------------------------------------------------------------------------------------------------- |
| 8-bit grey, 1-bit        | "L", values kept (1-bit: 0 and 255)                                                                 |
| 16-bit grey              | "L", divided by the largest value of its bit depth, see `_sixteen_to_eight_bit`                     |
| grey or colour + alpha   | "L" or "RGB", laid over black: the surround of a radiograph is black, and hidden pixels stay hidden |
| palette                  | "L" if every colour of the palette is grey, else "RGB"                                              |
| CMYK                     | refused: a print format whose conversion needs a colour profile                                     |
| DICOM                    | "L", see `dicom_io`                                                                                 |

An EXIF orientation is applied. Nothing else that a file says beside its pixels (EXIF, text, colour profile, comment, DICOM element) is
kept in the image's `info`, so that an image that is saved again tells nothing about the patient.

A file that cannot be used is a `DataError` that names it and says why.
"""

import logging
import stat
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import ExifTags, Image, ImageOps

from xraygpt.common.errors import DataError
from xraygpt.common.limits import DECODING_ERRORS, MAX_PIXELS
from xraygpt.processors import dicom_io
from xraygpt.processors.dicom_io import DicomOptions
from xraygpt.processors.image_container import pixels_only

MAX_FILE_BYTES = 2**29
"""Checked before reading: more than `MAX_PIXELS` need uncompressed, at 16 bits and in colour."""

DETECTOR_BITS = (8, 10, 12, 14, 16)
"""Bit depths that X-ray detectors deliver, smallest first."""

_FIRST_WINDOW = DicomOptions()
_SIGNATURE_BYTES = 132  # a DICOM file says so at byte 128
_GIT_LFS_POINTER = b"version https://git-lfs"

logging.getLogger("PIL").setLevel(logging.INFO)  # at DEBUG it writes the text of EXIF and PNG comments into the log


def open_image(
    source: Path | str | BinaryIO, *, min_side: int | None = None, dicom: DicomOptions = _FIRST_WINDOW, max_pixels: int | None = None
) -> Image.Image:
    """Open an image file, or a binary stream of one, completely decoded.

    Args:
        source: a path, or a stream opened in binary mode.
        min_side: a JPEG may be decoded at 1/2, 1/4 or 1/8 of its size as long as its shorter side keeps this many pixels, at least 1:
            several times as fast, and the same image after a resize to half of `min_side` or less, to a fraction of a grey level.
            None decodes in full.
        dicom: how to read a DICOM file.
        max_pixels: the largest image that is decoded; None: `MAX_PIXELS`, beyond which nothing is.

    Returns:
        A Pillow image of mode "L" (grey) or "RGB" (colour), 8 bits a channel, upright. `info` is empty, but for
        `dicom_io.BURNED_IN_ANNOTATION`.

    Raises:
        DataError: the file is missing, empty, damaged, too large, no image, or an image that is no single radiograph.
    """
    name = str(getattr(source, "name", "the image stream")) if hasattr(source, "read") else str(source)
    content = read_content(source, name)
    signature = content[:_SIGNATURE_BYTES]
    if not content:
        raise DataError(f"{name}: the file is empty.")
    if signature.startswith(_GIT_LFS_POINTER):
        raise DataError(f"{name}: this is a Git LFS pointer, not the image itself. Fetch the content with `git lfs pull`.")
    limit = MAX_PIXELS if max_pixels is None else min(max_pixels, MAX_PIXELS)
    if dicom_io.is_dicom(signature):
        return dicom_io.read_dicom(content, name=name, max_pixels=limit, options=dicom)
    return _decode(content, name, min_side, limit)


def read_content(source: Path | str | BinaryIO, name: str) -> bytes:
    """Read an image file, or a stream of one, whole; `name` is what to call it in an error.

    Raises:
        DataError: it is missing, no regular file, cannot be read, or is larger than `MAX_FILE_BYTES`.
    """
    try:
        if isinstance(source, str | Path):
            status = Path(source).stat()
            if not stat.S_ISREG(status.st_mode):  # opening a pipe would wait for its writer
                raise DataError(f"{name}: a directory, pipe or device, not an image file.")
            content = Path(source).read_bytes() if status.st_size <= MAX_FILE_BYTES else b""
            size = status.st_size
        else:
            content = source.read(MAX_FILE_BYTES + 1)
            size = len(content)
    except (OSError, ValueError) as error:  # ValueError: a null character in the path, a closed stream
        raise DataError(f"{name}: cannot be read ({getattr(error, 'strerror', None) or error}).") from error
    if size > MAX_FILE_BYTES:
        raise DataError(f"{name}: larger than {MAX_FILE_BYTES} bytes, which no radiograph needs.")
    if not isinstance(content, bytes):
        raise DataError(f"{name}: the stream delivers {type(content).__name__}, not bytes. Open it in binary mode.")
    return content


def _decode(content: bytes, name: str, min_side: int | None, max_pixels: int) -> Image.Image:
    """Decode PNG or JPEG bytes; the header's size is checked before any pixel is unpacked."""
    try:
        content, orientation = pixels_only(content, name)
        image: Image.Image = Image.open(BytesIO(content), formats=("PNG", "JPEG"))
    except Image.UnidentifiedImageError as error:
        raise DataError(f"{name}: not a PNG, JPEG or DICOM file, or its header is damaged.") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise DataError(f"{name}: {error}") from error
    except DECODING_ERRORS as error:
        raise DataError(f"{name}: the image header is damaged ({error}).") from error
    if image.width * image.height > max_pixels:
        raise DataError(f"{name}: {image.width} x {image.height} pixels; at most {max_pixels} are decoded. Scale the image down.")
    try:
        if min_side is not None:
            image = _scaled_down(image, min_side)
        if orientation is not None:
            image.getexif()[ExifTags.Base.Orientation] = orientation
        ImageOps.exif_transpose(image, in_place=True)
        upright = _to_grey_or_rgb(image, name)
    except DECODING_ERRORS as error:
        raise DataError(f"{name}: the image is damaged or cut short ({error}).") from error
    upright.info = {}
    return upright.copy()  # a plain image, which does not know the file


def _scaled_down(image: Image.Image, min_side: int) -> Image.Image:
    """Decode a JPEG at 1/2, 1/4 or 1/8, its shorter side not below `min_side`; other images as they are.

    The decoder rounds the size up: 1841 pixels at 1/4 are 461, of which the last lies outside the film by three quarters. Taken for the
    film, that shifts edges by up to a pixel, several times the difference that the scaling itself makes.
    """
    draft = image.draft(None, (min_side, min_side))
    if draft is None or draft[1][2:] == image.size:
        return image
    return image.resize(image.size, Image.Resampling.BICUBIC, box=draft[1])


def _to_grey_or_rgb(image: Image.Image, name: str) -> Image.Image:
    if image.mode in ("L", "RGB") and "transparency" not in image.info:
        return image
    if image.mode.startswith("I;16") or image.mode == "I":
        return _sixteen_to_eight_bit(image)
    if image.mode == "1":
        return image.convert("L")
    if image.mode == "P" and "transparency" not in image.info:
        return _grey_if_grey(image.convert("RGB"))
    if image.mode in ("LA", "La", "RGBA", "RGBa", "P", "L", "RGB"):  # the last three with a transparent colour
        return _over_black(image.convert("RGBA"), grey=image.mode in ("L", "LA", "La"))
    raise DataError(f"{name}: stored as {image.mode}, which no radiograph is. Save it as a grey or RGB image.")


def _sixteen_to_eight_bit(image: Image.Image) -> Image.Image:
    """Scale 16-bit grey to 8 bits by the bit depth of the values, not by their extremes.

    The PNG header says 16 bits even where a 10- or 12-bit detector filled it. The depth is therefore the smallest one of
    `DETECTOR_BITS` that holds the image's maximum, and its largest value becomes 255 (for 16 bits: a division by 257). Black stays
    black, and one bright marker does not change the contrast of the rest, as stretching minimum to maximum would.
    """
    values = np.asarray(image)
    highest = values.max()
    depth = next((bits for bits in DETECTOR_BITS if highest < 2**bits), DETECTOR_BITS[-1])
    table = np.rint(np.arange(2**depth) * (255 / (2**depth - 1))).astype(np.uint8)  # one byte a pixel, not several of 8
    return Image.fromarray(table[values])


def _over_black(image: Image.Image, *, grey: bool) -> Image.Image:
    flat = Image.alpha_composite(Image.new("RGBA", image.size, (0, 0, 0, 255)), image).convert("RGB")
    return flat.getchannel("R") if grey else flat


def _grey_if_grey(image: Image.Image) -> Image.Image:
    red, green, blue = (channel.tobytes() for channel in image.split())
    return image.getchannel("R") if red == green == blue else image
