"""Which names the served programs answer to, and what pages of other sites can make a browser send them."""

from collections.abc import Iterator
from contextlib import closing

import httpx
import pytest

from tests.serving.loops import run_async
from tests.serving.made_api import CHAT, MarkModel, api_server, body
from tests.serving.made_page import LOGIN, Reader, made_page, serving_page
from xraygpt.serving.http_guard import HttpGuard

FOREIGN = [
    {"Origin": "https://evil.example"},
    {"Origin": "null"},
    {"Origin": "http://127.0.0.1:1"},  # another program on the same machine
    {"Origin": "file://"},
    {"Origin": "http://127.0.0.1.evil.example"},
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "same-site"},
    {"Origin": "http://x@127.0.0.1"},
]
PAGE_ROUTES = [
    ("GET", "/config"),
    ("GET", "/theme.css"),
    ("GET", "/gradio_api/queue/data?session_hash=tab1"),
    ("GET", "/gradio_api/heartbeat/tab1"),
    ("POST", "/gradio_api/queue/join"),
    ("POST", "/gradio_api/run/predict"),
    ("POST", "/upload"),
    ("POST", "/login"),
    ("POST", "/logout"),
]


@pytest.fixture(scope="module", params=[False, True], ids=["open", "login"])
def reader(request: pytest.FixtureRequest) -> Iterator[Reader]:
    """Somebody at the page, without logins and with them."""
    login, user = (LOGIN, "anna") if request.param else (None, None)
    with serving_page(login=login, public_names=["Reports.Example"]) as address, closing(Reader(address, user)) as reader:
        yield reader


@pytest.fixture(scope="module", params=["", "a-token-of-a-good-length"], ids=["open", "token"])
def api(request: pytest.FixtureRequest) -> Iterator[httpx.Client]:
    """The API, without tokens and with them."""
    token: str = request.param
    with (
        api_server(MarkModel(), tokens=[token] if token else []) as server,
        httpx.Client(base_url=server.url, headers={"Authorization": f"Bearer {token}"} if token else {}, timeout=20) as client,
    ):
        yield client


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "127.0.0.1.evil.example",
        "10.0.0.1",
        "localhost.",
        "",
        "[::1",
        "a b",
        "x:99999",
        "evil@localhost",
        "localhost/x",
        "localhost#x",
    ],
)
def test_a_page_or_an_api_of_another_name_is_not_there(reader: Reader, api: httpx.Client, host: str) -> None:
    for client, path in ((reader, "/"), (reader, "/config"), (api, "/v1/models"), (api, "/healthz")):
        refused = client.get(path, headers={"Host": host})
        assert refused.status_code in (400, 421)  # 400: the server itself takes it for no name
        assert "xraygpt" not in refused.text.lower()


@pytest.mark.parametrize("host", ["127.0.0.1:8000", "localhost", "LOCALHOST:1", "[::1]:8000"])
def test_this_machines_own_names_are_answered(reader: Reader, api: httpx.Client, host: str) -> None:
    assert reader.get("/config", headers={"Host": host}).status_code == 200
    assert api.get("/v1/models", headers={"Host": host}).status_code == 200


def test_a_public_name_is_answered_to_its_own_pages(reader: Reader) -> None:
    host = {"Host": "reports.example"}
    assert reader.get("/config", headers=host).status_code == 200
    for origin, status in [
        ("https://reports.example", 200),  # TLS is the proxy's
        ("http://reports.example", 200),
        ("https://reports.example:8443", 403),
        ("https://other.reports.example", 403),
    ]:
        answer = reader.post("/upload", content=b"no image", headers={**host, "Origin": origin})
        assert answer.status_code == status, origin


@pytest.mark.parametrize("headers", FOREIGN, ids=str)
def test_other_sites_reach_no_route_of_the_page(reader: Reader, headers: dict[str, str]) -> None:
    for method, path in PAGE_ROUTES:
        assert reader.request(method, path, headers=headers).status_code == 403, (method, path)
    assert reader.get("/config").status_code == 200  # nobody was logged out


@pytest.mark.parametrize("headers", FOREIGN, ids=str)
def test_other_sites_do_not_reach_the_api(api: httpx.Client, headers: dict[str, str]) -> None:
    assert api.post(CHAT, json=body(), headers=headers).status_code == 403
    assert api.get("/v1/models", headers=headers).status_code == 403
    assert api.get("/metrics", headers=headers).status_code == 403


def test_no_site_is_granted_anything(reader: Reader, api: httpx.Client) -> None:
    own = {"Origin": str(reader.base_url).rstrip("/")}
    wish = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "content-type"}
    answers = [
        reader.get("/config", headers=own),
        reader.get("/config", headers={"Origin": "https://evil.example"}),
        reader.options("/gradio_api/queue/join", headers={"Origin": "https://evil.example", **wish}),
        reader.options("/gradio_api/queue/join", headers={**own, **wish}),
        api.options(CHAT, headers={"Origin": "https://evil.example", **wish}),
    ]
    assert [name for answer in answers for name in answer.headers if name.startswith("access-control-allow-cred")] == []
    assert [name for answer in answers for name in answer.headers if name == "access-control-allow-origin"] == []


def test_a_link_on_another_site_opens_the_page(reader: Reader) -> None:
    headers = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
    assert reader.get("/", headers=headers).status_code == 200


def test_every_answer_says_what_a_browser_may_do_with_it(reader: Reader, api: httpx.Client) -> None:
    for answer in (reader.page, reader.get("/config"), reader.get("/nowhere"), api.get("/v1/models"), api.get("/healthz")):
        assert "frame-ancestors 'none'" in answer.headers["Content-Security-Policy"]
        assert "connect-src 'self'" in answer.headers["Content-Security-Policy"]
        assert answer.headers["X-Frame-Options"] == "DENY"
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Cache-Control"] == "no-store"


@pytest.mark.parametrize(("any_address", "status"), [(False, 421), (True, 200)])
def test_an_address_in_place_of_a_name(any_address: bool, status: int) -> None:
    with serving_page(made_page(), any_address=any_address) as address:
        assert httpx.get(address, headers={"Host": "192.168.1.7:8000"}).status_code == status
        assert httpx.get(address, headers={"Host": "evil.example"}).status_code == 421


def test_websockets_are_refused() -> None:
    sent: list[str] = []

    async def send(message: dict) -> None:
        sent.append(message["type"])

    scope = {"type": "websocket", "headers": [(b"host", b"localhost"), (b"origin", b"https://evil.example")], "scheme": "ws", "path": "/"}
    run_async(HttpGuard(None)(scope, None, send))  # type: ignore[arg-type]  # the application behind it must not be asked
    assert "websocket.accept" not in sent
