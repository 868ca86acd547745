"""The terminal chat: lines in, text out."""

import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from xraygpt.common.printable import printable_text
from xraygpt.conversation import CONV_VISION
from xraygpt.processors import Blip2ImageEvalProcessor, input_gate
from xraygpt.serving import RESEARCH_NOTICE, ReportPipeline, TerminalChat, terminal
from xraygpt.serving.safety import FLAGS
from xraygpt.serving.session import Answer, AnswerSentence, ChatSession, Turn

SETTINGS = {"max_new_tokens": 8, "min_new_tokens": 1, "num_beams": 1, "do_sample": False}
Talk = Callable[..., str]


@pytest.fixture
def pipeline(tiny_model: Any) -> ReportPipeline:
    return ReportPipeline(model=tiny_model, vis_processor=Blip2ImageEvalProcessor(image_size=28), prompt="", settings=dict(SETTINGS))


@pytest.fixture
def talk(pipeline: ReportPipeline, tiny_storage: Path, monkeypatch: pytest.MonkeyPatch) -> Talk:
    """Types lines, in which `{i}` is the path of image i, and returns what was shown. The input gate is content unless a test says no."""
    monkeypatch.setattr("xraygpt.serving.pipeline.check_image", lambda image: [])

    def talk(*lines: str, **options: Any) -> str:
        shown: list[str] = []
        typed = iter(lines)

        def read() -> str:
            try:
                return next(typed).format(*(tiny_storage / "image" / f"x{i}.png" for i in range(3)))
            except StopIteration:
                raise EOFError from None

        TerminalChat(pipeline=pipeline, write=shown.append, **options).run(read)
        return "".join(shown)

    return talk


def test_answers_are_those_of_the_session(talk: Talk, pipeline: ReportPipeline, tiny_storage: Path) -> None:
    session = ChatSession(pipeline)
    session.open_image(tiny_storage / "image" / "x0.png")
    for question in ("", "What?", "Sure?"):
        list(session.stream(question))
    shown = talk("/image {0}", "/report", "What?", "Sure?")
    places = [shown.index(printable_text(turn.answer.text)) for turn in session.turns]
    assert places == sorted(places)
    assert len({turn.answer.text for turn in session.turns}) == 3


def test_reset_forgets_the_answers_and_keeps_the_image(talk: Talk) -> None:
    once = talk("/image {0}", "What?")
    _, answer = once.split("\n", 1)
    assert talk("/image {0}", "What?", "/reset", "What?") == f"{once}The conversation starts anew.\n{answer}"


def test_another_image_starts_another_conversation(talk: Talk) -> None:
    assert talk("/image {0}", "What?", "/image {1}", "What?").endswith(talk("/image {1}", "What?"))
    assert not talk("/image {0}", "What?").endswith(talk("/image {1}", "What?").split("\n", 1)[1])


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("What?", "no image yet"),
        ("/report", "no image yet"),
        ("/image", "Which image"),
        ("/image nowhere.png", "nowhere.png"),
        ("/picture x", "no command /picture"),
        ("/save", "Write /save FILE"),
        ("/save chat.txt", "chat.txt"),
        ("/help", "/reset"),
        ("/help", RESEARCH_NOTICE),
    ],
)
def test_the_chat_goes_on_after_each_line(talk: Talk, line: str, shown: str) -> None:
    assert shown in talk(line)
    assert talk(line, "/image {0}", "What?").endswith(talk("/image {0}", "What?"))


def test_an_image_that_cannot_be_opened_leaves_the_conversation(talk: Talk) -> None:
    _, answer = talk("/image {0}", "What?").split("\n", 1)
    assert talk("/image {0}", "/image nowhere.png", "What?").endswith(f"\n{answer}")


def test_quit_ends_and_empty_lines_are_skipped(talk: Talk) -> None:
    assert talk("", "  ", "/quit", "/help") == ""


