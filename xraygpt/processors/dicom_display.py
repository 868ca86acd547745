"""From stored values to display values: modality LUT or rescale, then VOI LUT or window (DICOM PS3.3 C.11.1 and C.11.2).

Every step looks at a value and not at its place, so the whole pipeline runs once over the possible stored values, at most 65,536,
and the image is a single look-up in the result.

The look-up tables are applied here and not by pydicom, whose functions (3.0.2) wrap around where a table of 8-bit entries has more than
256 of them, and fail on modality tables of 10 to 15 bits.
"""

from dataclasses import dataclass

import numpy as np

from xraygpt.common.errors import DataError
from xraygpt.processors.dicom_header import Elements

FALLBACK_PERCENTILES = (0.5, 99.5)
"""The window where a file of more than 8 bits brings none: all but the darkest and brightest 0.5 % of its pixels."""

WINDOW_FUNCTIONS = ("LINEAR", "LINEAR_EXACT", "SIGMOID")


@dataclass(frozen=True, kw_only=True)
class LookupTable:
    """A modality LUT or VOI LUT.

    Attributes:
        first: the input value that the first entry is for; smaller ones take it too, larger ones than the table holds its last entry.
        entries: uint16 array, the outputs.
        bits: depth of the outputs; 2^bits - 1 is white.
        explanation: what the file calls it.
    """

    first: int
    entries: np.ndarray
    bits: int
    explanation: str = ""

    def look_up(self, values: np.ndarray) -> np.ndarray:
        """The entry of each value, float64."""
        index = np.clip(np.rint(values) - self.first, 0, len(self.entries) - 1)
        return self.entries[index.astype(np.int64)].astype(np.float64)

    def to_unit_range(self, values: np.ndarray) -> np.ndarray:
        """The output of each value, 0 = darkest to 1 = brightest."""
        return np.minimum(self.look_up(values) / (2**self.bits - 1), 1.0)


@dataclass(frozen=True, kw_only=True)
class Window:
    """A window.

    Attributes:
        center: in values after the modality step.
        width: likewise; at least 1, or above 0 for the functions other than LINEAR.
        function: one of `WINDOW_FUNCTIONS`.
        explanation: what the file calls it.
    """

    center: float
    width: float
    function: str = "LINEAR"
    explanation: str = ""

    def to_unit_range(self, values: np.ndarray) -> np.ndarray:
        """The output of each value, 0 = darkest to 1 = brightest (PS3.3 C.11.2.1.2 and C.11.2.1.3)."""
        if self.function == "SIGMOID":
            return (1 + np.tanh(2 * (values - self.center) / self.width)) / 2  # the logistic function of 4 (x - c) / w; cannot overflow
        center, width = (self.center - 0.5, self.width - 1) if self.function == "LINEAR" else (self.center, self.width)
        if width == 0:
            return (values > center).astype(np.float64)
        return np.clip((values - center) / width + 0.5, 0, 1)


View = LookupTable | Window


def display_table(codes: np.ndarray, elements: Elements, *, window: int | str) -> np.ndarray:
    """The grey level of each possible stored code.

    Args:
        codes: the image's pixels as unsigned codes below 2^BitsStored (of signed values: their two's complement).
        elements: the header.
        window: which VOI LUT or window, see `DicomOptions`.

    Returns:
        uint8 array [2^BitsStored], 0 = black (air), 255 = white.

    Raises:
        DataError: the file has windows, but not this one; or a table or window is not well-formed.
    """
    bits = elements.integer("BitsStored")
    is_signed = elements.integer("PixelRepresentation", 0) == 1
    stored = np.arange(2**bits, dtype=np.int64)
    if is_signed:
        stored[2 ** (bits - 1) :] -= 2**bits
    values = _modality_values(stored, elements)
    if views := _views(elements):
        unit = _chosen(views, window, elements.name).to_unit_range(values)
    else:
        # 8 bits without a window are display values already, up to the rescale.
        low, high = (
            (values.min(), values.max())
            if bits == 8 and not is_signed
            else np.percentile(values[codes], FALLBACK_PERCENTILES, overwrite_input=True)
        )
        unit = np.clip((values - low) / max(high - low, np.finfo(np.float64).tiny), 0, 1)
    if elements.code("PhotometricInterpretation") == "MONOCHROME1":  # the lowest value is meant to be shown white
        unit = 1 - unit
    return np.rint(unit * 255).astype(np.uint8)


