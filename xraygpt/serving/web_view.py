"""What the page shows, as HTML and data URIs. Every text is escaped; nothing here changes a conversation."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from xraygpt.common.comparisons import compares
from xraygpt.evaluation import read_findings, read_statuses
from xraygpt.models.looking import heat_layer
from xraygpt.processors.dicom_io import BURNED_IN_ANNOTATION
from xraygpt.serving.safety import LOW_CONFIDENCE, REPORT_QUESTION, dropped_turns_note, notes
from xraygpt.serving.session import Answer, Turn
from xraygpt.serving.web_workspace import FilmChat

FILM_SIDE = 1600
"""Longer side of the film as the browser gets it, in pixels."""

STATUSES = {"present": "Present", "uncertain": "Uncertain", "absent": "Absent"}
"""Status of a finding → heading, in the order of the table."""


@dataclass(frozen=True)
class FindingRow:
    """One row of the table of findings: `where` and `words` may be ""."""

    name: str
    status: str
    where: str
    words: str


def data_uri(image: Image.Image) -> str:
    """An image as the address of itself, in PNG: lossless."""
    buffer = BytesIO()
    image.save(buffer, "PNG", compress_level=3)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def film_uri(film: Image.Image) -> str:
    """A film for the browser, not larger than `FILM_SIDE`."""
    shown = film.copy()
    shown.thumbnail((FILM_SIDE, FILM_SIDE), Image.Resampling.LANCZOS)
    return data_uri(shown)


def heat_uri(heat: NDArray[np.float32]) -> str:
    """A map [S, S] of where the model looked, as a layer over the film."""
    return data_uri(heat_layer(heat))


def question_of(turn: Turn) -> str:
    """A turn's question, as a reader should see it."""
    return turn.question or REPORT_QUESTION


def report_of(turns: Sequence[Turn]) -> Turn | None:
    """The turn with the last report, or the last answer if no report was asked for."""
    return next((turn for turn in reversed(turns) if not turn.question), turns[-1] if turns else None)


def finding_rows(text: str) -> list[FindingRow]:
    """The findings that a text states, present ones first. A finding that it does not mention has no row."""
    statements = read_findings(text)
    rows = []
    for finding, status in read_statuses(text).items():
        said = [item for item in statements if (item.finding, item.status) == (finding, status)]
        places = dict.fromkeys(" ".join(word for word in (item.side, item.zone) if word) for item in said)
        severities = dict.fromkeys(item.severity for item in said)
        words = "; ".join(dict.fromkeys(item.sentence for item in said))
        where = ", ".join(place for place in [*places, *severities] if place)
        rows.append(FindingRow(finding.replace("_", " "), status, where, words))
    return sorted(rows, key=lambda row: list(STATUSES).index(row.status))


def answer_flags(answer: Answer) -> list[str]:
    """What a reader must know of an answer as a whole, one sentence each."""
    return [*notes(answer.flags), *filter(None, [dropped_turns_note(answer.dropped_turns)])]


def conversation_html(chat: FilmChat | None) -> str:
    """All turns, and the answer that is being written."""
    if chat is None:
        return '<p class="xg-hint">Open a radiograph, then press <b>Write report</b> or ask a question.</p>'
    turns = "".join(_turn_html(chat, i, turn) for i, turn in enumerate(chat.session.turns))
    if chat.question is not None:
        waiting = f'<span class="xg-wait">{_waiting_for(chat.num_before)}</span>'
        answer = f"{escape(chat.written)}<span class='xg-caret'></span>" if chat.written else waiting
        turns += (
            f'<article class="xg-turn">{_question_html(chat.question or REPORT_QUESTION)}<div class="xg-answer">{answer}</div></article>'
        )
    return turns or '<p class="xg-hint">Press <b>Write report</b>, or ask a question about this image.</p>'


def _waiting_for(num_before: int) -> str:
    others = {0: "", 1: " One other comes first."}.get(num_before, f" {num_before} others come first.")
    return f"Waiting for the model …{others}"


