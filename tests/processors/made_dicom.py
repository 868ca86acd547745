"""Radiographs in DICOM that tests make up."""

import struct
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import ComputedRadiographyImageStorage, ExplicitVRLittleEndian

from xraygpt.processors import open_image

STORED = np.array([[0, 1000, 2000, 4095]], dtype=np.uint16)
WHOLE_RANGE = {"WindowCenter": 2048, "WindowWidth": 4096}  # of 12 bits


def dicom(stored: np.ndarray = STORED, **elements: Any) -> BytesIO:
    """A radiograph of 12 bits (8 for bytes), MONOCHROME2, with `elements` changed; None removes one."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = syntax = elements.pop("TransferSyntaxUID", ExplicitVRLittleEndian)
    encoding = {"is_implicit_VR": syntax.is_implicit_VR, "is_little_endian": syntax.is_little_endian}
    dataset = FileDataset("made.dcm", {}, file_meta=meta, preamble=bytes(128), **encoding)
    dataset.SOPClassUID, dataset.SOPInstanceUID = ComputedRadiographyImageStorage, "1.2.3"
    dataset.Modality = "DX"
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.SamplesPerPixel = 1
    dataset.Rows, dataset.Columns = stored.shape
    dataset.BitsAllocated = 8 * stored.itemsize
    dataset.BitsStored = elements.pop("BitsStored", 12 if stored.itemsize == 2 else 8)
    dataset.HighBit = max(dataset.BitsStored - 1, 0)
    dataset.PixelRepresentation = int(stored.dtype.kind == "i")
    dataset.add_new("PixelData", "OB" if syntax.is_compressed or stored.itemsize == 1 else "OW", stored.tobytes())
    for keyword, value in elements.items():
        if value is None:
            delattr(dataset, keyword)
        else:
            setattr(dataset, keyword, value)
    return written(dataset)


def written(dataset: Dataset) -> BytesIO:
    """The bytes of a file, at their beginning."""
    buffer = BytesIO()
    dataset.save_as(buffer, enforce_file_format=False)
    buffer.seek(0)
    return buffer


def changed(stream: BytesIO, **elements: Any) -> BytesIO:
    """The same file with other elements."""
    dataset = pydicom.dcmread(stream)
    for keyword, value in elements.items():
        setattr(dataset, keyword, value)
    return written(dataset)


def lut(entries: Any, *, first: int = 0, bits: int = 8, vr: str = "US", explanation: str = "") -> Dataset:
    """An item of a modality or VOI LUT sequence; with `vr` "OW", `entries` are the bytes and 8-bit ones may be packed."""
    item = Dataset()
    size = len(entries) if vr == "US" else len(entries) // (2 if bits > 8 else 1)
    item.add_new("LUTDescriptor", "US" if first >= 0 else "SS", [size, first, bits])
    item.add_new("LUTData", vr, entries)
    if explanation:
        item.LUTExplanation = explanation
    return item


def j2k_stream(
    *,
    columns: int = 48,
    rows: int = 32,
    components: int = 1,
    bits: int = 12,
    origin: tuple[int, int] = (0, 0),
    tile: tuple[int, int] | None = None,
    step: int = 1,
    layers: int = 1,
    blocks: tuple[int, int] = (4, 4),
    precincts: tuple[int, ...] = (),
    main: bytes = b"",
    tile_header: bytes = b"",
) -> bytes:
    """A JPEG 2000 code stream of two resolutions whose only tile-part holds nothing.

    Args:
        columns: of the image; so `rows`, `components`, `bits`.
        origin: where the image begins.
        tile: columns and rows of a tile; None: the image.
        step: of the samples; 2 is subsampled.
        layers: of quality.
        blocks: exponents of the code blocks' sides, less 2.
        precincts: sizes, one of each resolution.
        main: further segments of the main header, after the quantisation.
        tile_header: segments of the tile-part's header.
    """
    tile_columns, tile_rows = tile or (columns, rows)
    sizes = struct.pack(">HIIIIIIII", 0, columns, rows, *origin, tile_columns, tile_rows, 0, 0)
    component = struct.pack(">BBB", bits - 1, step, step)
    size = b"\xff\x51" + struct.pack(">H", 38 + 3 * components) + sizes + struct.pack(">H", components) + component * components
    style = struct.pack(">BBHBBBBBB", bool(precincts), 0, layers, 0, 1, *blocks, 0, 1) + bytes(precincts)
    quantisation = b"\xff\x5c\x00\x07\x40" + b"\x60" * 4
    part = b"\xff\x90\x00\x0a" + struct.pack(">HIBB", 0, 14 + len(tile_header), 0, 1) + tile_header + b"\xff\x93"
    return b"\xff\x4f" + size + b"\xff\x52" + struct.pack(">H", 2 + len(style)) + style + quantisation + main + part + b"\xff\xd9"


def box(kind: bytes, content: bytes) -> bytes:
    """A box of a JP2 file."""
    return struct.pack(">I4s", 8 + len(content), kind) + content


def jp2(stream: bytes, *, columns: int = 48, rows: int = 32, before: bytes = b"") -> bytes:
    """A JP2 file of a code stream; `before` are boxes that stand before it."""
    image_header = box(b"ihdr", struct.pack(">IIHBBBB", rows, columns, 1, 11, 7, 0, 0))
    return box(b"jP  ", b"\r\n\x87\n") + box(b"ftyp", b"jp2 \0\0\0\0jp2 ") + box(b"jp2h", image_header) + before + box(b"jp2c", stream)


def gdcm_compressed(stream: BytesIO, syntax: str, folder: Path) -> Path:
    """The same file compressed by gdcm to one of its transfer syntaxes, such as "JPEGLosslessProcess14_1"; skips where gdcm is absent."""
    gdcm = pytest.importorskip("gdcm", reason="python-gdcm, the extra `gdcm`, is not installed")
    source, target = folder / "source.dcm", folder / f"{syntax}.dcm"
    source.write_bytes(stream.getvalue())
    reader = gdcm.ImageReader()
    reader.SetFileName(str(source))
    assert reader.Read()
    change = gdcm.ImageChangeTransferSyntax()
    change.SetTransferSyntax(gdcm.TransferSyntax(getattr(gdcm.TransferSyntax, syntax)))
    change.SetInput(reader.GetImage())
    assert change.Change()
    writer = gdcm.ImageWriter()
    writer.SetFileName(str(target))
    writer.SetFile(reader.GetFile())
    writer.SetImage(change.GetOutput())
    assert writer.Write()
    return target


def grey(stream: BytesIO, **options: Any) -> list[int]:
    """The first row of the opened image."""
    return np.asarray(open_image(stream, **options))[0].tolist()
