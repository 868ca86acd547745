"""Hover or choose a sentence: the image shows where the model looked for it."""

import threading
import time
from pathlib import Path
from typing import Any

import pytest

from tests.browser.conftest import OpenTab, Serve
from tests.browser.steps import SENTENCE, SENTENCES, ask, upload, wait_for_map, wait_for_plain_film, write_report
from tests.serving.made_session import made_look
from xraygpt.serving.web_queue import PageQueue

pytestmark = pytest.mark.slow


class CountedLook:
    """Looks, takes its time, and counts."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds = seconds
        self.count = 0

    def __call__(self, session: Any, answer: Any) -> Any:
        self.count += 1
        time.sleep(self.seconds)
        return made_look(session, answer)


def point_at(tab: Any, numbers: list[int], kind: str = "mouse") -> None:
    """Move a pointer over sentences within one moment, and away from the text."""
    tab.evaluate(
        """([numbers, pointerType]) => {
            const all = document.querySelectorAll('.xg-sentence');
            for (const i of numbers) all[i].dispatchEvent(new PointerEvent('pointerover', { bubbles: true, pointerType }));
            document.querySelector('.xg-talk').dispatchEvent(new PointerEvent('pointerleave', { pointerType }));
        }""",
        [numbers, kind],
    )


def test_a_chosen_sentence_shows_its_map(address: str, open_tab: OpenTab, film: Path, shots: Path) -> None:
    tab = open_tab(address)
    upload(tab, film)
    write_report(tab)
    assert not tab.is_visible(".xg-heat")
    maps = []
    for i in range(2):
        tab.click(f"{SENTENCE} >> nth={i}")
        maps.append(wait_for_map(tab, SENTENCES[i]))
    assert maps[0] != maps[1]
    film_box, heat_box = (tab.locator(name).bounding_box() for name in (".xg-film", ".xg-heat"))
    assert film_box == heat_box
    tab.mouse.move(2, 2)
    tab.screenshot(path=shots / "heat-map.png", full_page=True)
    tab.click(f"{SENTENCE} >> nth=1")  # again: the film alone, though the pointer is still there
    wait_for_plain_film(tab)


def test_a_sentence_under_the_pointer_shows_its_map_and_leaving_takes_it_away(serve: Serve, open_tab: OpenTab, film: Path) -> None:
    look = CountedLook()
    tab = open_tab(serve(look=look))
    upload(tab, film)
    write_report(tab)
    tab.hover(f"{SENTENCE} >> nth=1")
    hovered = wait_for_map(tab, SENTENCES[1])
    tab.mouse.move(2, 2)
    wait_for_plain_film(tab)
    tab.click(f"{SENTENCE} >> nth=0")
    chosen = wait_for_map(tab, SENTENCES[0])
    tab.hover(f"{SENTENCE} >> nth=1")
    assert wait_for_map(tab, SENTENCES[1]) == hovered != chosen
    tab.mouse.move(2, 2)
    assert wait_for_map(tab, SENTENCES[0]) == chosen  # the chosen one is back
    assert look.count == 1  # all maps of an answer are found together, and kept


def test_a_pointer_that_passes_or_touches_asks_for_nothing(serve: Serve, open_tab: OpenTab, film: Path) -> None:
    look = CountedLook()
    tab = open_tab(serve(look=look))
    upload(tab, film)
    write_report(tab)
    tab.mouse.move(2, 2)
    for numbers, kind in (([0, 1, 2, 3], "mouse"), ([1], "touch")):
        point_at(tab, numbers, kind)
        tab.wait_for_timeout(400)
    assert look.count == 0
    assert not tab.is_visible(".xg-heat")


def test_a_map_that_comes_too_late_is_not_shown(serve: Serve, open_tab: OpenTab, film: Path) -> None:
    look = CountedLook(seconds=0.7)
    tab = open_tab(serve(look=look))
    upload(tab, film)
    write_report(tab)
    tab.hover(f"{SENTENCE} >> nth=0")
    tab.wait_for_selector("text=Looking at the image again")
    tab.mouse.move(2, 2)
    wait_for_plain_film(tab)
    tab.wait_for_timeout(900)
    assert look.count == 1
    assert not tab.is_visible(".xg-heat")
    tab.hover(f"{SENTENCE} >> nth=2")
    wait_for_map(tab, SENTENCES[2])
    assert look.count == 1


def test_while_the_model_is_busy_a_glance_is_told_so_and_a_choice_waits(serve: Serve, open_tab: OpenTab, film: Path) -> None:
    lock = threading.Lock()
    tab = open_tab(serve(queue=PageQueue(lock)))
    upload(tab, film)
    write_report(tab)
    with lock:
        tab.hover(f"{SENTENCE} >> nth=0")
        tab.wait_for_selector("text=The model is busy. Click the sentence")
        tab.click(f"{SENTENCE} >> nth=0")
        tab.wait_for_selector("text=Looking at the image again")
    wait_for_map(tab, SENTENCES[0])


def test_the_next_answer_leaves_the_chosen_sentence_alone(address: str, open_tab: OpenTab, film: Path) -> None:
    tab = open_tab(address)
    upload(tab, film)
    write_report(tab)
    tab.focus(f"{SENTENCE} >> nth=0")
    tab.keyboard.press("Enter")
    chosen = wait_for_map(tab, SENTENCES[0])
    assert tab.evaluate("document.activeElement.dataset.sentence") == "0"  # the keyboard stays where it was
    ask(tab, "Bones?")
    tab.wait_for_selector(f".xg-turn:nth-child(2) {SENTENCE}")
    assert wait_for_map(tab, SENTENCES[0]) == chosen
    tab.click("text=Edit last")
    tab.click("text=Retry")
    tab.wait_for_selector(SENTENCE)
    wait_for_plain_film(tab)  # the map belonged to the answer before


def test_a_finger_chooses_a_sentence(address: str, open_tab: OpenTab, film: Path) -> None:
    tab = open_tab(address, viewport={"width": 390, "height": 600}, has_touch=True)
    upload(tab, film)
    tab.tap("#xg-report")
    tab.wait_for_selector(SENTENCE)
    tab.evaluate("window.scrollTo(0, document.body.scrollHeight)")
    tab.locator(SENTENCE).nth(2).tap()
    wait_for_map(tab, SENTENCES[2])
    box, head = tab.locator(".xg-stage").bounding_box(), tab.locator(".xg-header").bounding_box()
    assert head["y"] + head["height"] <= box["y"] + 1  # the film has come into sight, below the notice
    assert box["y"] < 600
