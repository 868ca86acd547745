"""Python and the installed packages, against the ranges that the checks of this project run with. Needs no torch."""

import platform
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, metadata, requires, version
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import SpecifierSet

from xraygpt.common.registry import registry
from xraygpt.diagnosis.finding import FAIL, OK, WARN, Finding

_SHOWN = 6
_INSTALL = "make install-runtime, or pip install --require-hashes -r constraints-runtime.txt"


def check_python() -> Iterator[Finding]:
    """The interpreter against `python_requires` and the versions named in the package's classifiers."""
    found = f"{platform.python_version()} on {platform.platform(terse=True)}"
    try:
        about = metadata("xraygpt")
    except PackageNotFoundError:  # check_packages says so
        yield Finding(OK, "Python", found)
        return
    prefix = "Programming Language :: Python :: 3."
    tested = [line.rpartition(" ")[2] for line in about.get_all("Classifier") or [] if line.startswith(prefix)]
    if platform.python_version() not in SpecifierSet(about["Requires-Python"]):
        yield Finding(FAIL, "Python", found, f"Use Python {about['Requires-Python']}: make install PYTHON=python{tested[-1]}.")
    elif ".".join(platform.python_version_tuple()[:2]) not in tested:
        yield Finding(WARN, "Python", found, f"The checks run with Python {', '.join(tested)}: use one of them if something fails.")
    else:
        yield Finding(OK, "Python", found)


def check_packages() -> Iterator[Finding]:
    """What setup.py requires, and what is installed of its extras: there, and in the tested range."""
    try:
        wanted = [Requirement(line) for line in requires("xraygpt") or []]
    except PackageNotFoundError:
        yield Finding(
            WARN,
            "packages",
            "xraygpt is not installed, so its ranges are not known",
            f"Install it: {_INSTALL}, and pip install --no-deps -e .",
        )
        return
    always = [need for need in wanted if need.marker is None or need.marker.evaluate({"extra": ""})]
    missing = [need.name for need in always if _installed(need.name) is None]
    outside = sorted({_outside(need) for need in wanted if not _fits(need)})
    if missing:
        yield Finding(FAIL, "packages", f"not installed: {', '.join(missing)}", f"Install what is missing: {_INSTALL}.")
    if outside:
        yield Finding(WARN, "packages", f"outside the tested range: {'; '.join(outside)}", f"Bring them into it: {_INSTALL}.")
    if not missing and not outside:
        yield Finding(OK, "packages", f"{len(always)} required ones, all in the tested ranges")


def check_constraints() -> Iterator[Finding]:
    """The versions of constraints.txt, which are tested together; a checkout has the file, an installed package has not."""
    path = Path(registry.get_path("repo_root")) / "constraints.txt"
    if not path.is_file():
        return
    pins = [pin for line in path.read_text(encoding="utf-8").splitlines() if (pin := _pin(line)) is not None]
    here = {pin.name: (_installed(pin.name), str(pin.specifier).removeprefix("==")) for pin in pins}
    other = [f"{name} {own} ({pinned} there)" for name, (own, pinned) in here.items() if own not in (None, pinned)]
    present = sum(own is not None for own, _ in here.values())
    found = f"{present - len(other)} of {present} installed packages are in the versions of constraints.txt"
    more = f" and {len(other) - _SHOWN} more" if len(other) > _SHOWN else ""
    yield Finding(OK, "constraints", found + (f"; others: {', '.join(other[:_SHOWN])}{more}" if other else ""))


def _installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _fits(need: Requirement) -> bool:
    """Whether the package is in the range, or not installed."""
    own = _installed(need.name)
    return own is None or need.specifier.contains(own, prereleases=True)


def _outside(need: Requirement) -> str:
    return f"{need.name} {_installed(need.name)} (tested: {need.specifier})"


def _pin(line: str) -> Requirement | None:
    """The requirement of a line of constraints.txt; None for comments, hashes, and other Python versions or systems."""
    try:
        pin = Requirement(line.rstrip(" \\"))  # the hashes are on the next lines
    except InvalidRequirement:
        return None
    return pin if pin.marker is None or pin.marker.evaluate() else None
