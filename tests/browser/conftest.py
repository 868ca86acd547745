"""The page in a real browser: Debian's Chromium, driven by Playwright."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.serving.made_session import MadeSession, made_look, made_pipeline

SECONDS_A_WORD = 0.08
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


@pytest.fixture
def serve() -> Iterator[Serve]:
    """A function that serves a page on this machine and returns its address; the arguments are those of `build_page`."""
    from xraygpt.serving.web import PAGE_OPTIONS, build_page

    pages = []

    def start(pipeline: Any = None, **options: Any) -> str:
        if pipeline is None:
            pipeline = made_pipeline()
            options = {"new_session": lambda: MadeSession(SECONDS_A_WORD), "look": made_look, **options}
        pages.append(page := build_page(pipeline, **options))
        _, address, _ = page.launch(server_name="127.0.0.1", quiet=True, prevent_thread_lock=True, **PAGE_OPTIONS)
        return address

    yield start
    for page in pages:
        page.close(verbose=False)


@pytest.fixture
def open_tab(browser: Any) -> Iterator[OpenTab]:
    """A function that opens an address in a tab of its own. At the end: no request went to another host, no script failed."""
    contexts, troubles = [], []

    def check(request: Any) -> None:
        if not request.url.startswith(("http://127.0.0.1:", "http://localhost:", "file:", "data:", "blob:")):
            troubles.append(f"request to {request.url}")

    def open_address(address: str, **options: Any) -> Any:
        contexts.append(context := browser.new_context(viewport=options.pop("viewport", {"width": 1366, "height": 900}), **options))
        tab = context.new_page()
        tab.set_default_timeout(60_000)
        tab.on("request", check)
        tab.on("pageerror", lambda error: troubles.append(f"script error: {error}"))
        tab.on("console", lambda message: troubles.append(f"console: {message.text}") if message.type == "error" else None)
        tab.goto(address)
        tab.wait_for_selector(".xg-empty")
        tab.wait_for_selector("#xg-upload input[type=file]", state="attached")
        return tab

    yield open_address
    for context in contexts:
        context.close()
    assert troubles == []


@pytest.fixture
def shots(tmp_path: Path) -> Path:
    """Where screenshots go: `XRAYGPT_SCREENSHOTS`, or the test's own folder."""
    folder = Path(os.environ.get("XRAYGPT_SCREENSHOTS", tmp_path / "screenshots"))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A drawing that passes for a chest film at a glance: two dark lungs, a bright middle."""
    y, x = np.mgrid[0:640, 0:560].astype(float)

    def ellipse(cx: float, cy: float, rx: float, ry: float) -> Any:
        return 1 / (1 + np.exp(8 * (((x - cx) / rx) ** 2 + ((y - cy) / ry) ** 2 - 1)))

    body = ellipse(280, 360, 270, 360)
    values = 150 * body - 105 * (ellipse(165, 300, 88, 190) + ellipse(395, 300, 88, 190)) * body + 70 * ellipse(300, 400, 75, 110)
    ribs = 14 * np.sin(y / 14 + np.abs(x - 280) / 60) * body
    path = tmp_path_factory.mktemp("film") / "film of Jane Doe.png"
    Image.fromarray(np.clip(values + ribs, 0, 255).astype(np.uint8)).save(path)
    return path
