"""What the cells of anybody's own table mean: split, views, and the files of the images."""

import os
import re
from pathlib import Path

from xraygpt.common.errors import DataError
from xraygpt.datasets.preparation.image_files import IMAGE_SUFFIXES
from xraygpt.datasets.preparation.image_names import image_id_of, without_suffix

SPLIT_NAMES = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validate", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
VIEW_NAMES = {
    **dict.fromkeys(("", "UNKNOWN", "UNK"), ("", "")),
    "FRONTAL": ("frontal", ""),
    "PA": ("frontal", "PA"),
    "AP": ("frontal", "AP"),
    **dict.fromkeys(("LATERAL", "LAT", "L"), ("lateral", "LATERAL")),
    "LL": ("lateral", "LL"),
    "RL": ("lateral", "RL"),
}
"""Cell of a view column, in upper case → view and view position."""

MAX_PATH = 1000
MAX_PATH_WORDS = 20
"""A path of more characters or words is a report in the wrong column, which no message should show."""

_WINDOWS_DRIVE = re.compile(r"[A-Za-z]:")
_SEPARATORS = re.compile(r"[;|]")


class CellError(Exception):
    """A cell that cannot be used: the count it belongs to, and why."""

    def __init__(self, count: str, reason: str) -> None:
        super().__init__(reason)
        self.count = count


def read_split(cell: str) -> str:
    """The split that a word means.

    Raises:
        CellError: another word, or none: half a split would mix with that by hash.
    """
    try:
        return SPLIT_NAMES[cell.lower()]
    except KeyError:
        raise CellError("rows of unknown split", f"the split must be train, val or test, not {_shown(cell)}") from None


def read_views(cell: str, num_images: int) -> list[tuple[str, str]]:
    """View and view position of each image of a row, from one word for all of them, or one for each.

    Raises:
        CellError: an unknown word, or neither one nor as many as there are images.
    """
    words = [word.strip() for word in _SEPARATORS.split(cell)]
    unknown = next((word for word in words if word.upper() not in VIEW_NAMES), None)
    if unknown is not None:
        raise CellError("rows of unknown view", f"the view must be one of {', '.join(filter(None, VIEW_NAMES))}, not {_shown(unknown)}")
    if len(words) not in (1, num_images):
        raise CellError("rows of unknown view", f"there are {len(words)} views for {num_images} images")
    views = [VIEW_NAMES[word.upper()] for word in words]
    return views * num_images if len(views) == 1 else views


def _shown(cell: str) -> str:
    """A cell as a message shows it: a word, but no text of a report."""
    return repr(cell) if len(cell) <= 30 and len(cell.split()) <= 3 else f"a text of {len(cell)} characters"


def split_paths(cell: str) -> list[str]:
    """The paths that stand in a cell, separated by ";" or "|"."""
    return [path.strip() for path in _SEPARATORS.split(cell) if path.strip()]


def locate_image(cell: str, root: Path) -> tuple[str, Path]:
    """Identifier and path of the image that a cell means, below `root`; whether it exists is only asked where its suffix is missing.

    Raises:
        CellError: the path leaves the folder, is too long, or lacks a suffix and may mean several files.
    """
    if len(cell) > MAX_PATH or len(cell.split()) > MAX_PATH_WORDS:
        raise CellError("image paths refused", f"{_shown(cell)} is no path; does the image column hold something else")
    named = Path(cell.replace("\\", "/"))
    absolute = named.is_absolute() or _WINDOWS_DRIVE.match(cell)
    path = _below(named, root) or _below(named, root.resolve()) if absolute else named
    if path is None or ".." in path.parts or not path.parts:
        raise CellError("image paths refused", f"the path {cell!r:.200} leaves the image folder, or names no file in it")
    try:
        relative = _with_suffix(path.as_posix(), root)
        return image_id_of(relative), root / relative
    except DataError as error:
        raise CellError("image paths refused", str(error)) from error


def _below(path: Path, folder: Path) -> Path | None:
    return path.relative_to(folder) if path.is_relative_to(folder) else None


def _with_suffix(path: str, root: Path) -> str:
    if without_suffix(path) != path or os.path.isfile(root / path):
        return path
    found = []
    for suffix in IMAGE_SUFFIXES:
        found += [path + spelling for spelling in (suffix, suffix.upper()) if os.path.isfile(root / f"{path}{spelling}")][:1]
    if len(found) > 1:
        raise CellError("image paths refused", f"{path!r} may be {' or '.join(map(repr, found))}; write the suffix")
    return found[0] if found else path
