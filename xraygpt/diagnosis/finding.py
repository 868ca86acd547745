"""One line of a diagnosis, and the guard around each check."""

import importlib
import logging
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from xraygpt.common.errors import XrayGPTError, first_line

OK, WARN, FAIL = "OK", "WARN", "FAIL"


@dataclass(frozen=True)
class Finding:
    """What was looked at, what was found there, and on WARN or FAIL what to do about it."""

    level: str
    what: str
    found: str
    advice: str = ""


def examine(what: str, check: str, *args: Any) -> Generator[Finding, None, Any]:
    """The findings of one check. One that ends in an error, be it on import, gives a FAIL line after what it found before.

    Args:
        what: what is looked at, for that line.
        check: "module:function" of a generator of findings; the module is imported here.
        args: the function's arguments.

    Returns:
        The value that the check returns, as the generator's value; None after an error.
    """
    module, function = check.split(":")
    try:
        return (yield from getattr(importlib.import_module(module), function)(*args))
    except XrayGPTError as error:
        yield Finding(FAIL, what, str(error))  # these messages say themselves what to do
    except Exception as error:
        found = f"the check itself failed: {type(error).__name__}: {first_line(error)}"
        yield Finding(
            FAIL, what, found, "Where a library is named, reinstall it (make install); else report this line as an error of xraygpt."
        )


@contextmanager
def quiet_logging() -> Iterator[None]:
    """Inside the block only errors are logged: what the examined parts say while they are built or read is no finding."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(level)


def size(num_bytes: float) -> str:
    """A number of bytes for reading: decimal units, three digits.

    >>> size(37_800_000)
    '37.8 MB'
    """
    units = ["B", "kB", "MB", "GB", "TB"]
    while num_bytes >= 999.5 and len(units) > 1:
        num_bytes /= 1000
        del units[0]
    return f"{num_bytes:.3g} {units[0]}"
