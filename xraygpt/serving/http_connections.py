"""The connections of a server: how many are open, and how long each may keep the server waiting.

uvicorn limits only the time of an idle connection after an answer; one on which nothing, or half a
request, was ever sent stays open for ever. `LimitedConnection` is uvicorn's own protocol with more
limits. The server calls `close_overdue` several times a second.
"""

import asyncio
from collections.abc import Iterable
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from xraygpt.serving.http_limits import HttpLimits, Refuse

_REFUSAL_SECONDS = 1.0  # for a client that was told 503 to read it: closed at once, it might see a reset instead
_MAX_REFUSALS = 64  # that are told 503 at a time; more are closed without a word

_BUSY = (
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: 36\r\n"
    b"Retry-After: 10\r\nConnection: close\r\n\r\nToo many connections. Try again soon"
)


class ConnectionConfig(uvicorn.Config):
    """uvicorn's configuration with the limits of its connections.

    Args:
        limits: of connections and heads.
        refuse: counts refusals.
        options: others of `uvicorn.Config`.
    """

    def __init__(self, app: Any, *, limits: HttpLimits, refuse: Refuse, **options: Any) -> None:
        self.limits = limits
        self.refuse = refuse
        # gradio streams by server-sent events: nothing here speaks WebSocket
        super().__init__(app, http=LimitedConnection, ws="none", h11_max_incomplete_event_size=limits.max_head_bytes, **options)


class LimitedConnection(H11Protocol):
    """One connection. It counts among `max_connections` until it is refused or given up."""

    def __init__(
        self,
        config: ConnectionConfig,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self.limits = config.limits
        self.refuse = config.refuse
        self.counts = True
        self.waiting_since = self.loop.time()
        self._ahead = bytearray()
        self._unread_since: float | None = None

    # What uvicorn tells ------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take a place, if need be that of the connection that has waited longest."""
        super().connection_made(transport)
        self.waiting_since = self.loop.time()
        counted = [other for other in limited(self.connections) if other.counts]
        if len(counted) <= self.limits.max_connections:
            return
        waiting = [other for other in counted if other.is_waiting and other is not self]
        if waiting:
            min(waiting, key=lambda other: other.waiting_since).give_up("gave_way")
        else:
            self._say_busy()

    def data_received(self, data: bytes) -> None:
        """Read on, in small blocks, and no further than the request that is being answered.

        h11 checks the size of a head only while it is incomplete: it takes one of any size that
        comes whole.
        """
        self._ahead += data
        self._read_ahead()

    def _read_ahead(self) -> None:
        size = self.limits.max_head_bytes
        while self._ahead and self.counts and not self.transport.is_closing():
            if self.conn.their_state in (h11.DONE, h11.MIGHT_SWITCH_PROTOCOL):
                self.flow.pause_reading()  # the next request has come before the answer to this one
                return
            was_draining = self.is_waiting and self.conn.their_state is h11.SEND_BODY
            block = bytes(self._ahead[:size])
            del self._ahead[:size]
            super().data_received(block)
            if was_draining and self.conn.their_state is not h11.SEND_BODY:
                self.waiting_since = self.loop.time()  # the rest of a refused body has come: now the next head

    def on_response_complete(self) -> None:
        """The next request is waited for; it may have come already."""
        self.waiting_since = self.loop.time()
        super().on_response_complete()
        self._read_ahead()

    def pause_writing(self) -> None:
        """The client does not read as fast as the server writes."""
        self._unread_since = self.loop.time()
        super().pause_writing()

    def resume_writing(self) -> None:
        """The client has read."""
        self._unread_since = None
        super().resume_writing()

    # Limits ------------------------------------------------------------------------------------------------------

    @property
    def is_waiting(self) -> bool:
        """Whether no request is being answered on it."""
        return self.cycle is None or self.cycle.response_complete

    def overdue(self, now: float) -> str | None:
        """The reason to close it, if there is one. `now` is of the event loop's clock."""
        if self._unread_since is not None:
            return "slow_reader" if now - self._unread_since > self.limits.write_seconds else None
        if not self.is_waiting:
            return None  # the application has limits of its own
        seconds = now - self.waiting_since
        if self.transport.get_write_buffer_size():
            return "slow_reader" if seconds > self.limits.write_seconds else None
        if self.conn.their_state is h11.SEND_BODY:
            return "slow_body" if seconds > self.limits.drain_seconds else None
        return "late_head" if seconds > self.limits.head_seconds else None

    def give_up(self, reason: str) -> None:
        """Close it at once."""
        self.counts = False
        self.refuse(reason)
        self.transport.abort()

    def _say_busy(self) -> None:
        self.counts = False
        self.refuse("connections")
        if sum(not other.counts for other in limited(self.connections)) > _MAX_REFUSALS:
            self.transport.abort()
            return
        self.transport.write(_BUSY)
        self.transport.write_eof()
        self.loop.call_later(_REFUSAL_SECONDS, self.transport.abort)


def limited(connections: Iterable[object]) -> list[LimitedConnection]:
    """The connections, by their type."""
    return [connection for connection in connections if isinstance(connection, LimitedConnection)]


def close_overdue(connections: Iterable[object], now: float) -> None:
    """Close the connections that have kept the server waiting for too long."""
    for connection in limited(connections):
        reason = connection.overdue(now) if connection.counts else None
        if reason is not None:
            connection.give_up(reason)
