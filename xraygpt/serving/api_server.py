"""The server around the API and the page: it bounds what clients may cost, and stops without losing what it has begun."""

import asyncio
import dataclasses
import ipaddress
import logging
import socket
from collections.abc import Iterable

import uvicorn
from starlette.types import ASGIApp

from xraygpt.common.errors import ConfigError
from xraygpt.serving.api_service import ApiService
from xraygpt.serving.failed_logins import FailedLogins
from xraygpt.serving.http_connections import ConnectionConfig, close_overdue
from xraygpt.serving.http_limits import HttpLimits, RefusalLog
from xraygpt.serving.http_requests import RequestLimits
from xraygpt.serving.web_queue import PageQueue

logger = logging.getLogger(__name__)

CHAT_PATH = "/v1/chat/completions"

_CLOSING_SECONDS = 2  # for the last words to arrive; a page that is open in a browser keeps its connection for ever
_SUMMARY_TICKS = 300  # of uvicorn's 0.1 s


class ApiServer(uvicorn.Server):
    """Serves until SIGINT or SIGTERM, then answers what is inside and refuses the rest; a second SIGINT ends it at once.

    Args:
        app: with the routes of `service`, of a page, or of both.
        service: whose requests are waited for, and whose metrics count refusals; none: a page alone.
        host, port: where to listen; port 0: any that is free.
        page_queue: that of the page, whose answers are waited for too.
        behind_proxy: believe what a proxy on this machine says of its clients (`X-Forwarded-For`, `X-Forwarded-Proto`). Without a proxy,
            every program of this machine could say so.
        http_limits: of connections and requests. Bodies of the API may have the bytes that `service.limits` allows.
        failed_logins: keeps count of wrong tokens and passwords.
    """

    def __init__(
        self,
        app: ASGIApp,
        service: ApiService | None = None,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        page_queue: PageQueue | None = None,
        behind_proxy: bool = False,
        http_limits: HttpLimits | None = None,
        failed_logins: FailedLogins | None = None,
    ) -> None:
        self.service = service
        self.page_queue = page_queue or PageQueue()
        self.refusals = RefusalLog(service.metrics.count_refusal if service else None)
        limits = http_limits or HttpLimits()
        if service:
            larger = {**limits.larger_bodies, CHAT_PATH: service.limits.max_bytes}
            limits = dataclasses.replace(limits, larger_bodies=larger)
        guarded = RequestLimits(app, limits=limits, failed_logins=failed_logins or FailedLogins(), refuse=self.refusals)
        super().__init__(
            ConnectionConfig(
                guarded,
                limits=limits,
                refuse=self.refusals,
                host=host,
                port=port,
                access_log=False,
                log_config=None,
                server_header=False,
                timeout_graceful_shutdown=_CLOSING_SECONDS,
                proxy_headers=behind_proxy,
                forwarded_allow_ips=["127.0.0.1", "::1"],
            )
        )

    @property
    def num_inside(self) -> int:
        """Requests to the API that are waiting or being answered."""
        return self.service.num_inside if self.service else 0

    async def on_tick(self, counter: int) -> bool:
        """Called by uvicorn ten times a second while it serves."""
        self._close_overdue()
        if counter % _SUMMARY_TICKS == 0:
            self._log_refusals()
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Called by uvicorn when it is told to stop."""
        if self.service is not None:
            self.service.is_stopping = True
        self.page_queue.stop()
        if self.num_inside or not self.page_queue.is_done:
            logger.info("Stopping: %d requests and the page's answers are finished first.", self.num_inside)
        while (self.num_inside or not self.page_queue.is_done) and not self.force_exit:
            self._close_overdue()
            await asyncio.sleep(0.05)
        self._log_refusals()
        await super().shutdown(sockets)

    def _close_overdue(self) -> None:
        close_overdue(self.server_state.connections, asyncio.get_running_loop().time())

    def _log_refusals(self) -> None:
        summary = self.refusals.take_summary()
        if summary:
            logger.warning("Refused: %s.", summary)


def listen(host: str, ports: Iterable[int]) -> socket.socket:
    """A socket at the first of some ports that is free; port 0 is any.

    Raises:
        ConfigError: all are taken, or may not be used.
    """
    tried = list(ports)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for port in tried:
        # asyncio switches Nagle's algorithm off only for sockets that say that they are TCP, as those of `create_server` do not:
        # each answer would then wait 40 ms for the client's acknowledgement of its head.
        listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((host, port))
            listening.listen(2048)
        except OSError as error:
            listening.close()
            reason = error.strerror
        else:
            return listening
    which = f"port {tried[0]}" if len(tried) == 1 else f"any port from {tried[0]} to {tried[-1]}"
    raise ConfigError(f"Nothing can listen at {host}, {which} ({reason}). Choose another --port.")


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a server that listens there."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