def test_the_input_gate_warns(talk: Talk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("xraygpt.serving.pipeline.check_image", input_gate.check_image)
    assert "Note on the image: The image has 32 x 40 pixels" in talk("/image {0}")


def test_another_format_gives_another_answer(talk: Talk) -> None:
    assert talk("/image {0}", "What?", conv=CONV_VISION.copy()) != talk("/image {0}", "What?")


@pytest.mark.parametrize("ending", [".json", ".md"])
def test_a_saved_conversation_carries_the_notice(talk: Talk, tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"chat{ending}"
    assert f"Saved: {path}\n" in talk("/image {0}", "What?", f"/save {path}", about={"model": "tiny"})
    text = path.read_text()
    assert RESEARCH_NOTICE in text
    assert "x0.png" in text
    assert "tiny_storage" not in text
    assert "exists already" in talk(f"/save {path}")


def test_a_saved_conversation_has_questions_answers_and_settings(talk: Talk, tmp_path: Path) -> None:
    talk("/image {0}", "/report", "What?", f"/save {tmp_path / 'chat.json'}")
    saved = json.loads((tmp_path / "chat.json").read_text())
    assert [turn["question"] for turn in saved["turns"]] == ["Write a report.", "What?"]
    assert all(turn["answer"] for turn in saved["turns"])
    assert saved["decoding"] == SETTINGS


class CannedSession:
    """Says what it is told to, and obeys `cancelled`."""

    answer = Answer(
        text="Clear lungs. Stable heart.",
        sentences=[AnswerSentence("Clear lungs.", 0.9, 0, 3), AnswerSentence("Stable heart.", 0.25, 3, 6)],
        truncated=True,
        dropped_turns=1,
    )

    def __init__(self, pipeline: Any, *, conv: Any) -> None:
        self.turns: list[Turn] = []

    def open_image(self, image: Any) -> list[Any]:
        """Accept it, and nothing speaks against it."""
        return []

    def stream(self, question: str, *, cancelled: Callable[[], bool]) -> Iterator[str]:
        """The pieces; after the first one Ctrl-C is pressed if the question says so."""
        self.turns.append(Turn(question, self.answer))
        for piece in ("Clear lungs. ", "Stable heart."):
            if cancelled():
                return
            yield piece
            if question == "interrupt":
                os.kill(os.getpid(), signal.SIGINT)


@pytest.fixture
def canned(talk: Talk, monkeypatch: pytest.MonkeyPatch) -> Talk:
    monkeypatch.setattr(terminal, "ChatSession", CannedSession)
    return talk


def test_what_an_answer_deserves_doubt_for_stands_below_it(canned: Talk) -> None:
    lines = canned("/image {0}", "What?").splitlines()
    assert lines[1:] == [
        "Clear lungs. Stable heart.",
        f"Note: {FLAGS['compares_with_prior']}",
        f"Note: {FLAGS['truncated']}",
        "Unsure (25%): Stable heart.",
        "Note: The conversation is long: this was written without its oldest question.",
    ]


def test_neither_model_nor_name_commands_the_terminal(canned: Talk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "\x1b]52;c;eA==\x07Clear\u202e\r\x9b2J lungs."
    answer = Answer(text=text, sentences=[AnswerSentence(text, 0.2, 0, 3)], truncated=False, dropped_turns=0)
    monkeypatch.setattr(CannedSession, "answer", answer)
    monkeypatch.setattr(CannedSession, "stream", lambda self, question, cancelled: (self.turns.append(Turn(question, answer)), text)[1:])
    shown = canned("/image a\x1b[2J\nImage: forged\udcff.png", "What?", "/\x1b[2J", f"/save {tmp_path}/\x1b[2J.md", "/save x\x1b.txt")
    assert not {"\x1b", "\x07", "\u202e", "\r", "\x9b", "\udcff"} & set(shown)
    assert r"Image: a\x1b[2J\nImage: forged\xff.png" in shown.split("\n")
    assert r"\x1b]52;c;eA==\x07Clear\u202e\r\u009b2J lungs." in shown
    assert r"\x1b[2J.md" in shown and r"x\x1b.txt" in shown


def test_what_is_not_utf_8_ends_no_chat(canned: Talk, pipeline: ReportPipeline, tiny_storage: Path) -> None:
    shown = canned("/image {0}", "W\udcfc?", "What?")
    assert r"The question is not Unicode text: W\xfc?" in shown and "Clear lungs." in shown
    lines = iter([UnicodeDecodeError("utf-8", b"\xfc", 0, 1, "invalid start byte"), "/help"])

    def read() -> str:
        line = next(lines, EOFError())
        if isinstance(line, Exception):
            raise line
        return line

    said: list[str] = []
    TerminalChat(pipeline=pipeline, write=said.append).run(read)
    assert said[0].startswith("The line is not UTF-8") and RESEARCH_NOTICE in said[1]


def test_ctrl_c_stops_the_answer_and_not_the_chat(canned: Talk) -> None:
    usual = signal.getsignal(signal.SIGINT)
    shown = canned("/image {0}", "interrupt", "What?")
    assert shown.count("Clear lungs. \n") == 1
    assert shown.count("Clear lungs. Stable heart.\n") == 1
    assert signal.getsignal(signal.SIGINT) is usual


def test_a_second_ctrl_c_ends_as_usual() -> None:
    with pytest.raises(KeyboardInterrupt), terminal.interrupts() as pressed:
        os.kill(os.getpid(), signal.SIGINT)
        assert pressed()
        os.kill(os.getpid(), signal.SIGINT)
