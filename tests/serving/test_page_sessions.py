"""The page for several readers: whose session and tab it is, how long they last, and what is kept of them."""

import json
import os
import stat
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from tests.serving.made_page import LOGIN, SETTINGS, USERS, Reader, made_page, noise_png, serving_page
from tests.serving.made_session import MadeSession
from xraygpt.serving import http_app, page_gate, page_sessions, page_uploads
from xraygpt.serving.page_sessions import Session, Sessions
from xraygpt.serving.safety import RESEARCH_NOTICE
from xraygpt.serving.web import Page


def test_a_tab_name_opens_no_other_readers_tab(guarded: str) -> None:
    anna, bela = Reader(guarded, "anna"), Reader(guarded, "bela")
    assert "data:image" in str(anna.open())
    for other in (bela, Reader(guarded, "anna")):  # another login, and another browser of the same one
        other.tab = anna.tab
        assert "Open a radiograph first" in str(other.report())
    assert anna.event(anna.number_of("click", "xg-report"), SETTINGS, queue=True).status_code == 200
    bela.event(bela.number_of("click", "xg-report"), SETTINGS, queue=True)
    assert "cardiomegaly" not in str(bela.listen(anna.tab))
    assert bela.get("/gradio_api/queue/data", params={"session_hash": anna.tab}).status_code == 404  # she has asked for nothing more
    assert "cardiomegaly" in str(anna.listen())


def test_a_closed_tab_closes_no_other_readers_tab(guarded: str) -> None:
    anna, bela = Reader(guarded, "anna"), Reader(guarded, "bela")
    anna.open()
    with bela.stream("GET", f"/gradio_api/heartbeat/{anna.tab}") as heartbeat:
        lines = heartbeat.iter_lines()
        assert next(lines).startswith("data:")
    time.sleep(0.5)
    assert "cardiomegaly" in str(anna.report())


def test_without_a_session_nothing_answers_but_login_and_health(guarded: str) -> None:
    with httpx.Client(base_url=guarded) as client:
        for route in [
            "GET /config",
            "GET /theme.css",
            "GET /assets/x.js",
            "GET /static/x",
            "POST /upload",
            "GET /gradio_api/info",
            "POST /x",
        ]:
            method, path = route.split(" ")
            assert client.request(method, path).status_code == 401, route
        assert client.get("/").headers["location"] == "/login"
        login = client.get("/login")
        assert RESEARCH_NOTICE in login.text
        assert "assets" not in login.text
        for path in ("/v1/models", "/metrics", "/healthz"):  # this program has no API
            assert client.get(path).status_code == 401


def test_a_login_and_a_logout(guarded: str) -> None:
    reader = Reader(guarded, "anna")
    assert "Log out" in reader.page.text
    cookie = dict(reader.cookies)
    assert reader.get("/logout").status_code == 404  # which a picture on another site could ask for
    assert reader.get("/config").status_code == 200
    reader.open()
    assert reader.post("/logout").headers["location"] == "/login"
    assert reader.get("/config").status_code == 401
    assert httpx.get(f"{guarded}/config", cookies=cookie).status_code == 401  # a copy of the cookie is worth nothing


@pytest.mark.parametrize("fields", [{}, {"username": "anna"}, {"username": "anna", "password": "x"}, {"username": "x", "password": ""}])
def test_a_wrong_login(guarded: str, fields: dict[str, str]) -> None:
    answer = httpx.post(f"{guarded}/login", data=fields)
    assert answer.status_code == 401
    assert "set-cookie" not in answer.headers
    assert "Wrong name or password" in answer.text


def test_the_cookie_is_for_this_page_alone() -> None:
    with serving_page(login=LOGIN, public_names=["reports.example"]) as guarded:
        _check_cookies(guarded)


def _check_cookies(guarded: str) -> None:
    answer = httpx.post(f"{guarded}/login", data={"username": "anna", "password": USERS["anna"]})
    cookie = answer.headers["set-cookie"]
    assert {"HttpOnly", "SameSite=strict", "Path=/"} <= set(cookie.split("; "))
    behind_tls = httpx.post(
        f"{guarded}/login", data={"username": "anna", "password": USERS["anna"]}, headers={"X-Forwarded-Proto": "https"}
    ).headers["set-cookie"]
    assert behind_tls.startswith("__Host-")
    assert "Secure" in behind_tls.split("; ")


def test_a_link_from_another_site_ends_no_session(address: str) -> None:
    answer = httpx.get(address, headers={"Sec-Fetch-Site": "cross-site"})  # without the cookie, which is strict
    assert "set-cookie" not in answer.headers
    assert 'content="0; url=/"' in answer.text  # the browser asks again by itself, with it


