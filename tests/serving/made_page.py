"""The page of made conversations on a real server, as both programs serve it; and a browser's part of what is said to it."""

import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from io import BytesIO
from typing import Any

import httpx
import numpy as np
from PIL import Image

from tests.serving.made_session import MadeSession, made_look, made_pipeline
from xraygpt.serving.api_server import ApiServer
from xraygpt.serving.http_app import build_app
from xraygpt.serving.logins import password_login
from xraygpt.serving.web import Page, build_page
from xraygpt.serving.web_queue import PageQueue

USERS = {"anna": "a-long-password", "bela": "another-long-password"}
LOGIN = password_login(USERS)
SETTINGS = ["Most likely words", 4, 1, 0.9, 120, 0]
"""The values of the controls."""


@contextmanager
def running(app: Any, queue: PageQueue | None = None, *, behind_proxy: bool = False) -> Iterator[str]:
    """Serve an application on a free port until the block ends; yields its address."""
    server = ApiServer(app, page_queue=queue, behind_proxy=behind_proxy)
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(20)


def visited(visit: Callable[[str], Any], seen: list[Any]) -> type[ApiServer]:
    """A class that serves a program until its address was visited; what the visit returns goes to `seen`."""

    class Visited(ApiServer):
        def run(self, sockets: Any = None) -> None:
            thread = threading.Thread(target=super().run, args=(sockets,))
            thread.start()
            while not self.started:
                time.sleep(0.01)
            try:
                seen.append(visit(f"http://127.0.0.1:{sockets[0].getsockname()[1]}"))
            finally:
                self.should_exit = True
                thread.join()

    return Visited


def made_page(pipeline: Any = None, *, seconds_a_word: float = 0.0, **options: Any) -> Page:
    """The page; with a pipeline its conversations are real. The options are those of `build_page`."""
    if pipeline is None:
        options = {"new_session": lambda: MadeSession(seconds_a_word), "look": made_look, **options}
    return build_page(pipeline or made_pipeline(), **options)


@contextmanager
def serving_page(page: Page | None = None, *, queue: PageQueue | None = None, **options: Any) -> Iterator[str]:
    """Serve a page; the options are those of `build_app`."""
    with running(build_app(page=page or made_page(), **options), queue, behind_proxy="public_names" in options) as address:
        yield address


def noise_png(side: int = 120) -> bytes:
    """A file with an image in it, though not of a chest."""
    stream = BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (side, side), dtype=np.uint8)).save(stream, "PNG")
    return stream.getvalue()


class Reader(httpx.Client):
    """What a reader's browser says to the page, without the browser. It has a session as soon as it is made.

    Args:
        address: of the server.
        user: who logs in; None: nobody has to.
        tab: the name that the tab's script made up.
    """

    def __init__(self, address: str, user: str | None = None, *, tab: str = "tab1", **options: Any) -> None:
        super().__init__(base_url=address, timeout=20, **options)
        self.tab = tab
        if user is not None:
            assert self.post("/login", data={"username": user, "password": USERS[user]}).status_code == 303
        self.page = self.get("/")
        self.shown = self.get("/config").json()

    def number_of(self, event: str, target: str) -> int:
        """The number of the function that an event of a part of the page, named by its `elem_id` or its label, calls."""
        shown = {part["id"]: part["props"].get("elem_id") or part["props"].get("value") for part in self.shown["components"]}
        targets = {(name, shown.get(part)): each["id"] for each in self.shown["dependencies"] for part, name in each["targets"]}
        return targets[event, target]

    def upload(self, content: bytes, name: str = "x.png") -> httpx.Response:
        """Send a file."""
        return self.post("/upload", content=content, headers={"X-File-Name": name})

    def event(self, number: int, data: Sequence[Any] = (), details: Any = None, *, queue: bool = False) -> httpx.Response:
        """Call a function of the page."""
        body = {"data": list(data), "event_data": details, "fn_index": number, "trigger_id": 1, "session_hash": self.tab}
        return self.post("/gradio_api/queue/join" if queue else "/gradio_api/run/predict", json=body)

    def listen(self, tab: str | None = None) -> list[dict[str, Any]]:
        """What the server tells a tab, to the end of what it was asked for."""
        told = []
        with self.stream("GET", "/gradio_api/queue/data", params={"session_hash": tab or self.tab}) as response:
            for line in response.iter_lines():
                if line.startswith("data: "):
                    told.append(json.loads(line[6:]))
        return told

    def open(self, content: bytes | None = None) -> list[dict[str, Any]]:
        """Send a file and start a conversation about it; returns what the server tells."""
        return self.claim(self.upload(content or noise_png()).json()["upload"])

    def claim(self, number: Any) -> list[dict[str, Any]]:
        """Start a conversation about a file that was sent; returns what the server tells."""
        assert self.event(self.number_of("upload", "xg-viewer"), details={"upload": number}, queue=True).status_code == 200
        return self.listen()

    def report(self) -> list[dict[str, Any]]:
        """Let the report be written; returns what the server tells."""
        assert self.event(self.number_of("click", "xg-report"), SETTINGS, queue=True).status_code == 200
        return self.listen()
