"""What the page's buttons do. No gradio in here: an action gets a workspace and what the user gave, and returns what is to be shown.

A `Screen` maps the names of the page's parts to their new values; parts that are not in it stay as they are.
"""

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xraygpt.common.errors import DataError, XrayGPTError
from xraygpt.conversation.prompts import IMAGE_BLOCK
from xraygpt.processors import open_image
from xraygpt.processors.image_io import read_content
from xraygpt.serving.web_export import export
from xraygpt.serving.web_view import concerns_html, conversation_html, film_uri, findings_html, heat_uri
from xraygpt.serving.web_workspace import FilmChat, Workspace

Screen = dict[str, Any]
Look = Callable[[FilmChat, int], NDArray[np.float32]]
"""(conversation, turn) → float32 [sentences of the answer, S, S] in 0..1, where the model looked for each."""

MAX_PIXELS = 40_000_000
"""Of a film. The largest radiographs have about 20 million."""
MAX_QUESTION = 2000
"""Characters of a question."""
MAX_SECONDS = 300.0
"""For an answer; it then ends where it is."""
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
        "heat": _heat_of(chat),
        "chats": workspace,
        "is_writing": chat is not None and chat.is_writing,
    }
    return screen | {"film": film_uri(chat.film) if chat else ""} if film else screen


def _heat_of(chat: FilmChat | None) -> dict[str, str]:
    sentence = chat.chosen_sentence if chat else None
    if chat is None or chat.selected is None or sentence is None:
        return {}
    return {"uri": chat.heat_maps.get(chat.selected, ""), "caption": f"Where the model looked for “{sentence.text}”"}


class PageActions:
    """The actions.

    Args:
        look: finds where the model looked.
        lock: held while the model works, so that the page and whatever else uses the model take turns.
    """

    def __init__(self, look: Look, lock: threading.Lock) -> None:
        self.look = look
        self.lock = lock

    # Films -----------------------------------------------------------------------------------------------------

    def open_file(self, workspace: Workspace, path: str | Path, *, keep: bool = False) -> Screen:
        """Start a conversation about the film of a file, which is removed unless `keep`."""
        path = Path(path)
        try:
            stream = BytesIO(read_content(path, "The upload"))
            stream.name = "The file"  # what errors and the log call it: its own name may be that of a patient
            film = open_image(stream)
            if film.width * film.height > MAX_PIXELS:
                raise DataError(f"{film.width} x {film.height} pixels; the page takes at most {MAX_PIXELS}. Scale the image down.")
            workspace.open(film, path.name)
        except DataError as error:
            return screen_of(workspace, message=str(error))
        finally:
            if not keep:
                path.unlink(missing_ok=True)
        return screen_of(workspace, film=True)

    def correct(self, workspace: Workspace, invert: bool, turn: int) -> Screen:
        """Invert or turn the film."""
        if workspace.current and workspace.current.is_writing:
            return screen_of(workspace, message="An answer is being written. Stop it first.")
        workspace.correct(invert=invert, turn=turn)
        return screen_of(workspace, film=True)

    # Conversations ---------------------------------------------------------------------------------------------

    def show(self, workspace: Workspace, number: int) -> Screen:
        """Show another conversation."""
        workspace.show(number)
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
        chat.question, chat.written, chat.num_retries = question, "", 0
        yield from self._written(workspace, chat, settings)

    def retry(self, workspace: Workspace, settings: Mapping[str, Any]) -> Iterator[Screen]:
        """Answer the last question anew: with another seed where tokens are drawn, else with the settings of now."""
        chat = workspace.current
        if chat is None or chat.is_writing or not chat.session.turns:
            yield screen_of(workspace, message="There is no answer to write anew.")
            return
        chat.question, chat.written, chat.num_retries = chat.session.turns[-1].question, "", chat.num_retries + 1
        self._undo(chat)
        if "seed" in settings:
            settings = {**settings, "seed": settings["seed"] + chat.num_retries}
        yield from self._written(workspace, chat, settings)

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

    def _written(self, workspace: Workspace, chat: FilmChat, settings: Mapping[str, Any]) -> Iterator[Screen]:
        """Write the answer to `chat.question`."""
        chat.stop.clear()
        message = ""
        try:
            yield screen_of(workspace) | {"question": ""}
            for _ in self._pieces(chat, settings):
                if workspace.current is chat:
                    yield {"conversation": conversation_html(chat)}
        except XrayGPTError as error:
            message = str(error)
        finally:  # also when the client leaves, which ends this generator at a yield
            chat.question, chat.written = None, ""
        yield screen_of(workspace, message=message)

    def _pieces(self, chat: FilmChat, settings: Mapping[str, Any]) -> Iterator[None]:
        """Extend `chat.written`; yields when it is time to show it."""
        while not self.lock.acquire(timeout=0.1):
            if chat.stop.is_set():
                return
        try:
            start = shown = time.monotonic()
            over = start + MAX_SECONDS
            answer = chat.session.stream(
                chat.question or "", settings=settings, cancelled=lambda: chat.stop.is_set() or time.monotonic() > over
            )
            with closing(answer):  # type: ignore[type-var]  # a generator, as every streaming session returns
                for piece in answer:
                    chat.written += piece
                    if time.monotonic() - shown >= SHOW_EVERY:
                        shown = time.monotonic()
                        yield
        finally:
            self.lock.release()

    # Looking and keeping ---------------------------------------------------------------------------------------

    def choose(self, workspace: Workspace, turn: int, sentence: int) -> Screen:
        """Show where the model looked for a sentence; chosen again, show the film alone."""
        chat = workspace.current
        if chat is None:
            return {}
        chat.choose(turn, sentence)
        if chat.selected and chat.selected not in chat.heat_maps:
            with self.lock:
                heats = self.look(chat, turn)
            chat.heat_maps |= {(turn, i): heat_uri(heat) for i, heat in enumerate(heats)}
        return {"conversation": conversation_html(chat), "heat": _heat_of(chat)}

    def save(self, workspace: Workspace, kind: str, settings: Mapping[str, Any]) -> Screen:
        """The conversation as a file for the browser to save; see `web_export.EXPORTS`."""
        chat = workspace.current
        if chat is None or not chat.session.turns:
            return {"alerts": concerns_html(chat, "There is nothing to save yet.")}
        return {"saved": export(chat, settings, kind)}
