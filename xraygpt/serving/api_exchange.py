"""One request to `/v1/chat/completions` and its answer: the bytes that come and go, in the format of OpenAI's API."""

import json
import time
import uuid
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import Receive, Scope, Send

from xraygpt.serving.api_limits import ApiError
from xraygpt.serving.api_writer import Written
from xraygpt.serving.body_memory import BodyShare
from xraygpt.serving.safety import RESEARCH_NOTICE

CLIENT_LEFT = 499
"""The status in log and metrics of a request whose client left, as nginx has it, or was refused while its body came."""

_HEADERS = {"Cache-Control": "no-store", "X-Research-Notice": RESEARCH_NOTICE}


class Exchange:
    """A request and its answer, as far as they have come.

    Attributes:
        id: of the answer, and of the line in the log.
        status: of the HTTP response; 0 before it has one.
        written: the whole answer, once it is there.
        is_streaming: whether the response has begun as a stream.
    """

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.request = Request(scope, receive)
        self.id = f"chatcmpl-{uuid.uuid4().hex}"
        self.status = 0
        self.written: Written | None = None
        self.started = time.monotonic()
        self._created = int(time.time())
        self._send = send
        self.is_streaming = False

    @property
    def seconds(self) -> float:
        """Since it came."""
        return time.monotonic() - self.started

    # In --------------------------------------------------------------------------------------------------------

    async def receive_body(self, share: BodyShare) -> bytes:
        """The body of the request. How large it may be, and how slowly it may come, the server has checked (`http_requests`).

        Args:
            share: what it holds of the memory for bodies.

        Raises:
            ApiError: it is not declared to be JSON.
            ClientDisconnect: the client left, or was refused.
        """
        declared = self.request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if declared != "application/json":  # which a web page of another site cannot send unasked
            raise ApiError(415, "Send the request with the header `Content-Type: application/json`.", code="unsupported_media_type")
        body = bytearray()
        async for block in self.request.stream():
            await share.grow(len(block))
            body += block
        return bytes(body)

    async def wait_for_leave(self) -> None:
        """Return when the client is gone; for use once the body has come."""
        while (await self.request.receive())["type"] != "http.disconnect":
            pass

    # Out -------------------------------------------------------------------------------------------------------

    async def send_whole(self, written: Written, model: str) -> None:
        """The answer in one piece."""
        self.written = written
        message = {"role": "assistant", "content": written.text, "refusal": None}
        choice = {"index": 0, "message": message, "finish_reason": written.finish_reason, "logprobs": None}
        await self._send_json(
            200, self._frame("chat.completion", model, [choice]) | {"usage": written.usage(), "xraygpt": written.details()}
        )

    async def send_piece(self, text: str, model: str) -> None:
        """The next piece of a streamed answer. The response begins with the first, so that a refusal before it has its own status."""
        if not self.is_streaming:
            await self._begin_stream()
            await self._send_chunk(model, {"role": "assistant", "content": ""})
        if text:
            await self._send_chunk(model, {"content": text})

    async def send_end(self, written: Written, model: str, *, with_usage: bool) -> None:
        """The end of a streamed answer."""
        await self.send_piece("", model)
        self.written = written
        await self._send_chunk(model, {}, finish_reason=written.finish_reason, xraygpt=written.details())
        if with_usage:
            await self._send_event(self._frame("chat.completion.chunk", model, []) | {"usage": written.usage()})
        await self._send_data("[DONE]", more=False)

    async def send_error(self, error: ApiError) -> None:
        """The refusal, as a response of its own or within the stream that has begun."""
        self.status = error.status
        if self.is_streaming:
            await self._send_data(json.dumps(error.body()), more=False)
        else:
            await self._send_json(error.status, error.body(), error.headers)

    def _frame(self, kind: str, model: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        """What every object of the answer has. The research notice goes with each, as a client may keep any of them."""
        return {"id": self.id, "object": kind, "created": self._created, "model": model, "choices": choices, "notice": RESEARCH_NOTICE}

    async def _send_json(self, status: int, body: dict[str, Any], headers: dict[str, str] | None = None) -> None:
        self.status = status
        response = JSONResponse(body, status_code=status, headers=_HEADERS | (headers or {}))
        await response(self.request.scope, self.request.receive, self._send)

    async def _begin_stream(self) -> None:
        self.status, self.is_streaming = 200, True
        headers = {"Content-Type": "text/event-stream; charset=utf-8", "X-Accel-Buffering": "no"} | _HEADERS
        encoded = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
        await self._send({"type": "http.response.start", "status": 200, "headers": encoded})

    async def _send_chunk(self, model: str, delta: dict[str, str], *, finish_reason: str | None = None, **more: Any) -> None:
        choice = {"index": 0, "delta": delta, "finish_reason": finish_reason, "logprobs": None}
        await self._send_event(self._frame("chat.completion.chunk", model, [choice]) | more)

    async def _send_event(self, value: dict[str, Any]) -> None:
        await self._send_data(json.dumps(value, ensure_ascii=False))

    async def _send_data(self, data: str, *, more: bool = True) -> None:
        await self._send({"type": "http.response.body", "body": f"data: {data}\n\n".encode(), "more_body": more})
