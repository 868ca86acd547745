"""What the install takes: only packages whose sha256 is in the repository, in versions that setup.py allows, with known licences."""

import os
import re
import shutil
import subprocess
from distutils.core import run_setup
from importlib.metadata import Distribution
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from scripts import third_party

ROOT = Path(__file__).resolve().parent.parent
LOCKS = ["constraints.txt", "constraints-runtime.txt", "constraints-install.txt"]
SYSTEMS = [(f"3.{minor}", machine) for minor in (10, 11, 12, 13) for machine in ("x86_64", "aarch64")]

Pins = dict[str, list[tuple[Requirement, set[str]]]]


def read_pins(name: str) -> Pins:
    """Package → its pins, each with its hashes."""
    pins: Pins = {}
    for block in re.split(r"\n(?=\S)", (ROOT / name).read_text(encoding="utf-8")):
        if not block.startswith("#"):
            head, *hashes = re.split(r"\s*\\\n\s*", block.strip())
            pins.setdefault(Requirement(head).name, []).append((Requirement(head), set(hashes)))
    return pins


def read_requirements(monkeypatch: pytest.MonkeyPatch) -> tuple[list[Requirement], list[Requirement]]:
    """What setup.py requires always, and what it requires with all extras."""
    monkeypatch.chdir(ROOT)
    setup = run_setup("setup.py", stop_after="init")
    always = [Requirement(line) for line in setup.install_requires]
    return always, always + [Requirement(line) for lines in setup.extras_require.values() for line in lines]


def applies(pin: Requirement, python: str, machine: str) -> bool:
    """Whether a pin is for this Python on Linux."""
    system = {"python_version": python, "python_full_version": f"{python}.1", "sys_platform": "linux", "platform_machine": machine}
    return pin.marker is None or pin.marker.evaluate({**system, "platform_python_implementation": "CPython"})


@pytest.mark.parametrize("name", LOCKS)
def test_every_pin_has_hashes_and_no_line_names_a_host(name: str) -> None:
    for package, pins in read_pins(name).items():
        for pin, hashes in pins:
            assert re.fullmatch(r"==[\w.]+", str(pin.specifier)), package
            assert hashes and all(re.fullmatch(r"--hash=sha256:[0-9a-f]{64}", line) for line in hashes), package
    text = (ROOT / name).read_text(encoding="utf-8")
    assert "://" not in text and "index" not in text and "find-links" not in text


