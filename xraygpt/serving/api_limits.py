"""What one request to the API may ask for, and the answers to those that may not."""

import hmac
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class ApiLimits:
    """Bounds of the service and of each request."""

    max_queue: int = 64
    """Requests that are inside at the same time, the one being written among them; one more is told "busy"."""
    max_batch: int = 8
    """Requests that are written together."""
    batch_seconds: float = 0.01
    """How long a request waits for others to be written with."""
    max_bytes: int = 32 * 2**20
    """Of a request's body. A large radiograph at 16 bits is 18 MB uncompressed, 24 MB in base64."""
    max_images: int = 4
    max_pixels: int = 40_000_000
    """Of an image, before it is decoded. The largest radiographs have about 20 million."""
    max_messages: int = 100
    max_characters: int = 32_000
    """Of all messages together; more than any context holds."""
    max_tokens: int = 512
    """Longest answer."""
    max_seconds: float = 120.0
    """From a request's arrival to the end of its answer; an answer that is being written then ends there, and says so."""
    max_receiving: int = 8
    """Bodies of full size that there is memory for: with `max_bytes`, the bound of what clients can make the server hold."""
    max_decoding: int = 2
    """Requests whose images are decoded at the same time."""


class ApiError(Exception):
    """A request that is not answered, in the terms of the OpenAI API.

    Args:
        status: of the HTTP response.
        message: what was expected, what came and what to do; never goes into a log, as it may quote the request.
        code: for programs.
        param: which part of the request is meant.
        retry_after: seconds after which it is worth trying again.
    """

    def __init__(self, status: int, message: str, *, code: str, param: str | None = None, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.param = param
        self.headers = {} if retry_after is None else {"Retry-After": str(retry_after)}
        if status == 401:
            self.headers["WWW-Authenticate"] = "Bearer"

    @property
    def kind(self) -> str:
        """The `type` of OpenAI's error object."""
        kinds = {401: "authentication_error", 404: "not_found_error"}
        return kinds.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error")

    def body(self) -> dict[str, Any]:
        """The JSON of the response."""
        return {"error": {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}}


def invalid(message: str, *, param: str | None = None, code: str = "invalid_value") -> ApiError:
    """The request itself must be changed."""
    return ApiError(400, message, code=code, param=param)


def require_token(authorization: str, tokens: Sequence[str]) -> None:
    """Let requests with one of the tokens pass; all, if there are none.

    Raises:
        ApiError: 401.
    """
    scheme, _, given = authorization.partition(" ")
    # compare_digest takes as long for a near miss as for a far one; bytes, because it refuses other text than ASCII
    known = [hmac.compare_digest(given.strip().encode(), token.encode()) for token in tokens]
    if tokens and not (scheme.lower() == "bearer" and any(known)):
        raise ApiError(401, "This server wants a token: send the header `Authorization: Bearer TOKEN`.", code="invalid_api_key")