def test_sessions_end_and_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page_sessions, "MAX_SESSIONS", 2)
    ended: list[Session] = []
    sessions = Sessions(ended.append)
    looked_in, kept = sessions.start(None), sessions.start("anna")
    assert looked_in and kept
    assert sessions.find(kept[0]) is kept[1]
    new = sessions.start("bela")  # in the place of the one whose cookie never came back
    assert new
    assert sessions.find(new[0]) is new[1]
    assert sessions.find(looked_in[0]) is None
    kept[1].num_streams = new[1].num_streams = 1  # their tabs are open: their work is not lost
    assert sessions.start("carl") is None
    kept[1].num_streams = 0
    assert sessions.start("carl") is not None
    assert [sessions.find(wrong) for wrong in ("", None, new[1].id)] == [None] * 3
    monkeypatch.setattr(page_sessions, "IDLE_SECONDS", -1.0)
    assert sessions.find(new[0]) is None
    assert ended == [looked_in[1], kept[1], new[1]]
    assert all(session.has_ended for session in ended)


def test_a_login_that_fills_the_server_with_sessions_ends_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page_sessions, "MAX_SESSIONS_OF_LOGIN", 3)
    ended: list[Session] = []
    sessions = Sessions(ended.append)
    bela = sessions.start("bela")
    own = [sessions.start("anna") for _ in range(5)]
    assert bela
    assert sessions.find(bela[0]) is bela[1]
    assert ended == [started[1] for started in own[:2] if started]
    for started in own[2:]:
        assert started
        started[1].num_streams = 1  # its tabs are open
    assert sessions.start("anna") is None
    assert sessions.start("bela")


def test_a_second_login_ends_the_first(guarded: str) -> None:
    reader = Reader(guarded, "anna")
    first = dict(reader.cookies)
    assert reader.post("/login", data={"username": "bela", "password": USERS["bela"]}).status_code == 303
    assert httpx.get(f"{guarded}/config", cookies=first).status_code == 401
    assert reader.get("/config").status_code == 200


def test_names_of_tabs_are_bounded_and_given_back(guarded: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page_gate, "MAX_TABS_OF_SESSION", 3)
    reader = Reader(guarded, "anna")
    for number in range(6):
        reader.tab = f"tab{number}"
        assert "Open a radiograph" in str(reader.report())
    reader.tab = "tab0"  # it was forgotten for the others, and stays so
    assert reader.event(reader.number_of("click", "xg-report"), SETTINGS, queue=True).status_code == 401


def test_sessions_that_nobody_uses_end_by_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_app, "EXPIRY_SECONDS", 0.1)
    page = made_page()
    with serving_page(page, login=LOGIN) as address:
        Reader(address, "anna").open()
        assert len(page.workspaces) == 1
        monkeypatch.setattr(page_sessions, "IDLE_SECONDS", 0.1)
        wait_until(lambda: len(page.workspaces) == 0)


def test_an_event_whose_body_comes_after_logout_is_not_done() -> None:
    page = made_page()
    with serving_page(page, login=LOGIN) as address:
        reader = Reader(address, "anna")
        number, log_out = reader.upload(noise_png()).json()["upload"], threading.Event()
        event = {"data": [], "event_data": {"upload": number}, "fn_index": reader.number_of("upload", "xg-viewer"), "session_hash": "tab1"}
        body = json.dumps(event).encode()

        def slowly() -> Iterator[bytes]:
            yield body[:10]
            log_out.wait(5)
            yield body[10:]

        answers: list[httpx.Response] = []
        sending = threading.Thread(target=lambda: answers.append(reader.post("/gradio_api/queue/join", content=slowly())))
        sending.start()
        time.sleep(0.3)
        httpx.post(f"{address}/logout", cookies=dict(reader.cookies))
        log_out.set()
        sending.join()
        assert answers[0].status_code == 401
        assert len(page.workspaces) == 0


@pytest.mark.parametrize("way", ["logout", "tab"])
def test_nothing_that_was_to_be_told_stays(way: str) -> None:
    """Neither to a reader who has logged out, nor to a tab that is closed without having listened."""
    page = made_page(seconds_a_word=0.05)
    with serving_page(page, login=LOGIN) as address:
        reader = Reader(address, "anna")
        reader.open()
        with reader.stream("GET", f"/gradio_api/heartbeat/{reader.tab}") as heartbeat:
            lines = heartbeat.iter_lines()
            assert next(lines).startswith("data:")
            assert reader.event(reader.number_of("click", "xg-report"), SETTINGS, queue=True).status_code == 200
            time.sleep(0.3)  # it is being written
            if way == "logout":
                assert httpx.post(f"{address}/logout", cookies=dict(reader.cookies)).status_code == 303
                assert "".join(lines) == ""  # the stream has ended
        wait_until(lambda: what_is_kept(page) == [])
        time.sleep(0.5)  # what was being written adds nothing
        assert what_is_kept(page) == []


