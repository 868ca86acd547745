"""A radiograph in DICOM → an 8-bit grey image, as the standard's grey-scale pipeline orders it.

    stored values → modality LUT or rescale → VOI LUT or window → inversion of MONOCHROME1 → 0..255 → square pixels

(DICOM PS3.3 C.11.1, C.11.2, C.7.6.3.1.2 and C.7.6.3.1.7.) The result shows air black and bone white whatever the file stores. Overlays
are left out: they are annotation, not image. `dicom_header` reads the header, `dicom_pixels` decodes, `dicom_display` is the pipeline.

Only projection radiographs (CR, DX, RG) are accepted: the model has never seen a CT slice, and would describe one all the same.
"""

import functools
import logging
from dataclasses import dataclass

from PIL import Image

from xraygpt.common.errors import DataError
from xraygpt.processors.dicom_display import display_table
from xraygpt.processors.dicom_header import Elements, read_header
from xraygpt.processors.dicom_pixels import decode_codes, read_layout

logger = logging.getLogger(__name__)

RADIOGRAPH_MODALITIES = ("CR", "DX", "RG")
"""Computed radiography, digital radiography, film; an absent modality (some de-identified sets drop it) is let through."""

BURNED_IN_ANNOTATION = "burned_in_annotation"
"""The key of `Image.info` that is True where the file says that text, perhaps a name, is part of its pixels."""

MAX_PIXEL_ASPECT = 4.0
"""Height : width of a pixel, or width : height, beyond which the header is taken for wrong. Detectors and scanners stay below 2."""

SQUARE_TOLERANCE = 0.01
"""Pixels whose sides differ by less, as a share, are left alone: measured spacings are rounded."""

_FIRST_GROUPS = (b"\x02\x00", b"\x08\x00")  # the first data element of files that lack the preamble, little endian
_MAX_BYTES_A_PIXEL = 4  # of a deflated file: 2 for the pixel, the rest for its header


@dataclass(frozen=True)
class DicomOptions:
    """How to read a DICOM file.

    Attributes:
        window: which of several VOI LUTs or windows shows the image: the index (VOI LUTs first, then windows, from 0), or the
            explanation that the file gives, such as "BONE", in either case. Files without any take percentiles of their values.
        force_modality: also read what is no radiograph by its modality.
    """

    window: int | str = 0
    force_modality: bool = False


def is_dicom(signature: bytes) -> bool:
    """Whether a file that begins with these bytes (132 are enough) is DICOM, with or without the preamble."""
    return signature[128:132] == b"DICM" or signature[:2] in _FIRST_GROUPS


def read_dicom(content: bytes, *, name: str, max_pixels: int, options: DicomOptions) -> Image.Image:
    """Read one radiograph.

    Args:
        content: the whole file.
        name: what to call it in an error or a warning.
        max_pixels: the largest rows x columns that is decoded or made.
        options: which window, and whether the modality matters.

    Returns:
        A Pillow image of mode "L" with square pixels, 0 = black (air), 255 = white. Its `info` is empty but for
        `BURNED_IN_ANNOTATION`, where the file says so; then there is also a warning in the log, once for each name.

    Raises:
        DataError: no radiograph, several frames, colour, too large, damaged, compressed in a way that no installed decoder reads, or
            without the window that was asked for.
    """
    elements, syntax = read_header(content, name=name, max_bytes=_MAX_BYTES_A_PIXEL * max_pixels)
    _require_radiograph(elements, options)
    layout = read_layout(elements, max_pixels=max_pixels)
    aspect = _pixel_aspect(elements)
    codes = decode_codes(elements, layout, syntax)
    image = _with_square_pixels(Image.fromarray(display_table(codes, elements, window=options.window)[codes]), aspect, name, max_pixels)
    if elements.code("BurnedInAnnotation") == "YES":
        _warn_of_burned_in_annotation(name)
        image.info[BURNED_IN_ANNOTATION] = True
    return image


def _require_radiograph(elements: Elements, options: DicomOptions) -> None:
    name = elements.name
    modality = elements.code("Modality")
    if modality and modality not in RADIOGRAPH_MODALITIES and not options.force_modality:
        known = ", ".join(RADIOGRAPH_MODALITIES)
        raise DataError(f"{name}: modality {modality}; only radiographs ({known}) are read. To read it all the same: --force-modality.")
    if not elements.values("PixelData"):
        raise DataError(f"{name}: the DICOM file holds no pixel data, or is cut short before their end.")
    if (frames := elements.integer("NumberOfFrames", 1)) != 1:
        raise DataError(f"{name}: {frames} frames; a radiograph has one. Export the frame that is meant.")
    photometric, samples = elements.code("PhotometricInterpretation"), elements.integer("SamplesPerPixel", 1)
    if photometric not in ("MONOCHROME1", "MONOCHROME2") or samples != 1:
        found = f"photometric interpretation {photometric or 'missing'} with {samples} samples a pixel"
        raise DataError(f"{name}: {found}; a radiograph is MONOCHROME1 or MONOCHROME2, with one.")


def _pixel_aspect(elements: Elements) -> float:
    """Height of a pixel divided by its width.

    The first element that states two positive numbers decides; files exist that fill in 0 and 0, or a single number, which says nothing.
    """
    for keyword in ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing", "PixelAspectRatio"):
        sides = elements.numbers(keyword)
        if len(sides) == 2 and min(sides) > 0:
            height, width = sides
            if not 1 / MAX_PIXEL_ASPECT <= height / width <= MAX_PIXEL_ASPECT:
                raise DataError(f"{elements.name}: pixels of {height:g} by {width:g} ({keyword}), which no detector makes.")
            return height / width
    return 1.0


def _with_square_pixels(image: Image.Image, aspect: float, name: str, max_pixels: int) -> Image.Image:
    """Stretch the coarser axis, so that no detail is lost."""
    if abs(aspect - 1) < SQUARE_TOLERANCE:
        return image
    width, height = (image.width, round(image.height * aspect)) if aspect > 1 else (round(image.width / aspect), image.height)
    if width * height > max_pixels:
        raise DataError(f"{name}: {width} x {height} pixels once they are square; at most {max_pixels} are made.")
    return image.resize((width, height), Image.Resampling.BICUBIC)


@functools.cache  # once a file, not once an epoch
def _warn_of_burned_in_annotation(name: str) -> None:
    logger.warning("%s: the file says that annotation is burned into its pixels; it may name the patient.", name)
