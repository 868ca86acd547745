"""How the fuzz tests make inputs and what they allow: an answer or a named error, in bounded time and memory.

`XRAYGPT_FUZZ_EXAMPLES` is the number of inputs of a target: 100 by default, 3,000 with `XRAYGPT_SOAK`.
"""

import faulthandler
import os
import resource
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import hypothesis
from hypothesis import strategies as st

from xraygpt.common.errors import XrayGPTError

EXAMPLES = int(os.environ.get("XRAYGPT_FUZZ_EXAMPLES", "3000" if os.environ.get("XRAYGPT_SOAK") else "100"))
MAX_MEMORY = 4 << 30
"""Bytes of address space that one input may take beyond what the process has. An image of 80 million pixels takes about 1 GB."""
MAX_SECONDS = 60
"""Of one input. Most take milliseconds; a loop without an end takes longer than this."""
HEADER = 300
"""Half of all damage is done within so many bytes of the beginning, where formats say what follows."""

_BYTES = st.one_of(st.sampled_from([b"\0", b"\xff", b"\x7f", b"\x80", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff"]), st.binary(max_size=16))


class Hang(AssertionError):
    """An input took longer than `MAX_SECONDS`."""


def fuzz(share: float = 1.0) -> hypothesis.settings:
    """Settings of a fuzz test; `share` of the usual number of inputs, for what is slow."""
    return hypothesis.settings(max_examples=max(1, round(EXAMPLES * share)), suppress_health_check=list(hypothesis.HealthCheck))


@st.composite
def damaged(draw: st.DrawFn, originals: Sequence[bytes]) -> bytes:
    """One of the originals after some damage: bytes replaced, put in, cut out, repeated, moved, or the end cut off."""
    content = draw(st.sampled_from(originals))
    for _ in range(draw(st.integers(1, 5))):
        start = draw(st.integers(0, min(len(content), HEADER) if draw(st.booleans()) else len(content)))
        end = min(len(content), start + draw(st.sampled_from([1, 2, 4, 16, 256, 10_000])))
        before, part, after = content[:start], content[start:end], content[end:]
        kind = draw(st.sampled_from(["replace", "insert", "delete", "repeat", "move", "cut"]))
        if kind == "replace":
            new = draw(_BYTES)
            content = before + new + content[start + len(new) :]
        elif kind == "insert":
            content = before + draw(_BYTES) + part + after
        elif kind == "delete":
            content = before + after
        elif kind == "repeat":
            content = before + part * draw(st.integers(2, 50)) + after
        elif kind == "move":
            content = before + after + part
        else:
            content = before
    return content


def json_values(leaves: st.SearchStrategy[Any] | None = None) -> st.SearchStrategy[Any]:
    """Any JSON value, with texts and numbers that are seldom thought of."""
    odd = st.sampled_from(
        ["", "\0", "..", "/etc/passwd", "\ud800", "<ImageHere>", "###Doctor:", "${run.x}", "a" * 2000, 10**400, -1, 1e308]
    )
    given = [] if leaves is None else [leaves]
    simple = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20), odd, *given)
    return st.recursive(
        simple, lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=8), inner, max_size=4)), max_leaves=8
    )


@st.composite
def changed(draw: st.DrawFn, original: Any, values: st.SearchStrategy[Any]) -> Any:
    """A nested structure of which some values were replaced, removed or added."""
    if isinstance(original, dict | list) and original and draw(st.integers(0, 9)):
        keys = list(original) if isinstance(original, dict) else list(range(len(original)))
        chosen, action = draw(st.sampled_from(keys)), draw(st.sampled_from(["change", "change", "change", "remove", "add"]))
        copy: Any = dict(original) if isinstance(original, dict) else list(original)
        if action == "change":
            copy[chosen] = draw(changed(copy[chosen], values))
        elif action == "remove":
            del copy[chosen]
        elif isinstance(copy, dict):
            copy[draw(st.text(max_size=8))] = draw(values)
        else:
            copy.append(draw(values))
        return draw(changed(copy, values)) if draw(st.booleans()) else copy
    return draw(values)


def attempt(target: Callable[[], Any], *named: type[Exception]) -> Any:
    """What the target returns; None where it raises one of our own errors, or of `named`. Everything else that it raises is a finding."""
    with _limits():
        try:
            return target()
        except (XrayGPTError, *named):
            return None


@contextmanager
def _limits() -> Iterator[None]:
    """Bounds of memory (a MemoryError) and time (`Hang`; where the code is no Python, the process ends and says where it was)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    with open("/proc/self/statm", encoding="ascii") as handle:
        in_use = int(handle.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (in_use + MAX_MEMORY, hard))
    before = signal.signal(signal.SIGALRM, _hang)
    signal.setitimer(signal.ITIMER_REAL, MAX_SECONDS)
    faulthandler.dump_traceback_later(2 * MAX_SECONDS, exit=True, file=sys.__stderr__)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def _hang(*_: Any) -> None:
    raise Hang(f"more than {MAX_SECONDS} s for one input")
