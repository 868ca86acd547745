"""Whatever is asked, answered or put into a prompt file: markup stays the program's own, saved chats stay readable."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.reliability.fuzzing import attempt, damaged, fuzz
from tests.serving.made_api import MarkModel, grey_tensor
from xraygpt.common.files import write_text
from xraygpt.conversation import Chat
from xraygpt.conversation.prompts import load_prompts, neutralise
from xraygpt.serving.safety import find_flags
from xraygpt.serving.saved_chat import chat_json, chat_markdown, chat_record, save_chat

MARKUP = [
    "###", "##", "#", "<ImageHere>", "<Img>", "</Img>", "<", ">", "</", "s>", "</s>", "Image", "Here", "Patient:", "Doctor", ":", " ",
    "\n", "\0", "\ud800", "{}", "|", "`",
]  # fmt: skip
TEXTS = st.one_of(st.text(max_size=60), st.lists(st.sampled_from(MARKUP), max_size=12).map("".join))
PROMPTS = b"<Img><ImageHere></Img> Describe.\n<Img><ImageHere></Img> What is seen?\n"


@fuzz()
@given(text=TEXTS)
def test_user_text_cannot_pose_as_markup(text: str) -> None:
    clean = attempt(lambda: neutralise(text))
    assert "##" not in clean and "<ImageHere>" not in clean and "</s>" not in clean and "Doctor:" not in clean
    assert neutralise(clean) == clean


@pytest.mark.parametrize(
    "part", ["<" * 20_000, "#" * 200_000, "< " * 50_000, "<s" * 50_000, "Patient" + ":" * 100_000, "<#" * 5_000, " " * 10**6]
)
def test_long_texts_of_markup_take_no_time(part: str) -> None:
    attempt(lambda: neutralise(part))
    attempt(lambda: neutralise(part + "s>" * 1000))


@fuzz()
@given(turns=st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=4))
def test_chat(turns: list[tuple[str, str]]) -> None:
    chat = Chat(MarkModel(), grey_tensor)
    conversation, images = chat.new_conversation(), list[torch.Tensor]()
    chat.upload_img(torch.zeros(3, 2, 2), conversation, images)
    for question, answer in turns:
        attempt(lambda question=question: chat.ask(question, conversation))
        assert conversation.get_parts().count("<ImageHere>") == 1
        if conversation.messages[-1][0] == conversation.roles[0]:
            conversation.append_message(conversation.roles[1], neutralise(answer))
        attempt(lambda: chat.fit(conversation, max_new_tokens=5))


def answered(question: str, answer: str) -> Any:
    """A turn of a saved conversation."""
    sentence = SimpleNamespace(text=answer, confidence=0.5)
    return SimpleNamespace(
        question=question, answer=SimpleNamespace(text=answer, flags=find_flags(answer), dropped_turns=1, sentences=[sentence])
    )


@fuzz()
@given(question=TEXTS, answer=TEXTS, name=TEXTS)
def test_saved_chats(question: str, answer: str, name: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    record = chat_record([answered(question, answer)], image=name, about={"model": name})
    assert json.loads(chat_json(record))["turns"][0]["answer"] == answer
    folder = tmp_path_factory.getbasetemp()
    for suffix in (".json", ".md"):
        path = folder / f"chat{suffix}"
        path.unlink(missing_ok=True)
        attempt(lambda path=path: save_chat(path, record))
    lines = chat_markdown(record).splitlines()
    assert len([line for line in lines if line.startswith("**Answer:**")]) == 1


@fuzz()
@given(
    content=st.one_of(damaged([PROMPTS, PROMPTS.decode().encode("utf-16")]), st.binary(max_size=60)),
    template=st.sampled_from(["{}", "###Patient: {} ###Doctor: ", "", "{}{}", "{0}"]),
)
def test_prompt_files(content: bytes, template: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / "prompts.txt"
    path.write_bytes(content)
    prompts = attempt(lambda: load_prompts(path, template))
    assert all(prompt.count("<ImageHere>") == 1 for prompt in prompts or [])


def test_a_prompt_file_that_is_no_file(tmp_path: Path) -> None:
    write_text(tmp_path / "x", "")
    for path in (tmp_path, tmp_path / "none", tmp_path / "x" / "y"):
        assert attempt(lambda path=path: load_prompts(path, "{}")) is None
