"""A conversation as a file: JSON for programs, Markdown for people. Both carry the research notice."""

import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from xraygpt.common.errors import DataError
from xraygpt.common.files import write_text
from xraygpt.common.printable import json_text, markdown_code, printable_line, utf8_name
from xraygpt.common.registry import suggest
from xraygpt.serving.safety import REPORT_QUESTION, RESEARCH_NOTICE, dropped_turns_note, notes, unsure_notes
from xraygpt.serving.sentences import as_rows
from xraygpt.serving.session import Turn

_MARKDOWN = re.compile(r"([\\`*_~\[\]<>#|&])")


def chat_record(turns: Iterable[Turn], *, image: str, about: Mapping[str, Any]) -> dict[str, Any]:
    """A conversation as plain values.

    Args:
        turns: questions and answers, oldest first.
        image: what to call the image: its name, or "" if that should not be told.
        about: the model and its settings, plain values.
    """
    return {
        "notice": RESEARCH_NOTICE,
        "image": utf8_name(image),
        **about,
        "turns": [
            {
                "question": turn.question or REPORT_QUESTION,
                "answer": turn.answer.text,
                "flags": turn.answer.flags,
                "dropped_turns": turn.answer.dropped_turns,
                "sentences": as_rows(turn.answer.sentences),
            }
            for turn in turns
        ],
    }


def chat_json(record: Mapping[str, Any]) -> str:
    """The record as indented JSON."""
    return json_text(record, indent=1) + "\n"


def chat_markdown(record: Mapping[str, Any]) -> str:
    """The record as Markdown; what user and model wrote shows as written."""
    lines = ["# Conversation about a chest radiograph", "", f"> {record['notice']}", ""]
    about = {key: value for key, value in record.items() if key not in ("notice", "turns") and value}
    lines += [f"- {key}: {markdown_code(value if isinstance(value, str) else json_text(value))}" for key, value in about.items()]
    for turn in record["turns"]:
        lines += ["", f"**Question:** {_plain(turn['question'])}", "", f"**Answer:** {_plain(turn['answer'])}"]
        lines += ["", *(f"- {_plain(line)}" for line in remarks(turn))]
    return re.sub(r"\n{3,}", "\n\n", "\n".join([*lines, "", f"> {record['notice']}"])) + "\n"


def remarks(turn: Mapping[str, Any]) -> list[str]:
    """What a reader should know about one turn of a record, a line each: flags, unsure sentences, forgotten turns."""
    dropped = dropped_turns_note(turn["dropped_turns"])
    return [*notes(turn["flags"]), *unsure_notes(turn["sentences"]), *([dropped] if dropped else [])]


WRITERS: dict[str, Callable[[Mapping[str, Any]], str]] = {".md": chat_markdown, ".json": chat_json}


def save_chat(path: Path, record: Mapping[str, Any]) -> None:
    """Write a record as the file's ending says.

    Raises:
        DataError: another ending, the file exists, or it cannot be written.
    """
    if path.suffix.lower() not in WRITERS:
        raise DataError(f"{path}: a conversation is saved as one of these endings.{suggest(path.suffix, WRITERS)}")
    try:
        if path.exists():
            raise DataError(f"{path} exists already. Choose another name.")
        write_text(path, WRITERS[path.suffix.lower()](record))
    except (OSError, ValueError) as error:  # ValueError: a null character in the path
        raise DataError(f"{path} cannot be written: {getattr(error, 'strerror', None) or error}.") from error


def _plain(text: str) -> str:
    return printable_line(_MARKDOWN.sub(r"\\\1", " ".join(text.split())))
