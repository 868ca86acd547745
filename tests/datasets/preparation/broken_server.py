"""An HTTP server on 127.0.0.1 that understands Range and If-Range, and can be told to misbehave."""

import re
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass(frozen=True, kw_only=True)
class Answer:
    """How one request is answered; the default is as it should be."""

    cut: int | None = None
    """End the connection after so many bytes of the body."""
    stall: bool = False
    """Where it is cut, fall silent and keep the connection open."""
    before: Callable[[], object] | None = None
    """Called before the answer begins."""
    after: Callable[[], object] | None = None
    """Called when the bytes have been sent."""
    ignore_range: bool = False
    ignore_if_range: bool = False
    stated_length: str | None = None
    """Content-Length; "" leaves it out."""
    content_range: str = ""
    status: int = 0
    """This status and no body."""
    location: str = ""


@dataclass(frozen=True)
class Asked:
    """What a request asked for."""

    path: str
    range: str | None
    if_range: str | None


class BrokenServer:
    """Serves `files`; each request takes the next of `answers`, and when there are none is answered well."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.etag = '"1"'
        self.last_modified = "Mon, 05 May 2025 10:00:00 GMT"
        self.answers: deque[Answer] = deque()
        self.asked: list[Asked] = []
        self.released = threading.Event()
        """Set to end the stalled answers."""
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"owner": self}))
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._http.server_port}/collections/"

    def close(self) -> None:
        self.released.set()
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()


class _Handler(BaseHTTPRequestHandler):
    owner: BrokenServer

    def log_message(self, format: str, *args: object) -> None:
        """Stay silent."""

    def do_GET(self) -> None:
        server = self.owner
        asked = Asked(self.path.removeprefix("/collections/"), self.headers["Range"], self.headers["If-Range"])
        server.asked.append(asked)
        answer = server.answers.popleft() if server.answers else Answer()
        if answer.before:
            answer.before()
        content = server.files.get(asked.path)
        if answer.status or content is None:
            self.send_response(answer.status or 404)
            if answer.location:
                self.send_header("Location", answer.location)
            self.end_headers()
            return
        body = self._begin(answer, asked, content)
        self.wfile.write(body[: answer.cut])
        if answer.after:
            answer.after()
        if answer.stall:
            server.released.wait(30)

    def _begin(self, answer: Answer, asked: Asked, content: bytes) -> bytes:
        """Send the head; return the body that is due."""
        server = self.owner
        same = answer.ignore_if_range or asked.if_range in (None, server.etag, server.last_modified)
        wanted = re.fullmatch(r"bytes=(\d+)-", asked.range or "")
        offset = 0
        if wanted and same and not answer.ignore_range:
            offset = int(wanted[1])
            self.send_response(206 if offset < len(content) else 416)
            self.send_header("Content-Range", answer.content_range or f"bytes {offset}-{len(content) - 1}/{len(content)}")
        else:
            self.send_response(200)
        length = str(len(content) - offset) if answer.stated_length is None else answer.stated_length
        for name, value in {"Content-Length": length, "ETag": server.etag, "Last-Modified": server.last_modified}.items():
            if value:
                self.send_header(name, value)
        self.end_headers()
        return content[offset:]


def wait_until(condition: Callable[[], bool]) -> None:
    """Wait for what another thread does."""
    for _ in range(1000):
        if condition():
            return
        time.sleep(0.01)
    raise TimeoutError("the condition did not come true in 10 s")
