"""What lies between a browser and gradio: the login, the routes that the page needs and no others, and whose tab is whose.

gradio keeps the state of a tab under a name that the tab's script makes up, and does as it is told by whoever names it. So every
name is prefixed here with the session's own before gradio sees it: no session can name a tab of another one.
"""

import asyncio
import json
import re
from collections import Counter
from collections.abc import Callable
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode

from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from xraygpt.serving.page_gradio import accepts_event, forget_messages, is_queued, num_unheard
from xraygpt.serving.page_sessions import MAX_TABS_OF_SESSION, Login, Session, Sessions
from xraygpt.serving.safety import RESEARCH_NOTICE
from xraygpt.serving.web import Page

MAX_EVENT, MAX_FORM = 2**18, 2**13
"""Bytes of an event (a question of 2,000 characters and some settings) and of the form to log in."""

MAX_VALUES = 32
"""Values of an event."""

MAX_UNHEARD = 4
"""Events of a tab whose answers nobody has listened to yet. A tab of the page listens at once."""

MAX_STREAMS, MAX_STREAMS_OF_LOGIN, MAX_STREAMS_OF_SESSION = 384, 96, 24
"""Open streams: in all, so that connections are left for short requests; of a login; of a browser. A tab has one or two."""

_LOGIN_PAGE = (Path(__file__).parent / "assets" / "login.html").read_text(encoding="utf-8")
_SURROGATE = re.compile("[\ud800-\udfff]")
_TAB = "[A-Za-z0-9]{1,32}"
_TAB_NAME = re.compile(_TAB)
_HEARTBEAT = re.compile(f"/gradio_api/heartbeat/({_TAB})")
_STATIC = re.compile(r"/(?:assets|static)/(?!.*\.\.)[\w./-]+|/theme\.css|/favicon\.ico|/config")
_NAMING_HEADERS = (b"x-forwarded-host", b"x-forwarded-proto", b"x-gradio-server")
"""By which gradio would let a client say under which address the page finds its scripts. `Host` says it, which was checked."""
_JOIN, _RUN, _LISTEN = "/gradio_api/queue/join", "/gradio_api/run/predict", "/gradio_api/queue/data"
_DETAILS = frozenset({"asked", "chosen", "invert", "kind", "number", "rotate", "sentence", "turn", "upload"})
"""What the page's events say. `path` and `meta` are not among them: by these gradio knows a file."""
_BOUNCE = '<!doctype html><meta http-equiv="refresh" content="0; url=/"><a href="/">XrayGPT</a>'


class GateError(Exception):
    """A request that the page does not send, or one too many.

    Args:
        message: for the reader.
        status: of the HTTP response.
    """

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


