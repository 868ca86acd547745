"""The terminal chat: lines in, text out."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from xraygpt.conversation import CONV_VISION
from xraygpt.processors import Blip2ImageEvalProcessor
from xraygpt.serving import ReportPipeline, TerminalChat
from xraygpt.serving.terminal import TextWriter

SETTINGS = {"max_new_tokens": 8, "min_new_tokens": 1, "num_beams": 1, "do_sample": False}
Talk = Callable[..., str]


@pytest.fixture
def pipeline(tiny_model: Any) -> ReportPipeline:
    return ReportPipeline(model=tiny_model, vis_processor=Blip2ImageEvalProcessor(image_size=28), prompt="", settings=dict(SETTINGS))


@pytest.fixture
def talk(pipeline: ReportPipeline, tiny_storage: Path) -> Talk:
    """Types lines, in which `{i}` is the path of image i, and returns what was shown."""

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


def test_answers_are_those_of_the_chat(talk: Talk, pipeline: ReportPipeline, tiny_storage: Path) -> None:
    chat = pipeline.new_chat()
    conv, img_list = chat.new_conversation(), []
    chat.upload_img(tiny_storage / "image" / "x0.png", conv, img_list)
    expected = []
    for question in ("What?", "Sure?"):
        chat.ask(question, conv)
        expected.append(chat.answer(conv, img_list, max_new_tokens=8)[0])
    assert talk("/image {0}", "What?", "Sure?").split("\n", 1)[1] == "".join(f"{text}\n" for text in expected)
    assert expected[0] != expected[1]


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
        ("/image", "Which image"),
        ("/image nowhere.png", "nowhere.png"),
        ("/picture x", "no command /picture"),
        ("/help", "/reset"),
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


def test_with_beams_the_whole_answer_is_shown_at_the_end(talk: Talk, pipeline: ReportPipeline) -> None:
    pipeline.settings["num_beams"] = 2
    assert len(talk("/image {0}", "What?").splitlines()[-1]) > 0


def test_another_format_gives_another_answer(talk: Talk) -> None:
    assert talk("/image {0}", "What?", conv=CONV_VISION.copy()) != talk("/image {0}", "What?")


@pytest.mark.parametrize("text", ["Clear lungs.###", "A ### Patient: more", "No  end\nat all ", "###", "Trailing space ###"])
def test_writer_shows_what_stands_before_the_end_symbol(tiny_model: Any, text: str) -> None:
    tokenizer = tiny_model.llama_tokenizer
    shown: list[str] = []
    writer = TextWriter(tokenizer, shown.append, end_sym="###")
    for token in tokenizer(text, add_special_tokens=False, return_tensors="pt").input_ids[0]:
        writer.put(token.unsqueeze(0))
    writer.end()
    assert "".join(shown) == text.split("###")[0].strip()
