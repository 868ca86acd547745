"""What readers do on the page, for the browser tests."""

from pathlib import Path
from typing import Any

from tests.serving.made_session import REPORT

SENTENCES = [text for text, _ in REPORT]
SENTENCE = ".xg-sentence"
QUESTION = "#xg-ask textarea"
PHONE = {"width": 390, "height": 844}


def upload(tab: Any, path: Path) -> None:
    """Give the page a film, and wait until it is shown."""
    tab.set_input_files("#xg-upload input[type=file]", path)
    tab.wait_for_selector(".xg-film[src^='data:']")


def write_report(tab: Any) -> None:
    """Press the button, and wait for the whole report."""
    tab.click("#xg-report")
    tab.wait_for_selector(SENTENCE)


def ask(tab: Any, question: str) -> None:
    """Type a question and press Enter."""
    tab.fill(QUESTION, question)
    tab.press(QUESTION, "Enter")


def said(tab: Any) -> list[str]:
    """The sentences of all answers, without their marks."""
    return tab.eval_on_selector_all(SENTENCE, "all => all.map(each => each.firstChild.textContent)")


def wait_for_map(tab: Any, sentence: str) -> str:
    """Wait until the map of a sentence is shown; returns it."""
    tab.wait_for_function(
        "text => document.querySelector('.xg-caption').textContent === `Where the model looked for “${text}”`", arg=sentence
    )
    assert tab.is_visible(".xg-heat")
    return tab.get_attribute(".xg-heat", "src")


def wait_for_plain_film(tab: Any) -> None:
    """Wait until no map is shown."""
    tab.wait_for_function("document.querySelector('.xg-heat').hidden && !document.querySelector('.xg-caption').textContent")
