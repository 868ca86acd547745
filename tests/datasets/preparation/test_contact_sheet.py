"""The page: self-contained, escaped, and honest about images that cannot be shown."""

import base64
import io
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from xraygpt.datasets.preparation.contact_sheet import IMAGE_SIDE, Tile, make_tile, write_contact_sheet
from xraygpt.datasets.preparation.folder_checks import Issue
from xraygpt.datasets.preparation.folder_summary import Sample, summarize

NOTICE = "For research only & nothing else."


def sample(image_id: str = "x", text: str | None = "Clear lungs.", split: str = "train", view: str = "frontal") -> Sample:
    return Sample(image_id, f"study of {image_id}", "", split, view, text)


def page_of(tmp_path: Path, *tiles: Tile, issues: tuple[Issue, ...] = (), title: str = "Data", max_studies_read: int = 100) -> str:
    summary = summarize(
        [tile.sample for tile in tiles],
        read_statuses=lambda text: {"pleural_effusion": "present"},
        findings=("pleural_effusion",),
        max_studies_read=max_studies_read,
    )
    path = tmp_path / "sub" / "page.html"
    details = {"Folder": "a & b"}
    write_contact_sheet(path, title=title, notice=NOTICE, details=details, summary=summary, issues=issues, tiles=tiles)
    return path.read_text(encoding="utf-8")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "image").mkdir()
    Image.fromarray(np.full((600, 1200), 90, np.uint8)).save(tmp_path / "image" / "x.png")
    (tmp_path / "image" / "empty.png").write_bytes(b"")
    return tmp_path


def test_an_image_is_shrunk_and_keeps_its_greys(folder: Path) -> None:
    tile = make_tile(sample(), folder, {"x": "x.png"})
    head, _, data = tile.image.partition(",")
    shown = Image.open(io.BytesIO(base64.b64decode(data)))
    assert (head, tile.problem) == ("data:image/jpeg;base64", "")
    assert (shown.size, shown.mode) == ((IMAGE_SIDE, IMAGE_SIDE // 2), "L")
    assert abs(int(np.asarray(shown).mean()) - 90) <= 1


def test_a_colour_image_is_shown(folder: Path) -> None:
    Image.fromarray(np.zeros((20, 20, 3), np.uint8)).save(folder / "image" / "c.png")
    assert make_tile(sample("c"), folder, {"c": "c.png"}).image


def test_an_image_that_cannot_be_shown_says_why(folder: Path) -> None:
    missing, empty = make_tile(sample("gone"), folder, {}), make_tile(sample("empty"), folder, {"empty": "empty.png"})
    assert (missing.image, missing.problem) == ("", "The image is missing.")
    assert (empty.image, empty.problem) == ("", "empty.png: the file is empty.")
    page = page_of(folder, missing, empty)
    assert "The image is missing." in page
    assert "empty.png: the file is empty." in page
    assert "<img" not in page


def test_the_page_makes_no_request_and_runs_nothing(folder: Path) -> None:
    page = page_of(folder, make_tile(sample(), folder, {"x": "x.png"}))
    assert not re.search(r"https?://|<script|<link|url\(|@import", page)
    assert re.findall(r'src="([^,]+),', page) == ["data:image/jpeg;base64"]


def test_each_image_stands_with_its_id_split_view_and_text(tmp_path: Path) -> None:
    page = page_of(tmp_path, Tile(sample("one"), "", "why"), Tile(sample("two", None, split="", view=""), "", "why"))
    first, second = page.split('<article class="sample">')[1:]
    for text in ("<h3>one</h3>", "train · frontal · study study of one", "Clear lungs."):
        assert text in first
    for text in ("<h3>two</h3>", "no split · view unknown", "no text"):
        assert text in second


def test_numbers_and_issues_are_shown(tmp_path: Path) -> None:
    issues = (Issue("error", "studies in two splits", 7, ("a", "b")), Issue("note", "thing", 1))
    page = page_of(tmp_path, *(Tile(sample(str(i)), "", "why") for i in range(4)), issues=issues, max_studies_read=3)
    for text in (
        "For research only &amp; nothing else.",
        "keep it only where the data may be kept",
        "<dd>a &amp; b</dd>",
        '<span class="count">7</span><b>error</b> studies in two splits',
        "a · b · …",
        "in 3 studies drawn at random from 4.",
        '<th scope="row">pleural effusion</th><td class="wide">3</td>',
        "median 2",
    ):
        assert text in page


def test_a_folder_without_texts_or_issues(tmp_path: Path) -> None:
    page = page_of(tmp_path, Tile(sample(text=None), "", "why"))
    assert "Nothing was found." in page
    assert "none: for generation only" in page
    assert "Words of a text" not in page
    assert "Findings that" not in page


def test_every_text_is_escaped(tmp_path: Path) -> None:
    evil = "<script>alert('x')</script>"
    tile = Tile(Sample(evil, evil, evil, evil, evil, evil), "", evil)
    page = page_of(tmp_path, tile, issues=(Issue("note", evil, 1, (evil,)),), title=evil)
    assert "<script" not in page
    assert page.count("&lt;script&gt;") >= 9