def _modality_values(stored: np.ndarray, elements: Elements) -> np.ndarray:
    if tables := elements.values("ModalityLUTSequence"):
        return _lookup_table(tables[0]).look_up(stored)
    slope, intercept = elements.numbers("RescaleSlope"), elements.numbers("RescaleIntercept")
    return stored * (slope[0] if slope else 1.0) + (intercept[0] if intercept else 0.0)


def _views(elements: Elements) -> list[View]:
    """The VOI LUTs of a file and then its windows: each is one way to show it."""
    views: list[View] = [_lookup_table(item) for item in elements.values("VOILUTSequence")]
    function = elements.code("VOILUTFunction") or "LINEAR"
    if function not in WINDOW_FUNCTIONS:
        raise DataError(f"{elements.name}: the VOI LUT function {function} is unknown; {', '.join(WINDOW_FUNCTIONS)} are known.")
    pairs = zip(elements.numbers("WindowCenter"), elements.numbers("WindowWidth"), strict=False)  # some files drop the last width
    for index, (center, width) in enumerate(pairs):
        explanation = elements.label("WindowCenterWidthExplanation", index)
        views.append(Window(center=center, width=width, function=function, explanation=explanation))
    return views


def _chosen(views: list[View], wanted: int | str, name: str) -> View:
    if isinstance(wanted, str):
        named = {view.explanation.casefold(): i for i, view in reversed(list(enumerate(views))) if view.explanation}  # the first of equals
        index = named.get(wanted.strip().casefold(), -1)
    else:
        index = wanted
    if not 0 <= index < len(views):
        present = ", ".join(f"{i} ({view.explanation or 'no name'})" for i, view in enumerate(views))
        raise DataError(f"{name}: there is no window {wanted!r}; the file has {present}.")
    view = views[index]
    if isinstance(view, Window) and (view.width < 1 if view.function == "LINEAR" else view.width <= 0):
        raise DataError(f"{name}: window {index} has the width {view.width:g}, with which nothing can be shown; choose another window.")
    return view


def _lookup_table(item: Elements) -> LookupTable:
    descriptor = item.numbers("LUTDescriptor")
    if len(descriptor) != 3 or not (0 <= descriptor[0] <= 2**16 and (descriptor[2] == 8 or 10 <= descriptor[2] <= 16)):
        raise item.damaged("LUTDescriptor")
    size, first, bits = int(descriptor[0]) or 2**16, int(descriptor[1]), int(descriptor[2])  # 0 stands for 65,536
    entries = _lut_entries(item, size, bits)
    if len(entries) < size:
        raise item.damaged("LUTData")
    return LookupTable(first=first, entries=entries[:size], bits=bits, explanation=item.label("LUTExplanation"))


def _lut_entries(item: Elements, size: int, bits: int) -> np.ndarray:
    """The outputs: one a 16-bit word, or two where a table of 8 bits is packed."""
    data = item.values("LUTData")
    order = "<" if item.is_little_endian else ">"
    if data and isinstance(data[0], bytes):
        words = np.frombuffer(data[0][: len(data[0]) // 2 * 2], dtype=f"{order}u2")
    else:
        words = np.array(item.numbers("LUTData"), dtype=np.int64).astype(np.uint16)
    if bits == 8 and len(words) < size:
        return np.stack([words & 0xFF, words >> 8], axis=1).reshape(-1)  # the low byte comes first
    return words
