"""Wrong tokens and passwords: who waits, who does not, and what the log says."""

import asyncio
import functools
import logging
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import parse_qs

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tests.serving.loops import run_async
from tests.serving.made_api import CHAT, MarkModel, RunningServer, api_server, body, page_server
from xraygpt.serving.failed_logins import FailedLogins, TooManyFailures, client_network

TOKEN = "the-right-token-of-a-good-length"
GUESS = "a-wrong-guess"


def ask(server: RunningServer, token: str, path: str = CHAT, **headers: str) -> httpx.Response:
    headers |= {"Authorization": f"Bearer {token}"}
    method, content = ("POST", body()) if path == CHAT else ("GET", None)
    return visitor().request(method, server.url + path, json=content, headers=headers)


@functools.cache
def visitor() -> httpx.Client:
    """One for all requests: making it takes longer than a request."""
    return httpx.Client(timeout=10)


@pytest.fixture
def server() -> Iterator[RunningServer]:
    logins = FailedLogins(num_free=2, first_seconds=2, max_delayed_per_address=1)
    with api_server(MarkModel(), tokens=[TOKEN], failed_logins=logins, behind_proxy=True) as server:
        yield server


@pytest.mark.parametrize("path", [CHAT, "/v1/models", "/metrics"])
def test_wrong_tokens_are_answered_later_and_the_right_one_at_once(
    server: RunningServer, path: str, caplog: pytest.LogCaptureFixture
) -> None:
    with ThreadPoolExecutor(1) as pool, caplog.at_level(logging.INFO):
        assert [ask(server, GUESS, path).status_code for _ in range(2)] == [401, 401]
        start = time.monotonic()
        third = pool.submit(ask, server, GUESS, path)
        while "number 3" not in caplog.text:
            time.sleep(0.01)
        assert ask(server, TOKEN, path).status_code == 200  # from the same address
        assert server.service.num_inside == 0
        other = {"X-Forwarded-For": "198.51.100.1, 203.0.113.9"}  # the last is what the proxy has seen
        assert ask(server, GUESS, path, **other).status_code == 401
        fourth = ask(server, GUESS, path)
        assert (fourth.status_code, fourth.headers["Retry-After"]) == (429, "4")
        assert not third.done()
        assert third.result().status_code == 401
        assert time.monotonic() - start >= 2
    numbers = [message for message in caplog.messages if message.startswith("Wrong token")]
    assert numbers == [
        *(f"Wrong token or password from 127.0.0.1, number {number}." for number in (1, 2, 3)),
        "Wrong token or password from 203.0.113.9, number 1.",
        "Wrong token or password from 127.0.0.1, number 4.",
    ]
    assert GUESS not in caplog.text
    metrics = ask(server, TOKEN, "/metrics").text
    assert 'xraygpt_refused_total{reason="failed_login"} 5.0' in metrics
    assert 'xraygpt_refused_total{reason="failed_login_busy"} 1.0' in metrics


def test_a_form_with_a_wrong_password_counts_too(caplog: pytest.LogCaptureFixture) -> None:
    async def login(request: Request) -> Response:
        password = parse_qs((await request.body()).decode())["password"]
        return Response(status_code=200 if password == [TOKEN] else 401)

    app = Starlette(routes=[Route("/login", login, methods=["POST"])])
    with (
        caplog.at_level(logging.INFO),
        page_server(app, failed_logins=FailedLogins(num_free=1, first_seconds=1.5)) as server,
        httpx.Client() as reader,
    ):
        seconds = []
        for password in (GUESS, GUESS, TOKEN):
            start = time.monotonic()
            reader.post(f"{server.url}/login", data={"username": "a reader", "password": password})
            seconds.append(time.monotonic() - start)
    assert seconds[1] >= 1.5 > max(seconds[0], seconds[2])
    assert "Wrong token or password from 127.0.0.1, number 2." in caplog.messages
    assert not any(word in caplog.text for word in (GUESS, TOKEN, "reader"))


def test_a_request_without_a_token_is_no_guess(server: RunningServer, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        for _ in range(5):
            assert httpx.get(f"{server.url}/v1/models", timeout=1).status_code == 401
    assert "Wrong token" not in caplog.text


def test_delays_double_up_to_a_limit() -> None:
    logins = FailedLogins(num_free=3, first_seconds=0.5, max_seconds=8)
    assert [logins.delay(count) for count in (1, 3, 4, 5, 6, 7, 8, 9, 10_000)] == [0, 0, 0.5, 1, 2, 4, 8, 8, 8]


def test_what_is_remembered_is_bounded_in_number_and_time(caplog: pytest.LogCaptureFixture) -> None:
    now = 0.0
    logins = FailedLogins(num_free=100, memory_seconds=60, max_addresses=2, clock=lambda: now)

    async def fail(*hosts: int) -> None:
        for host in hosts:
            await logins.wait(f"192.0.2.{host}")

    with caplog.at_level(logging.WARNING):
        run_async(fail(1, 1, 2, 3, 1))  # the third address takes the place of the first
        now = 61.0
        run_async(fail(3))
    assert [message.split("192.0.2.")[1] for message in caplog.messages] == [
        "1, number 1.",
        "1, number 2.",
        "2, number 1.",
        "3, number 1.",
        "1, number 1.",
        "3, number 1.",
    ]


def test_answers_that_are_held_back_are_bounded_in_all() -> None:
    logins = FailedLogins(num_free=0, first_seconds=0.2, max_delayed=3)

    async def run() -> list[object]:
        return await asyncio.gather(*(logins.wait(f"192.0.2.{host}") for host in range(5)), return_exceptions=True)

    for _ in range(2):  # those that were held back give their places back
        outcomes = run_async(run())
        assert outcomes[:3] == [None] * 3
        assert all(isinstance(outcome, TooManyFailures) for outcome in outcomes[3:])


@pytest.mark.parametrize(
    ("client", "network"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("", "an unknown address"),
        ("1.2.3.4\r\nWrong token or password from 9.9.9.9", "an unknown address"),
        ("x" * 100_000, "an unknown address"),
    ],
)
def test_failures_are_counted_by_what_one_client_owns(client: str, network: str) -> None:
    assert client_network(client) == network
