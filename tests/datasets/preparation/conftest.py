"""The server that the tests of downloading fetch from."""

from collections.abc import Iterator

import pytest

from tests.datasets.preparation.broken_server import BrokenServer


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[BrokenServer]:
    """A local HTTP server, reached directly whatever proxy the machine has."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    server = BrokenServer()
    yield server
    server.close()
