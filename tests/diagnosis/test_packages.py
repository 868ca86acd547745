"""Installed packages against ranges and pins."""

from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

import pytest

from xraygpt.common.registry import registry
from xraygpt.diagnosis import packages

REQUIRES = ["numpy<3,>=2.2", "torch<3,>=2.14", 'bitsandbytes<1,>=0.50; extra == "quant"', 'openai<4,>=3.57; extra == "rewrite"']


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """What is installed; change it."""
    versions = {"numpy": "2.3.1", "torch": "2.15.0"}

    def version(name: str) -> str:
        if name not in versions:
            raise PackageNotFoundError(name)
        return versions[name]

    monkeypatch.setattr(packages, "version", version)
    monkeypatch.setattr(packages, "requires", lambda name: REQUIRES)
    return versions


def test_all_in_range(installed: dict[str, str]) -> None:
    (finding,) = packages.check_packages()
    assert (finding.level, finding.found) == ("OK", "2 required ones, all in the tested ranges")


def test_missing_outside_and_extras(installed: dict[str, str]) -> None:
    del installed["torch"]
    installed |= {"numpy": "3.0.0", "openai": "3.0", "bitsandbytes": "0.60.0"}
    missing, outside = packages.check_packages()
    assert (missing.level, missing.found) == ("FAIL", "not installed: torch")
    assert outside.level == "WARN"
    assert "numpy 3.0.0 (tested: <3,>=2.2); openai 3.0 (tested: <4,>=3.57)" in outside.found
    assert "bitsandbytes" not in outside.found


def test_a_local_version_is_in_its_range(installed: dict[str, str]) -> None:
    installed["torch"] = "2.15.0+cu132"
    assert next(packages.check_packages()).level == "OK"


def test_other_versions_than_the_pins_are_named(installed: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pins = (
        "# made by uv\nnumpy==2.3.1 \\\n    --hash=sha256:00 \\\n    --hash=sha256:01\ntorch==2.14.1\nscipy==1.15.0\n"
        "numpy==1.0 ; python_full_version < '3.5' \\\n    --hash=sha256:02\n"
    )
    (tmp_path / "constraints.txt").write_text(pins)
    monkeypatch.setattr(registry, "get_path", lambda name: str(tmp_path))
    (finding,) = packages.check_constraints()
    assert finding.level == "OK"
    assert finding.found == "1 of 2 installed packages are in the versions of constraints.txt; others: torch 2.15.0 (2.14.1 there)"


@pytest.mark.parametrize(("python", "level"), [("3.12.1", "OK"), ("3.15.0", "WARN"), ("3.9.2", "FAIL")])
def test_python(python: str, level: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.python_version", lambda: python)
    monkeypatch.setattr("platform.python_version_tuple", lambda: tuple(python.split(".")))
    (finding,) = packages.check_python()
    assert finding.level == level
    assert bool(finding.advice) == (level != "OK")


def test_without_installation(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> Any:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(packages, "metadata", absent)
    monkeypatch.setattr(packages, "requires", absent)
    assert [finding.level for finding in packages.check_python()] == ["OK"]
    (finding,) = packages.check_packages()
    assert finding.level == "WARN"
    assert "make install-runtime" in finding.advice
    assert "pip install --no-deps -e ." in finding.advice