class PageGate:
    """ASGI middleware before gradio and beside the API.

    Args:
        app: the application, with the API's routes and gradio mounted at "/".
        page: whose requests these are.
        sessions: of the browsers.
        login: checks a name and a password; None: nobody has to log in.
        is_api: whether a path belongs to the API, which checks tokens of its own.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        page: Page,
        sessions: Sessions,
        login: Login | None,
        is_api: Callable[[str], bool],
    ) -> None:
        self.app = app
        self.page = page
        self.sessions = sessions
        self.login = login
        self.is_api = is_api
        self.streams: Counter[str] = Counter()
        """Open streams by login."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer the request, or pass it on to gradio in the name of its session."""
        if scope["type"] != "http" or self.is_api(scope["path"]):
            await self.app(scope, receive, send)
            return
        request = Request(scope, receive)
        try:
            await self._answer(request, send)
        except GateError as error:
            await JSONResponse({"error": str(error)}, status_code=error.status)(scope, receive, send)

    async def _answer(self, request: Request, send: Send) -> None:
        scope, receive = request.scope, request.receive
        session = self.sessions.find(request.cookies.get(_cookie_name(scope)))
        route = (request.method, scope["path"])
        if route in (("GET", "/login"), ("POST", "/login")) and self.login:
            await (await self._log_in(request, self.login))(scope, receive, send)
        elif session is None:
            await self._pass_newcomer(request, send)
        elif route == ("POST", "/logout"):
            self.sessions.end(session)
            response = RedirectResponse("/login" if self.login else "/", status_code=303)
            response.delete_cookie(_cookie_name(scope), **_cookie_options(scope))
            await response(scope, receive, send)
        elif route == ("POST", "/upload"):
            await (await self.page.uploads.receive(request, session))(scope, receive, send)
        else:
            await self._pass_on(request, session, send)

    async def _log_in(self, request: Request, check: Login) -> Response:
        if request.method == "GET":
            return _login_page()
        fields = _fields((await _read(request, MAX_FORM)).decode("utf-8", "replace"))
        login = check(fields.get("username", ""), fields.get("password", ""))
        started = self.sessions.start(login) if login else None
        if not login:
            return _login_page("Wrong name or password.", status=401)
        if started is None:
            return _login_page("The server has too many open sessions. Try again later.", status=503)
        if former := self.sessions.find(request.cookies.get(_cookie_name(request.scope))):
            self.sessions.end(former)  # nobody could log it out any more
        response = RedirectResponse("/", status_code=303)
        response.set_cookie(_cookie_name(request.scope), started[0], **_cookie_options(request.scope))
        return response

    async def _pass_newcomer(self, request: Request, send: Send) -> None:
        """Answer a browser without a session: the login, or a session of its own where nobody has to log in."""
        response: Response
        if request.method not in ("GET", "HEAD") or request.url.path != "/":
            response = JSONResponse({"error": "Not logged in. Reload the page."}, status_code=401)
        elif request.headers.get("sec-fetch-site") == "cross-site":
            response = HTMLResponse(_BOUNCE)  # a link on another site comes without cookies, though there may be a session
        elif self.login:
            response = RedirectResponse("/login", status_code=303)
        elif request.method == "HEAD":
            response = Response()
        elif (started := self.sessions.start(None)) is not None:
            cookie, session = started
            setting = Response()
            setting.set_cookie(_cookie_name(request.scope), cookie, **_cookie_options(request.scope))
            await self._pass_on(request, session, _adding(setting.raw_headers[-1], send))
            return
        else:
            response = PlainTextResponse("The server has too many open sessions. Try again later.", status_code=503)
        await response(request.scope, request.receive, send)

    async def _pass_on(self, request: Request, session: Session, send: Send) -> None:
        """Let gradio answer, if this is one of the requests that the page makes.

        Raises:
            GateError: it is not.
        """
        scope = {**request.scope, "state": {**request.scope.get("state", {}), "session": session}, "query_string": b""}
        scope["headers"] = [(name, value) for name, value in scope["headers"] if name not in _NAMING_HEADERS]
        route, receive = (request.method, scope["path"]), request.receive
        if request.method == "GET" and (heartbeat := _HEARTBEAT.fullmatch(scope["path"])):
            tab = await self._own_tab(session, heartbeat[1])
            scope["path"] = f"/gradio_api/heartbeat/{tab}"
            scope["raw_path"] = scope["path"].encode()
            await self._keep_open(scope, receive, send, session, tab)
        elif route == ("GET", _LISTEN):
            tab = await self._own_tab(session, _fields(request.url.query).get("session_hash"))
            if not num_unheard(self.page.blocks, tab):
                raise GateError("Nothing was asked for.", 404)
            scope["query_string"] = urlencode({"session_hash": tab}).encode()
            if await self._stream(scope, receive, send, session):
                await forget_messages(self.page.blocks, tab)
        elif route in (("POST", _JOIN), ("POST", _RUN)):
            tab, event = await self._checked_event(await _read(request, MAX_EVENT), session, by_queue=scope["path"] == _JOIN)
            scope["headers"] = [(name, value) for name, value in scope["headers"] if name != b"content-length"]
            scope["headers"].append((b"content-length", str(len(event)).encode()))
            await self.app(scope, _replaying(event, receive), send)
            if session.has_ended or tab not in session.tabs:  # meanwhile
                await self.page.close_tab(session, tab)
        elif request.method in ("GET", "HEAD") and (scope["path"] == "/" or _STATIC.fullmatch(scope["path"])):
            await self.app(scope, receive, send)
        else:
            raise GateError("There is nothing here.", 404)

    async def _keep_open(self, scope: Scope, receive: Receive, send: Send, session: Session, tab: str) -> None:
        """Pass on the stream that a tab listens to while it is open; with the last one of a tab, the tab is forgotten."""
        session.tabs[tab] += 1
        try:
            await self._stream(scope, receive, send, session)
        finally:
            if tab in session.tabs:
                session.tabs[tab] -= 1
                if not session.tabs[tab]:
                    await self.page.close_tab(session, tab)

    async def _stream(self, scope: Scope, receive: Receive, send: Send, session: Session) -> bool:
        """Pass on a stream, which ends with its session.

        Returns:
            Whether the client has left, or the session has ended, before it was told all.
        """
        if (
            session.num_streams >= MAX_STREAMS_OF_SESSION
            or self.streams[session.login] >= MAX_STREAMS_OF_LOGIN
            or self.streams.total() >= MAX_STREAMS
        ):
            raise GateError("Too many streams are open. Close other tabs of this page.", 429)
        stream = _Stream(receive, send, session)
        session.num_streams += 1
        self.streams[session.login] += 1
        try:
            await self.app(scope, stream.receive, stream.send)
            await stream.finish()
        finally:
            session.num_streams -= 1
            self.streams[session.login] -= 1
            self.streams += Counter()  # drops what is at 0
        return stream.was_left

    async def _own_tab(self, session: Session, name: Any) -> str:
        """The server's name of a tab that the browser names.

        Raises:
            GateError: it is no name, or of a tab that was closed, or the session has ended.
        """
        if not isinstance(name, str) or not _TAB_NAME.fullmatch(name):
            raise GateError("The request names no tab.")
        tab = session.tab(name)
        if session.has_ended or tab in session.closed_tabs:  # perhaps while the request was read
            raise GateError("This session has ended, or this tab was closed. Reload the page.", 401)
        if tab not in session.tabs and len(session.tabs) >= MAX_TABS_OF_SESSION:
            unused = next((other for other, num_open in session.tabs.items() if not num_open), None)
            if unused is None:
                raise GateError("Too many tabs are open. Close some, then reload the page.", 429)
            await self.page.close_tab(session, unused)
        session.tabs.setdefault(tab, 0)
        return tab

    async def _checked_event(self, body: bytes, session: Session, *, by_queue: bool) -> tuple[str, bytes]:
        """An event's tab, and the event as gradio gets it: known keys, and values that the page's controls can have.

        Raises:
            GateError: the page sends no such event, or too many.
        """
        try:
            given = json.loads(body, parse_constant=_refuse_constant)
        except (ValueError, RecursionError):
            given = None
        if not isinstance(given, dict):
            raise GateError("An event is an object in JSON.")
        number, values, details = given.get("fn_index"), given.get("data"), given.get("event_data")
        if not (isinstance(values, list) and (details is None or (isinstance(details, dict) and details.keys() <= _DETAILS))):
            raise GateError("An event has a list of values, and details that the page knows.")
        scalars = [*values, *(details or {}).values()]
        if len(scalars) > MAX_VALUES or not all(map(_is_plain, scalars)):
            raise GateError("An event has numbers, texts and truth values alone.")
        if not isinstance(number, int) or is_queued(self.page.blocks, number) is not by_queue:
            raise GateError("There is no such event.")
        tab = await self._own_tab(session, given.get("session_hash"))
        if not accepts_event(self.page.blocks, number, values):
            raise GateError("The page does not offer these values. Reload the page.")
        if by_queue and num_unheard(self.page.blocks, tab) >= MAX_UNHEARD:
            raise GateError("Too many events wait for this tab to listen.", 429)
        trigger = given.get("trigger_id")
        event = {"data": values, "event_data": details, "fn_index": number, "session_hash": tab}
        return tab, json.dumps(event | {"trigger_id": trigger if isinstance(trigger, int) else None}).encode()


