"""What the page remembers: for each open browser tab a workspace, in it a few conversations. In memory only, and bounded.

A tab that is closed is forgotten at once. With too many tabs, the newcomer is refused, and nobody's work is lost; with too many
conversations in a tab, its oldest one goes.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import PurePath

from PIL import Image, ImageOps

from xraygpt.common.errors import XrayGPTError
from xraygpt.processors import Concern
from xraygpt.serving.page_sessions import Session
from xraygpt.serving.session import Answer, AnswerSentence, ChatSession

MAX_WORKSPACES = 16
"""Open tabs. Each conversation holds a film (up to 40 million pixels) and the model's memory of what was said."""

MAX_WORKSPACES_OF_LOGIN = 8
"""So that no login takes all."""

MAX_CONVERSATIONS = 4
"""Of a tab."""


class TooManyTabsError(XrayGPTError):
    """There is no place for another tab."""


@dataclass(eq=False)
class FilmChat:
    """One conversation about one film.

    Attributes:
        number: counts the conversations of a tab from 1.
        name: of the image file, without its folder.
        film: as it was opened, turned or inverted.
        session: the conversation itself.
        concerns: what speaks against the film as an upright frontal chest radiograph.
        question: what is being answered now; None while nothing is written.
        written: the answer to it so far.
        num_before: how many others get the model first.
        stop: set to end that answer.
        selected: turn and sentence that the heat map is shown for.
        heat_maps: (turn, sentence) → data URI, as far as they were asked for.
        num_retries: of the last question, so that sampling draws anew.
        num_forgotten: how often answers were forgotten, so that a sentence's key is never that of another one.
    """

    number: int
    name: str
    film: Image.Image
    session: ChatSession
    concerns: list[Concern] = field(default_factory=list)
    question: str | None = None
    written: str = ""
    num_before: int = 0
    stop: threading.Event = field(default_factory=threading.Event)
    selected: tuple[int, int] | None = None
    heat_maps: dict[tuple[int, int], str] = field(default_factory=dict)
    num_retries: int = 0
    num_forgotten: int = 0

    @property
    def title(self) -> str:
        """How the list of conversations calls it."""
        return f"{self.number} · {self.name}"

    @property
    def is_writing(self) -> bool:
        """Whether an answer is being written or waits for the model."""
        return self.question is not None

    @property
    def chosen_sentence(self) -> AnswerSentence | None:
        """The sentence that the heat map is shown for."""
        if self.selected is None:
            return None
        turn, sentence = self.selected
        return self.session.turns[turn].answer.sentences[sentence]

    def choose(self, turn: int, sentence: int, is_chosen: bool = True) -> None:
        """Choose a sentence, or let the chosen one go; one that there is not is ignored."""
        turns = self.session.turns
        known = 0 <= turn < len(turns) and 0 <= sentence < len(turns[turn].answer.sentences)
        self.selected = (turn, sentence) if known and is_chosen else None

    def key(self, turn: int, sentence: int) -> str:
        """The name of a sentence's heat map in the browser."""
        return f"{self.number}.{self.num_forgotten}.{turn}.{sentence}"

    def has_maps(self, turn: int) -> bool:
        """Whether the heat maps of an answer are there."""
        return (turn, 0) in self.heat_maps

    def keep_maps(self, turn: int, answer: Answer, uris: list[str]) -> None:
        """Keep the heat maps of an answer's sentences, unless the answer was forgotten meanwhile."""
        if turn < len(self.session.turns) and self.session.turns[turn].answer is answer:
            self.heat_maps |= {(turn, sentence): uri for sentence, uri in enumerate(uris)}

    def forget_from(self, turn: int) -> None:
        """Forget what was shown for this turn and those after it."""
        self.selected = None
        self.num_forgotten += 1
        self.heat_maps = {where: uri for where, uri in self.heat_maps.items() if where[0] < turn}


class Workspace:
    """The conversations of one tab; the newest is shown first.

    Args:
        new_session: makes the session of a conversation.
        owner: whose it is, `Session.login`.
    """

    def __init__(self, new_session: Callable[[], ChatSession], owner: str = "") -> None:
        self.new_session = new_session
        self.owner = owner
        self.chats: dict[int, FilmChat] = {}
        self.current: FilmChat | None = None
        self._last_number = 0

    def open(self, film: Image.Image, name: str) -> FilmChat:
        """Start a conversation about a film and show it; the oldest goes if there are too many.

        Args:
            film: mode "L" or "RGB", from `open_image`.
            name: of its file; a folder in it is left out.

        Raises:
            DataError: the film cannot be used; everything stays as it was.
        """
        session = self.new_session()
        concerns = session.open_image(film)
        self._last_number += 1
        chat = FilmChat(self._last_number, PurePath(name).name, film, session, concerns)
        self.chats[chat.number] = self.current = chat
        while len(self.chats) > MAX_CONVERSATIONS:
            self.chats.pop(min(self.chats)).stop.set()
        return chat

    def show(self, number: int) -> None:
        """Show another conversation."""
        self.current = self.chats.get(number, self.current)

    def correct(self, *, invert: bool = False, turn: int = 0) -> None:
        """Show the current film with its grey levels inverted, or turned counter-clockwise, and start its conversation anew."""
        if (chat := self.current) is None:
            return
        film = ImageOps.invert(chat.film) if invert else chat.film
        film = film.rotate(turn, expand=True)
        chat.concerns = chat.session.open_image(film)
        chat.film = film
        chat.forget_from(0)

    def close(self) -> None:
        """Stop writing and forget everything."""
        for chat in self.chats.values():
            chat.stop.set()
        self.chats, self.current = {}, None


class Workspaces:
    """The workspaces of all open tabs.

    Args:
        new_session: makes the session of a conversation.
    """

    def __init__(self, new_session: Callable[[], ChatSession]) -> None:
        self.new_session = new_session
        self._open: dict[str, Workspace] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._open)

    def of(self, session: Session, tab: str) -> Workspace:
        """The workspace of a tab; an empty one, which is not kept, if no image was opened in it."""
        with self._lock:
            workspace = self._open.get(tab)
        return workspace or Workspace(self.new_session, session.login)

    def keep(self, session: Session, tab: str) -> Workspace:
        """The workspace of a tab in which an image is opened; a new one, which is kept until `close`, if there is none.

        Args:
            session: of the browser.
            tab: the server's name of it, `Session.tab`.

        Raises:
            TooManyTabsError: there is no place for a new one, or the session has ended.
        """
        with self._lock:
            if session.has_ended:
                raise TooManyTabsError("This session has ended. Reload the page.")
            if tab not in self._open:
                num_own = sum(workspace.owner == session.login for workspace in self._open.values())
                if num_own >= MAX_WORKSPACES_OF_LOGIN:
                    raise TooManyTabsError(
                        f"{num_own} tabs with images are open under this login, which is the most. Close one, then try again."
                    )
                if len(self._open) >= MAX_WORKSPACES:
                    raise TooManyTabsError("The server holds as many open tabs as it can. Try again when one was closed.")
                self._open[tab] = Workspace(self.new_session, session.login)
            return self._open[tab]

    def close(self, tab: str) -> None:
        """Forget a tab."""
        with self._lock:
            workspace = self._open.pop(tab, None)
        if workspace:
            workspace.close()

    def close_all_of(self, session: Session) -> None:
        """Forget the tabs of a browser's session."""
        for tab in [tab for tab in list(self._open) if session.owns(tab)]:
            self.close(tab)