def _question_html(question: str) -> str:
    return f'<div class="xg-question" dir="auto"><span class="xg-sr">Question: </span>{escape(question)}</div>'


def _turn_html(chat: FilmChat, number: int, turn: Turn) -> str:
    answer = turn.answer
    sentences = "".join(_sentence_html(chat, number, i) for i in range(len(answer.sentences)))
    flags = "".join(f"<li>{escape(flag)}</li>" for flag in answer_flags(answer))
    notes = f'<ul class="xg-flags">{flags}</ul>' if flags else ""
    body = sentences or escape(answer.text)
    return f'<article class="xg-turn">{_question_html(question_of(turn))}<div class="xg-answer" dir="auto">{body}</div>{notes}</article>'


def _sentence_html(chat: FilmChat, number: int, index: int) -> str:
    """A sentence that can be chosen, with its marks."""
    sentence = chat.session.turns[number].answer.sentences[index]
    low, comparing = sentence.confidence < LOW_CONFIDENCE, compares(sentence.text)
    classes = " ".join(["xg-sentence", *(["xg-low"] if low else []), *(["xg-compares"] if comparing else [])])
    percent = f"{100 * sentence.confidence:.0f} %"
    marks = f'<span class="xg-mark" title="low confidence">{percent}</span>' if low else ""
    marks += '<span class="xg-mark">compares</span>' if comparing else ""
    return (
        f'<span class="{classes}" role="button" tabindex="0" data-turn="{number}" data-sentence="{index}" '
        f'data-key="{chat.key(number, index)}" aria-pressed="{str(chat.selected == (number, index)).lower()}" '
        f'title="Confidence {percent}. Click to keep its heat map.">'
        f"{escape(sentence.text)}{marks}</span> "
    )


def findings_html(chat: FilmChat | None) -> str:
    """The table of what the report states."""
    turn = report_of(chat.session.turns) if chat else None
    if turn is None:
        return '<p class="xg-hint">They are listed here when a report is written.</p>'
    rows = finding_rows(turn.answer.text)
    if not rows:
        return '<p class="xg-hint">The text states no finding that the rules know.</p>'
    cells = "".join(
        f'<tr class="xg-{row.status}"><td><span class="xg-status">{STATUSES[row.status]}</span></td>'
        f"<th scope='row'>{escape(row.name)}</th><td>{escape(row.where)}</td><td class='xg-words'>{escape(row.words)}</td></tr>"
        for row in rows
    )
    head = "".join(f"<th scope='col'>{title}</th>" for title in ("Status", "Finding", "Where, how much", "In the words of the text"))
    return (
        f'<div class="xg-scroll"><table class="xg-findings"><thead><tr>{head}</tr></thead><tbody>{cells}</tbody></table></div>'
        f'<p class="xg-small">Read off “{escape(question_of(turn))}” by rules. '
        "What is not listed was not mentioned, which does not mean absent.</p>"
    )


def concerns_html(chat: FilmChat | None, message: str = "") -> str:
    """A message, and what speaks against the film, with what can be done about it."""
    items = [f'<p class="xg-error" role="alert">{escape(message)}</p>'] if message else []
    if chat is not None:
        items += [f'<p class="xg-concern"><span>{escape(concern.message)}</span>{_remedy(concern)}</p>' for concern in chat.concerns]
        if chat.film.info.get(BURNED_IN_ANNOTATION):
            items.append('<p class="xg-concern">The file says that text is burned into the image. It may name the patient.</p>')
    return "".join(items)


def _remedy(concern: Any) -> str:
    if concern.kind == "inverted":
        return '<button type="button" class="xg-fix" data-invert="1">Invert it</button>'
    if concern.kind == "rotated":
        return f'<button type="button" class="xg-fix" data-rotate="{concern.turn}">Turn it upright</button>'
    return ""
