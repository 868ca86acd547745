"""A full disk, said in advance where the need is known, and said clearly where it comes as a surprise."""

import errno
import shutil
from pathlib import Path

from xraygpt.common.errors import DataError

_FULL = (errno.ENOSPC, errno.EDQUOT)


def require_space(folder: Path, needed: int, purpose: str) -> None:
    """Check that the disk of `folder` has `needed` bytes free.

    Raises:
        DataError: it has not. The message names the purpose and both numbers.
    """
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise DataError(f"{folder}: {needed:,} bytes are needed {purpose}, {free:,} are free. Make room, or choose another folder.")


def write_error(error: OSError, folder: Path, needed: int, advice: str) -> DataError:
    """The error to raise when something under `folder`, of `needed` bytes in all, could not be written."""
    if error.errno not in _FULL:
        return DataError(f"{folder}: {error}. {advice}")
    free = shutil.disk_usage(folder).free
    return DataError(f"{folder}: the disk is full: {needed:,} bytes are needed, {free:,} are free. Make room. {advice}")
