"""What the page's buttons do. No gradio in here: an action gets a workspace and what the user gave, and returns what is to be shown.

A `Screen` maps the names of the page's parts to their new values; parts that are not in it stay as they are.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from xraygpt.common.errors import DataError, XrayGPTError
from xraygpt.conversation.prompts import IMAGE_BLOCK
from xraygpt.processors import open_image
from xraygpt.serving.page_uploads import MAX_PIXELS
from xraygpt.serving.session import Answer, ChatSession
from xraygpt.serving.web_export import EXPORTS, export
from xraygpt.serving.web_queue import BusyError, PageQueue, Place
from xraygpt.serving.web_view import concerns_html, conversation_html, film_uri, findings_html, heat_uri
from xraygpt.serving.web_workspace import FilmChat, Workspace

Screen = dict[str, Any]
Look = Callable[[ChatSession, Answer], NDArray[np.float32]]
"""(session, answer in it) → float32 [sentences of the answer, S, S] in 0..1, where the model looked for each."""

MAX_QUESTION = 2000
"""Characters of a question."""
MAX_SECONDS = 300.0
"""For an answer; it then ends where it is."""
WAIT_SECONDS = 0.1
"""Between two looks whether the model is free, or not wanted any more."""
SHOW_EVERY = 0.08
"""Seconds between two updates of an answer that is being written: as often as the eye can tell."""

GREEDY, BEAMS, SAMPLING = "Most likely words", "Beam search", "Sampling"


def decoding_settings(way: str, beams: float, temperature: float, top_p: float, length: float, seed: float) -> dict[str, Any]:
    """The settings of `ChatSession.stream`, from the values of the page's controls."""
    settings: dict[str, Any] = {"max_new_tokens": int(length), "num_beams": int(beams) if way == BEAMS else 1, "do_sample": way == SAMPLING}
    if way == SAMPLING:
        settings |= {"temperature": float(temperature), "top_p": float(top_p), "seed": int(seed)}
    return settings


def suggested_questions(model: Any) -> list[str]:
    """The questions that the model was trained with, without the template around them."""
    before, after = model.prompt_template.split("{}")
    prompts = [prompt.removeprefix(before).removesuffix(after) for prompt in model.prompt_list]
    return [question for prompt in dict.fromkeys(prompts) if (question := prompt.replace(IMAGE_BLOCK, "").strip())]


def screen_of(workspace: Workspace, *, message: str = "", film: bool = False) -> Screen:
    """The whole page; the film itself, which is large, only if asked for."""
    chat = workspace.current
    screen = {
        "conversation": conversation_html(chat),
        "findings": findings_html(chat),
        "alerts": concerns_html(chat, message),
        "chats": workspace,
        "is_writing": chat is not None and chat.is_writing,
    }
    return screen | {"film": film_uri(chat.film) if chat else ""} if film else screen


