"""One warm parent for all lives; how long the tests are; and what they counted, at the end of the report."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.reliability.warm_parent import WarmParent

SOAK = bool(os.environ.get("XRAYGPT_SOAK"))
"""`make soak` sets it: the long form of each test."""


@pytest.fixture(scope="session")
def soak() -> bool:
    """Whether the long forms are wanted."""
    return SOAK


@pytest.fixture(scope="session")
def parent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WarmParent]:
    """Starts lives of train.py without their start-up."""
    warm_parent = WarmParent(tmp_path_factory.mktemp("lives"))
    yield warm_parent
    warm_parent.close()


@pytest.fixture
def cfg_path(tmp_path: Path) -> Path:
    """run.yaml of a fresh workspace."""
    from tests.e2e.tiny_run import make_workspace  # loads torch, which most fuzz tests do without

    return make_workspace(tmp_path)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Write what each test counted (`record_property`) under the report."""
    for report in terminalreporter.getreports("passed") + terminalreporter.getreports("failed"):
        if report.when == "call" and report.user_properties:
            counted = ", ".join(f"{value} {name}" for name, value in report.user_properties)
            terminalreporter.write_line(f"{report.nodeid.split('/')[-1]}: {counted}")