@pytest.mark.parametrize("way", ["logout", "tab"])
def test_an_image_that_is_opened_while_its_tab_is_closed_does_not_stay(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page_uploads, "MAX_UPLOADS_OF_LOGIN", 100)
    monkeypatch.setattr(page_uploads, "MAX_UPLOADS", 100)
    page = made_page()
    with serving_page(page, login=LOGIN) as address:
        for moment in range(8):
            reader = Reader(address, "anna")
            number = reader.upload(noise_png()).json()["upload"]
            with reader.stream("GET", f"/gradio_api/heartbeat/{reader.tab}") as heartbeat:
                lines = heartbeat.iter_lines()
                assert next(lines).startswith("data:")
                event = {"data": [], "event_data": {"upload": number}, "fn_index": reader.number_of("upload", "xg-viewer")}
                event |= {"session_hash": reader.tab}
                request = {"json": event, "cookies": (cookies := dict(reader.cookies))}
                claiming = threading.Thread(target=httpx.post, args=(f"{address}/gradio_api/queue/join",), kwargs=request)
                claiming.start()
                time.sleep(0.004 * moment)
                if way == "logout":
                    assert httpx.post(f"{address}/logout", cookies=cookies).status_code == 303
            claiming.join()
        wait_until(lambda: what_is_kept(page) == [])


def what_is_kept(page: Page) -> list[object]:
    """Of tabs: their conversations, the values of their controls, and what is to be told to them."""
    queue = page.blocks._queue
    messages = [tab for tab, waiting in queue.pending_messages_per_session.items() if not waiting.empty()]
    return [*messages, *queue.pending_event_ids_session, *page.blocks.app.state_holder.session_data, *page.workspaces._open]


def test_a_tab_that_does_not_listen_is_told_no_more(guarded: str) -> None:
    reader = Reader(guarded, "anna")
    statuses = [reader.event(reader.number_of("click", "xg-report"), SETTINGS, queue=True).status_code for _ in range(6)]
    assert statuses == [200] * 4 + [429] * 2
    reader.listen()
    assert "Open a radiograph" in str(reader.report())


def test_functions_are_called_in_their_own_way_alone(guarded: str) -> None:
    reader = Reader(guarded, "anna")
    queued, direct = reader.number_of("click", "xg-report"), reader.number_of("fix", "xg-alerts")
    assert reader.event(queued, SETTINGS, queue=False).status_code == 400
    assert reader.event(direct, [], {"rotate": 90}, queue=True).status_code == 400


def test_values_that_the_controls_do_not_have_reach_no_log(guarded: str, capfd: pytest.CaptureFixture[str]) -> None:
    reader = Reader(guarded, "anna")
    for position, value in (
        (0, "SECRET\nFORGED"),
        (1, 10**9),
        (2, "SECRET"),
        (4, -1),
        (4, 10**400),
        (5, "SECRET"),
        (5, None),
    ):
        values = [value if i == position else known for i, known in enumerate(SETTINGS)]
        assert reader.event(reader.number_of("click", "xg-report"), values, queue=True).status_code == 400
    assert reader.post("/login", data={f"field{i}": "SECRET" for i in range(30)}).status_code == 400
    assert reader.get("/gradio_api/queue/data", params={f"field{i}": "SECRET" for i in range(30)}).status_code == 400
    logged = "".join(capfd.readouterr())
    assert "SECRET" not in logged
    assert "Traceback" not in logged


def test_streams_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page_gate, "MAX_STREAMS_OF_SESSION", 2)
    monkeypatch.setattr(page_gate, "MAX_STREAMS_OF_LOGIN", 3)
    with serving_page(login=LOGIN) as address, ExitStack() as streams:

        def listen(reader: Reader) -> int:
            return streams.enter_context(reader.stream("GET", f"/gradio_api/heartbeat/{reader.tab}")).status_code

        anna, anna_elsewhere, bela = Reader(address, "anna"), Reader(address, "anna"), Reader(address, "bela")
        assert [listen(anna) for _ in range(3)] == [200, 200, 429]
        assert [listen(anna_elsewhere) for _ in range(2)] == [200, 429]
        assert listen(bela) == 200


def test_a_form_of_another_site_is_no_wrong_password(guarded: str, caplog: pytest.LogCaptureFixture) -> None:
    assert httpx.post(f"{guarded}/login", data={"username": "x"}, headers={"Origin": "https://evil.example"}).status_code == 403
    assert "Wrong token or password" not in caplog.text


def test_gradios_folder_is_private() -> None:
    folder = Path(os.environ["GRADIO_TEMP_DIR"])
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert [path for path in folder.rglob("*") if path.is_file()] == []


def wait_until(condition: Callable[[], bool]) -> None:
    """Wait, five seconds at most."""
    deadline = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_too_many_tabs_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("xraygpt.serving.web_workspace.MAX_WORKSPACES_OF_LOGIN", 1)
    page = made_page(new_session=MadeSession)
    with serving_page(page, login=LOGIN) as address:
        first, second = Reader(address, "anna"), Reader(address, "anna", tab="tab2")
        assert "data:image" in str(first.open())
        assert "1 tabs with images are open under this login" in str(second.open())
        assert "data:image" in str(Reader(address, "bela").open())
        assert len(page.workspaces) == 2
        first.post("/logout")
        assert len(page.workspaces) == 1
        assert "data:image" in str(second.open())
