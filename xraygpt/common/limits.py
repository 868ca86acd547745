"""How large an image may be, and what a damaged one raises, for everything that opens one."""

import struct
import zlib

MAX_PIXELS = 80_000_000
"""Checked before decoding. The largest radiographs have about 20 million; a small file that unpacks to more is an accident or an attack."""

DECODING_ERRORS = (
    ArithmeticError,
    AttributeError,
    EOFError,
    LookupError,
    OSError,
    SyntaxError,
    TypeError,
    ValueError,
    struct.error,
    zlib.error,
)
"""What Pillow raises on damaged files, besides its own errors for those that are too large."""
