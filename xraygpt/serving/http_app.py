"""The application that both programs serve: the page of `demo.py`, the API and the page of `xraygpt serve`, behind the same guards.

From the outside in: `HttpGuard` (names, other sites, headers), `PageGate` (login, sessions, uploads, the page's own routes), then the API's
routes and gradio.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request

from xraygpt.serving.api import add_api_routes, is_api_path
from xraygpt.serving.api_service import ApiService
from xraygpt.serving.http_guard import HttpGuard
from xraygpt.serving.page_gate import PageGate
from xraygpt.serving.page_gradio import gr
from xraygpt.serving.page_sessions import Login, Session, Sessions
from xraygpt.serving.web import PAGE_OPTIONS, Page

EXPIRY_SECONDS = 60.0
"""Between two looks for sessions that were not used for too long."""


def build_app(
    *,
    service: ApiService | None = None,
    page: Page | None = None,
    login: Login | None = None,
    public_names: Iterable[str] = (),
    any_address: bool = False,
) -> FastAPI:
    """The application with the API, the page, or both.

    Args:
        service: what the API's routes share; the application's life is that of its worker.
        page: shown at "/".
        login: who may see the page; None: everybody who can reach the server.
        public_names, any_address: what the server answers to; see `HttpGuard`.
    """
    endings: set[asyncio.Task[None]] = set()

    def end(session: Session) -> None:
        """Forget what a session held."""
        if page:
            endings.add(task := asyncio.get_running_loop().create_task(page.end_session(session)))
            task.add_done_callback(endings.discard)

    sessions = Sessions(end)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        if service:
            service.worker.start()
        expiry = asyncio.create_task(_expire(sessions))
        yield
        expiry.cancel()
        if service:
            service.worker.stop()

    # FastAPI's own documentation pages load scripts from another host.
    app = FastAPI(title="xraygpt", lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)
    if service:
        add_api_routes(app, service)
    if page:
        _add_page(app, page, login, sessions, is_api=is_api_path if service else lambda path: False)
    app.add_middleware(HttpGuard, names=public_names, any_address=any_address)  # the last one added is the outermost
    return app


async def _expire(sessions: Sessions) -> None:
    while True:
        await asyncio.sleep(EXPIRY_SECONDS)
        sessions.end_idle()


def _add_page(app: FastAPI, page: Page, login: Login | None, sessions: Sessions, is_api: Callable[[str], bool]) -> None:
    def login_of(request: Request) -> str:
        """Whose the request is, for gradio; `PageGate` lets none pass without a session."""
        return request.state.session.login

    app.add_middleware(CORSMiddleware, allow_origins=[])  # then gradio adds no rules of its own, which let other sites in
    gr.mount_gradio_app(app, page.blocks, path="/", auth_dependency=login_of, **PAGE_OPTIONS)
    # Only `launch` says so by itself. Until both are set, gradio takes any path that a client names for one that the page gave out.
    page.blocks.has_launched = page.blocks.is_running = True
    app.add_middleware(PageGate, page=page, sessions=sessions, login=login, is_api=is_api)