@pytest.mark.parametrize(("name", "with_extras"), [("constraints-runtime.txt", False), ("constraints.txt", True)])
def test_what_setup_py_requires_is_pinned_within_its_range(name: str, with_extras: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    pins = read_pins(name)
    for need in read_requirements(monkeypatch)[with_extras]:
        for python, machine in SYSTEMS:
            versions = [str(pin.specifier)[2:] for pin, _ in pins[canonicalize_name(need.name)] if applies(pin, python, machine)]
            assert len(versions) == 1, f"{need}, Python {python} on {machine}: {versions}; run make lock"
            assert versions[0] in need.specifier, f"{need}, Python {python} on {machine}: {versions[0]}; run make lock"


@pytest.mark.parametrize("name", ["constraints-runtime.txt", "constraints-install.txt"])
def test_all_installs_take_the_same_versions_and_files(name: str) -> None:
    everything = read_pins("constraints.txt")
    for package, pins in read_pins(name).items():
        if package != "uv":  # only the install itself uses it
            tested = {str(pin.specifier): hashes for pin, hashes in everything[package]}
            for pin, hashes in pins:
                assert tested[str(pin.specifier)] == hashes, package


def test_the_installing_tools_are_pinned() -> None:
    assert read_pins("constraints-install.txt").keys() == {"pip", "setuptools", "uv"}


def test_the_runtime_has_no_test_tools() -> None:
    runtime = read_pins("constraints-runtime.txt")
    assert not runtime.keys() & {"pytest", "playwright", "mypy", "ruff", "pre-commit", "pip-audit", "hypothesis", "tensorboard"}


def test_conda_checks_the_same_hashes() -> None:
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    (pip,) = [entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict)]
    assert pip == ["--require-hashes", "--only-binary :all:", "--requirement constraints-runtime.txt"]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder in which scripts/install.sh runs with stand-ins that write down how they were called. There is no browser."""
    (tmp_path / "scripts").mkdir()
    shutil.copy(ROOT / "scripts" / "install.sh", tmp_path / "scripts")
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("bash", "dirname"):
        (programs / name).symlink_to(str(shutil.which(name)))
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    for path in (".venv/bin/python", ".venv/bin/uv", "bin/apt-get", "bin/id"):
        answer = "echo 0" if path == "bin/id" else f'echo "CALL {Path(path).name} $*" >&2\n[ "$FAILS" != {Path(path).name} ]'
        (tmp_path / path).write_text(f"#!/usr/bin/env bash\n{answer}\n")
        (tmp_path / path).chmod(0o755)
    return tmp_path


def install(checkout: Path, profile: str, fails: str = "") -> subprocess.CompletedProcess:
    """Run the script; all that it says and calls is in stderr."""
    environment = {"PATH": str(checkout / "bin"), "FAILS": fails}
    return subprocess.run([checkout / "scripts" / "install.sh", profile], env=environment, text=True, capture_output=True, timeout=60)


@pytest.mark.parametrize(("profile", "lock"), [("runtime", "constraints-runtime.txt"), ("dev", "constraints.txt")])
@pytest.mark.parametrize("tool", ["uv", "pip"])
def test_nothing_is_installed_without_its_hash(profile: str, lock: str, tool: str, checkout: Path) -> None:
    done = install(checkout, profile, fails="uv" if tool == "pip" else "")
    assert done.returncode == 0, done.stderr
    calls = [line for line in done.stderr.splitlines() if " install " in line and line.startswith(("CALL python", "CALL uv"))]
    tools, package = calls[0], calls[-1]
    assert "--require-hashes" in tools and "--only-binary :all:" in tools and tools.endswith("--requirement constraints-install.txt")
    assert "--no-deps --editable ." in package
    locked = [line for line in calls[1:] if "--editable" not in line]
    assert all("--require-hashes" in line and line.endswith(f"--requirement {lock}") for line in locked)
    assert all("--no-build-isolation" in line for line in calls[1:])  # an isolated build fetches its tools without hashes
    assert package.startswith("CALL uv pip install" if tool == "uv" else "CALL python -m pip install")


def test_the_install_ends_where_the_installer_is_not_the_pinned_one(checkout: Path) -> None:
    (checkout / ".venv/bin/python").write_text('#!/usr/bin/env bash\ncase "$*" in *--require-hashes*) exit 1;; esac\n')
    done = install(checkout, "runtime")
    assert done.returncode == 1
    assert "CALL uv" not in done.stderr


def test_the_runtime_installs_no_browser(checkout: Path) -> None:
    assert "apt-get" not in install(checkout, "runtime").stderr


def test_what_is_installed_as_root_is_said_before(checkout: Path) -> None:
    lines = install(checkout, "dev").stderr.splitlines()
    said = next(i for i, line in enumerate(lines) if "as root" in line)
    called = next(i for i, line in enumerate(lines) if line.startswith("CALL apt-get"))
    assert "chromium" in lines[said]
    assert said < called


def test_an_unknown_profile_is_named(checkout: Path) -> None:
    done = install(checkout, "everything")
    assert done.returncode == 1
    assert "expected 'runtime' or 'dev' as the first argument, got 'everything'" in done.stderr


@pytest.mark.parametrize(
    ("target", "profile"), [("quickstart", "runtime"), ("install-runtime", "runtime"), ("install", "dev"), ("test", "dev")]
)
def test_each_command_installs_what_it_needs(target: str, profile: str, tmp_path: Path) -> None:
    shutil.copy(ROOT / "Makefile", tmp_path)
    for name in ("setup.py", "pyproject.toml", *LOCKS):
        (tmp_path / name).touch()
    for name in ("train_configs", "eval_configs"):
        shutil.copytree(ROOT / name, tmp_path / name)

    def planned() -> str:
        return subprocess.run(["make", "-n", target], cwd=tmp_path, text=True, capture_output=True, check=True).stdout

    assert re.findall(r"scripts/install.sh (\w+)", planned()) == [profile]
    (tmp_path / ".venv").mkdir()
    for name in (".installed", ".installed-runtime"):
        (tmp_path / ".venv" / name).touch()
        os.utime(tmp_path / ".venv" / name, (2**31, 2**31))
    assert "scripts/install.sh" not in planned()


def listed_packages(text: str) -> dict[str, list[str]]:
    """The first two columns of the tables whose second one is versions."""
    rows = re.findall(r"^\| ([\w.-]+) \| (\d[\d.a-z, ]*) \|", text, flags=re.MULTILINE)
    return {name: versions.split(", ") for name, versions in rows}


def test_third_party_lists_exactly_what_is_installed() -> None:
    text = third_party.OUTPUT.read_text(encoding="utf-8")
    runtime, _, others = text.partition("## What only `make install` adds")
    assert listed_packages(runtime) == third_party.read_versions(*third_party.RUNTIME), "run make lock"
    assert listed_packages(runtime) | listed_packages(others) == third_party.read_versions(*third_party.EVERYTHING), "run make lock"


def test_third_party_names_what_asks_for_more_than_a_notice() -> None:
    text = third_party.OUTPUT.read_text(encoding="utf-8")
    nvidia, mozilla = text.index("### NVIDIA's terms"), text.index("### Mozilla Public License 2.0")
    assert (
        nvidia
        < text.index("| nvidia-cublas |")
        < mozilla
        < text.index("| certifi |")
        < text.index("| tqdm |")
        < text.index("### Permissive")
    )
    assert "names medical use" in text[nvidia:mozilla]
    assert "GPL-2.0-or-later: FFmpeg" in text


@pytest.mark.parametrize(
    ("stated", "licence"),
    [
        ("License-Expression: MIT AND (Apache-2.0 OR BSD-2-Clause)", "MIT AND (Apache-2.0 OR BSD-2-Clause)"),
        ("License: Apache License, Version 2.0", "Apache-2.0"),
        ("License: Copyright 2015, somebody\nClassifier: License :: OSI Approved :: BSD License", "BSD"),
        ("License-Expression: MIT AND GPL-3.0-only", None),
        ("License: whatever you like", None),
        ("Summary: nothing about its licence", None),
    ],
)
def test_a_licence_that_nobody_has_read_is_an_error(stated: str, licence: str | None, tmp_path: Path) -> None:
    (tmp_path / "METADATA").write_text(f"Metadata-Version: 2.4\nName: thing\nVersion: 1.0\n{stated}\n")
    found = Distribution.at(tmp_path)
    if licence is None:
        with pytest.raises(ValueError, match=r"thing 1\.0: expected a licence that .* knows"):
            third_party.find_licence("thing", found)
    else:
        assert third_party.find_licence("thing", found) == licence


def test_an_audit_that_could_not_ask_is_no_clean_audit() -> None:
    planned = subprocess.run(["make", "-n", "audit"], cwd=ROOT, text=True, capture_output=True, check=True).stdout
    assert "pip-audit --strict " in planned
    assert all(f"--requirement {name}" in planned for name in ("constraints.txt", "constraints-install.txt"))
