"""The page: self-contained, escaped, and each finding marked with how it came out."""

import base64
import io
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from xraygpt.common.errors import DataError
from xraygpt.evaluation.report_html import IMAGE_SIDE, NOTICE, Case, compare_case, image_data_uri, num_errors, write_report_page
from xraygpt.evaluation.scorecard import score_findings


def true(finding: str, side: str = "", zone: str = "") -> dict[str, str]:
    return {"finding": finding, "side": side, "zone": zone}


def case(prediction: str, *truth: dict[str, str], image: Path | None = None) -> Case:
    return Case(id="x", image=image, reference="Reference.", prediction=prediction, truth=truth)


@pytest.mark.parametrize(
    ("prediction", "truth", "chips"),
    [
        ("Left effusion.", [true("pleural_effusion", "left")], [("found", "left pleural effusion")]),
        ("Right effusion.", [true("pleural_effusion", "left")], [("wrong side", "left pleural effusion, stated: right")]),
        ("Effusion.", [true("pleural_effusion", "left")], [("wrong side", "left pleural effusion, stated: no side")]),
        ("Left effusion.", [true("pleural_effusion", "bilateral")], [("wrong side", "bilateral pleural effusion, stated: left")]),
        ("Pulmonary edema.", [true("edema", "bilateral")], [("found", "bilateral edema")]),
        ("Left effusion.", [true("pleural_effusion")], [("found", "pleural effusion")]),
        ("", [true("nodule", "right", "upper")], [("missed", "right upper nodule")]),
        ("Cardiomegaly. No nodule.", [true("tube")], [("missed", "endotracheal tube"), ("false", "cardiomegaly")]),
        ("Heart size is normal.", [], []),
    ],
)
def test_how_each_finding_came_out(prediction: str, truth: list[dict[str, str]], chips: list[tuple[str, str]]) -> None:
    assert compare_case(case(prediction, *truth)) == chips
    assert num_errors(case(prediction, *truth)) == sum(outcome != "found" for outcome, _ in chips)


def page_of(tmp_path: Path, *cases: Case) -> str:
    card = score_findings({str(i): item.prediction for i, item in enumerate(cases)}, {str(i): item.truth for i, item in enumerate(cases)})
    write_report_page(tmp_path / "page.html", card=card, cases=cases, title="A <title>", details={"Split": "test & more"})
    return (tmp_path / "page.html").read_text(encoding="utf-8")


def test_the_page_makes_no_request_and_runs_nothing(tmp_path: Path) -> None:
    image = tmp_path / "x.png"
    Image.fromarray(np.full((8, 8), 90, np.uint8)).save(image)
    page = page_of(tmp_path, case("Left effusion.", true("nodule"), image=image))
    assert not re.search(r"https?://|<script|<link|url\(|@import", page)
    assert re.findall(r'src="([^,]+),', page) == ["data:image/jpeg;base64"]


def test_the_page_says_what_it_must(tmp_path: Path) -> None:
    page = page_of(tmp_path, case("Left effusion.", true("nodule", "left")), case(""))
    for text in (
        NOTICE,
        "always normal",
        "<b>missed</b> left nodule",
        "<b>false</b> left pleural effusion",
        "<b>normal</b> in both",
        "no image",
    ):
        assert text in page
    assert '<p class="none">empty</p>' in page


def test_every_text_is_escaped(tmp_path: Path) -> None:
    evil = "<script>alert('x')</script>"
    page = page_of(tmp_path, Case(id=evil, image=None, reference=evil, prediction=evil, truth=[]))
    assert "<script" not in page
    assert page.count("&lt;script&gt;") == 3
    assert "A &lt;title&gt;" in page
    assert "test &amp; more" in page


@pytest.mark.parametrize("bits", [8, 16])
def test_images_are_shrunk_and_keep_their_greys(tmp_path: Path, bits: int) -> None:
    grey = np.full((1024, 2048), 100 << (bits - 8), np.uint16 if bits == 16 else np.uint8)
    Image.fromarray(grey).save(tmp_path / "x.png")
    data = base64.b64decode(image_data_uri(tmp_path / "x.png").partition(",")[2])
    shown = Image.open(io.BytesIO(data))
    assert (shown.format, shown.size) == ("JPEG", (IMAGE_SIDE, IMAGE_SIDE // 2))
    assert abs(int(np.asarray(shown).mean()) - 100) <= 1


def test_an_image_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(b"not an image")
    with pytest.raises(DataError, match=r"x\.png: the image cannot be read"):
        image_data_uri(tmp_path / "x.png")
