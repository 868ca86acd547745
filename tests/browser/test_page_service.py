"""The page as a service: many readers at once, a login, and the end."""

import threading
import time
from pathlib import Path

import pytest

from tests.browser.conftest import OpenTab, Serve
from tests.browser.steps import QUESTION, SENTENCE, SENTENCES, ask, said, upload
from tests.serving.made_session import MadeSession, made_look, made_pipeline
from xraygpt.serving.api_server import ApiServer
from xraygpt.serving.http_app import build_app
from xraygpt.serving.logins import token_login
from xraygpt.serving.web import build_page
from xraygpt.serving.web_queue import PageQueue

pytestmark = pytest.mark.slow


def test_who_comes_to_a_full_queue_is_told_and_who_waits_is_told_too(serve: Serve, open_tab: OpenTab, film: Path, shots: Path) -> None:
    lock = threading.Lock()
    address = serve(queue=PageQueue(lock, max_waiting=1))
    tabs = [open_tab(address) for _ in range(3)]
    for tab in tabs:
        upload(tab, film)
    with lock:
        tabs[0].click("#xg-report")
        tabs[0].wait_for_selector("text=Waiting for the model")
        ask(tabs[1], "Bones?")
        tabs[1].wait_for_selector("text=One other comes first")
        ask(tabs[2], "Heart?")
        tabs[2].wait_for_selector("text=The model is busy: 2 answers are asked for already")
        assert tabs[2].input_value(QUESTION) == "Heart?"
        tabs[2].screenshot(path=shots / "busy.png", full_page=True)
        tabs[1].click("#xg-stop")  # who waits need not
        tabs[1].wait_for_selector(".xg-wait", state="detached")
        assert tabs[1].input_value(QUESTION) == "Bones?"
    tabs[0].wait_for_selector(SENTENCE)
    tabs[2].press(QUESTION, "Enter")
    tabs[2].wait_for_selector(SENTENCE)
    assert not tabs[2].is_visible(".xg-error")


def test_a_page_that_ends_finishes_the_answer_that_it_writes(serve: Serve, open_tab: OpenTab, film: Path) -> None:
    queue = PageQueue()
    address = serve(queue=queue, seconds_a_word=0.1)
    tab, other = open_tab(address), open_tab(address)
    upload(tab, film)
    upload(other, film)
    tab.click("#xg-report")
    tab.wait_for_selector(".xg-caret")
    ending = threading.Thread(target=queue.finish)
    ending.start()
    other.click("#xg-report")
    other.wait_for_selector("text=The server is stopping")
    tab.wait_for_selector(SENTENCE)
    assert said(tab) == SENTENCES
    ending.join(timeout=10)
    assert not ending.is_alive()


def test_the_page_beside_the_api_asks_for_a_login_and_a_server_told_to_stop_finishes_its_answer(open_tab: OpenTab, film: Path) -> None:
    queue, token = PageQueue(), "a-token-of-a-good-length"
    page = build_page(made_pipeline(), new_session=lambda: MadeSession(0.15), look=made_look, queue=queue, with_logout=True)
    server = ApiServer(build_app(page=page, login=token_login([token])), page_queue=queue)
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.02)
    try:
        tab = open_tab(f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}", login=("xraygpt", token))
        upload(tab, film)
        tab.click("#xg-report")
        tab.wait_for_selector(".xg-caret")
        server.should_exit = True  # what SIGTERM does
        tab.wait_for_selector(SENTENCE)
        assert said(tab) == SENTENCES
    finally:
        server.should_exit = True
        thread.join(timeout=20)
    assert not thread.is_alive()
