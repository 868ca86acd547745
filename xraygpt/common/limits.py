"""How large an image may be, for everything that opens one."""

MAX_PIXELS = 80_000_000
"""Checked before decoding. The largest radiographs have about 20 million; a small file that unpacks to more is an accident or an attack."""
