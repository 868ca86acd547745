"""Who is at the page: a session for each browser, known by a cookie that only the server can make."""

import asyncio
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field

Login = Callable[[str, str], str | None]
"""(user name, password) → the name of the login, None if they are wrong."""

IDLE_SECONDS = 12 * 3600.0
"""After which an unused session ends, and what it holds is forgotten."""

MAX_SESSIONS = 512
"""Browsers at a time. A session that holds nothing costs some hundred bytes."""

MAX_SESSIONS_OF_LOGIN = 32
"""Beyond them the one without an open tab that was not used for longest ends."""

MAX_TABS_OF_SESSION = 64
"""Names of tabs that a session may use, so that the number of what is kept by name is bounded."""


MAX_CLOSED_TABS = 1000
"""Names of closed tabs that a session remembers."""


@dataclass(eq=False)
class Session:
    """One browser at the page.

    Attributes:
        login: whose it is; of a page without logins the session's own `id`.
        id: prefix of the names of this session's tabs, so that no other session can name them. It is no secret.
        last_used: `time.monotonic()` of its last request.
        num_uploads: that are being received or opened now.
        num_streams: that are open now.
        has_returned: whether its cookie has come back.
        tabs: how often each tab that it uses is open, by the server's names of them.
        closed_tabs: the names of those that it does not use any more, oldest first; no request revives them.
        ended: set when it ends.
    """

    login: str
    id: str
    last_used: float = field(default_factory=time.monotonic)
    num_uploads: int = 0
    num_streams: int = 0
    has_returned: bool = False
    tabs: dict[str, int] = field(default_factory=dict)
    closed_tabs: dict[str, None] = field(default_factory=dict)
    ended: asyncio.Event = field(default_factory=asyncio.Event)

    def tab(self, name: str) -> str:
        """The server's name of a tab, which the browser named."""
        return f"{self.id}.{name}"

    def owns(self, tab: str) -> bool:
        """Whether a tab is one of this session's, by the server's name of it."""
        return tab.startswith(f"{self.id}.")

    def close_tab(self, tab: str) -> None:
        """Use a tab no more."""
        self.tabs.pop(tab, None)
        self.closed_tabs[tab] = None
        if len(self.closed_tabs) > MAX_CLOSED_TABS:
            del self.closed_tabs[next(iter(self.closed_tabs))]

    @property
    def has_ended(self) -> bool:
        """Whether nothing may be kept for it any more."""
        return self.ended.is_set()


class Sessions:
    """The open sessions. For use in one event loop.

    Args:
        on_end: called with each session that ends.
    """

    def __init__(self, on_end: Callable[[Session], None] = lambda session: None) -> None:
        self.on_end = on_end
        self._open: dict[str, Session] = {}

    def start(self, login: str | None) -> tuple[str, Session] | None:
        """A new session and its cookie; None if there are too many.

        Args:
            login: whose it is; None: nobody has to log in.
        """
        self.end_idle()
        if login is not None:
            own = [session for session in self._open.values() if session.login == login]
            if len(own) >= MAX_SESSIONS_OF_LOGIN and not self._end_unused(own):
                return None
        if len(self._open) >= MAX_SESSIONS and not self._end_unused(list(self._open.values())):
            return None
        cookie, name = secrets.token_urlsafe(32), secrets.token_hex(8)
        self._open[cookie] = session = Session(login or name, name)
        return cookie, session

    def find(self, cookie: str | None) -> Session | None:
        """The session of a cookie, which is thereby used; None if there is none, or it has ended."""
        session = self._open.get(cookie or "")
        if session is not None and session.last_used < time.monotonic() - IDLE_SECONDS:
            self.end(session)
            return None
        if session is not None:
            session.last_used = time.monotonic()
            session.has_returned = True
        return session

    def end(self, session: Session) -> None:
        """End a session, and forget what it holds."""
        self._open = {cookie: other for cookie, other in self._open.items() if other is not session}
        session.ended.set()
        self.on_end(session)

    def end_idle(self) -> None:
        """End the sessions that were not used for too long."""
        oldest = time.monotonic() - IDLE_SECONDS
        for session in [session for session in self._open.values() if session.last_used < oldest]:
            self.end(session)

    def _end_unused(self, sessions: list[Session]) -> bool:
        """End one without an open tab: if there is one, of a program that only looked in and never sent its cookie back."""
        closed = [session for session in sessions if not session.num_streams]
        if not closed:
            return False
        self.end(min(closed, key=lambda session: (session.has_returned, session.last_used)))
        return True
