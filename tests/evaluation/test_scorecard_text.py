"""The card as text: every number with its interval, marked where a baseline is not beaten."""

import re
from dataclasses import replace
from typing import Any

from tests.evaluation.cards import card, score
from xraygpt.evaluation.scorecard_text import WIDTH, detail_rows, format_markdown, format_table, headline

SCORES = (
    score("finding_f1_macro", 0.4, normal=(0.04, 0.3, 0.4), nearest_training=(0.39, -0.02, 0.04)),
    score("bleu_4", 0.125, group="lexical", normal=(0.2, -0.1, -0.05)),
    score("hallucinated_findings", 0.5, higher=False, normal=(0.0, 0.4, 0.6), nearest_training=(0.9, -0.5, -0.3)),
    score("length_ratio", None, group="degeneracy", higher=None),
)


def test_markdown_marks_what_does_not_beat_a_baseline() -> None:
    text = format_markdown(card(*SCORES))
    assert "| metric | value | 95 % interval | always normal | nearest training |" in text
    assert "| FINDING_F1_MACRO ↑ | **0.400** | 0.390–0.410 | 0.040 | 0.390 ~ |" in text
    assert "| BLEU_4 ↑ | **0.125** | 0.115–0.135 | 0.200 ! | – |" in text
    assert "| HALLUCINATED_FINDINGS ↓ | **0.500** | 0.490–0.510 | 0.000 ! | 0.900 |" in text
    assert "| LENGTH_RATIO | **–** | – | – | – |" in text


def test_markdown_holds_the_whole_card() -> None:
    text = format_markdown(card(*SCORES))
    for part in (
        "not for diagnosis",
        "- The same report is written for 97 % of the images.",
        "| Pleural Effusion | 40 | 30 | 0.800 | 0.600 | 0.686 | 0.580–0.770 | 0.000 | 0.312 |",
        "| pleural thickening | 0 | 2 | 0.000 | – | – | – | – | – |",
        "- bertscore: no folder at models/&lt;bert>",
        "- always normal: One fixed report.",
        "- BLEU_4: `bleu_4|made-up|v1`",
        "| files sha256 · predictions.jsonl | ab12 |",
        "| resamples | 1000 |",
        "| prompt | a \\| b &lt;Img> |",
    ):
        assert part in text
    assert text.index("97 %") < text.index("FINDING_F1_MACRO")
    assert text.index("| Pleural Effusion") < text.index("of the finer list") < text.index("| pleural thickening")


def test_every_row_of_a_markdown_table_has_the_cells_of_its_header() -> None:
    for table in re.findall(r"(?:^\|.*\n)+", format_markdown(card(*SCORES)), re.MULTILINE):
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}) == 1


def test_the_terminal_shows_warnings_headline_and_observations() -> None:
    four: dict[str, Any] = dict.fromkeys(("most_frequent", "normal", "random_training", "nearest_training"), (0.39, -0.02, 0.04))
    long = score("faithfulness", 0.5, **four)
    shown = card(score("rouge_l", 0.4, **four), long, score("cider", 0.7), warnings=["Words " * 40], baselines=dict.fromkeys(four, "text"))
    table = format_table(shown)
    assert max(map(len, table.splitlines())) <= WIDTH
    assert table.startswith("! Words")
    assert re.search(r"^ROUGE_L +0\.400 +0\.390–0\.410( +0\.390 ~){4}$", table, re.MULTILINE)
    assert table.index("FAITHFULNESS") < table.index("ROUGE_L")
    assert "CIDER" not in table
    assert re.search(r"^Pleural Effusion +40 +30 +0\.800 +0\.600 +0\.686 +0\.580–0\.770 +0\.312 nearest training$", table, re.MULTILINE)
    assert "pleural thickening" not in table
    assert "bertscore not computed: no folder at models/<bert>" in table


def test_chosen_metrics_that_are_no_headline_are_all_shown() -> None:
    assert [item.key for item in headline(card(score("cider", 0.7), score("bleu_1", 0.2)))] == ["cider", "bleu_1"]


def test_a_long_name_is_cut_in_the_terminal_only() -> None:
    long = card(score("x" * 40, 0.5), findings=[])
    assert f"\n{'X' * 31}…  0.500" in format_table(long)
    assert f"| {'X' * 40} ↑ |" in format_markdown(long)


def test_a_card_without_baselines_findings_and_warnings() -> None:
    bare = card(score("rouge_l", 0.4), findings=[], skipped={}, warnings=[], baselines={}, settings={})
    assert format_table(bare).splitlines() == ["score    value     interval", "ROUGE_L  0.400  0.390–0.410"]
    assert "Read this first" not in format_markdown(bare)


def test_details_are_flat_and_readable() -> None:
    nested = {
        "git_commit": None,
        "decoding": {"do_sample": False, "beams": 1},
        "files": ["a", "b"],
        "checkpoints": [{"path": "x"}],
        "none": [],
    }
    assert detail_rows(nested) == [
        ("git commit", "–"),
        ("decoding · do sample", "no"),
        ("decoding · beams", "1"),
        ("files", "a, b"),
        ("checkpoints · 1 · path", "x"),
        ("none", "–"),
    ]


def test_a_name_makes_no_line_and_no_command_of_its_own() -> None:
    shown = format_markdown(replace(card(), provenance={"reports": "a|b\n# forged\x1b[2J\u202e.jsonl"}))
    assert r"| reports | a\|b # forged\x1b[2J\u202e.jsonl |" in shown.split("\n")
