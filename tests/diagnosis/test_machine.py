"""What torch and the system say about the machine, with made answers."""

from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from xraygpt.diagnosis import machine


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A machine with one CUDA device; change its attributes."""
    device = SimpleNamespace(free=79_000_000_000, total=80_000_000_000, major=9, emulated=True)
    properties = lambda index: SimpleNamespace(name="NVIDIA H100", major=device.major, minor=0)  # noqa: E731
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "device", lambda index: nullcontext())
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda index: (device.free, device.total))
    monkeypatch.setattr(torch.cuda, "get_device_properties", properties)
    bf16 = lambda including_emulation=True: device.major >= 8 or (including_emulation and device.emulated)  # noqa: E731
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", bf16)
    return device


def test_a_device(gpu: SimpleNamespace) -> None:
    (finding,) = machine.check_devices("auto")
    assert (finding.level, finding.what) == ("OK", "device cuda:0")
    assert finding.found == "NVIDIA H100, 80 GB (79 GB free), compute 9.0, bf16"


def test_a_device_that_is_in_use(gpu: SimpleNamespace) -> None:
    gpu.free = 20_000_000_000
    (finding,) = machine.check_devices("cuda")
    assert finding.level == "WARN"
    assert "60 GB" in finding.advice


@pytest.mark.parametrize(("emulated", "word"), [(True, "emulated bf16"), (False, "fp16 with a loss scaler")])
def test_a_device_without_bf16(gpu: SimpleNamespace, emulated: bool, word: str) -> None:
    gpu.major, gpu.emulated = 7, emulated
    (finding,) = machine.check_devices("cuda")
    assert finding.level == "WARN"
    assert word in finding.advice


@pytest.mark.parametrize(
    ("driver", "cuda", "available", "level"),
    [
        (None, None, False, "OK"),
        (None, "13.2", False, "OK"),
        ("580.1", "13.2", True, "OK"),
        ("580.1", None, False, "WARN"),
        ("470.2", "13.2", False, "WARN"),
    ],
)
def test_torch_and_driver(driver: str | None, cuda: str | None, available: bool, level: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_driver_version", lambda: driver)
    monkeypatch.setattr(torch.version, "cuda", cuda)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: available)
    (finding,) = machine.check_torch()
    assert finding.level == level
    assert bool(finding.advice) == (level != "OK")


def test_memory_is_what_the_control_groups_leave(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    files: dict[str, str] = {"/proc/meminfo": "MemTotal: 9 kB\nMemAvailable:    4000 kB\n", "/proc/self/cgroup": "0::/job/step\n"}
    real = Path.read_text
    monkeypatch.setattr(Path, "read_text", lambda self, *args, **kwargs: files.get(str(self)) or real(self, *args, **kwargs))
    monkeypatch.setattr(machine, "_CGROUPS", tmp_path)
    (tmp_path / "job" / "step").mkdir(parents=True)
    (tmp_path / "job" / "step" / "memory.max").write_text("max\n")
    assert machine.available_memory() == 4_096_000
    (tmp_path / "job" / "memory.max").write_text("1000000\n")
    assert machine.available_memory() == 1_000_000


def test_a_system_without_proc(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(*args: Any, **kwargs: Any) -> str:
        raise FileNotFoundError

    monkeypatch.setattr(Path, "read_text", absent)
    assert machine.available_memory() is None
    assert "does not say" in next(machine.check_memory()).found
