"""What lies between a browser and gradio: the login, the routes that the page needs and no others, and whose tab is whose.

gradio keeps the state of a tab under a name that the tab's script makes up, and does as it is told by whoever names it. So every
name is prefixed here with the session's own before gradio sees it: no session can name a tab of another one.
"""

import json
import re
from collections.abc import Callable
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, parse_qsl, urlencode

from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from xraygpt.serving.page_sessions import Login, Session, Sessions
from xraygpt.serving.page_uploads import Uploads
from xraygpt.serving.safety import RESEARCH_NOTICE

MAX_BODY = 2**18
"""Bytes of an event: a question of 2,000 characters and some settings."""

MAX_VALUES = 32
"""Values of an event."""

_LOGIN_PAGE = (Path(__file__).parent / "assets" / "login.html").read_text(encoding="utf-8")
_TAB = "[A-Za-z0-9]{1,32}"
_TAB_NAME = re.compile(_TAB)
_HEARTBEAT = re.compile(f"/gradio_api/heartbeat/({_TAB})")
_STATIC = re.compile(r"/(?:assets|static)/(?!.*\.\.)[\w./-]+|/theme\.css|/favicon\.ico|/config")
_NAMING_HEADERS = (b"x-forwarded-host", b"x-forwarded-proto", b"x-gradio-server")
"""By which gradio would let a client say under which address the page finds its scripts. `Host` says it, which was checked."""
_EVENTS = ("/gradio_api/queue/join", "/gradio_api/run/predict")
_EVENT_KEYS = ("data", "event_data", "fn_index", "trigger_id", "session_hash")
_BOUNCE = '<!doctype html><meta http-equiv="refresh" content="0; url=/"><a href="/">XrayGPT</a>'


class EventError(Exception):
    """An event that the page's scripts do not send."""


class PageGate:
    """ASGI middleware before gradio and beside the API.

    Args:
        app: the application, with the API's routes and gradio mounted at "/".
        sessions: of the browsers.
        uploads: take the files that they send.
        login: checks a name and a password; None: nobody has to log in.
        is_api: whether a path belongs to the API, which checks tokens of its own.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        sessions: Sessions,
        uploads: Uploads,
        login: Login | None,
        is_api: Callable[[str], bool],
    ) -> None:
        self.app = app
        self.sessions = sessions
        self.uploads = uploads
        self.login = login
        self.is_api = is_api

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer the request, or pass it on to gradio in the name of its session."""
        if scope["type"] != "http" or self.is_api(scope["path"]):
            await self.app(scope, receive, send)
            return
        request = Request(scope, receive)
        session = self.sessions.find(request.cookies.get(_cookie_name(scope)))
        route = (request.method, scope["path"])
        if route in (("GET", "/login"), ("POST", "/login")) and self.login:
            await (await self._log_in(request))(scope, receive, send)
        elif session is None:
            await self._pass_newcomer(request, send)
        elif route == ("POST", "/logout"):
            self.sessions.end(session)
            response = RedirectResponse("/login" if self.login else "/", status_code=303)
            response.delete_cookie(_cookie_name(scope), **_cookie_options(scope))
            await response(scope, receive, send)
        elif route == ("POST", "/upload"):
            await (await self.uploads.receive(request, session))(scope, receive, send)
        else:
            await self._pass_on(request, session, send)

    async def _log_in(self, request: Request) -> Response:
        if request.method == "GET":
            return _login_page()
        assert self.login is not None
        body = await _read(request, 2**13)
        fields = parse_qs((body or b"").decode("utf-8", "replace"), max_num_fields=10)
        user, password = (fields.get(name, [""])[0] for name in ("username", "password"))
        login = self.login(user, password)
        started = self.sessions.start(login) if login else None
        if not login:
            return _login_page("Wrong name or password.", status=401)
        if started is None:
            return _login_page("The server has too many open sessions. Try again later.", status=503)
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
        """Let gradio answer, if this is one of the requests that the page makes; 404 otherwise."""
        scope, receive = {**request.scope, "state": {**request.scope.get("state", {}), "session": session}}, request.receive
        scope["headers"] = [(name, value) for name, value in scope["headers"] if name not in _NAMING_HEADERS]
        path = scope["path"]
        try:
            if request.method == "GET" and (heartbeat := _HEARTBEAT.fullmatch(path)):
                scope["path"] = f"/gradio_api/heartbeat/{session.tab(heartbeat[1])}"
                scope["raw_path"] = scope["path"].encode()
            elif request.method == "GET" and path == "/gradio_api/queue/data":
                query = dict(parse_qsl(request.url.query, max_num_fields=10))
                scope["query_string"] = urlencode({"session_hash": session.tab(_checked_tab(query.get("session_hash")))}).encode()
            elif request.method == "POST" and path in _EVENTS:
                event = _checked_event(await _read(request, MAX_BODY), session)
                scope["headers"] = [(name, value) for name, value in scope["headers"] if name != b"content-length"]
                scope["headers"].append((b"content-length", str(len(event)).encode()))
                scope["query_string"] = b""
                receive = _replaying(event, receive)
            elif request.method in ("GET", "HEAD") and (path == "/" or _STATIC.fullmatch(path)):
                scope["query_string"] = b""  # gradio's "deep links" and other views are not part of the page
            else:
                raise EventError("There is nothing here.")
        except EventError as error:
            status = 404 if path not in _EVENTS else 400
            await JSONResponse({"error": str(error)}, status_code=status)(scope, receive, send)
            return
        await self.app(scope, receive, send)


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


async def _read(request: Request, max_bytes: int) -> bytes | None:
    """The body; None if it is longer."""
    body = await request.body()  # bounded by `http_limits`
    return body if len(body) <= max_bytes else None


def _checked_tab(name: Any) -> str:
    if not isinstance(name, str) or not _TAB_NAME.fullmatch(name):
        raise EventError("The request names no tab.")
    return name


def _checked_event(body: bytes | None, session: Session) -> bytes:
    """An event as gradio gets it.

    Its values are numbers, texts and truth values alone: what gradio would take for a file, an object with a path, never arrives.
    """
    if body is None:
        raise EventError(f"An event has at most {MAX_BODY} bytes.")
    try:
        given = json.loads(body, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        raise EventError("An event is an object in JSON.") from None
    if not isinstance(given, dict):
        raise EventError("An event is an object in JSON.")
    event = {key: given.get(key) for key in _EVENT_KEYS}
    data, details = event["data"], event["event_data"]
    values = [*data, *(details.values() if isinstance(details, dict) else [details])] if isinstance(data, list) else [data, ()]
    if len(values) > MAX_VALUES or not all(value is None or isinstance(value, str | int | float) for value in values):
        raise EventError("An event has numbers, texts and truth values alone.")
    if not all(event[key] is None or isinstance(event[key], int) for key in ("fn_index", "trigger_id")):
        raise EventError("An event names its function and its trigger by their numbers.")
    event["session_hash"] = session.tab(_checked_tab(event["session_hash"]))
    return json.dumps(event).encode()


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is no JSON")
