"""Limits of requests to every route, as an ASGI application around the one that is served."""

import asyncio
import logging
import time

from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from xraygpt.serving.api_limits import ApiError
from xraygpt.serving.failed_logins import FailedLogins, TooManyFailures, client_network
from xraygpt.serving.http_limits import HttpLimits, Refuse

logger = logging.getLogger(__name__)

LOGIN_PATH = "/login"
"""Where a form with a password is posted to."""

_DISCONNECT: Message = {"type": "http.disconnect"}


class RequestLimits:
    """Refuses heads and bodies that are too large or too slow; delays the answer to a wrong secret.

    It stands outside every other middleware, so that the limits hold before login. A body is not
    collected here: it is counted while the application reads it. If the rest of it is refused, the
    application sees that the client left.

    Args:
        app: what is served.
        limits: of heads and bodies.
        failed_logins: keeps count of wrong secrets.
        refuse: counts refusals.
    """

    def __init__(self, app: ASGIApp, *, limits: HttpLimits, failed_logins: FailedLogins, refuse: Refuse) -> None:
        self.app = app
        self.limits = limits
        self.failed_logins = failed_logins
        self.refuse = refuse

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] == "http":
            await _Request(self, scope, receive, send).serve()
        else:
            await self.app(scope, receive, send)


class _Request:
    """One request, as far as its body and the answer have come."""

    def __init__(self, parent: RequestLimits, scope: Scope, receive: Receive, send: Send) -> None:
        self.parent, self.scope, self._receive, self._send = parent, scope, receive, send
        self.limits = limits = parent.limits
        self.headers: dict[bytes, bytes] = dict(scope["headers"])
        self.max_bytes = limits.larger_bodies.get(scope["path"], limits.max_body_bytes)
        self.num_bytes = 0
        self.has_body_come = False
        self.has_answer_begun = False
        self.is_refused = False
        self._seconds_left = limits.body_seconds
        self._window_seconds_left = limits.body_window_seconds
        self._window_bytes = 0

    @property
    def client(self) -> str:
        """The address of the client: that of the connection, or what the proxy on this machine says."""
        return self.scope["client"][0] if self.scope.get("client") else ""

    async def serve(self) -> None:
        """Answer it, or refuse it."""
        fields = self.scope["headers"]
        if len(fields) > self.limits.max_headers:
            message = f"The request has {len(fields)} header fields; at most {self.limits.max_headers} are read."
            await self._refuse("large_head", ApiError(431, message, code="too_many_headers"))
            return
        declared = self.headers.get(b"content-length", b"0")
        if int(declared) > self.max_bytes:
            await self._refuse_size()
            return
        try:
            await self.parent.app(self.scope, self.receive, self.send)
        except ClientDisconnect:  # while the body came: nobody is there who waits for an answer
            logger.debug("A client left, or was refused, before its request was complete.")

    # In ----------------------------------------------------------------------------------------------------------

    async def receive(self) -> Message:
        """The next part of the body; once it is complete, whatever comes after it."""
        if self.is_refused:
            return _DISCONNECT
        if self.has_body_come:
            return await self._receive()
        start = time.monotonic()
        try:
            message = await asyncio.wait_for(self._receive(), min(self._seconds_left, self._window_seconds_left))
        except asyncio.TimeoutError:
            await self._refuse_speed()
            return _DISCONNECT
        self._account(time.monotonic() - start, len(message.get("body", b"")))
        if self.num_bytes > self.max_bytes:
            await self._refuse_size()
            return _DISCONNECT
        self.has_body_come = not message.get("more_body", False)
        return message

    def _account(self, seconds: float, num_bytes: int) -> None:
        """Each window of waiting must bring its share.

        The time in which the application did not read does not count.
        """
        self.num_bytes += num_bytes
        self._seconds_left -= seconds
        self._window_seconds_left -= seconds
        self._window_bytes += num_bytes
        if self._window_bytes >= self.limits.min_window_bytes:
            self._window_bytes = 0
            self._window_seconds_left = self.limits.body_window_seconds

    # Out ---------------------------------------------------------------------------------------------------------

    async def send(self, message: Message) -> None:
        """Pass a part of the answer on. The answer to a wrong secret waits here, where it holds neither a thread nor a place."""
        if self.is_refused:
            return  # the client has its answer
        if message["type"] == "http.response.start":
            if self._is_failed_login(message["status"]):
                try:
                    self.parent.refuse("failed_login")
                    await self.parent.failed_logins.wait(self.client)
                except TooManyFailures as error:
                    refusal = ApiError(429, str(error), code="too_many_failures", retry_after=error.retry_after)
                    await self._refuse("failed_login_busy", refusal)
                    return
            self.has_answer_begun = True
        await self._send(message)

    def _is_failed_login(self, status: int) -> bool:
        if self.scope["method"] == "POST" and self.scope["path"] == LOGIN_PATH:
            return status == 401
        return status == 401 and b"authorization" in self.headers  # without the header nothing was guessed

    async def _refuse_size(self) -> None:
        message = f"The body of the request has more than {self.max_bytes} bytes. Send a smaller image, or fewer."
        logger.info("Refused a body of more than %d bytes from %s.", self.max_bytes, client_network(self.client))
        await self._refuse("large_body", ApiError(413, message, code="request_too_large"))

    async def _refuse_speed(self) -> None:
        limits = self.limits
        message = (
            f"The body of the request came too slowly: it must bring {limits.min_window_bytes} bytes, or its end, every "
            f"{limits.body_window_seconds:g} seconds, and be complete within {limits.body_seconds:g} seconds."
        )
        logger.info("Refused a body of which %d bytes came too slowly from %s.", self.num_bytes, client_network(self.client))
        await self._refuse("slow_body", ApiError(408, message, code="request_timeout"))

    async def _refuse(self, reason: str, error: ApiError) -> None:
        """Answer in the application's place, in the form of the API's errors."""
        self.is_refused = True
        self.parent.refuse(reason)
        if self.has_answer_begun:
            return  # it ends where it is: uvicorn closes the connection
        headers = {"Connection": "close"} if error.status == 408 else {}
        response = JSONResponse(error.body(), status_code=error.status, headers=error.headers | headers)
        await response(self.scope, self._receive, self._send)
