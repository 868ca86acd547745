"""The one place that opens an image file: PNG, JPEG or DICOM in, an 8-bit Pillow image out.

Grey images stay grey (mode "L", one byte a pixel); only files that store colour become "RGB". How each kind is brought there:

| stored as                | becomes                                                                                          |
| ------------------------ | ------------------------------------------------------------------------------------------------ |
| 8-bit grey, 1-bit        | "L", values kept (1-bit: 0 and 255)                                                              |
| 16-bit grey              | "L", divided by the largest value of its bit depth, see `_sixteen_to_eight_bit`                  |
| grey or colour + alpha   | "L" or "RGB", laid over black: the surround of a radiograph is black, and hidden pixels stay hidden |
| palette                  | "L" if every colour of the palette is grey, else "RGB"                                           |
| CMYK                     | refused: a print format whose conversion needs a colour profile                                  |
| DICOM                    | "L", see `dicom_io`                                                                              |

An EXIF orientation is applied. A file that cannot be used is a `DataError` that names it and says why.
"""

import struct
import zlib
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps

from xraygpt.common.errors import DataError
from xraygpt.processors import dicom_io

MAX_PIXELS = 80_000_000
"""Checked before decoding. The largest radiographs have about 20 million; a small file that unpacks to more is an accident or an attack."""

DETECTOR_BITS = (8, 10, 12, 14, 16)
"""Bit depths that X-ray detectors deliver, smallest first."""

_SIGNATURE_BYTES = 132  # a DICOM file says so at byte 128
_GIT_LFS_POINTER = b"version https://git-lfs"
_DECODING_ERRORS = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error)


def open_image(source: Path | str | BinaryIO) -> Image.Image:
    """Open an image file, or a binary stream of one, completely decoded.

    Returns:
        A Pillow image of mode "L" (grey) or "RGB" (colour), 8 bits a channel, upright.

    Raises:
        DataError: the file is missing, empty, damaged, too large, no image, or an image that is no single radiograph.
    """
    name = str(getattr(source, "name", "the image stream")) if hasattr(source, "read") else str(source)
    content = _read(source, name)
    signature = content[:_SIGNATURE_BYTES]
    if not content:
        raise DataError(f"{name}: the file is empty.")
    if signature.startswith(_GIT_LFS_POINTER):
        raise DataError(f"{name}: this is a Git LFS pointer, not the image itself. Fetch the content with `git lfs pull`.")
    if dicom_io.is_dicom(signature):
        return Image.fromarray(dicom_io.read_dicom(BytesIO(content), name=name, max_pixels=MAX_PIXELS))
    return _decode(content, name)


def _read(source: Path | str | BinaryIO, name: str) -> bytes:
    try:
        return Path(source).read_bytes() if isinstance(source, str | Path) else source.read()
    except OSError as error:
        raise DataError(f"{name}: cannot be read ({error.strerror or error}).") from error


def _decode(content: bytes, name: str) -> Image.Image:
    """Decode PNG or JPEG bytes; the header's size is checked before any pixel is unpacked."""
    try:
        image = Image.open(BytesIO(content), formats=("PNG", "JPEG"))
    except Image.UnidentifiedImageError as error:
        raise DataError(f"{name}: not a PNG, JPEG or DICOM file, or its header is damaged.") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise DataError(f"{name}: {error}") from error
    except _DECODING_ERRORS as error:
        raise DataError(f"{name}: the image header is damaged ({error}).") from error
    if image.width * image.height > MAX_PIXELS:
        raise DataError(f"{name}: {image.width} x {image.height} pixels; at most {MAX_PIXELS} are decoded. Scale the image down.")
    try:
        image.load()
        return _to_grey_or_rgb(ImageOps.exif_transpose(image), name)
    except _DECODING_ERRORS as error:
        raise DataError(f"{name}: the image is damaged or cut short ({error}).") from error


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
    values = np.asarray(image, dtype=np.float64)
    highest = values.max()
    depth = next((bits for bits in DETECTOR_BITS if highest < 2**bits), DETECTOR_BITS[-1])
    return Image.fromarray(np.rint(values * (255 / (2**depth - 1))).astype(np.uint8))


def _over_black(image: Image.Image, *, grey: bool) -> Image.Image:
    flat = Image.alpha_composite(Image.new("RGBA", image.size, (0, 0, 0, 255)), image).convert("RGB")
    return flat.getchannel("R") if grey else flat


def _grey_if_grey(image: Image.Image) -> Image.Image:
    red, green, blue = (channel.tobytes() for channel in image.split())
    return image.getchannel("R") if red == green == blue else image
