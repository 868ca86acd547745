"""A conversation as a file for the browser to save: text, Markdown, JSON, or a page to print. All are made in memory."""

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from xraygpt.common.printable import message_text, printable_line, template_text
from xraygpt.serving.safety import RESEARCH_NOTICE
from xraygpt.serving.saved_chat import chat_json, chat_markdown, chat_record, remarks
from xraygpt.serving.web_view import STATUSES, film_uri, finding_rows, report_of
from xraygpt.serving.web_workspace import FilmChat

Record = dict[str, Any]


def _as_text(chat: FilmChat, record: Record) -> str:
    about = [printable_line(f"{key}: {value}") for key, value in record.items() if key not in ("notice", "turns") and value]
    lines = [RESEARCH_NOTICE, "", *about]
    for turn in record["turns"]:
        lines += ["", message_text(f"Question: {turn['question']}"), message_text(f"Answer: {turn['answer']}")]
        lines += map(printable_line, remarks(turn))
    return "\n".join([*lines, "", RESEARCH_NOTICE]) + "\n"


def _as_markdown(chat: FilmChat, record: Record) -> str:
    return chat_markdown(record)


def _as_json(chat: FilmChat, record: Record) -> str:
    return chat_json(record | {"findings": [asdict(row) for row in _stated_findings(chat)]})


def _as_page(chat: FilmChat, record: Record) -> str:
    """One HTML page with the film and the chosen heat map in it; it makes no request and runs nothing."""
    environment = Environment(
        loader=PackageLoader("xraygpt.serving", "assets"), autoescape=True, finalize=template_text, undefined=StrictUndefined
    )
    sentence = chat.chosen_sentence
    return environment.get_template("print.html.jinja").render(
        record=record,
        film=film_uri(chat.film),
        heat=chat.heat_maps.get(chat.selected) if chat.selected else None,
        sentence=sentence.text if sentence else "",
        turns=[(turn["question"], turn["answer"], remarks(turn)) for turn in record["turns"]],
        rows=_stated_findings(chat),
        statuses=STATUSES,
    )


def _stated_findings(chat: FilmChat) -> list[Any]:
    report = report_of(chat.session.turns)
    return finding_rows(report.answer.text) if report else []


EXPORTS: dict[str, tuple[Callable[[FilmChat, Record], str], str, str]] = {
    "text": (_as_text, "txt", "text/plain"),
    "markdown": (_as_markdown, "md", "text/markdown"),
    "json": (_as_json, "json", "application/json"),
    "page": (_as_page, "html", "text/html"),
}
"""Name → writer, ending, media type."""


def export(chat: FilmChat, settings: Mapping[str, Any], kind: str) -> dict[str, str]:
    """A conversation as a file with the research notice: {"name", "type", "text"}.

    Args:
        chat: the conversation, with at least one answer.
        settings: of the decoding, as they are set now.
        kind: one of `EXPORTS`.
    """
    write, ending, media_type = EXPORTS[kind]
    about = {
        "written": time.strftime("%Y-%m-%d %H:%M"),
        "decoding": dict(settings),
        "notes on the image": [concern.message for concern in chat.concerns],
    }
    record = chat_record(chat.session.turns, image=chat.name, about=about)
    return {"name": f"xraygpt-{time.strftime('%Y%m%d-%H%M%S')}.{ending}", "type": media_type, "text": write(chat, record)}
