"""The server around the API and the page: it stops without losing what it has begun."""

import asyncio
import ipaddress
import logging
import socket

import uvicorn
from fastapi import FastAPI

from xraygpt.serving.api_service import ApiService
from xraygpt.serving.web_queue import PageQueue

logger = logging.getLogger(__name__)

_CLOSING_SECONDS = 2  # for the last words to arrive; a page that is open in a browser keeps its connection for ever


class ApiServer(uvicorn.Server):
    """Serves until SIGINT or SIGTERM, then answers what is inside and refuses the rest; a second SIGINT ends it at once.

    Args:
        app: with the routes of `service`.
        host, port: where to listen; port 0: any that is free.
        page_queue: that of the page beside the API, whose answers are waited for too.
    """

    def __init__(self, app: FastAPI, service: ApiService, *, host: str, port: int, page_queue: PageQueue | None = None) -> None:
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
        self.service.is_stopping = True
        self.page_queue.stop()
        if self.service.num_inside or not self.page_queue.is_done:
            logger.info("Stopping: %d requests and the page's answers are finished first.", self.service.num_inside)
        while (self.service.num_inside or not self.page_queue.is_done) and not self.force_exit:
            await asyncio.sleep(0.05)
        await super().shutdown(sockets)


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a server that listens there."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
