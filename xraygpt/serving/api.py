"""The HTTP API: `/v1/chat/completions` and `/v1/models` as OpenAI's clients speak them, `/healthz`, `/metrics`, and the page beside them.

Nothing of a request is kept: a conversation comes whole with each question, images as data URIs, and no file is written. The log has one
line for each request, with numbers only.
"""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from xraygpt.serving.api_chat import ChatEndpoint
from xraygpt.serving.api_limits import ApiError, require_token
from xraygpt.serving.api_service import ApiService
from xraygpt.serving.safety import RESEARCH_NOTICE

LOOPBACK_NAMES = ("127.0.0.1", "localhost", "::1", "[::1]")


def build_app(service: ApiService, *, any_host: bool = False) -> FastAPI:
    """The application; its life is that of the service's worker.

    Args:
        any_host: answer requests to whichever name. Otherwise only those that call this machine by its own names are answered: a web page
            of another site could point a name of its own at 127.0.0.1, and talk to a server without tokens from the user's browser.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        service.worker.start()
        yield
        service.worker.stop()

    # FastAPI's own documentation pages load scripts from another host.
    app = FastAPI(title="xraygpt", lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)
    app.router.routes.append(Route("/v1/chat/completions", ChatEndpoint(service), methods=["POST"]))
    app.add_exception_handler(ApiError, _error_response)
    _add_small_routes(app, service)
    if not any_host:
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=LOOPBACK_NAMES)
    return app


def _add_small_routes(app: FastAPI, service: ApiService) -> None:
    model = {"id": service.model_name, "object": "model", "created": int(time.time()), "owned_by": "xraygpt", "notice": RESEARCH_NOTICE}

    def check(request: Request) -> None:
        require_token(request.headers.get("authorization", ""), service.tokens)

    @app.get("/v1/models")
    async def list_models(request: Request) -> Response:
        check(request)
        return JSONResponse({"object": "list", "data": [model]})

    @app.get("/v1/models/{name}")
    async def show_model(request: Request, name: str) -> Response:
        check(request)
        service.require_model(name)
        return JSONResponse(model)

    @app.get("/metrics")
    async def metrics(request: Request) -> Response:
        check(request)
        return Response(service.metrics.text(), media_type=service.metrics.content_type)

    @app.get("/healthz")
    async def health() -> Response:
        status = service.status
        return JSONResponse({"status": status, "notice": RESEARCH_NOTICE}, status_code=200 if status == "ok" else 503)


def _error_response(_: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return JSONResponse(error.body(), status_code=error.status, headers=error.headers)
