"""A local server that speaks the chat protocol well enough for its clients, and says what it is told to."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Reply:
    """What the server sends for one request; a `body` is sent as it is, otherwise a completion that says `text`."""

    text: str | None = ""
    status: int = 200
    finish_reason: str = "stop"
    body: bytes | None = None
    headers: tuple[tuple[str, str], ...] = ()

    def encoded(self) -> bytes:
        if self.body is not None:
            return self.body
        if self.status != 200:
            return json.dumps({"error": {"message": self.text, "code": "told_so"}}).encode()
        message = {"role": "assistant", "content": self.text}
        choice = {"index": 0, "message": message, "finish_reason": self.finish_reason}
        return json.dumps({"id": "1", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice]}).encode()


@dataclass
class ChatServer:
    """What a test sees of the server.

    Attributes:
        base_url: what clients are given.
        answer: the decoded body of a request → the reply; called in the request's own thread.
        requests: the decoded bodies, in the order in which they came.
        authorizations: the header of that name of each.
        most_at_once: the largest number of requests that were being answered at the same time.
    """

    base_url: str
    answer: Callable[[dict[str, Any]], Reply]
    requests: list[dict[str, Any]] = field(default_factory=list)
    authorizations: list[str] = field(default_factory=list)
    most_at_once: int = 0
    _at_once: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def reply(self, request: dict[str, Any], authorization: str) -> Reply:
        with self._lock:
            self.requests.append(request)
            self.authorizations.append(authorization)
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            return self.answer(request)
        finally:
            with self._lock:
                self._at_once -= 1


@contextmanager
def chat_server(answer: Callable[[dict[str, Any]], Reply]) -> Iterator[ChatServer]:
    """Serve on a free port of 127.0.0.1 until the block ends."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1  # a reply is one packet, so nobody waits for an acknowledgement

        def do_POST(self) -> None:
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            reply = server.reply(request, self.headers["Authorization"]) if self.path == "/v1/chat/completions" else Reply(status=404)
            content = reply.encoded()
            try:
                self.send_response(reply.status)
                for name, value in (("Content-Type", "application/json"), ("Content-Length", str(len(content))), *reply.headers):
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(content)
            except ConnectionError:  # the client waited long enough
                self.close_connection = True

        def log_message(self, *_: object) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server = ChatServer(base_url=f"http://127.0.0.1:{http.server_port}/v1", answer=answer)
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        http.shutdown()
        http.server_close()
        thread.join()
