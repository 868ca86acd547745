"""Films on the page: what is opened, refused, doubted and corrected."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from tests.browser.conftest import OpenTab, Serve
from tests.browser.steps import SENTENCE, SENTENCES, said, upload, write_report
from tests.processors.made_dicom import dicom

pytestmark = pytest.mark.slow


def size_of_film(tab: Any) -> list[int]:
    """Width and height of the film that is shown."""
    return tab.eval_on_selector(".xg-film", "film => [film.naturalWidth, film.naturalHeight]")


def test_a_dicom_file_is_shown(address: str, open_tab: OpenTab, tmp_path: Path) -> None:
    grey = np.linspace(0, 4095, 256 * 192).reshape(256, 192).astype(np.uint16)
    (tmp_path / "IM0001").write_bytes(dicom(grey, WindowCenter=2048, WindowWidth=4096, BurnedInAnnotation="YES").getvalue())
    tab = open_tab(address)
    upload(tab, tmp_path / "IM0001")
    assert size_of_film(tab) == [192, 256]
    tab.wait_for_selector("text=burned into the image")
    write_report(tab)


def test_a_text_file_is_refused_and_the_film_stays(address: str, open_tab: OpenTab, film: Path, tmp_path: Path) -> None:
    tab = open_tab(address)
    upload(tab, film)
    write_report(tab)
    shown = tab.get_attribute(".xg-film", "src")
    (tmp_path / "letter.txt").write_text("Dear colleague, the patient …", encoding="utf-8")
    tab.set_input_files("#xg-upload input[type=file]", tmp_path / "letter.txt")
    tab.wait_for_selector("text=not a PNG, JPEG or DICOM file")
    assert tab.get_attribute(".xg-film", "src") == shown
    assert said(tab) == SENTENCES


def test_a_film_is_dropped_on_the_field(address: str, open_tab: OpenTab, film: Path) -> None:
    tab = open_tab(address)
    dropped = tab.evaluate_handle(
        """([bytes, name]) => {
            const transfer = new DataTransfer();
            transfer.items.add(new File([Uint8Array.from(atob(bytes), (each) => each.charCodeAt(0))], name, { type: "image/png" }));
            return transfer;
        }""",
        [_base64(film), "dropped.png"],
    )
    tab.dispatch_event(".xg-stage", "drop", {"dataTransfer": dropped})
    tab.wait_for_selector(".xg-film[src^='data:']")
    assert size_of_film(tab) == [384, 384]


def _base64(path: Path) -> str:
    import base64

    return base64.b64encode(path.read_bytes()).decode()


def test_an_example_is_chosen_and_its_file_stays(serve: Serve, open_tab: OpenTab, film: Path) -> None:
    tab = open_tab(serve(examples=[film, film]))
    assert tab.locator("#xg-examples button").count() == 2
    tab.click("#xg-examples button >> nth=1")
    tab.wait_for_selector(".xg-film[src^='data:']")
    assert film.is_file()
    write_report(tab)


def test_an_inverted_and_turned_phantom_is_put_right_by_two_clicks(
    address: str, open_tab: OpenTab, film: Path, shots: Path, tmp_path: Path
) -> None:
    with Image.open(film) as upright:
        wrong = ImageOps.invert(upright).crop((0, 0, 384, 380)).rotate(90, expand=True)
    wrong.save(tmp_path / "wrong.png")
    tab = open_tab(address)
    upload(tab, tmp_path / "wrong.png")
    tab.wait_for_selector("text=The grey levels look inverted")
    tab.screenshot(path=shots / "inverted.png", full_page=True)
    write_report(tab)
    tab.click("text=Invert it")
    tab.wait_for_selector("text=The grey levels look inverted", state="detached")
    assert tab.locator(SENTENCE).count() == 0  # that report was about another image
    assert size_of_film(tab) == [380, 384]
    tab.click("text=Turn it upright")
    tab.wait_for_selector(".xg-concern", state="detached")
    tab.wait_for_function("document.querySelector('.xg-film').naturalWidth === 384")
    corner = tab.eval_on_selector(
        ".xg-film",
        """film => {
            const canvas = document.createElement("canvas");
            Object.assign(canvas, { width: film.naturalWidth, height: film.naturalHeight });
            canvas.getContext("2d").drawImage(film, 0, 0);
            return [...canvas.getContext("2d").getImageData(0, 0, 384, 380).data].filter((_, i) => i % 4 === 0);
        }""",
    )
    with Image.open(film) as upright:
        assert np.array_equal(np.reshape(corner, (380, 384)), np.asarray(upright)[:380])