class PageActions:
    """The actions.

    Args:
        look: finds where the model looked.
        queue: gives out the model, one after the other.
    """

    def __init__(self, look: Look, queue: PageQueue) -> None:
        self.look = look
        self.queue = queue

    # Films -----------------------------------------------------------------------------------------------------

    def open_upload(self, workspace: Workspace, film: Image.Image, name: str) -> Screen:
        """Start a conversation about an image that the browser has sent."""
        try:
            workspace.open(film, name)
        except DataError as error:
            return screen_of(workspace, message=str(error))
        return screen_of(workspace, film=True)

    def open_example(self, workspace: Workspace, path: Path) -> Screen:
        """Start a conversation about one of the page's examples."""
        try:
            return self.open_upload(workspace, open_image(path, max_pixels=MAX_PIXELS), path.name)
        except DataError as error:
            return screen_of(workspace, message=str(error))

    def correct(self, workspace: Workspace, invert: bool, turn: int) -> Screen:
        """Invert or turn the film, by a multiple of 90 degrees: by others it would grow with each call."""
        if turn % 90:
            return screen_of(workspace, message="An image is turned by 90, 180 or 270 degrees.")
        if workspace.current and workspace.current.is_writing:
            return screen_of(workspace, message="An answer is being written. Stop it first.")
        workspace.correct(invert=invert, turn=turn)
        return screen_of(workspace, film=True)

    # Conversations ---------------------------------------------------------------------------------------------

    def show(self, workspace: Workspace, number: int) -> Screen:
        """Show another conversation."""
        workspace.show(int(number) if isinstance(number, int) else 0)
        return screen_of(workspace, film=True)

    def start(self, workspace: Workspace) -> Screen:
        """Start another conversation about the same film."""
        if workspace.current is None:
            return screen_of(workspace, message="Open a radiograph first.")
        workspace.open(workspace.current.film, workspace.current.name)
        return screen_of(workspace, film=True)

    def clear(self, workspace: Workspace) -> Screen:
        """Forget what was said about the film."""
        if workspace.current and not workspace.current.is_writing:
            workspace.current.session.reset()
            workspace.current.forget_from(0)
        return screen_of(workspace)

    def stop(self, workspace: Workspace) -> None:
        """End the answer that is being written; what there is of it is kept."""
        if workspace.current:
            workspace.current.stop.set()

    # Answers ---------------------------------------------------------------------------------------------------

    def ask(self, workspace: Workspace, question: str, settings: Mapping[str, Any]) -> Iterator[Screen]:
        """Answer a question."""
        if not question.strip():
            yield screen_of(workspace, message="Type a question, or press Write report.")
        elif len(question) > MAX_QUESTION:
            yield screen_of(
                workspace, message=f"The question has {len(question)} characters; at most {MAX_QUESTION} are taken. Shorten it."
            )
        else:
            yield from self.write(workspace, question, settings)

    def write(self, workspace: Workspace, question: str, settings: Mapping[str, Any]) -> Iterator[Screen]:
        """Answer a question, "" for the report, and show the answer while it is written."""
        chat = workspace.current
        if chat is None or chat.is_writing:
            yield screen_of(workspace, message="Open a radiograph first." if chat is None else "An answer is being written. Stop it first.")
            return
        chat.num_retries = 0
        yield from self._written(workspace, chat, question, settings)

    def retry(self, workspace: Workspace, settings: Mapping[str, Any]) -> Iterator[Screen]:
        """Answer the last question anew: with another seed where tokens are drawn, else with the settings of now."""
        chat = workspace.current
        if chat is None or chat.is_writing or not chat.session.turns:
            yield screen_of(workspace, message="There is no answer to write anew.")
            return
        chat.num_retries += 1
        if "seed" in settings:
            settings = {**settings, "seed": settings["seed"] + chat.num_retries}
        yield from self._written(workspace, chat, chat.session.turns[-1].question, settings, anew=True)

    def edit(self, workspace: Workspace, report_question: str) -> Screen:
        """Take the last question back, to be written anew; `report_question` stands for that of a report."""
        chat = workspace.current
        if chat is None or chat.is_writing or not chat.session.turns:
            return screen_of(workspace, message="There is no question to edit.")
        question = chat.session.turns[-1].question
        self._undo(chat)
        return screen_of(workspace) | {"question": question or report_question}

    def _undo(self, chat: FilmChat) -> None:
        chat.session.undo()
        chat.forget_from(len(chat.session.turns))

    def _written(
        self, workspace: Workspace, chat: FilmChat, question: str, settings: Mapping[str, Any], *, anew: bool = False
    ) -> Iterator[Screen]:
        """Write an answer; `anew`: in place of the last one."""
        chat.question, chat.written, chat.num_before = question, "", 0
        chat.stop.clear()
        message, num_turns, is_typed = "", len(chat.session.turns), bool(question) and not anew
        try:
            with self.queue.place(workspace.owner) as place:
                yield screen_of(workspace) | ({"question": ""} if is_typed else {})
                try:
                    for _ in self._pieces(chat, place, settings, anew):
                        if workspace.current is chat:
                            yield {"conversation": conversation_html(chat)}
                except XrayGPTError as error:
                    message = str(error)
                chat.question, chat.written = None, ""
                is_given_back = is_typed and len(chat.session.turns) == num_turns
                # the place is kept until this is on its way: a server that stops waits for it
                yield screen_of(workspace, message=message) | ({"question": question} if is_given_back else {})
        except BusyError as error:
            chat.question = None
            yield screen_of(workspace, message=str(error))
        finally:  # the client may have left, which ends this generator at a yield
            chat.question, chat.written = None, ""

    def _pieces(self, chat: FilmChat, place: Place, settings: Mapping[str, Any], anew: bool) -> Iterator[None]:
        """Extend `chat.written`; yields when it is time to show it."""
        while not place.take(WAIT_SECONDS):
            if chat.stop.is_set():
                return
            if chat.num_before != place.num_before:
                chat.num_before = place.num_before
                yield
        if anew:
            self._undo(chat)
        start = shown = time.monotonic()
        over = start + MAX_SECONDS
        answer = chat.session.stream(
            chat.question or "",
            settings=settings,
            cancelled=lambda: chat.stop.is_set() or self.queue.must_end or time.monotonic() > over,
        )
        with closing(answer):  # type: ignore[type-var]  # a generator, as every streaming session returns
            for piece in answer:
                chat.written += piece
                if time.monotonic() - shown >= SHOW_EVERY:
                    shown = time.monotonic()
                    yield

    # Looking and keeping ---------------------------------------------------------------------------------------

    def choose(self, workspace: Workspace, turn: int, sentence: int, is_chosen: bool) -> Screen:
        """Keep a sentence as the chosen one, whose heat map the page to print shows; or let it go. The browser has shown it already."""
        if workspace.current:
            workspace.current.choose(turn, sentence, is_chosen)
        return {}

    def look_at(self, workspace: Workspace, turn: int, *, asked: int, at_once: bool) -> Screen:
        """Find where the model looked for the sentences of an answer.

        Args:
            asked: number of the request, for the browser to know the answer by.
            at_once: only if the model is free; else wait for it.
        """
        chat, message = workspace.current, ""
        try:
            maps = self._maps(workspace, chat, turn, at_once) if chat else {}
        except BusyError as error:
            maps, message = {}, str(error)
        heat = {"asked": asked, "maps": maps, "is_busy": bool(message)}
        return {"heat": heat} if at_once or not message else {"heat": heat, "alerts": concerns_html(chat, message)}

    def _maps(self, workspace: Workspace, chat: FilmChat, turn: int, at_once: bool) -> dict[str, str]:
        """The maps of an answer's sentences, by their keys; none if there is no such answer, or it was written anew meanwhile."""
        if 0 <= turn < len(chat.session.turns) and not chat.has_maps(turn):
            with self.queue.place(workspace.owner, at_once=at_once) as place:
                while not place.take(0.0 if at_once else WAIT_SECONDS):
                    if at_once:
                        raise BusyError("The model is busy.")
                    if workspace.current is not chat:  # nobody waits for them any more
                        return {}
                if 0 <= turn < len(chat.session.turns) and not chat.has_maps(turn):
                    answer = chat.session.turns[turn].answer
                    heats = self.look(chat.session, answer)
                    chat.keep_maps(turn, answer, [heat_uri(heat) for heat in heats])
        return {chat.key(*where): uri for where, uri in chat.heat_maps.items() if where[0] == turn}

    def save(self, workspace: Workspace, kind: str, settings: Mapping[str, Any]) -> Screen:
        """The conversation as a file for the browser to save; see `web_export.EXPORTS`."""
        chat = workspace.current
        if chat is None or not chat.session.turns or kind not in EXPORTS:
            return {"alerts": concerns_html(chat, "There is nothing to save yet.")}
        return {"saved": export(chat, settings, kind)}
