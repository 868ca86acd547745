"""The server around the API and the page: it stops without losing what it has begun."""

import asyncio
import ipaddress
import logging
import socket
from collections.abc import Iterable

import uvicorn
from fastapi import FastAPI

from xraygpt.common.errors import ConfigError
from xraygpt.serving.api_service import ApiService
from xraygpt.serving.web_queue import PageQueue

logger = logging.getLogger(__name__)

_CLOSING_SECONDS = 2  # for the last words to arrive; a page that is open in a browser keeps its connection for ever


class ApiServer(uvicorn.Server):
    """Serves until SIGINT or SIGTERM, then answers what is inside and refuses the rest; a second SIGINT ends it at once.

    Args:
        app: with the routes of `service`, if it has an API.
        host, port: where to listen; port 0: any that is free.
        page_queue: that of the page beside the API, whose answers are waited for too.
    """

    def __init__(
        self,
        app: FastAPI,
        service: ApiService | None = None,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        page_queue: PageQueue | None = None,
    ) -> None:
        self.service = service
        self.page_queue = page_queue or PageQueue()
        super().__init__(
            uvicorn.Config(
                app,
                host=host,
                port=port,
                access_log=False,
                log_config=None,
                server_header=False,
                timeout_graceful_shutdown=_CLOSING_SECONDS,
            )
        )

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Called by uvicorn when it is told to stop."""
        if self.service:
            self.service.is_stopping = True
        self.page_queue.stop()
        if self._is_answering:
            logger.info("Stopping: what is being answered is finished first.")
        while self._is_answering and not self.force_exit:
            await asyncio.sleep(0.05)
        await super().shutdown(sockets)

    @property
    def _is_answering(self) -> bool:
        return bool(self.service and self.service.num_inside) or not self.page_queue.is_done


def listen(host: str, ports: Iterable[int]) -> socket.socket:
    """A socket at the first of some ports that is free; port 0 is any.

    Raises:
        ConfigError: all are taken, or may not be used.
    """
    tried = list(ports)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for port in tried:
        try:
            return socket.create_server((host, port), family=family, backlog=2048)
        except OSError as error:
            reason = error.strerror
    which = f"port {tried[0]}" if len(tried) == 1 else f"any port from {tried[0]} to {tried[-1]}"
    raise ConfigError(f"Nothing can listen at {host}, {which} ({reason}). Choose another --port.")


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a server that listens there."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
