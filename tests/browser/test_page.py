"""What a reader does on the page, done by a browser."""

from pathlib import Path
from typing import Any

import pytest

from tests.browser.conftest import OpenTab, Serve
from tests.browser.steps import PHONE, QUESTION, SENTENCE, SENTENCES, ask, said, upload, wait_for_map, write_report
from tests.serving.made_session import ANSWER, MadeSession
from xraygpt.processors import Blip2ImageEvalProcessor
from xraygpt.serving import ReportPipeline
from xraygpt.serving.safety import RESEARCH_NOTICE

pytestmark = pytest.mark.slow


def test_a_report_streams_and_a_question_follows(serve: Serve, open_tab: OpenTab, film: Path, shots: Path) -> None:
    tab = open_tab(serve(seconds_a_word=0.15))
    tab.screenshot(path=shots / "desktop-empty.png", full_page=True)
    upload(tab, film)
    tab.click("#xg-report")
    tab.wait_for_function("document.querySelector('.xg-answer')?.textContent.includes('Moderate')")
    partial = tab.inner_text(".xg-answer")
    assert SENTENCES[0].startswith(partial[:8])
    assert SENTENCES[-1] not in partial
    tab.screenshot(path=shots / "desktop-streaming.png", full_page=True)
    tab.wait_for_selector(SENTENCE)
    assert said(tab) == SENTENCES
    assert tab.inner_text(".xg-low .xg-mark") == "31 %"
    assert tab.inner_text(".xg-compares .xg-mark") == "compares"
    rows = tab.eval_on_selector_all(".xg-findings tbody tr", "rows => rows.map(row => row.innerText.replace(/\\s+/g, ' '))")
    assert rows[0].startswith("Present cardiomegaly")
    assert any(row.startswith("Uncertain nodule") for row in rows)
    assert rows[-1].startswith("Absent pneumothorax")

    ask(tab, "Are the bones intact?")
    tab.wait_for_selector(f".xg-turn:nth-child(2) {SENTENCE}")
    assert said(tab) == SENTENCES + [text for text, _ in ANSWER]
    assert tab.input_value(QUESTION) == ""
    tab.screenshot(path=shots / "desktop.png", full_page=True)


def test_stop_retry_edit_and_clear(serve: Serve, open_tab: OpenTab, film: Path) -> None:
    tab = open_tab(serve(seconds_a_word=0.15))
    upload(tab, film)
    tab.click("#xg-report")
    tab.wait_for_function("document.querySelector('.xg-answer')?.textContent.includes('pleural')")
    tab.click("#xg-stop")
    tab.wait_for_selector(SENTENCE)
    assert said(tab) == SENTENCES[:1]
    tab.wait_for_selector("text=It was cut off before its end")
    tab.click("text=Retry")
    tab.wait_for_function(f"document.querySelectorAll('{SENTENCE}').length === {len(SENTENCES)}")
    ask(tab, "Bones?")
    tab.wait_for_selector(f".xg-turn:nth-child(2) {SENTENCE}")
    tab.click("text=Edit last")
    tab.wait_for_function("document.querySelectorAll('.xg-turn').length === 1")
    assert tab.input_value(QUESTION) == "Bones?"
    ask(tab, "Are the bones broken?")
    tab.wait_for_selector(f".xg-turn:nth-child(2) {SENTENCE}")
    assert tab.inner_text(".xg-turn:nth-child(2) .xg-question").endswith("Are the bones broken?")
    tab.click("text=Clear")
    tab.wait_for_selector("text=ask a question about this image")
    assert said(tab) == []


def test_conversations_are_kept_apart(address: str, open_tab: OpenTab, film: Path) -> None:
    tab, other = open_tab(address), open_tab(address)
    upload(tab, film)
    write_report(tab)
    tab.click("#xg-new")
    tab.wait_for_selector("text=ask a question about this image")
    ask(tab, "Bones?")
    tab.wait_for_selector(SENTENCE)
    tab.click("#xg-chats input")
    tab.click("text=1 · film of Jane Doe.png")
    tab.wait_for_selector(f"text={SENTENCES[-1]}")
    assert said(tab) == SENTENCES
    assert not other.is_visible(".xg-film")
    assert said(other) == []


