"""What an image of anybody's own data is called: its path below the image folder, in characters that every system can write."""

import re
import unicodedata
from pathlib import PurePath

from xraygpt.common.errors import DataError
from xraygpt.datasets.preparation.image_files import IMAGE_SUFFIXES

MAX_NAME_BYTES = 240
"""File systems hold 255; the suffix is still to come."""

_UNSAFE = re.compile(r"^\W|[^\w.+ -]")


def without_suffix(path: PurePath) -> PurePath:
    """The path without its suffix, if that is one of an image: "a/1.2.840" stays as it is."""
    return path.with_suffix("") if path.suffix.lower() in IMAGE_SUFFIXES else path


def image_id_of(relative: PurePath) -> str:
    """The identifier of an image from its path below the image folder.

    The suffix goes. Letters and digits of any script and "_", ".", "+", "-" and space stay; every other character, and a mark at the
    beginning, is written as its hexadecimal code point between underscores: `CT/scan (1).png` is `CT/scan _28_1_29_`.

    Raises:
        DataError: a part is too long for the name of a file.
    """
    parts = unicodedata.normalize("NFC", without_suffix(relative).as_posix()).split("/")
    safe = [_UNSAFE.sub(lambda match: f"_{ord(match[0]):x}_", part) for part in parts]
    longest = max(len(part.encode()) for part in safe)
    if longest > MAX_NAME_BYTES:
        raise DataError(f"a name of {longest} bytes is too long for a file ({MAX_NAME_BYTES} at most)")
    return "/".join(safe)
