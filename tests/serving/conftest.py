"""The page on a real server, for the tests of one file."""

from collections.abc import Iterator

import pytest

from tests.serving.made_page import LOGIN, made_page, serving_page


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """The page without logins."""
    with serving_page() as address:
        yield address


@pytest.fixture(scope="module")
def guarded() -> Iterator[str]:
    """The page with logins."""
    with serving_page(made_page(with_logout=True), login=LOGIN) as address:
        yield address
