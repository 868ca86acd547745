"""Who may talk to the server at all: the names it answers to, and the web sites whose pages may send it requests.

A browser sends requests for any page that it shows, also for one of another site. Two tricks are refused here, before any route is asked:

- Another site points a name of its own at this machine (DNS rebinding), so that its scripts count as this server's own. Requests are
  therefore answered only if `Host` is a name of this server.
- Another site's page sends requests to this server, with the cookies that the reader has here. Requests that a browser marks as
  another site's (`Origin`, `Sec-Fetch-Site`) are refused, but for opening the page itself as a link does.
"""

import argparse
import ipaddress
import re
from collections.abc import Iterable

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})

PUBLIC_PAGES = frozenset({"/", "/login", "/healthz"})
"""What a link on another site may open. Without a session they tell nothing but that the server is there."""

_HOST = re.compile(r"(?P<name>[A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\])(?::(?P<port>[0-9]{1,5}))?")
_DEFAULT_PORTS = {"http": 80, "https": 443}

_HEADERS = {
    # Scripts and styles of the page are inline, and gradio makes functions of strings. Everything else is the server's own.
    "Content-Security-Policy": (
        "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
        "img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self'; worker-src 'self' blob:; object-src 'none'; "
        "base-uri 'self'; form-action 'self'; frame-ancestors 'none'"
    ),
    "X-Frame-Options": "DENY",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",  # "no-referrer" would make browsers send `Origin: null` with the login form
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
"""With every response."""


def add_name_arguments(parser: argparse._ActionsContainer) -> None:
    """Declare the option for the names that `HttpGuard` lets pass."""
    parser.add_argument(
        "--public-name",
        action="append",
        default=[],
        metavar="NAME",
        help="a host name by which browsers reach this server, as behind a proxy; can be given again. Requests for other names are refused",
    )


class HttpGuard:
    """ASGI middleware that refuses requests for other names and from other sites, and adds the security headers.

    Args:
        app: the application behind it.
        names: host names that the server answers to, besides this machine's own (`LOOPBACK_NAMES`).
        any_address: also answer to IP addresses in place of a name, for servers that other machines reach directly. Rebinding needs a
            name, so an address is always the server's own.
    """

    def __init__(self, app: ASGIApp, *, names: Iterable[str] = (), any_address: bool = False) -> None:
        self.app = app
        self.names = LOOPBACK_NAMES | {name.lower() for name in names}
        self.any_address = any_address

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or refuse it: 421 for another name, 403 for another site."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers[name] = value
                headers.setdefault("Cache-Control", "no-store")
            await send(message)

        headers = Headers(scope=scope)
        hosts = headers.getlist("host")
        host = _name_and_port(hosts[0]) if len(hosts) == 1 else None
        if host is None or not self._is_own(host[0]):
            text = "This server does not answer to this name. Its administrator can add names with --public-name."
            await PlainTextResponse(text, status_code=421)(scope, receive, send_with_headers)
        elif _is_foreign(scope, headers, host) and not _opens_public_page(scope):
            text = "Refused: the request comes from a page of another site."
            await PlainTextResponse(text, status_code=403)(scope, receive, send_with_headers)
        else:
            await self.app(scope, receive, send_with_headers)

    def _is_own(self, name: str) -> bool:
        if name in self.names:
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return self.any_address


def _name_and_port(text: str) -> tuple[str, int | None] | None:
    """Lower-case name without brackets, and port, of `name`, `name:port`, `[address]` or `[address]:port`; else None."""
    found = _HOST.fullmatch(text)
    return None if found is None else (found["name"].strip("[]").lower(), int(found["port"]) if found["port"] else None)


def _is_foreign(scope: Scope, headers: Headers, host: tuple[str, int | None]) -> bool:
    """Whether a browser sent this for a page of another site. Programs that are no browser send neither header."""
    if any(site not in ("none", "same-origin") for site in headers.getlist("sec-fetch-site")):
        return True
    return any(not _is_same_origin(origin, scope["scheme"], host) for origin in headers.getlist("origin"))


def _is_same_origin(origin: str, own_scheme: str, host: tuple[str, int | None]) -> bool:
    scheme, _, rest = origin.partition("://")
    # A proxy that takes TLS off and does not say so (X-Forwarded-Proto) makes https look like http, never the other way round.
    if scheme not in _DEFAULT_PORTS or (scheme == "http" and own_scheme != "http"):
        return False
    default = _DEFAULT_PORTS[scheme]
    other = _name_and_port(rest)
    return other is not None and (other[0], other[1] or default) == (host[0], host[1] or default)


def _opens_public_page(scope: Scope) -> bool:
    return scope["type"] == "http" and scope["method"] in ("GET", "HEAD") and scope["path"] in PUBLIC_PAGES