class _Stream:
    """A stream as gradio sees it: the client leaves when the session ends."""

    def __init__(self, receive: Receive, send: Send, session: Session) -> None:
        self._receive, self._send, self.session = receive, send, session
        self._has_client_left = self._has_told_all = self._has_begun = self._is_complete = False

    @property
    def was_left(self) -> bool:
        """Whether the client has left before it was told all."""
        return self._has_client_left and not self._has_told_all

    async def receive(self) -> Message:
        """The next message of the client; that it has left, once the session has ended."""
        next_message, end = asyncio.ensure_future(self._receive()), asyncio.ensure_future(self.session.ended.wait())
        try:
            await asyncio.wait({next_message, end}, return_when=asyncio.FIRST_COMPLETED)
            message: Message = {"type": "http.disconnect"} if end.done() else next_message.result()
        finally:
            next_message.cancel()
            end.cancel()
        self._has_client_left |= message["type"] == "http.disconnect"
        return message

    async def send(self, message: Message) -> None:
        """Pass a part on, unless the session has ended."""
        self._has_begun = True
        if self.session.has_ended:
            return
        self._is_complete = message["type"] == "http.response.body" and not message.get("more_body", False)
        self._has_told_all |= b'"close_stream"' in message.get("body", b"")  # the page then leaves, and may have asked for more
        await self._send(message)

    async def finish(self) -> None:
        """Complete a response that ended with the session."""
        if self._has_begun and not self._is_complete and self.session.has_ended:
            await self._send({"type": "http.response.body", "body": b"", "more_body": False})


