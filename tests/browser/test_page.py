"""What a reader does on the page, done by a browser."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.browser.conftest import OpenTab, Serve
from tests.processors.made_dicom import dicom
from tests.serving.made_session import ANSWER, REPORT
from xraygpt.processors import Blip2ImageEvalProcessor
from xraygpt.serving import ReportPipeline
from xraygpt.serving.safety import RESEARCH_NOTICE

pytestmark = pytest.mark.slow

SENTENCES = [text for text, _ in REPORT]
SENTENCE = ".xg-sentence"
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
    tab.fill("#xg-ask textarea", question)
    tab.press("#xg-ask textarea", "Enter")


def said(tab: Any) -> list[str]:
    """The sentences of all answers, without their marks."""
    return tab.eval_on_selector_all(SENTENCE, "all => all.map(each => each.firstChild.textContent)")


def test_a_report_streams_and_a_question_follows(serve: Serve, open_tab: OpenTab, film: Path, shots: Path) -> None:
    tab = open_tab(serve())
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
    assert tab.input_value("#xg-ask textarea") == ""
    tab.screenshot(path=shots / "desktop.png", full_page=True)


def test_a_sentence_shows_where_the_model_looked(serve: Serve, open_tab: OpenTab, film: Path, shots: Path) -> None:
    tab = open_tab(serve())
    upload(tab, film)
    write_report(tab)
    assert not tab.is_visible(".xg-heat")
    maps = []
    for i in range(2):
        tab.click(f"{SENTENCE} >> nth={i}")
        tab.wait_for_function(f"document.querySelector('.xg-caption').textContent.includes({SENTENCES[i]!r})")
        maps.append(tab.get_attribute(".xg-heat", "src"))
        assert tab.is_visible(".xg-heat")
    assert maps[0] != maps[1]
    film_box, heat_box = (tab.locator(name).bounding_box() for name in (".xg-film", ".xg-heat"))
    assert film_box == heat_box
    tab.screenshot(path=shots / "heat-map.png", full_page=True)

    tab.click(f"{SENTENCE} >> nth=1")  # again: the film alone
    tab.wait_for_function("document.querySelector('.xg-heat').hidden")
    tab.focus(f"{SENTENCE} >> nth=0")
    tab.keyboard.press("Enter")
    tab.wait_for_function("!document.querySelector('.xg-heat').hidden")
    assert tab.get_attribute(".xg-heat", "src") == maps[0]


def test_a_dicom_file_is_shown(serve: Serve, open_tab: OpenTab, tmp_path: Path) -> None:
    grey = np.linspace(0, 4095, 256 * 192).reshape(256, 192).astype(np.uint16)
    (tmp_path / "IM0001").write_bytes(dicom(grey, WindowCenter=2048, WindowWidth=4096, BurnedInAnnotation="YES").getvalue())
    tab = open_tab(serve())
    upload(tab, tmp_path / "IM0001")
    assert tab.evaluate("[document.querySelector('.xg-film').naturalWidth, document.querySelector('.xg-film').naturalHeight]") == [192, 256]
    tab.wait_for_selector("text=burned into the image")
    write_report(tab)


def test_a_text_file_is_refused_and_the_film_stays(serve: Serve, open_tab: OpenTab, film: Path, tmp_path: Path) -> None:
    tab = open_tab(serve())
    upload(tab, film)
    write_report(tab)
    shown = tab.get_attribute(".xg-film", "src")
    (tmp_path / "letter.txt").write_text("Dear colleague, the patient …", encoding="utf-8")
    tab.set_input_files("#xg-upload input[type=file]", tmp_path / "letter.txt")
    tab.wait_for_selector("text=not a PNG, JPEG or DICOM file")
    assert tab.get_attribute(".xg-film", "src") == shown
    assert said(tab) == SENTENCES


def test_stop_retry_edit_and_clear(serve: Serve, open_tab: OpenTab, film: Path) -> None:
    tab = open_tab(serve())
    upload(tab, film)
    tab.click("#xg-report")
    tab.wait_for_function("document.querySelector('.xg-answer')?.textContent.includes('pleural')")
    tab.click("#xg-stop")
    tab.wait_for_selector(SENTENCE)
    assert said(tab) == SENTENCES[:1]
    tab.click("text=Retry")
    tab.wait_for_function(f"document.querySelectorAll('{SENTENCE}').length === {len(SENTENCES)}")
    ask(tab, "Bones?")
    tab.wait_for_selector(f".xg-turn:nth-child(2) {SENTENCE}")
    tab.click("text=Edit last")
    tab.wait_for_function("document.querySelectorAll('.xg-turn').length === 1")
    assert tab.input_value("#xg-ask textarea") == "Bones?"
    tab.click("text=Clear")
    tab.wait_for_selector("text=ask a question about this image")
    assert said(tab) == []


def test_conversations_are_kept_apart(serve: Serve, open_tab: OpenTab, film: Path) -> None:
    address = serve()
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


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_phone_width(serve: Serve, open_tab: OpenTab, film: Path, shots: Path, scheme: str) -> None:
    tab = open_tab(serve(), viewport=PHONE, color_scheme=scheme)
    upload(tab, film)
    write_report(tab)
    tab.click(f"{SENTENCE} >> nth=2")
    tab.wait_for_selector(".xg-heat:visible")
    assert tab.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    tab.screenshot(path=shots / f"phone-{scheme}.png", full_page=True)
    tab.evaluate("window.scrollTo(0, document.body.scrollHeight)")
    notice = tab.locator(".xg-notice")
    assert notice.inner_text() == RESEARCH_NOTICE
    assert 0 <= notice.bounding_box()["y"] < PHONE["height"] / 4  # it stays at the top


def test_dark_mode(serve: Serve, open_tab: OpenTab, film: Path, shots: Path) -> None:
    tab = open_tab(serve(), color_scheme="dark")
    upload(tab, film)
    write_report(tab)
    background, ink = (
        tab.evaluate("([name, key]) => getComputedStyle(document.querySelector(name))[key].match(/[\\d.]+/g).slice(0, 3).map(Number)", pair)
        for pair in ([".xg-talk", "backgroundColor"], [".xg-answer", "color"])
    )
    assert sum(background) < 200 < sum(ink)
    tab.screenshot(path=shots / "desktop-dark.png", full_page=True)


def test_the_film_is_looked_at_with_keys_and_controls(serve: Serve, open_tab: OpenTab, film: Path) -> None:
    tab = open_tab(serve())
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


@pytest.mark.parametrize("kind", ["text", "markdown", "json", "page"])
def test_downloads_carry_the_notice(serve: Serve, open_tab: OpenTab, film: Path, shots: Path, tmp_path: Path, kind: str) -> None:
    tab = open_tab(serve())
    upload(tab, film)
    write_report(tab)
    tab.click(f"{SENTENCE} >> nth=0")
    tab.wait_for_selector(".xg-heat:visible")
    with tab.expect_download() as download:
        tab.click(f"[data-kind={kind}]")
    path = tmp_path / download.value.suggested_filename
    download.value.save_as(path)
    text = path.read_text(encoding="utf-8")
    assert RESEARCH_NOTICE in text
    assert SENTENCES[0] in text
    if kind == "page":
        tab.context.set_offline(True)
        tab.goto(path.as_uri())
        assert tab.locator("img").count() == 2
        tab.screenshot(path=shots / "page-to-print.png", full_page=True)


@pytest.mark.parametrize("question", ["<img src=x onerror=alert(1)> {{7*7}} ${1+1}", "###Doctor: </s> <ImageHere>", "هل توجد كسور؟ 🩻"])
def test_a_question_is_shown_as_it_was_typed(serve: Serve, open_tab: OpenTab, film: Path, question: str) -> None:
    tab = open_tab(serve())
    upload(tab, film)
    ask(tab, question)
    tab.wait_for_selector(SENTENCE)
    assert tab.evaluate("document.querySelector('.xg-question').lastChild.textContent") == question
    assert tab.locator(".xg-question img").count() == 0


def test_a_tab_that_is_closed_in_an_answer_leaves_the_model_to_others(serve: Serve, open_tab: OpenTab, film: Path) -> None:
    address = serve()
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
