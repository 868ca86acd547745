"""What a client may cost the server before login: connections, heads and bodies of requests."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

MAX_UPLOAD_BYTES = 64 * 2**20
"""Of a file for the page. An uncompressed 16-bit radiograph of 20 million pixels has 40 million."""

Refuse = Callable[[str], None]
"""Counts a refusal; takes one of `REASONS`."""

REASONS = {
    "connections": "told 503 because all connections were at work",
    "gave_way": "closed for a newer connection while it waited for a request",
    "late_head": "closed because the head of a request was not complete in time",
    "slow_reader": "closed because the client did not read its answer",
    "large_head": "431: more header fields than are allowed",
    "slow_body": "408: the body of the request came too slowly",
    "large_body": "413: the body of the request had too many bytes",
    "failed_login": "a wrong token or password",
    "failed_login_busy": "429: a wrong token or password while too many others were being held back",
}
"""Why a connection or a request was refused, as `/metrics` has it."""


@dataclass(frozen=True, kw_only=True)
class HttpLimits:
    """Bounds of every connection and every request, whatever it asks for; they hold before login."""

    max_connections: int = 512
    """Open at a time. When all are taken, the one that has waited longest for a request is closed;
    if requests are being answered on all of them, the newest gets 503."""
    head_seconds: float = 10.0
    """For the head of a request to be complete, from the opening of the connection or the end of
    the answer before."""
    max_head_bytes: int = 16 * 2**10
    """Of the request line and all header fields."""
    max_headers: int = 100
    """Header fields of a request. A browser behind a proxy sends about 30."""
    body_seconds: float = 60.0
    """That the server waits for the body of a request, in all."""
    body_window_seconds: float = 5.0
    min_window_bytes: int = 64 * 2**10
    """That a body must bring within each `body_window_seconds` of waiting, unless it ends there."""
    max_body_bytes: int = 2**20
    """Of the body of a request to an address that is not in `larger_bodies`."""
    larger_bodies: Mapping[str, int] = field(default_factory=lambda: {"/upload": MAX_UPLOAD_BYTES})
    """Path → bytes of a body. The page takes image files."""
    drain_seconds: float = 20.0
    """For the rest of a body that is not read any more, because the request was refused: a client
    that is still sending then sees why."""
    write_seconds: float = 30.0
    """For a client to read what was sent before more can be sent."""


class RefusalLog:
    """Counts refusals, tells `observe` of each, and sums them up for the log.

    A flood of connections must not become a flood of lines.
    """

    def __init__(self, observe: Refuse | None = None) -> None:
        self._observe = observe
        self._counts: dict[str, int] = {}

    def __call__(self, reason: str) -> None:
        """Count one."""
        self._counts[reason] = self._counts.get(reason, 0) + 1
        if self._observe is not None:
            self._observe(reason)

    def take_summary(self) -> str:
        """What was counted since the last summary; empty if nothing was."""
        counts, self._counts = self._counts, {}
        return "; ".join(f"{count} × {REASONS[reason]}" for reason, count in sorted(counts.items()))
