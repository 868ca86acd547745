"""Memory of freed tensors goes back to the system, where it has huge pages; nothing changes where it has not, or where it is forbidden."""

import ctypes
import os
import subprocess
import sys
from pathlib import Path

import pytest

from xraygpt.common import large_tensors

PROGRAM = """
from xraygpt.common import large_tensors
mapped = large_tensors.map_large_tensors()
import torch

def resident():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmRSS")) / 1024

torch.ones(2**21)
if {loading}:
    large_tensors.keep_freed_memory()
    for _ in range(2):
        torch.ones(2**21)
before = resident()
tensors = [torch.ones(2**21) for _ in range(16)]  # 8 MiB each
grown = resident() - before
del tensors[:-1]  # the last one would keep the others' places in the process
print(mapped, round(grown), round(resident() - before))
"""


def run(*, loading: bool = False, **environment: str) -> tuple[bool, int, int]:
    """Whether tensors are mapped, MiB that 16 tensors took, and that are left with one of them."""
    env = {key: value for key, value in os.environ.items() if key != "THP_MEM_ALLOC_ENABLE"} | environment
    program = PROGRAM.format(loading=loading)
    output = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, text=True, check=True).stdout
    mapped, grown, left = output.split()
    return mapped == "True", int(grown), int(left)


@pytest.fixture
def huge_pages() -> None:
    """Skips where the system has none for the asking."""
    if not large_tensors._PAGES.is_file() or "[never]" in large_tensors._PAGES.read_text(encoding="ascii"):
        pytest.skip("no huge pages here")
    if not hasattr(ctypes.CDLL(None), "mallopt"):
        pytest.skip("no glibc here")


@pytest.mark.usefixtures("huge_pages")
def test_freed_tensors_go_back_to_the_system() -> None:
    mapped, grown, left = run()
    assert mapped and grown >= 120 and left < 24


@pytest.mark.usefixtures("huge_pages")
def test_not_in_a_loading_process() -> None:
    """What it reads next has the same size, and finds its place with its pages there."""
    mapped, _, left = run(loading=True)
    assert mapped and left > 100


def test_forbidden() -> None:
    assert not run(THP_MEM_ALLOC_ENABLE="0")[0]


@pytest.mark.parametrize("content", ["always madvise [never]\n", None])
def test_a_system_without_huge_pages(content: str | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pages = tmp_path / "enabled"
    if content:
        pages.write_text(content, encoding="ascii")
    monkeypatch.setattr(large_tensors, "_PAGES", pages)
    monkeypatch.delenv("THP_MEM_ALLOC_ENABLE", raising=False)
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    assert not large_tensors.map_large_tensors()
    assert "THP_MEM_ALLOC_ENABLE" not in os.environ
