"""What an image of anybody's own data is called: its path below the image folder, in characters that every system can write."""

import os
import re
import unicodedata

from xraygpt.common.errors import DataError
from xraygpt.datasets.preparation.image_files import IMAGE_SUFFIXES

MAX_NAME_BYTES = 240
"""File systems hold 255; the suffix is still to come."""

_UNSAFE = re.compile(r"(?:^|(?<=/))[^\w/]|[^\w.+ /-]")


def without_suffix(path: str) -> str:
    """The path without its suffix, if that is one of an image: "a/1.2.840" stays as it is."""
    stem, suffix = os.path.splitext(path)
    return stem if suffix.lower() in IMAGE_SUFFIXES else path


def image_id_of(path: str) -> str:
    """The identifier of an image from its path below the image folder, with forward slashes.

    The suffix goes. Letters and digits of any script and "_", ".", "+", "-" and space stay; every other character, and a mark at the
    beginning of a name, is written as its hexadecimal code point between underscores: `CT/scan (1).png` is `CT/scan _28_1_29_`.

    Raises:
        DataError: a name is too long for a file.
    """
    stem = unicodedata.normalize("NFC", without_suffix(path))
    image_id = _UNSAFE.sub(lambda match: f"_{ord(match[0]):x}_", stem)
    longest = max(len(os.fsencode(name)) for name in f"{path}/{image_id}".split("/"))
    if longest > MAX_NAME_BYTES:
        raise DataError(f"a name of {longest} bytes is too long for a file ({MAX_NAME_BYTES} at most)")
    return image_id
