"""The page in a real browser: Debian's Chromium, driven by Playwright."""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.serving.made_page import made_page, serving_page
from xraygpt.datasets.preparation.phantom_film import render_film
from xraygpt.serving.safety import RESEARCH_NOTICE
from xraygpt.serving.web_queue import PageQueue

SECONDS_A_WORD = 0.03
DESKTOP = {"width": 1280, "height": 860}
Serve = Callable[..., str]
OpenTab = Callable[..., Any]


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """Chromium, which `make install` brings where it can. Without it these tests are skipped."""
    executable = shutil.which("chromium")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        executable = None
    if executable is None:
        reason = "The browser tests need /usr/bin/chromium (Debian: apt-get install chromium) and playwright (pip install playwright)."
        pytest.skip(reason)
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture(scope="session")
def shared_context(browser: Any) -> Iterator[Any]:
    """What the tabs of all tests have in common, so that the page's scripts are loaded and compiled once."""
    context = browser.new_context()
    yield context
    context.close()


class Server:
    """Serves pages on this machine. Each gets a session that speaks `seconds_a_word`, unless it gets a pipeline."""

    def __init__(self) -> None:
        self.running = ExitStack()

    def __call__(
        self,
        pipeline: Any = None,
        *,
        seconds_a_word: float = SECONDS_A_WORD,
        queue: PageQueue | None = None,
        login: Any = None,
        public_names: Any = (),
        **options: Any,
    ) -> str:
        """Serve a page, and return its address; the options are those of `build_page`."""
        queue = queue or PageQueue()
        page = made_page(pipeline, seconds_a_word=seconds_a_word, queue=queue, with_logout=login is not None, **options)
        return self.running.enter_context(serving_page(page, queue=queue, login=login, public_names=public_names))

    def close(self) -> None:
        """Stop serving."""
        self.running.close()


@pytest.fixture
def serve() -> Iterator[Server]:
    """Serves pages for one test."""
    server = Server()
    yield server
    server.close()


@pytest.fixture(scope="session")
def address() -> Iterator[str]:
    """A page that all tests may use; what they do stays in their tabs."""
    server = Server()
    yield server()
    server.close()


@pytest.fixture
def open_tab(browser: Any, shared_context: Any) -> Iterator[OpenTab]:
    """A function that opens an address in a tab of its own. At the end: no request went to another host, no script failed.

    Its keyword arguments are `viewport`, `color_scheme`, `login` (name and password), and those of a browser context, which the tab then
    has for itself.
    """
    tabs, contexts, troubles = [], [], []

    def check(request: Any) -> None:
        if not request.url.startswith(("http://127.0.0.1:", "http://localhost:", "file:", "data:", "blob:")):
            troubles.append(f"request to {request.url}")

    def open_address(address: str, *, viewport: Any = DESKTOP, color_scheme: Any = "light", login: Any = None, **options: Any) -> Any:
        context = shared_context
        if options:
            contexts.append(context := browser.new_context(**options))
        tabs.append(tab := context.new_page())
        tab.set_viewport_size(viewport)
        tab.emulate_media(color_scheme=color_scheme)
        tab.set_default_timeout(30_000)
        tab.on("request", check)
        tab.on("pageerror", lambda error: troubles.append(f"script error: {error}"))
        tab.on("console", lambda message: troubles.append(f"console: {message.text}") if message.type == "error" else None)
        tab.goto(address)
        if login:
            tab.wait_for_selector(f"text={RESEARCH_NOTICE}")
            tab.fill("input[type=text]", login[0])
            tab.fill("input[type=password]", login[1])
            tab.click("button:has-text('Log in')")
        tab.wait_for_selector(".xg-viewer[data-ready] .xg-empty")
        tab.wait_for_selector("#xg-upload input[type=file]", state="attached")
        return tab

    yield open_address
    for opened in [*tabs, *contexts]:
        opened.close()
    assert troubles == []


@pytest.fixture
def shots(tmp_path: Path) -> Path:
    """Where screenshots go: `XRAYGPT_SCREENSHOTS`, or the test's own folder."""
    folder = Path(os.environ.get("XRAYGPT_SCREENSHOTS", tmp_path / "screenshots"))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A phantom, which the input gate has nothing against."""
    path = tmp_path_factory.mktemp("film") / "film of Jane Doe.png"
    Image.fromarray(render_film((), size=384, seed=(5,))).save(path)
    return path
