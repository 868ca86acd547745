"""Imported first by a program, before the libraries that it needs: they load faster, and torch is told how to get memory.

A library makes objects by the hundred thousand while it is imported, and hardly one of them is garbage. Python looks through the newest of
them at every 700th and through all again and again; until `started` is called, when all is loaded, it looks seldom.
"""

import gc

from xraygpt.common.large_tensors import map_large_tensors

_USUAL = gc.get_threshold()

gc.set_threshold(100_000, 20, 20)
map_large_tensors()


def started() -> None:
    """Look for garbage as often as usual from now on."""
    gc.set_threshold(*_USUAL)
