"""What pages of another site can do to a reader who is logged in: nothing. With two names of this machine, in a real browser."""

import http.server
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom.encaps import encapsulate
from pydicom.pixels.decoders.base import Decoder
from pydicom.uid import JPEG2000Lossless

from tests.browser.conftest import Serve
from tests.browser.steps import SENTENCE, upload, write_report
from tests.processors.made_dicom import box, dicom, j2k_stream, jp2
from tests.serving.made_page import LOGIN, USERS

pytestmark = pytest.mark.slow

ATTACKS = """async (victim) => {
    const told = {};
    const attempt = async (name, path, options) => {
        try {
            const answer = await fetch(victim + path, { credentials: "include", ...options });
            told[name] = answer.type === "opaque" ? "opaque" : await answer.text();
        } catch { told[name] = "refused"; }
    };
    await attempt("read", "/config", {});
    await attempt("read without asking", "/config", { mode: "no-cors" });
    await attempt("upload", "/upload", { method: "POST", body: "x" });
    await attempt("upload without asking", "/upload", { method: "POST", body: "x", mode: "no-cors" });
    await attempt("event", "/gradio_api/queue/join", { method: "POST", body: "{}", headers: { "Content-Type": "application/json" } });
    await attempt("logout", "/logout", { method: "POST", mode: "no-cors" });
    told.stream = await new Promise((resolve) => {
        const source = new EventSource(victim + "/gradio_api/queue/data?session_hash=x", { withCredentials: true });
        source.onerror = () => { source.close(); resolve("refused"); };
        source.onmessage = () => { source.close(); resolve("heard"); };
    });
    told.frame = await new Promise((resolve) => {
        const frame = document.createElement("iframe");
        frame.onload = () => resolve(frame.contentDocument ? "own" : "foreign or refused");
        frame.src = victim + "/";
        document.body.append(frame);
    });
    return told;
}"""


@pytest.fixture
def foreign() -> Iterator[str]:
    """The address of another site on this machine, under a name of its own."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(b"<!doctype html><title>elsewhere</title><body>")

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://evil.localhost:{server.server_port}"
    server.shutdown()


@pytest.fixture
def context(browser: Any) -> Iterator[Any]:
    context = browser.new_context()
    context.set_default_timeout(30_000)
    yield context
    context.close()


def log_in(context: Any, address: str) -> Any:
    """A tab in which anna has logged in."""
    tab = context.new_page()
    tab.goto(address)
    tab.fill("input[type=text]", "anna")
    tab.fill("input[type=password]", USERS["anna"])
    tab.click("button:has-text('Log in')")
    tab.wait_for_selector(".xg-viewer[data-ready]")
    return tab


def test_a_page_of_another_site_does_nothing_to_a_logged_in_reader(serve: Serve, foreign: str, context: Any, film: Path) -> None:
    address = serve(login=LOGIN, public_names=["reports.localhost"]).replace("127.0.0.1", "reports.localhost")
    tab = log_in(context, address)
    upload(tab, film)
    write_report(tab)
    other = context.new_page()
    statuses: list[tuple[str, int]] = []
    other.on("response", lambda response: statuses.append((response.url, response.status)) if address in response.url else None)
    other.goto(foreign)
    told = other.evaluate(ATTACKS, address)
    assert {name: told[name] for name in ("read", "upload", "event", "stream")} == dict.fromkeys(
        ("read", "upload", "event", "stream"), "refused"
    )
    assert told["frame"] == "foreign or refused"
    assert {status for url, status in statuses if url.rstrip("/") != address} <= {403}
    tab.click("text=Clear")  # the reader is still logged in, and the tab works
    tab.wait_for_selector(SENTENCE, state="detached")
    write_report(tab)


def test_a_link_on_another_site_leads_into_the_session(serve: Serve, foreign: str, context: Any) -> None:
    address = serve(login=LOGIN, public_names=["reports.localhost"]).replace("127.0.0.1", "reports.localhost")
    log_in(context, address)
    other = context.new_page()
    other.goto(foreign)
    other.evaluate("address => { location.href = address; }", address)
    other.wait_for_selector(".xg-viewer[data-ready]")  # the strict cookie did not come with the link itself


def test_a_form_of_another_site_logs_nobody_in(serve: Serve, foreign: str, context: Any) -> None:
    address = serve(login=LOGIN, public_names=["reports.localhost"]).replace("127.0.0.1", "reports.localhost")
    other = context.new_page()
    other.goto(foreign)
    other.evaluate(
        """([address, password]) => {
            document.body.innerHTML = `<form method="post" action="${address}/login"><input name="username" value="anna">
                <input name="password" value="${password}"></form>`;
            document.forms[0].submit();
        }""",
        [address, USERS["anna"]],
    )
    other.wait_for_selector("text=comes from a page of another site")
    assert context.cookies(address) == []


def test_a_name_that_points_here_is_no_name_of_the_server(serve: Serve, context: Any) -> None:
    tab = context.new_page()
    for address in (serve(), serve(login=LOGIN)):
        assert tab.goto(address.replace("127.0.0.1", "evil.localhost")).status == 421
        assert context.cookies(address.replace("127.0.0.1", "evil.localhost")) == []


def test_logging_out_forgets_the_conversation(serve: Serve, context: Any, film: Path) -> None:
    address = serve(login=LOGIN)
    tab, other = log_in(context, address), context.new_page()
    other.goto(address)
    other.wait_for_selector(".xg-viewer[data-ready]")
    upload(other, film)
    upload(tab, film)
    tab.click("text=Log out")
    tab.wait_for_selector("input[type=password]")
    other.wait_for_selector("input[type=password]")  # none of the reader's tabs goes on showing an image
    tab.goto(address)
    assert tab.url.endswith("/login")


def test_an_image_that_is_larger_than_its_header_says_is_not_decoded(
    serve: Serve, context: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Decoder, "as_array", lambda *_, **__: pytest.fail("decoded"))
    large, decoy = {"columns": 100, "rows": 100}, box(b"uuid", bytes(16) + j2k_stream())
    frame = encapsulate([jp2(j2k_stream(**large), **large, before=decoy)])
    film = dicom(np.zeros((32, 48), np.uint16), PixelData=frame, TransferSyntaxUID=JPEG2000Lossless)
    (tmp_path / "film.dcm").write_bytes(film.getvalue())
    tab = log_in(context, serve(login=LOGIN, public_names=["reports.localhost"]).replace("127.0.0.1", "reports.localhost"))
    tab.set_input_files("#xg-upload input[type=file]", tmp_path / "film.dcm")
    tab.wait_for_selector("text=the compressed image is of 100 x 100 pixels")
    assert not tab.is_visible(".xg-film")


def test_a_logged_in_browser_names_no_file_of_the_server(serve: Serve, context: Any, film: Path) -> None:
    tab = log_in(context, serve(login=LOGIN))
    answers = tab.evaluate(
        """async (path) => {
            const value = { path, meta: { _type: "gradio.FileData" } };
            const event = (data, details) => fetch("/gradio_api/run/predict", {
                method: "POST",
                headers: { "Content-Type": "application/json" },
                body: JSON.stringify({ data, event_data: details, fn_index: 0, trigger_id: 1, session_hash: "x" }),
            });
            const read = (path) => fetch("/gradio_api/file=" + path);
            return Promise.all([event([value]), event([], { upload: value }), read(path)].map(async (each) => (await each).status));
        }""",
        str(film),
    )
    assert answers == [400, 400, 404]
