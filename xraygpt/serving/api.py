"""The HTTP API: `/v1/chat/completions` and `/v1/models` as OpenAI's clients speak them, `/healthz`, `/metrics`, and the page beside them.

Nothing of a request is kept: a conversation comes whole with each question, images as data URIs, and no file is written. The log has one
line for each request, with numbers only.
"""

import time

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from xraygpt.serving.api_chat import ChatEndpoint
from xraygpt.serving.api_limits import ApiError, require_token
from xraygpt.serving.api_service import ApiService
from xraygpt.serving.safety import RESEARCH_NOTICE


def is_api_path(path: str) -> bool:
    """Whether a request is for one of the API's routes, and not for the page."""
    return path in ("/healthz", "/metrics") or path.startswith("/v1/")


def add_api_routes(app: FastAPI, service: ApiService) -> None:
    """Add the routes to an application, which starts and stops the worker of `service`."""
    app.router.routes.append(Route("/v1/chat/completions", ChatEndpoint(service), methods=["POST"]))
    app.add_exception_handler(ApiError, _error_response)
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
