"""The options of the rewriter. Requests are tested in test_rewriting.py, against a server."""

from pathlib import Path

import pytest

from xraygpt.common.errors import ConfigError
from xraygpt.datasets.preparation.rewriting_server import RewriteOptions

KEY = "sk-this-is-secret"


@pytest.mark.parametrize(
    ("base_url", "is_local"),
    [
        ("http://localhost:8000/v1", True),
        ("http://127.0.0.1:8000/v1", True),
        ("http://[::1]:8000/v1", True),
        ("http://10.0.0.5:8000/v1", False),
        ("https://localhost.example/v1", False),
    ],
)
def test_is_local(base_url: str, is_local: bool) -> None:
    assert RewriteOptions(base_url=base_url, model="m", cache=Path("c")).is_local == is_local


def test_all_options_that_cannot_be_used_are_named() -> None:
    with pytest.raises(ConfigError) as caught:
        RewriteOptions(base_url="localhost:8000/v1", model="", cache=Path("c"), concurrency=0, timeout_seconds=0, max_retries=-1)
    for name in ("base_url", "model", "concurrency", "timeout_seconds", "max_retries"):
        assert name in str(caught.value)


def test_a_key_in_the_address_is_refused_and_not_repeated() -> None:
    for base_url in (f"https://user:{KEY}@models.example/v1", f"https://models.example/v1?key={KEY}"):
        with pytest.raises(ConfigError, match="OPENAI_API_KEY") as caught:
            RewriteOptions(base_url=base_url, model="m", cache=Path("c"))
        assert KEY not in str(caught.value)
