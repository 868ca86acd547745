"""The guard around a check, and numbers of bytes for reading."""

import logging
import sys
from collections.abc import Generator
from types import SimpleNamespace
from typing import Any

import pytest

from xraygpt.common.errors import DataError
from xraygpt.diagnosis import FAIL, OK, Finding, examine, quiet_logging, size


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Make the given generator the check `toy:check`."""
    return lambda check: monkeypatch.setitem(sys.modules, "toy", SimpleNamespace(check=check))


def test_a_value_comes_back_beside_the_findings(toy: Any) -> None:
    def check(number: int) -> Generator[Finding, None, int]:
        yield Finding(OK, "toy", "fine")
        return number + 1

    def outer() -> Generator[Finding, None, None]:
        nonlocal value
        value = yield from examine("toy", "toy:check", 1)

    value = None
    toy(check)
    assert list(outer()) == [Finding(OK, "toy", "fine")]
    assert value == 2


def test_what_was_found_before_a_crash_stays(toy: Any) -> None:
    def check() -> Generator[Finding, None, None]:
        yield Finding(OK, "toy", "fine")
        raise ZeroDivisionError("no\ntraceback")

    toy(check)
    first, second = examine("toy", "toy:check")
    assert first.level == OK
    assert (second.level, second.found) == (FAIL, "the check itself failed: ZeroDivisionError: no")
    assert second.advice


def test_an_error_for_the_user_is_his_line(toy: Any) -> None:
    def check() -> Generator[Finding, None, None]:
        raise DataError("no image in 'x'")
        yield

    toy(check)
    assert list(examine("toy", "toy:check")) == [Finding(FAIL, "toy", "no image in 'x'")]


def test_a_library_that_cannot_be_imported_is_a_line() -> None:
    (finding,) = examine("toy", "no_such_module:check")
    assert finding.level == FAIL
    assert "No module named 'no_such_module'" in finding.found


def test_logging_is_as_before_after_a_quiet_block() -> None:
    level = logging.getLogger().level
    with pytest.raises(DataError), quiet_logging():
        assert not logging.getLogger("xraygpt.anything").isEnabledFor(logging.WARNING)
        raise DataError("x")
    assert logging.getLogger().level == level


@pytest.mark.parametrize(
    ("num_bytes", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1 kB"), (999_499, "999 kB"), (999_500, "1 MB"), (37_800_000, "37.8 MB"), (2e15, "2e+03 TB")],
)
def test_size(num_bytes: float, text: str) -> None:
    assert size(num_bytes) == text
