"""Who uses the model next, and how the page ends."""

import threading
import time
from typing import Any

import pytest
from PIL import Image

from tests.serving.made_session import REPORT, MadeSession, made_look
from xraygpt.serving import web_queue
from xraygpt.serving.web_actions import GREEDY, PageActions, decoding_settings
from xraygpt.serving.web_queue import BusyError, PageQueue
from xraygpt.serving.web_workspace import Workspace

SETTINGS = decoding_settings(GREEDY, 4, 1.0, 0.9, 120, 0)


def opened(seconds_a_word: float = 0.0) -> Workspace:
    """A tab with a film."""
    workspace = Workspace(lambda: MadeSession(seconds_a_word))
    workspace.open(Image.linear_gradient("L"), "x.png")
    return workspace


def test_who_comes_first_has_the_model_first() -> None:
    queue = PageQueue()
    with queue.place() as first, queue.place() as second:
        assert (first.num_before, second.num_before) == (0, 1)
        assert not second.take(0.0)
        assert first.take(0.0)
        assert queue.lock.locked()
    assert not queue.lock.locked()


def test_what_else_uses_the_model_is_waited_for() -> None:
    queue = PageQueue(threading.Lock())
    with queue.lock, queue.place() as place:
        assert not place.take(0.01)
    with queue.place(at_once=True) as place:
        assert place.take(0.0)
        with pytest.raises(BusyError), queue.place(at_once=True):
            pass


def test_a_full_queue_says_busy_and_gives_the_question_back() -> None:
    actions, tabs = PageActions(made_look, PageQueue(max_waiting=1)), [opened() for _ in range(3)]
    writing = [actions.ask(tab, "Bones?", SETTINGS) for tab in tabs]
    assert [next(each).get("question") for each in writing[:2]] == ["", ""]
    (screen,) = writing[2]
    assert "The model is busy: 2 answers are asked for already" in screen["alerts"]
    assert "question" not in screen  # what was typed stays
    assert not screen["is_writing"]
    for each in writing[:2]:
        assert list(each)[-1]["is_writing"] is False
    assert actions.queue.places == []


def test_a_waiting_answer_can_be_stopped_and_keeps_what_there_was() -> None:
    actions, tab = PageActions(made_look, PageQueue()), opened()
    assert tab.current is not None
    list(actions.write(tab, "", SETTINGS))
    with actions.queue.lock:
        for screens in (actions.ask(tab, "Bones?", SETTINGS), actions.retry(tab, SETTINGS)):
            next(screens)
            actions.stop(tab)
            last = list(screens)[-1]
            assert len(tab.current.session.turns) == 1
        assert "question" not in last  # of a retry
    assert actions.queue.places == []


def test_a_waiting_reader_is_told_how_many_come_first() -> None:
    actions, first, second = PageActions(made_look, PageQueue()), opened(), opened()
    writing, waiting = actions.write(first, "", SETTINGS), actions.write(second, "", SETTINGS)
    next(writing)
    next(waiting)
    assert "One other comes first" in next(waiting)["conversation"]
    writing.close()
    assert list(waiting)[-1]["conversation"].count("xg-sentence") >= len(REPORT)


def test_a_server_that_stops_finishes_what_it_writes_and_refuses_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web_queue, "_DELIVERY_SECONDS", 0.0)
    actions, tabs = PageActions(made_look, PageQueue()), [opened(0.02) for _ in range(3)]
    writing = actions.write(tabs[0], "", SETTINGS)
    next(writing)
    next(writing)  # it has the model
    waiting = actions.ask(tabs[1], "Bones?", SETTINGS)
    next(waiting)
    stopping = threading.Thread(target=actions.queue.finish)
    stopping.start()
    while not actions.queue.is_stopping:
        time.sleep(0.01)
    for screens in (waiting, actions.write(tabs[2], "", SETTINGS)):
        screen: dict[str, Any] = list(screens)[-1]
        assert "The server is stopping" in screen["alerts"]
    assert stopping.is_alive()
    list(writing)
    stopping.join(timeout=5)
    assert not stopping.is_alive()
    assert tabs[0].current is not None
    (turn,) = tabs[0].current.session.turns
    assert turn.answer.text == " ".join(text for text, _ in REPORT)


def test_a_server_that_stops_waits_for_a_bounded_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web_queue, "_LAST_SECONDS", 0.1)
    monkeypatch.setattr(web_queue, "_DELIVERY_SECONDS", 0.0)
    actions, tab = PageActions(made_look, PageQueue(stop_seconds=0.1)), opened(0.05)
    writing = actions.write(tab, "", SETTINGS)
    next(writing)
    next(writing)
    start = time.monotonic()
    actions.queue.finish()  # though nobody fetches the answer
    assert 0.2 <= time.monotonic() - start < 2
    list(writing)
    assert tab.current is not None
    assert 0 < len(tab.current.session.turns[0].answer.text) < len(" ".join(text for text, _ in REPORT))  # ended where it was