def luminance(colour: str) -> float:
    """Relative luminance of a CSS colour, as WCAG 2 defines it."""
    channels = [float(part) / 255 for part in colour[colour.index("(") + 1 : -1].split(",")[:3]]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in channels)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(tab: Any, selector: str) -> float:
    """Between a text and what lies behind it, as WCAG 2 defines it."""
    ink, paper = tab.eval_on_selector(
        selector,
        """element => {
            let behind = element;
            while (getComputedStyle(behind).backgroundColor === "rgba(0, 0, 0, 0)") behind = behind.parentElement || document.body;
            return [getComputedStyle(element).color, getComputedStyle(behind).backgroundColor];
        }""",
    )
    light, dark = sorted((luminance(ink), luminance(paper)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


TEXTS = (
    *(".xg-notice", ".xg-answer", ".xg-question", ".xg-mark", ".xg-sentence[aria-pressed=true]", ".xg-caption", ".xg-tools label"),
    *(".xg-present .xg-status", ".xg-uncertain .xg-status", ".xg-absent .xg-status", ".xg-words", "#xg-foot p", "#xg-report"),
    *(".xg-chips button", ".xg-flags"),
)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_can_be_read(address: str, open_tab: OpenTab, film: Path, shots: Path, scheme: str) -> None:
    tab = open_tab(address, color_scheme=scheme)
    upload(tab, film)
    write_report(tab)
    tab.click(f"{SENTENCE} >> nth=0")
    wait_for_map(tab, SENTENCES[0])
    tab.mouse.move(2, 2)
    tab.screenshot(path=shots / f"desktop-{scheme}.png", full_page=True)
    assert (luminance(tab.evaluate("getComputedStyle(document.querySelector('.xg-talk')).backgroundColor")) < 0.1) == (scheme == "dark")
    assert {text: round(contrast(tab, text), 1) for text in TEXTS if contrast(tab, text) < 4.5} == {}  # WCAG AA


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_phone_width(address: str, open_tab: OpenTab, film: Path, shots: Path, scheme: str) -> None:
    tab = open_tab(address, viewport=PHONE, color_scheme=scheme)
    upload(tab, film)
    write_report(tab)
    tab.click(f"{SENTENCE} >> nth=2")
    wait_for_map(tab, SENTENCES[2])
    tab.click("text=How answers are written")
    assert tab.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    tab.screenshot(path=shots / f"phone-{scheme}.png", full_page=True)
    tab.evaluate("window.scrollTo(0, document.body.scrollHeight)")
    notice = tab.locator(".xg-notice")
    assert notice.inner_text() == RESEARCH_NOTICE
    assert 0 <= notice.bounding_box()["y"] < PHONE["height"] / 4  # it stays at the top


def test_with_the_keyboard_alone(address: str, open_tab: OpenTab, film: Path) -> None:
    tab = open_tab(address)

    def tab_to(selector: str) -> None:
        for _ in range(60):
            tab.keyboard.press("Tab")
            if tab.evaluate("selector => document.activeElement.matches(selector)", selector):
                break
        else:
            raise AssertionError(f"the Tab key does not lead to {selector}")
        style = "(({outlineStyle, boxShadow}) => outlineStyle !== 'none' || boxShadow !== 'none')(getComputedStyle(document.activeElement))"
        assert tab.evaluate(style), f"{selector} does not show that it has the focus"

    tab.on("filechooser", lambda chooser: chooser.set_files(film))  # from the beginning: the browser is told a little later
    tab_to(".xg-viewer")
    tab.keyboard.press("o")
    tab.wait_for_selector(".xg-film[src^='data:']")
    tab_to("#xg-report")
    tab.keyboard.press("Enter")
    tab.wait_for_selector(SENTENCE)
    tab.focus(".xg-viewer")
    tab_to(SENTENCE)
    tab.keyboard.press("Enter")
    wait_for_map(tab, SENTENCES[0])
    tab_to(QUESTION)
    tab.keyboard.type("Bones?")
    tab.keyboard.press("Enter")
    tab.wait_for_selector(f".xg-turn:nth-child(2) {SENTENCE}")
    tab_to("[data-kind=text]")
    with tab.expect_download() as download:
        tab.keyboard.press("Enter")
    assert "Bones?" in Path(download.value.path()).read_text(encoding="utf-8")


def test_how_answers_are_written_can_be_chosen(serve: Serve, open_tab: OpenTab, film: Path) -> None:
    sessions: list[MadeSession] = []

    def new_session() -> MadeSession:
        sessions.append(MadeSession())
        return sessions[-1]

    tab = open_tab(serve(new_session=new_session))
    upload(tab, film)
    tab.click(".xg-chips button >> text=What does it show?")
    tab.wait_for_function(f"document.querySelector('{QUESTION}').value === 'What does it show?'")
    tab.click("text=How answers are written")
    tab.check("text=Sampling >> nth=0")
    tab.get_by_label("number input for Temperature").fill("0.5")
    tab.get_by_label("Seed").fill("7")
    tab.press(QUESTION, "Enter")
    tab.wait_for_selector(SENTENCE)
    ((question, settings),) = sessions[0].asked
    assert question == "What does it show?"
    assert settings == {"max_new_tokens": 120, "num_beams": 1, "do_sample": True, "temperature": 0.5, "top_p": 0.9, "seed": 7}


def test_the_film_is_looked_at_with_keys_and_controls(address: str, open_tab: OpenTab, film: Path) -> None:
    tab = open_tab(address)
    upload(tab, film)

    def look() -> tuple[str, str]:
        return tab.evaluate("[document.querySelector('.xg-film').style.filter, document.querySelector('.xg-layers').style.transform]")

    assert look()[0] == "brightness(100%) contrast(100%) invert(0)"
    assert look()[1].endswith("scale(1)")
    tab.focus(".xg-viewer")
    for key in ("+", "ArrowLeft", "i"):
        tab.keyboard.press(key)
    tab.locator("[data-set=contrast]").fill("160")
    assert look()[0] == "brightness(100%) contrast(160%) invert(1)"
    assert "translate(40px, 0px) scale(1.4)" in look()[1]
    tab.click("[data-do=fit]")
    assert look()[0] == "brightness(100%) contrast(100%) invert(0)"


def test_downloads_carry_the_notice(address: str, open_tab: OpenTab, film: Path, shots: Path, tmp_path: Path) -> None:
    tab = open_tab(address)
    upload(tab, film)
    write_report(tab)
    tab.click(f"{SENTENCE} >> nth=0")
    wait_for_map(tab, SENTENCES[0])
    for kind, ending in (("text", "txt"), ("markdown", "md"), ("json", "json"), ("page", "html")):
        with tab.expect_download() as download:
            tab.click(f"[data-kind={kind}]")
        path = tmp_path / download.value.suggested_filename
        download.value.save_as(path)
        text = path.read_text(encoding="utf-8")
        assert path.suffix == f".{ending}"
        assert RESEARCH_NOTICE in text
        assert SENTENCES[0] in text
    tab.goto(path.as_uri())
    assert tab.locator("img").count() == 2
    tab.screenshot(path=shots / "page-to-print.png", full_page=True)


def test_a_question_is_shown_as_it_was_typed(address: str, open_tab: OpenTab, film: Path) -> None:
    questions = ["<img src=x onerror=alert(1)> {{7*7}} ${1+1}", "###Doctor: </s> <ImageHere>", "هل توجد كسور؟ 🩻"]
    tab = open_tab(address)
    upload(tab, film)
    for number, question in enumerate(questions, 1):
        ask(tab, question)
        tab.wait_for_selector(f".xg-turn:nth-child({number}) {SENTENCE}")
    assert tab.eval_on_selector_all(".xg-question", "all => all.map(each => each.lastChild.textContent)") == questions
    assert tab.locator(".xg-question img").count() == 0


def test_a_tab_that_is_closed_in_an_answer_leaves_the_model_to_others(address: str, open_tab: OpenTab, film: Path) -> None:
    leaving, staying = open_tab(address), open_tab(address)
    upload(leaving, film)
    upload(staying, film)
    leaving.click("#xg-report")
    leaving.wait_for_selector(".xg-caret")
    leaving.close()
    write_report(staying)
    assert said(staying) == SENTENCES


def test_the_tiny_model_behind_the_page(serve: Serve, open_tab: OpenTab, tiny_model: Any, tiny_storage: Path) -> None:
    settings = {"max_new_tokens": 24, "min_new_tokens": 1, "num_beams": 1, "do_sample": False}
    pipeline = ReportPipeline(model=tiny_model, vis_processor=Blip2ImageEvalProcessor(image_size=28), prompt="", settings=settings)
    film = tiny_storage / "image" / "x0.png"
    (expected,) = pipeline.write_reports([film])
    tab = open_tab(serve(pipeline))
    upload(tab, film)
    write_report(tab)
    assert " ".join(said(tab)).split() == expected.split()
    tab.click(f"{SENTENCE} >> nth=0")
    tab.wait_for_selector(".xg-heat:visible")
    ask(tab, "Is the heart enlarged?")
    tab.wait_for_selector(f".xg-turn:nth-child(2) {SENTENCE}")
