"""The chat with a tiny model: same tokens as in training, long conversations, harmless user text."""

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image

from xraygpt.common.errors import DataError
from xraygpt.conversation import CONV_VISION, Chat, Conversation
from xraygpt.conversation.prompts import question_prompt
from xraygpt.processors import Blip2ImageEvalProcessor, open_image

Start = tuple[Chat, Conversation, list[torch.Tensor]]


@pytest.fixture
def start(tiny_model: Any) -> Start:
    """A chat, and a conversation with one image."""
    chat = Chat(tiny_model, Blip2ImageEvalProcessor(image_size=28), open_image=open_image)
    conv, img_list = chat.new_conversation(), list[torch.Tensor]()
    assert chat.upload_img(torch.randn(3, 28, 28, generator=torch.Generator().manual_seed(0)), conv, img_list) == "Received."
    return chat, conv, img_list


def test_first_turn_has_the_tokens_of_training(start: Start, tiny_model: Any) -> None:
    chat, conv, _ = start
    question = "What does this chest radiograph show?"
    chat.ask(question, conv)
    prompt = question_prompt(question, tiny_model.prompt_template)
    assert prompt in tiny_model.prompt_list
    assert tiny_model.prompt_wrap([conv.get_parts()]) == tiny_model.prompt_wrap([prompt])


def test_first_answer_is_the_report_for_that_question(start: Start, tiny_model: Any) -> None:
    chat, conv, img_list = start
    image = torch.randn(3, 28, 28, generator=torch.Generator().manual_seed(0))
    chat.ask("Why?", conv)
    text, ids = chat.answer(conv, img_list, max_new_tokens=12)
    assert [text] == tiny_model.write_reports(image.unsqueeze(0), prompt="Why?", max_new_tokens=12)
    assert len(ids) == 12


def test_image_may_be_a_path_an_image_or_a_tensor(start: Start, tiny_storage: Path) -> None:
    chat, _, _ = start
    path = tiny_storage / "image" / "x0.png"
    pixels = chat.vis_processor(Image.open(path))
    features = []
    for image in (path, str(path), Image.open(path), pixels, pixels.unsqueeze(0)):
        conv = chat.new_conversation()
        chat.upload_img(image, conv, features)
        assert conv.messages == [["Patient", "<Img><ImageHere></Img>"]]
    assert [tuple(each.shape) for each in features] == [(1, 4, 32)] * 5
    assert all(torch.equal(each, features[0]) for each in features)
    with pytest.raises(TypeError, match="open_image"):
        Chat(chat.model, chat.vis_processor).upload_img(path, chat.new_conversation(), [])


def test_a_follow_up_is_a_message_of_its_own(start: Start) -> None:
    chat, conv, img_list = start
    chat.ask("First?", conv)
    chat.answer(conv, img_list, max_new_tokens=3)
    chat.ask("Second?", conv)
    assert [text for role, text in conv.messages if role == "Patient"] == ["<Img><ImageHere></Img> First?", "Second?"]
    assert chat.answer(conv, img_list, max_new_tokens=3)[1]


def test_answers_without_the_right_images_are_refused(start: Start) -> None:
    chat, conv, img_list = start
    empty = chat.new_conversation()
    chat.ask("What?", empty)
    for conversation, images in ((empty, []), (empty, img_list), (conv, []), (conv, img_list * 2)):
        with pytest.raises(DataError, match="Upload an image first"):
            chat.answer(conversation, images)


def test_an_empty_question_is_refused(start: Start) -> None:
    with pytest.raises(DataError, match="nothing but markup"):
        start[0].ask(" ### ", start[1])


@pytest.mark.parametrize("style", ["trained", "vision"])
def test_a_long_conversation_loses_its_oldest_turns(start: Start, caplog: pytest.LogCaptureFixture, style: str) -> None:
    chat, conv, img_list = start
    if style == "vision":
        conv = Conversation(system="S", messages=conv.messages)
    read: list[list[str]] = []
    generate = chat.model.generate

    def spy(prompts: Any, *args: Any, **settings: Any) -> Any:
        read.extend(prompts)
        return generate(prompts, *args, **settings)

    chat.model.generate = spy  # type: ignore[method-assign]
    for i in range(8):
        chat.ask(f"This is question number {i}, is it not?", conv)
        _, ids = chat.answer(conv, img_list, max_new_tokens=8, max_length=150)
        (row,) = chat.model.prompt_wrap([read[-1]])
        assert len(row) + len(ids) <= 150
        text = "".join(read[-1])
        assert f"number {i}" in text
        assert text.count("<ImageHere>") == 1
        assert text.startswith(
            "###Patient: <Img><ImageHere></Img> This" if style == "trained" else "S###Patient: <Img><ImageHere></Img> This"
        )
    assert "number 0" not in text
    assert "number 6" in text
    assert len(conv.messages) == 16
    assert [record.levelno for record in caplog.records][-1] == logging.WARNING
    assert "without its" in caplog.text


@pytest.mark.parametrize("limits", [{"max_length": 30, "max_new_tokens": 10}, {"max_new_tokens": 250}])
def test_a_question_that_cannot_fit_is_refused(start: Start, limits: dict[str, int]) -> None:
    chat, conv, img_list = start
    chat.ask("Is there any abnormality in the lungs, the heart or the bones?", conv)
    before = conv.dict()
    with pytest.raises(DataError, match="Ask a shorter question"):
        chat.answer(conv, img_list, **limits)
    assert conv.dict() == before


def test_a_written_end_symbol_or_role_cannot_reach_the_next_prompt(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    chat, conv, img_list = start
    (written,) = chat.model.generate([conv.get_parts()], torch.cat(img_list), max_new_tokens=2)
    fake = type(written)("Patient: x <ImageHere> Doctor: fine <ImageHere> ##", written.token_ids)
    monkeypatch.setattr(chat.model, "generate", lambda *args, **settings: [fake])
    chat.ask("What?", conv)
    assert chat.answer(conv, img_list, max_new_tokens=20)[0] == "fine <ImageHere> ##"
    assert conv.messages[-1] == ["Doctor", "fine"]
    assert conv.num_images() == 1


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@example(text="DoctorDoctor:")
@given(text=st.lists(st.sampled_from(["###", "#", "Doctor", "Patient", ":", "<ImageHere>", "<Img", "</", ">", "a", " "])).map("".join))
def test_user_text_brings_no_markup(start: Start, text: str) -> None:
    chat, _, _ = start
    for empty in (chat.new_conversation(), CONV_VISION.copy()):
        prompts = []
        for question in ("a", f"a {text}"):
            conv = empty.copy()
            conv.append_message(conv.roles[0], "<Img><ImageHere></Img>")
            chat.ask(question, conv)
            conv.append_message(conv.roles[1], None)
            prompts.append(conv.get_prompt())
        for markup in ("<ImageHere>", "###", "Doctor:", "Patient:", "</Img>"):
            assert prompts[1].count(markup) == prompts[0].count(markup)
