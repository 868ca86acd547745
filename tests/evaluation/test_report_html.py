"""The page: self-contained, escaped, and plain about what is wrong with a system."""

import base64
import html
import io
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.evaluation.cards import card, score
from xraygpt.common.errors import DataError
from xraygpt.evaluation.metric import Corpus
from xraygpt.evaluation.report_html import IMAGE_SIDE, NOTICE, Case, CaseGroup, choose_cases, image_data_uri, write_report_page
from xraygpt.evaluation.scorecard import FindingRow, Scorecard

SCORES = (
    score("finding_f1_macro", 0.4, normal=(0.04, 0.3, 0.4), nearest_training=(0.39, -0.02, 0.04)),
    score("abnormal_recall", 0.7, normal=(0.0, 0.6, 0.8)),
    score("bleu_4", 0.125, group="lexical", normal=(0.2, -0.1, -0.05)),
    score("distinct_ratio", 0.5, group="degeneracy", normal=(0.01, 0.4, 0.5)),
)


def page_of(tmp_path: Path, *cases: Case, shown: Scorecard | None = None, title: str = "Title") -> str:
    groups = [CaseGroup("Least faithful", "1 of 2.", cases)] if cases else []
    write_report_page(tmp_path / "page.html", card=shown or card(*SCORES), cases=groups, title=title)
    return (tmp_path / "page.html").read_text(encoding="utf-8")


def case(prediction: str, *references: str, image: Path | None = None) -> Case:
    return Case("x", image, references, prediction)


def text_of(page: str) -> str:
    """What a reader sees, with single spaces."""
    return " ".join(html.unescape(re.sub(r"<style>.*?</style>|<[^>]+>", " ", page, flags=re.DOTALL)).split())


def test_the_page_makes_no_request_and_runs_nothing(tmp_path: Path) -> None:
    image = tmp_path / "x.png"
    Image.fromarray(np.full((8, 8), 90, np.uint8)).save(image)
    page = page_of(tmp_path, case("Left effusion.", "Nodule.", image=image))
    assert not re.search(r"https?://|<script|<link|url\(|@import|\son\w+=", page)
    assert re.findall(r'src="([^,]+),', page) == ["data:image/jpeg;base64"]
    assert "default-src 'none'; img-src data:" in page


def test_every_tag_is_closed(tmp_path: Path) -> None:
    class Balance(HTMLParser):
        def __init__(self) -> None:
            super().__init__()
            self.open_tags: list[str] = []

        def handle_starttag(self, tag: str, attrs: object) -> None:
            if tag not in {"meta", "img"}:
                self.open_tags.append(tag)

        def handle_endtag(self, tag: str) -> None:
            assert self.open_tags.pop() == tag, self.getpos()

    balance = Balance()
    balance.feed(page_of(tmp_path, case("Left effusion.", "Nodule."), case("", "Nodule.", "Mass.")))
    assert balance.open_tags == []


def test_every_text_is_escaped(tmp_path: Path) -> None:
    evil = "<script>alert('x')</script>"
    shown = card(
        *SCORES,
        warnings=[evil],
        skipped={evil: evil},
        baselines={"normal": evil},
        data={evil: evil},
        findings=[FindingRow(evil, False, 1, 1, 1.0, 1.0, 1.0, 1.0, 1.0, {evil: 1.0})],
    )
    page = page_of(tmp_path, Case(evil, None, (evil,), evil), shown=shown, title=evil)
    assert "<script" not in page
    assert page.count("&lt;script&gt;") == 13


def test_warnings_stand_before_the_numbers(tmp_path: Path) -> None:
    text = text_of(page_of(tmp_path))
    assert NOTICE in text
    assert text.index("97 % of the images") < text.index("FINDING_F1_MACRO")
    assert "No warning" in text_of(page_of(tmp_path, shown=card(*SCORES, warnings=[])))


