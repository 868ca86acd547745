"""The page as it is served, and what somebody with bad intentions can send it: paths, other people's tabs, routes, logins."""

import http.client
import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from tests.serving.made_page import SETTINGS, Reader, made_page, noise_png
from xraygpt.serving.http_app import build_app

GRADIO_ROUTES = [
    "GET /login_check",
    "GET /logout",
    "GET /user",
    "GET /gradio_api/user",
    "GET /gradio_api/login_check",
    "GET /gradio_api/token",
    "GET /gradio_api/app_id",
    "GET /gradio_api/info",
    "GET /gradio_api/openapi.json",
    "GET /gradio_api/startup-events",
    "GET /gradio_api/queue/status",
    "GET /gradio_api/dev/reload",
    "GET /gradio_api/deep_link?session_hash=tab1",
    "GET /gradio_api/runs",
    "GET /gradio_api/file=/etc/hostname",
    "GET /gradio_api/file/etc/hostname",
    "GET /gradio_api/proxy=https://example.org/",
    "GET /gradio_api/upload_progress?upload_id=1",
    "GET /gradio_api/stream/tab1/1/1/playlist.m3u8",
    "GET /svelte/x.js",
    "GET /monitoring",
    "GET /docs",
    "GET /openapi.json",
    "POST /gradio_api/upload",
    "POST /gradio_api/component_server",
    "POST /gradio_api/call/look",
    "POST /gradio_api/api/predict",
    "POST /gradio_api/cancel",
    "POST /gradio_api/reset",
    "POST /gradio_api/stream/1/close",
]


# Paths ---------------------------------------------------------------------------------------------------------------


def file_value(path: object) -> dict[str, Any]:
    """What gradio takes for a file of its upload field."""
    return {"path": str(path), "meta": {"_type": "gradio.FileData"}, "orig_name": "x.png", "url": None}


def test_no_event_can_name_a_file_of_the_server(address: str, tmp_path: Path) -> None:
    (tmp_path / "film.png").write_bytes(noise_png())
    os.mkfifo(tmp_path / "endless")  # reading it would never end
    reader = Reader(address)
    function = reader.number_of("click", "xg-report")
    settings = ["Most likely words", 4, 1, 0.9, 120]
    answers = []
    started = time.monotonic()
    for path in (tmp_path / "film.png", tmp_path / "endless", tmp_path / "missing", "/dev/zero", "http://127.0.0.1:1/x.png"):
        for value in (file_value(path), [file_value(path)], {"value": file_value(path)}, [str(path)]):
            answers += [reader.event(function, [*settings, value], queue=queue).json() for queue in (True, False)]
            answers += [reader.event(reader.number_of("upload", "xg-viewer"), details={"upload": value}, queue=True).json()]
        # a path as plain text is text: no number of an upload
        reader.event(reader.number_of("upload", "xg-viewer"), details={"upload": str(path)}, queue=True)
        assert "data:image" not in str(reader.listen())
    assert len({str(answer) for answer in answers}) == 1  # nothing tells which of them exist
    assert "numbers, texts and truth values" in str(answers[0])
    assert time.monotonic() - started < 15


def test_gradios_own_checks_are_on() -> None:
    page = made_page()
    build_app(page=page)
    assert page.blocks.has_launched  # else any path passes for one of the application's own
    assert page.blocks.is_running


@pytest.mark.parametrize("route", GRADIO_ROUTES)
def test_routes_that_the_page_does_not_need_are_closed(address: str, guarded: str, route: str) -> None:
    method, path = route.split(" ")
    for reader in (Reader(address), Reader(guarded, "anna")):
        assert reader.request(method, path, json={}).status_code == 404


@pytest.mark.parametrize("path", ["/assets/../config", "/static/..%2f..%2fconfig", "/assets/%2e%2e/%2e%2e/x", "/static//etc/hostname"])
def test_static_files_are_those_of_the_page(address: str, path: str) -> None:
    cookie = "; ".join(f"{name}={value}" for name, value in Reader(address).cookies.items())
    connection = http.client.HTTPConnection(address.removeprefix("http://"))  # which sends the path as it is
    connection.request("GET", path, headers={"Cookie": cookie})
    assert connection.getresponse().status in (403, 404)


def test_no_header_moves_the_pages_scripts_to_another_host(address: str) -> None:
    reader = Reader(address)
    names = {"X-Forwarded-Host": "evil.example", "X-Forwarded-Proto": "gopher", "X-Gradio-Server": "https://evil.example"}
    assert "evil.example" not in reader.get("/", headers=names).text
    assert "evil.example" not in reader.get("/config", headers=names).text


@pytest.mark.parametrize(
    "changes",
    [
        {"session_hash": None},
        {"session_hash": "../x"},
        {"session_hash": "a.b"},
        {"session_hash": "x" * 40},
        {"fn_index": "0"},
        {"fn_index": [1]},
        {"data": {"a": 1}},
        {"data": [1] * 40},
        {"data": ["x" * 2**19]},
        {"event_data": [1]},
        {"event_data": {"path": "x"}},
        {"event_data": {"upload": 1, "meta": "x"}},
        {"data": [1]},
        {"fn_index": 10**6},
        {"event_data": {"asked": 10**400}},
        {"event_data": {"kind": "\ud800"}},
        {"event_data": {"upload": None, "deep": {"x": 1}}},
    ],
    ids=str,
)
def test_events_that_the_page_does_not_send(address: str, changes: dict[str, Any]) -> None:
    event = {"data": [], "event_data": None, "fn_index": 0, "trigger_id": 1, "session_hash": "tab1", **changes}
    assert Reader(address).post("/gradio_api/queue/join", content=json.dumps(event)).status_code in (400, 413)


@pytest.mark.parametrize("body", [b"", b"[]", b"nonsense", b"[" * 100_000, b'{"data": [NaN]}', b"\xff"])
def test_bodies_that_are_no_event(address: str, body: bytes) -> None:
    for path in ("/gradio_api/queue/join", "/gradio_api/run/predict"):
        assert Reader(address).post(path, content=body).status_code == 400


@pytest.mark.parametrize(
    ("event", "part"), [("choose", "xg-suggestions"), ("fix", "xg-alerts"), ("look", "xg-viewer"), ("save", "xg-save")]
)
@pytest.mark.parametrize(
    "details", [None, {}, {"number": -1, "rotate": "x", "turn": 10**12, "kind": "exe"}, {"number": 10**6, "turn": True}]
)
def test_events_with_values_that_the_page_does_not_have(
    address: str, capfd: pytest.CaptureFixture[str], event: str, part: str, details: Any
) -> None:
    reader = Reader(address)
    settings = SETTINGS if event == "save" else []
    answer = reader.event(reader.number_of(event, part), settings, details, queue=event == "look")
    told = answer.text if event != "look" else str(reader.listen())
    assert answer.status_code == 200
    assert "Traceback" not in told + capfd.readouterr().err
