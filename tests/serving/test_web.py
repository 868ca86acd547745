"""The page without a browser: what its actions do, what it shows, what it keeps."""

import json
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.serving.made_session import REPORT, MadeSession, made_answer, made_look, made_pipeline
from xraygpt.common.errors import DataError
from xraygpt.serving import web_actions, web_workspace
from xraygpt.serving.page_sessions import Session
from xraygpt.serving.safety import RESEARCH_NOTICE
from xraygpt.serving.session import Turn
from xraygpt.serving.web import build_page
from xraygpt.serving.web_actions import BEAMS, GREEDY, SAMPLING, PageActions, decoding_settings, suggested_questions
from xraygpt.serving.web_export import EXPORTS, export
from xraygpt.serving.web_queue import BusyError, PageQueue
from xraygpt.serving.web_view import answer_flags, conversation_html, film_uri, finding_rows
from xraygpt.serving.web_workspace import TooManyTabsError, Workspace, Workspaces

SETTINGS = decoding_settings(GREEDY, 4, 1.0, 0.9, 120, 0)


@pytest.fixture
def actions() -> PageActions:
    return PageActions(made_look, PageQueue())


@pytest.fixture
def workspace() -> Workspace:
    return Workspace(MadeSession)


def make_film(seed: int = 0) -> Image.Image:
    """Noise: no chest film, but an image."""
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (160, 140), dtype=np.uint8))


def last(screens: Iterator[dict[str, Any]]) -> dict[str, Any]:
    """The last of the screens."""
    return list(screens)[-1]


def test_what_cannot_be_read_as_a_film_is_told(actions: PageActions, workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: MadeSession, image: Image.Image) -> None:
        raise DataError("The file: too small.")

    monkeypatch.setattr(MadeSession, "open_image", refuse)
    assert "too small" in actions.open_upload(workspace, make_film(), "x.png")["alerts"]
    assert workspace.current is None


def test_an_image_is_turned_by_right_angles_alone(actions: PageActions, workspace: Workspace) -> None:
    chat = workspace.open(make_film(), "x.png")
    for _ in range(3):  # by other angles it would grow each time, without end
        assert "90, 180 or 270" in actions.correct(workspace, False, 45)["alerts"]
    assert chat.film.size == (140, 160)


@pytest.mark.parametrize(
    ("question", "message"), [("  ", "Type a question"), ("x" * 2001, "at most 2000"), ("Bones?", "Open a radiograph first")]
)
def test_questions_that_are_not_asked(actions: PageActions, workspace: Workspace, question: str, message: str) -> None:
    assert message in last(actions.ask(workspace, question, SETTINGS))["alerts"]


def test_an_answer_is_being_written_only_once(actions: PageActions, workspace: Workspace) -> None:
    chat = workspace.open(make_film(), "x.png")
    writing = actions.write(workspace, "", SETTINGS)
    assert next(writing)["is_writing"]
    assert "is being written" in last(actions.write(workspace, "", SETTINGS))["alerts"]
    assert not last(writing)["is_writing"]
    assert len(chat.session.turns) == 1


def test_a_client_that_leaves_frees_the_model(actions: PageActions, workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web_actions, "SHOW_EVERY", 0.0)
    chat = workspace.open(make_film(), "x.png")
    writing = actions.write(workspace, "", SETTINGS)
    next(writing)
    next(writing)
    assert actions.queue.lock.locked()
    writing.close()
    assert not actions.queue.lock.locked()
    assert not chat.is_writing
    assert REPORT[0][0].startswith(chat.session.turns[0].answer.text)


def test_retrying_draws_with_another_seed(actions: PageActions, workspace: Workspace) -> None:
    chat = workspace.open(make_film(), "x.png")
    settings = decoding_settings(SAMPLING, 4, 0.7, 0.9, 120, 5)
    for screens in (actions.write(workspace, "", settings), actions.retry(workspace, settings), actions.retry(workspace, settings)):
        last(screens)
    assert [asked["seed"] for _, asked in chat.session.asked] == [5, 6, 7]
    assert len(chat.session.turns) == 1


def test_editing_takes_the_question_back(actions: PageActions, workspace: Workspace) -> None:
    workspace.open(make_film(), "x.png")
    last(actions.ask(workspace, "Bones?", SETTINGS))
    assert actions.edit(workspace, "Describe.")["question"] == "Bones?"
    assert "no question" in actions.edit(workspace, "Describe.")["alerts"]