def test_a_headline_score_stands_beside_its_best_baseline(tmp_path: Path) -> None:
    tiles = re.findall(r'<div class="tile (\w*)">(.*?)\n</div>', page_of(tmp_path), re.DOTALL)
    assert [(outcome, text_of(tile)) for outcome, tile in tiles] == [
        ("unclear", "FINDING_F1_MACRO 0.400 0.390–0.410 best baseline 0.390 nearest training ≈ not clearly better"),
        ("better", "ABNORMAL_RECALL 0.700 0.690–0.710 best baseline 0.000 always normal ✓ clearly better"),
        ("worse", "BLEU_4 0.125 0.115–0.135 best baseline 0.200 always normal ▼ worse than the baseline"),
        ("", "DISTINCT_RATIO 0.500 0.490–0.510 best baseline 0.010 always normal"),
    ]


def test_a_table_marks_the_baselines_that_are_not_beaten(tmp_path: Path) -> None:
    page = page_of(tmp_path)
    rows = {text_of(row).split()[0]: row for row in re.findall(r"<tr><th.*?</tr>", page, re.DOTALL)}
    macro = re.findall(r'<td class="(\w*)">(.*?)</td>', rows["FINDING_F1_MACRO"], re.DOTALL)
    assert [(outcome, text_of(cell)) for outcome, cell in macro] == [
        ("main", "0.400"),
        ("better", "0.040 +0.300 to +0.400"),
        ("unclear", "≈ not clearly better: 0.390 -0.020 to +0.040"),
    ]
    assert "▼ worse: 0.200 -0.100 to -0.050" in text_of(rows["BLEU_4"])
    assert "bleu_4|made-up|v1" in page
    assert "bertscore : no folder at models/<bert>" in text_of(page)


def test_the_chart_draws_f1_its_interval_and_the_best_baseline(tmp_path: Path) -> None:
    rows = [
        FindingRow("Edema", False, 40, 30, 0.8, 0.6, 0.686, 0.58, 0.77, {"normal": 0.0, "nearest_training": 0.312}),
        FindingRow("Fracture", False, 4, 3, 0.5, 0.5, 0.5, 0.2, 0.8, {"normal": 0.25}),
        FindingRow("rare", True, 1, 0, None, 0.0, 0.0, 0.0, 0.0, {}),
        FindingRow("common", True, 9, 0, None, 0.0, 0.0, 0.0, 0.0, {}),
    ]
    page = page_of(tmp_path, shown=card(*SCORES, findings=rows))
    chart = page[page.index('id="findings"') :]
    edema, fracture = (chart[chart.index(f">{name}<") :].split("</tr>")[0] for name in ("Edema", "Fracture"))
    assert 'class="bar" style="width:68.6%"' in edema
    assert 'class="whisker" style="left:58.0%;right:calc(100% - 77.0%)"' in edema
    assert 'class="tick" style="left:31.2%"' in edema
    assert 'class="gauge"' in edema
    assert 'class="gauge weak"' in fracture  # 0.2 is not above 0.25
    assert chart.index("Fracture") < chart.index("The finer list: 2 findings") < chart.index("common") < chart.index("rare")


def test_a_case_shows_each_sentence_with_its_verdict(tmp_path: Path) -> None:
    prediction = "Thank you.\nThe heart is enlarged. Small right pleural effusion. No pneumothorax."
    page = page_of(tmp_path, case(prediction, "Heart size is normal. Left pleural effusion.", "Nodule in the right upper lobe."))
    spans = re.findall(r'<span class="s (\w+)">(.*?)</span>(?=\s|</p>)', page[page.index("Generated report") :], re.DOTALL)
    assert [(verdict, text_of(span.split("<")[0])) for verdict, span in spans] == [
        ("neutral", "Thank you."),
        ("contradicted", "The heart is enlarged."),
        ("contradicted", "Small right pleural effusion."),
        ("unmentioned", "No pneumothorax."),
    ]
    chips = [text_of(chip) for chip in re.findall(r'<span class="chip .*?</span>', page)]
    assert chips == ["⇄ wrong side Pleural Effusion", "− omitted Lung Lesion", "+ hallucinated Cardiomegaly ✗ denied"]
    assert "Reference 2 Nodule in the right upper lobe." in text_of(page)


def test_cases_without_text_image_or_faithfulness(tmp_path: Path) -> None:
    page = page_of(tmp_path, case("", "Nodule."), case("Thank you.", "Thank you."))
    assert '<p class="none">empty</p>' in page
    assert "<img" not in page
    assert "no finding in either text" in page