def _login_page(message: str = "", status: int = 200) -> HTMLResponse:
    alert = f'<p role="alert">{escape(message)}</p>' if message else ""
    return HTMLResponse(_LOGIN_PAGE.replace("NOTICE", RESEARCH_NOTICE).replace("MESSAGE", alert), status_code=status)


def _cookie_name(scope: Scope) -> str:
    """One for each server: cookies of a host are shared by all its ports."""
    prefix = "__Host-" if scope["scheme"] == "https" else ""
    return f"{prefix}xraygpt-{(scope.get('server') or ('', 0))[1]}"


def _cookie_options(scope: Scope) -> dict[str, Any]:
    return {"httponly": True, "samesite": "strict", "secure": scope["scheme"] == "https", "path": "/"}


def _adding(header: tuple[bytes, bytes], send: Send) -> Send:
    async def send_with_header(message: Message) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message["headers"], header]}
        await send(message)

    return send_with_header


def _replaying(body: bytes, receive: Receive) -> Receive:
    messages = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive_again() -> Message:
        return messages.pop() if messages else await receive()

    return receive_again


async def _read(request: Request, max_bytes: int) -> bytes:
    body = await request.body()  # bounded by `http_limits`
    if len(body) > max_bytes:
        raise GateError(f"At most {max_bytes} bytes are read here.", 413)
    return body


def _fields(text: str) -> dict[str, str]:
    """The fields of a form or a query."""
    try:
        return dict(parse_qsl(text, max_num_fields=10))
    except ValueError:
        raise GateError("At most 10 fields are read here.") from None


def _is_plain(value: Any) -> bool:
    """Whether a value is nothing, a truth value, a number that JSON's other readers have too, or Unicode text."""
    if isinstance(value, str):
        return not _SURROGATE.search(value)
    return value is None or (isinstance(value, int | float) and abs(value) <= 2**53)  # not so NaN and infinity


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is no JSON")