def test_each_sentence_has_its_own_map(actions: PageActions, workspace: Workspace) -> None:
    chat = workspace.open(make_film(), "x.png")
    last(actions.write(workspace, "", SETTINGS))
    heat = actions.look_at(workspace, 0, asked=7, at_once=True)["heat"]
    assert (heat["asked"], heat["is_busy"]) == (7, False)
    assert list(heat["maps"]) == [chat.key(0, i) for i in range(len(REPORT))]
    assert all(key in conversation_html(chat) for key in heat["maps"])
    assert len(set(heat["maps"].values())) == len(REPORT)
    assert actions.look_at(workspace, 5, asked=8, at_once=False)["heat"]["maps"] == {}  # there is no such answer


def test_the_model_looks_once_an_answer(workspace: Workspace) -> None:
    looked: list[str] = []

    def look(session: Any, answer: Any) -> Any:
        looked.append(answer.text)
        return made_look(session, answer)

    actions = PageActions(look, PageQueue())
    workspace.open(make_film(), "x.png")
    last(actions.write(workspace, "", SETTINGS))
    for _ in range(3):
        actions.look_at(workspace, 0, asked=1, at_once=True)
    assert len(looked) == 1


def test_maps_of_an_answer_that_was_forgotten_meanwhile_are_dropped(workspace: Workspace) -> None:
    def look(session: Any, answer: Any) -> Any:
        session.undo()
        chat.forget_from(0)
        return made_look(session, answer)

    actions = PageActions(look, PageQueue())
    chat = workspace.open(make_film(), "x.png")
    last(actions.write(workspace, "", SETTINGS))
    before = chat.key(0, 0)
    assert actions.look_at(workspace, 0, asked=1, at_once=True)["heat"]["maps"] == {}
    assert chat.key(0, 0) != before  # no map of it is taken for one of the next answer


def test_a_glance_does_not_wait_for_the_model(actions: PageActions, workspace: Workspace) -> None:
    workspace.open(make_film(), "x.png")
    last(actions.write(workspace, "", SETTINGS))
    with actions.queue.lock:
        screen = actions.look_at(workspace, 0, asked=1, at_once=True)
    assert screen["heat"] == {"asked": 1, "maps": {}, "is_busy": True}
    assert "alerts" not in screen
    assert actions.queue.places == []


def test_the_chosen_sentence_is_on_the_page_to_print(actions: PageActions, workspace: Workspace) -> None:
    chat = workspace.open(make_film(), "x.png")
    last(actions.write(workspace, "", SETTINGS))
    actions.look_at(workspace, 0, asked=1, at_once=False)
    actions.choose(workspace, 0, 1, True)
    assert f"“{REPORT[1][0]}”" in export(chat, SETTINGS, "page")["text"]
    actions.choose(workspace, 0, 1, False)
    assert "where the model looked" not in export(chat, SETTINGS, "page")["text"]
    actions.choose(workspace, 7, -1, True)  # there is no such sentence
    assert chat.selected is None


def test_inverting_and_turning_start_anew(actions: PageActions, workspace: Workspace) -> None:
    film = make_film()
    chat = workspace.open(film, "x.png")
    last(actions.write(workspace, "", SETTINGS))
    actions.correct(workspace, invert=True, turn=90)
    assert np.array_equal(np.asarray(chat.film), np.rot90(255 - np.asarray(film)))
    assert chat.session.film is chat.film
    assert chat.session.turns == []


@pytest.mark.parametrize("kind", EXPORTS)
def test_every_export_carries_notice_flags_and_no_markup(workspace: Workspace, kind: str) -> None:
    chat = workspace.open(make_film(), "x.png")
    chat.session.turns.append(Turn("<b>Bones?</b>", made_answer(" ".join(text for text, _ in REPORT))))
    text = export(chat, SETTINGS, kind)["text"]
    assert RESEARCH_NOTICE in text
    assert "0.31" in text or "31%" in text
    if kind == "json":
        assert [row["status"] for row in json.loads(text)["findings"]] == ["present", "present", "uncertain", "absent"]
    if kind in ("page", "markdown"):
        assert "<b>Bones" not in text


@pytest.mark.parametrize("kind", EXPORTS)
def test_no_export_holds_what_commands_a_terminal_or_forges_a_line(workspace: Workspace, kind: str) -> None:
    chat = workspace.open(make_film(), "x\x1b[2J\nAnswer: forged\u202e\udcff.png")
    chat.session.turns.append(Turn("Bones?\nAnswer: forged", made_answer("Clear\x1b[2J\u202e.\n\nQuestion: forged")))
    text = export(chat, SETTINGS, kind)["text"]
    text.encode()
    assert not {"\x1b", "\u202e"} & set(text)
    if kind == "text":
        assert not [line for line in text.split("\n") if line.endswith("forged") and not line.startswith("  ")]


