"""A conversation as a file."""

import json
from pathlib import Path
from typing import Any

import pytest

from xraygpt.common.errors import DataError
from xraygpt.serving import RESEARCH_NOTICE
from xraygpt.serving.safety import FLAGS, REPORT_QUESTION
from xraygpt.serving.saved_chat import chat_markdown, chat_record, save_chat
from xraygpt.serving.session import Answer, AnswerSentence, Turn


def make_answer(*sentences: tuple[str, float], truncated: bool = False, repeated: bool = False, dropped_turns: int = 0) -> Answer:
    """An answer of (sentence, confidence) pairs."""
    return Answer(
        text=" ".join(text for text, _ in sentences),
        sentences=[AnswerSentence(text, confidence, i, i + 1) for i, (text, confidence) in enumerate(sentences)],
        truncated=truncated,
        dropped_turns=dropped_turns,
        token_ids=[],
        repeated=repeated,
    )


@pytest.fixture
def record() -> dict[str, Any]:
    turns = [
        Turn("", make_answer(("Clear lungs.", 0.91), ("New opacity.", 0.2))),
        Turn("# Is *it* <b>large</b>?", make_answer(("1_2 of 3_4", 0.8), truncated=True, dropped_turns=2)),
    ]
    return chat_record(turns, image="x.png", about={"decoding": {"num_beams": 1}})


def test_json_holds_everything(tmp_path: Path, record: dict[str, Any]) -> None:
    save_chat(tmp_path / "chat.json", record)
    saved = json.loads((tmp_path / "chat.json").read_text())
    assert saved == record
    assert list(saved) == ["notice", "image", "decoding", "turns"]
    assert saved["notice"] == RESEARCH_NOTICE
    first, second = saved["turns"]
    assert (first["question"], first["answer"], first["flags"]) == (REPORT_QUESTION, "Clear lungs. New opacity.", ["compares_with_prior"])
    assert first["sentences"][1] == {"text": "New opacity.", "confidence": 0.2}
    assert (second["flags"], second["dropped_turns"]) == (["truncated"], 2)


def test_markdown_is_for_reading(tmp_path: Path, record: dict[str, Any]) -> None:
    save_chat(tmp_path / "chat.md", record)
    lines = (tmp_path / "chat.md").read_text().splitlines()
    assert lines.count(f"> {RESEARCH_NOTICE}") == 2
    assert "- image: `x.png`" in lines
    assert "**Answer:** Clear lungs. New opacity." in lines
    assert f"- Note: {FLAGS['compares_with_prior']}" in lines
    assert "- Unsure (20%): New opacity." in lines
    assert any("its 2 oldest questions" in line for line in lines)


def test_typed_markup_stays_text(record: dict[str, Any]) -> None:
    text = chat_markdown(record)
    assert r"**Question:** \# Is \*it\* \<b\>large\</b\>?" in text
    assert r"1\_2 of 3\_4" in text


def test_no_name_no_image_line(record: dict[str, Any]) -> None:
    assert "image:" not in chat_markdown({**record, "image": ""})


def test_nothing_is_overwritten_or_guessed(tmp_path: Path, record: dict[str, Any]) -> None:
    (tmp_path / "there.md").write_text("mine")
    (tmp_path / "folder").write_text("")
    for name in ("a\0.md", "a\ud800.md", "a" * 300 + ".md"):
        with pytest.raises(DataError, match="cannot be written"):
            save_chat(tmp_path / name, record)
    for name, message in (("chat.txt", r"endings.*\.json, \.md"), ("there.md", "exists already"), ("folder/chat.md", "cannot be written")):
        with pytest.raises(DataError, match=message):
            save_chat(tmp_path / name, record)
    assert (tmp_path / "there.md").read_text() == "mine"


def test_a_name_stays_in_its_code_span(record: dict[str, Any]) -> None:
    text = chat_markdown({**record, "image": "a`![x](http://x)`` \n# forged\x1b[2J"})
    assert r"- image: ```a`![x](http://x)`` \n# forged\x1b[2J```" in text.split("\n")


@pytest.mark.parametrize("ending", [".md", ".json"])
def test_no_byte_of_a_name_and_no_escape_sequence_of_a_model_is_obeyed(tmp_path: Path, ending: str) -> None:
    turns = [Turn("a\x1b]0;q\x07", make_answer(("\x1b[2JClear\u202e ~~lungs~~ &lt;", 0.2)))]
    path = tmp_path / f"chat{ending}"
    save_chat(path, chat_record(turns, image="M\udcfcller.png", about={"model": "x\udcff.yaml"}))
    text = path.read_text(encoding="utf-8")
    assert not {"\x1b", "\x07", "\u202e"} & set(text)
    if ending == ".json":
        assert json.loads(text)["turns"][0]["answer"] == turns[0].answer.text
        assert json.loads(text)["image"] == r"M\xfcller.png"
    else:
        assert r"`M\xfcller.png`" in text
        assert r"\~\~lungs\~\~ \&lt;" in text
