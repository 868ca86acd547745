"""What clients can cost a running server without a login: connections, heads, bodies, answers that nobody reads."""

import json
import logging
import re
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from tests.serving.made_api import CHAT, MarkModel, RunningServer, api_server, body, film, page_server, post, user
from tests.serving.made_page import LOGIN, Reader, made_page
from xraygpt.serving.failed_logins import FailedLogins
from xraygpt.serving.http_app import build_app
from xraygpt.serving.http_limits import HttpLimits

HEAD = f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n".encode()


SHORT = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
OK, DONE = b'"status":"ok"', b'chat.completion"'


@pytest.fixture
def model() -> MarkModel:
    return MarkModel()


@pytest.fixture
def background() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as pool:
        yield pool


@pytest.fixture
def clients() -> Iterator[Callable[..., list[socket.socket]]]:
    """A function that opens connections and sends the same on each."""
    with ExitStack() as opened:

        def connect(server: RunningServer, number: int, sent: bytes = b"") -> list[socket.socket]:
            made = []
            for _ in range(number):
                made.append(opened.enter_context(socket.create_connection(("127.0.0.1", server.port), timeout=5)))
                made[-1].sendall(sent)
            return made

        yield connect


Clients = Callable[..., list[socket.socket]]


def wait_for(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def rest(connection: socket.socket) -> bytes:
    """What the server still sends until it closes the connection."""
    received = b""
    try:
        while block := connection.recv(65536):
            received += block
    except ConnectionResetError:
        pass  # closed with bytes that it had not read
    return received


def num_refused(server: RunningServer, reason: str) -> int:
    line = next(
        line for line in httpx.get(f"{server.url}/metrics").text.splitlines() if f'xraygpt_refused_total{{reason="{reason}"}}' in line
    )
    return int(float(line.split()[-1]))


# Heads and connections ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sent", [b"", b"GET /heal", b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX-More: "])
def test_a_head_that_is_not_complete_in_time_ends_its_connection(model: MarkModel, clients: Clients, sent: bytes) -> None:
    with api_server(model, http_limits=HttpLimits(head_seconds=0.3)) as server:
        late = clients(server, 20, sent)
        wait_for(lambda: len(server.server_state.connections) == 20)
        start = time.monotonic()
        for connection in late:
            assert rest(connection) == b""
        assert 0.1 < time.monotonic() - start < 3
        assert num_refused(server, "late_head") == 20


def test_a_head_that_comes_byte_by_byte_is_late_too(model: MarkModel, clients: Clients) -> None:
    with api_server(model, http_limits=HttpLimits(head_seconds=0.4)) as server:
        (slow,) = clients(server, 1)
        start = time.monotonic()
        with pytest.raises(ConnectionError):
            while time.monotonic() - start < 4:
                slow.sendall(b"G")
                time.sleep(0.05)
        assert num_refused(server, "late_head") == 1


def test_silent_connections_give_way_to_newer_ones(model: MarkModel, clients: Clients) -> None:
    with api_server(model, http_limits=HttpLimits(max_connections=6)) as server:
        silent = clients(server, 40)
        assert post(server).status_code == 200
        assert len(server.server_state.connections) <= 6
        assert num_refused(server, "gave_way") >= 35
        assert rest(silent[0]) == b""


def test_when_all_connections_are_at_work_the_newest_is_told_so(model: MarkModel, background: ThreadPoolExecutor) -> None:
    model.go_on.clear()
    with api_server(model, http_limits=HttpLimits(max_connections=2)) as server:
        inside = [background.submit(post, server) for _ in range(2)]
        wait_for(lambda: server.service.num_inside == 2)
        for _ in range(3):
            refused = httpx.get(f"{server.url}/healthz")
            assert (refused.status_code, refused.headers["Retry-After"]) == (503, "10")
        model.go_on.set()
        assert [future.result().status_code for future in inside] == [200, 200]
        assert num_refused(server, "connections") == 3


def test_a_head_with_too_many_fields_or_bytes_is_refused(model: MarkModel, clients: Clients) -> None:
    with api_server(model) as server:
        fields = {f"X-{number}": "1" for number in range(150)}
        assert httpx.get(f"{server.url}/healthz", headers=fields).status_code == 431
        long = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX-Long: " + b"x" * 50_000 + b"\r\n\r\n"
        assert rest(*clients(server, 1, long)).startswith(b"HTTP/1.1 400")
        ahead = rest(*clients(server, 1, SHORT + SHORT + long))  # sent before the answers to the first two
        assert (ahead.count(b"HTTP/1.1 200"), ahead.count(b"HTTP/1.1 400")) == (2, 1)
        assert num_refused(server, "large_head") == 1


def test_requests_that_are_sent_ahead_are_answered_in_order(model: MarkModel, clients: Clients) -> None:
    content = json.dumps(body(user("What? " + "x" * 30_000, film(1)))).encode()
    with api_server(model) as server:
        chat = HEAD.replace(b"1000", b"%d" % len(content)) + content
        last = SHORT.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
        answers = rest(*clients(server, 1, SHORT + chat + SHORT + chat + last))
    assert re.findall(rb'"status": ?"ok"|chat.completion"', answers) == [OK, DONE, OK, DONE, OK]


def test_web_sockets_are_not_spoken(model: MarkModel) -> None:
    headers = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": "x" * 24}
    with api_server(model) as server:
        assert httpx.get(f"{server.url}/healthz", headers=headers).status_code == 200


# Bodies ------------------------------------------------------------------------------------------------------------


def test_an_honest_request_is_served_beside_many_that_send_slowly(model: MarkModel, clients: Clients) -> None:
    limits = HttpLimits(body_window_seconds=3)
    with api_server(model, http_limits=limits, max_receiving=2, max_queue=4) as server:
        slow = clients(server, 60, HEAD + b"{")
        wait_for(lambda: len(server.server_state.tasks) == 60)
        start = time.monotonic()
        assert [post(server).status_code for _ in range(3)] == [200, 200, 200]
        assert num_refused(server, "slow_body") == 0
        while time.monotonic() - start < 2:
            for connection in slow:
                connection.sendall(b" ")
            time.sleep(0.2)
        assert all(rest(connection).startswith(b"HTTP/1.1 408") for connection in slow)
        assert num_refused(server, "slow_body") == 60
        assert server.service.num_inside == 0


def test_a_body_has_a_time_limit_however_steadily_it_comes(model: MarkModel, clients: Clients) -> None:
    limits = HttpLimits(body_seconds=0.5, min_window_bytes=1)
    with api_server(model, http_limits=limits) as server:
        (slow,) = clients(server, 1, HEAD)
        start, answer = time.monotonic(), b""
        slow.settimeout(0.05)
        while not answer and time.monotonic() - start < 4:
            slow.sendall(b" ")
            try:
                answer = slow.recv(1000)
            except TimeoutError:
                continue
        assert answer.startswith(b"HTTP/1.1 408")


def test_the_rest_of_a_refused_body_is_not_waited_for_without_end(model: MarkModel, clients: Clients) -> None:
    with api_server(model, http_limits=HttpLimits(drain_seconds=0.3, head_seconds=5), max_bytes=100) as server:
        (slow,) = clients(server, 1, HEAD + b"{")
        answer = slow.recv(1000)
        assert answer.startswith(b"HTTP/1.1 413")
        assert b"connection: close" not in answer.lower()  # it reads on, so that the client sees why
        start = time.monotonic()
        assert rest(slow).count(b"HTTP/1.1") == 0
        assert time.monotonic() - start < 3
        assert num_refused(server, "large_body") == 1


def test_a_client_that_sends_a_refused_body_to_its_end_can_go_on(model: MarkModel) -> None:
    with api_server(model, max_bytes=4000) as server, httpx.Client() as client:
        large = client.post(f"{server.url}{CHAT}", content=b" " * 1_000_000, headers={"Content-Type": "application/json"})
        assert (large.status_code, large.json()["error"]["code"]) == (413, "request_too_large")
        assert client.get(f"{server.url}/healthz").status_code == 200
        wait_for(lambda: server.server_state.total_requests == 2)
        assert len(server.server_state.connections) == 1


# A page without an API ---------------------------------------------------------------------------------------------

BIG = b"x" * 50_000_000


async def _upload(request: Request) -> Response:
    form = await request.form()
    return PlainTextResponse(f"{len(form)} files")


async def _whole(_: Request) -> Response:
    return Response(BIG)


async def _streamed(_: Request) -> Response:
    return StreamingResponse(BIG[:1_000_000] for _ in range(50))


APP = Starlette(
    routes=[
        Route("/gradio_api/upload", _upload, methods=["POST"]),
        Route("/login", _upload, methods=["POST"]),
        Route("/whole", _whole),
        Route("/streamed", _streamed),
    ]
)


def test_uploads_of_a_page_are_bounded_and_other_forms_are_small() -> None:
    limits = HttpLimits(max_body_bytes=10_000, larger_bodies={"/gradio_api/upload": 100_000})
    with page_server(APP, http_limits=limits) as server:

        def status(path: str, size: int) -> int:
            return httpx.post(server.url + path, files={"file": b"x" * size}).status_code

        assert status("/gradio_api/upload", 90_000) == 200
        assert status("/gradio_api/upload", 110_000) == 413
        assert status("/login", 90_000) == 413
        start = b'--b\r\nContent-Disposition: form-data; name="file"; filename="film"\r\n\r\n'
        blocks = iter([start, *(b"x" * 10_000 for _ in range(12)), b"\r\n--b--\r\n"])  # without a declared length
        headers = {"Content-Type": "multipart/form-data; boundary=b"}
        assert httpx.post(f"{server.url}/gradio_api/upload", content=blocks, headers=headers).status_code == 413


def test_a_slow_upload_is_refused_without_a_traceback(clients: Clients, caplog: pytest.LogCaptureFixture) -> None:
    fields = b"Host: localhost\r\nContent-Length: 9000\r\nContent-Type: multipart/form-data; boundary=b\r\n"
    head = b"POST /gradio_api/upload HTTP/1.1\r\n" + fields + b"\r\n--b"
    with caplog.at_level(logging.INFO), page_server(APP, http_limits=HttpLimits(body_window_seconds=0.2)) as server:
        (slow,) = clients(server, 1, head)
        assert rest(slow).startswith(b"HTTP/1.1 408")
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert "Refused a body of which 3 bytes came too slowly from 127.0.0.1." in caplog.messages
    assert "Refused: 1 × 408: the body of the request came too slowly." in caplog.messages


@pytest.mark.parametrize("path", ["/whole", "/streamed"])
def test_an_answer_that_nobody_reads_does_not_hold_its_connection(clients: Clients, path: str) -> None:
    with page_server(APP, http_limits=HttpLimits(write_seconds=0.3)) as server:
        clients(server, 3, f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        wait_for(lambda: server.server_state.total_requests or server.server_state.tasks)
        wait_for(lambda: not server.server_state.connections)
        wait_for(lambda: not server.server_state.tasks)


def test_the_page_is_bounded_too(clients: Clients, caplog: pytest.LogCaptureFixture) -> None:
    limits = HttpLimits(body_window_seconds=0.3, larger_bodies={"/upload": 100_000})
    logins = FailedLogins(num_free=0, first_seconds=0.3)
    with (
        caplog.at_level(logging.INFO),
        page_server(build_app(page=made_page(), login=LOGIN), http_limits=limits, failed_logins=logins) as server,
        closing(Reader(server.url, "anna")) as reader,
    ):
        assert "not a PNG" in reader.upload(b"x" * 90_000).json()["error"]
        assert reader.upload(b"x" * 110_000).status_code == 413
        session = "; ".join(f"{name}={value}" for name, value in reader.cookies.items())
        fields = f"Host: localhost\r\nCookie: {session}\r\nContent-Length: 9000\r\n"
        (slow,) = clients(server, 1, f"POST /upload HTTP/1.1\r\n{fields}\r\nx".encode())
        assert rest(slow).startswith(b"HTTP/1.1 408")
        start = time.monotonic()
        assert reader.post("/login", data={"username": "anna", "password": "a guess"}).status_code == 401
        assert time.monotonic() - start >= 0.3
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert "Wrong token or password from 127.0.0.1, number 1." in caplog.messages