def test_shown_texts_are_escaped(workspace: Workspace) -> None:
    chat = workspace.open(make_film(), "x.png")
    chat.session.turns.append(Turn("<script>", made_answer("<i>")))
    chat.question, chat.written = "<u>", "<s>"
    shown = conversation_html(chat)
    assert all(tag not in shown for tag in ("<script>", "<i>", "<u>", "<s>"))


def test_findings_come_present_first() -> None:
    rows = finding_rows("No pneumothorax. Small left pleural effusion. Possible nodule.")
    assert [(row.status, row.name, row.where) for row in rows] == [
        ("present", "pleural effusion", "left, small"),
        ("uncertain", "nodule", ""),
        ("absent", "pneumothorax", ""),
    ]


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"truncated": True}, "cut off"),
        ({"repeated": True}, "repeat"),
        ({"dropped_turns": 2}, "2 oldest"),
    ],
)
def test_a_reader_is_told(values: dict[str, Any], words: str) -> None:
    (note,) = answer_flags(made_answer("The lungs are clear.", **{"truncated": False, **values}))
    assert words in note


def test_conversations_of_a_tab_are_bounded(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web_workspace, "MAX_CONVERSATIONS", 2)
    chats = [workspace.open(make_film(), f"{i}.png") for i in range(3)]
    assert list(workspace.chats) == [2, 3]
    assert chats[0].stop.is_set()


def test_the_newcomer_is_refused_and_no_work_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web_workspace, "MAX_WORKSPACES", 3)
    monkeypatch.setattr(web_workspace, "MAX_WORKSPACES_OF_LOGIN", 2)
    tabs, (anna, bela, carl) = Workspaces(MadeSession), (Session(name, name) for name in ("anna", "bela", "carl"))
    chat = tabs.keep(anna, "a1").open(make_film(), "x.png")
    tabs.keep(anna, "a2")
    with pytest.raises(TooManyTabsError, match="2 tabs with images are open under this login"):
        tabs.keep(anna, "a3")
    tabs.keep(bela, "b1")
    with pytest.raises(TooManyTabsError, match="as many open tabs as it can"):
        tabs.keep(carl, "c1")
    assert tabs.of(anna, "a1").current is chat
    tabs.close("a2")
    tabs.keep(carl, "c1")
    assert len(tabs) == 3


def test_a_tab_without_an_image_takes_no_place() -> None:
    tabs, session = Workspaces(MadeSession), Session("anna", "1")
    assert tabs.of(session, "1.x").current is None
    assert len(tabs) == 0


def test_nothing_is_kept_for_a_session_that_has_ended() -> None:
    tabs, session = Workspaces(MadeSession), Session("anna", "1")
    session.ended.set()
    with pytest.raises(TooManyTabsError, match="has ended"):
        tabs.keep(session, "1.x")


def test_one_reader_does_not_take_the_whole_queue(actions: PageActions, workspace: Workspace) -> None:
    workspace.owner = "anna"
    workspace.open(make_film(), "x.png")
    last(actions.write(workspace, "", SETTINGS))
    assert actions.look_at(workspace, 99, asked=1, at_once=False)["heat"]["maps"] == {}  # takes no place
    with actions.queue.lock, ExitStack() as places:
        for _ in range(8):
            places.enter_context(actions.queue.place("anna"))
        with pytest.raises(BusyError, match="waiting for several answers"):
            places.enter_context(actions.queue.place("anna"))
        places.enter_context(actions.queue.place("bela"))


def test_large_films_are_shown_smaller() -> None:
    assert len(film_uri(Image.new("L", (4000, 3000)))) < len(film_uri(make_film())) * 3


@pytest.mark.parametrize(
    ("way", "expected"),
    [
        (GREEDY, {"num_beams": 1, "do_sample": False}),
        (BEAMS, {"num_beams": 4, "do_sample": False}),
        (SAMPLING, {"num_beams": 1, "do_sample": True, "temperature": 0.7, "top_p": 0.9, "seed": 3}),
    ],
)
def test_controls_become_settings(way: str, expected: dict[str, Any]) -> None:
    assert decoding_settings(way, 4, 0.7, 0.9, 50, 3) == {"max_new_tokens": 50, **expected}


def test_suggestions_are_the_questions_of_training() -> None:
    assert suggested_questions(made_pipeline().model) == ["Describe this film.", "What does it show?"]


def test_the_page_offers_nothing_to_programs() -> None:
    page = build_page(made_pipeline(), new_session=MadeSession, look=made_look)
    assert page.blocks.get_api_info()["named_endpoints"] == {}
    assert page.blocks.analytics_enabled is False