NORMAL = "The lungs are clear. No pleural effusion."
ABNORMAL = "Cardiomegaly. Left pleural effusion. Nodule."
CORPUS = Corpus(
    ids=("e", "d", "c", "b", "a"),
    predictions=("Cardiomegaly.", "Nothing to say.", ABNORMAL, NORMAL, NORMAL),  # faithfulness 1/3, NaN, 1, 0, 0
    references=((ABNORMAL,), ("Nothing to say.",), (ABNORMAL,), (ABNORMAL,), (ABNORMAL,)),
    studies=("e", "d", "c", "b", "a"),
)


def test_least_and_most_faithful_cases_go_by_id_where_equal() -> None:
    least, most, drawn = choose_cases(CORPUS, {"a": Path("a.png")}, count=2, seed=1)
    assert [item.id for item in least.cases] == ["a", "b"]
    assert [item.id for item in most.cases] == ["c", "e"]
    assert least.cases[0] == Case("a", Path("a.png"), (ABNORMAL,), NORMAL)
    assert least.cases[1].image is None
    assert len({item.id for item in drawn.cases}) == 2
    least, most, _ = choose_cases(CORPUS, {}, count=4, seed=1)
    assert [item.id for item in least.cases] == ["a", "b", "e", "c"]
    assert [item.id for item in most.cases] == ["c", "e", "a", "b"]


def test_the_choice_depends_on_the_seed_and_not_on_the_order_of_the_samples() -> None:
    columns = (CORPUS.ids, CORPUS.predictions, CORPUS.references, CORPUS.studies)
    backwards = Corpus(*(column[::-1] for column in columns))  # type: ignore[arg-type]
    assert choose_cases(backwards, {}, count=2, seed=1) == choose_cases(CORPUS, {}, count=2, seed=1)
    drawn = {tuple(item.id for item in choose_cases(CORPUS, {}, count=2, seed=seed)[2].cases) for seed in range(8)}
    assert len(drawn) > 1


def test_few_cases_are_one_group_and_none_is_no_group() -> None:
    (group,) = choose_cases(CORPUS, {}, count=5, seed=1)
    assert [item.id for item in group.cases] == ["a", "b", "e", "c", "d"]
    assert choose_cases(CORPUS, {}, count=0, seed=1) == []


@pytest.mark.parametrize("bits", [8, 16])
def test_images_are_shrunk_and_keep_their_greys(tmp_path: Path, bits: int) -> None:
    grey = np.full((1024, 2048), 100 << (bits - 8), np.uint16 if bits == 16 else np.uint8)
    Image.fromarray(grey).save(tmp_path / "x.png")
    data = base64.b64decode(image_data_uri(tmp_path / "x.png").partition(",")[2])
    shown = Image.open(io.BytesIO(data))
    assert (shown.format, shown.size) == ("JPEG", (IMAGE_SIDE, IMAGE_SIDE // 2))
    assert abs(int(np.asarray(shown).mean()) - 100) <= 1


def png_of_a_chunk_that_ends_early() -> bytes:
    buffer = io.BytesIO()
    Image.new("L", (64, 64)).save(buffer, "PNG")
    content = bytearray(buffer.getvalue())
    content[36] -= 10  # the length of the image data
    return bytes(content)


@pytest.mark.parametrize("content", [b"not an image", png_of_a_chunk_that_ends_early()], ids=["text", "damaged"])
def test_an_image_that_cannot_be_read_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.png").write_bytes(content)
    with pytest.raises(DataError, match=r"x\.png: the image cannot be read"):
        image_data_uri(tmp_path / "x.png")


def test_no_name_and_no_report_turns_the_text_of_the_page_round(tmp_path: Path) -> None:
    page = page_of(tmp_path, Case("a\u202egnp", None, ("Clear\u2066.",), "Clear\x1b[2J.\udcff"), title="\u202etitle")
    assert not {"\u202e", "\u2066", "\x1b"} & set(page)
    assert r"a\u202egnp" in text_of(page) and r"\u202etitle" in text_of(page)
