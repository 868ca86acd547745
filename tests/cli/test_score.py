"""`xraygpt score` from files to files."""

import argparse
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from xraygpt.cli import score
from xraygpt.common.errors import DataError
from xraygpt.common.files import write_json, write_json_lines

REPORTS = {"good": "Left pleural effusion.", "bad": "Cardiomegaly.", "normal": "The lungs are clear."}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A prepared folder with three test studies and one of another split."""
    left = [{"finding": "pleural_effusion", "side": "left", "zone": ""}]
    rows = [("good", "test", left), ("bad", "test", left), ("normal", "test", []), ("other", "train", [])]
    annotations = [
        {"image_id": key, "caption": f"Caption {key}.", "study_id": key, "split": split, "findings": f} for key, split, f in rows
    ]
    write_json(tmp_path / "data" / "filter_cap.json", {"annotations": annotations})
    (tmp_path / "data" / "image").mkdir()
    for suffix, key in (("png", "good"), ("jpg", "bad")):
        Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "data" / "image" / f"{key}.{suffix}")
    write_json_lines(tmp_path / "reports.jsonl", [{"id": key, "report": text} for key, text in REPORTS.items()])
    return tmp_path


def run(folder: Path, *options: object) -> int:
    parser = argparse.ArgumentParser()
    score.add_arguments(parser)
    required = ["--predictions", folder / "reports.jsonl", "--references", folder / "data", "--out", folder / "out"]
    return score.run(parser.parse_args([str(word) for word in (*required, *options)]))


def test_prints_the_table_and_writes_three_files(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(folder) == 0
    assert "macro-F1" in capsys.readouterr().out
    card = json.loads((folder / "out" / "scorecard.json").read_text(encoding="utf-8"))
    assert (card["num_reports"], card["model"]["findings"]["pleural_effusion"]["recall"]) == (3, 0.5)
    assert card["Split"] == "test"
    assert "| macro-F1 |" in (folder / "out" / "scorecard.md").read_text(encoding="utf-8")


def test_the_page_shows_the_worst_case_first(folder: Path) -> None:
    run(folder)
    page = (folder / "out" / "report.html").read_text(encoding="utf-8")
    assert page.index("<h3>bad</h3>") < page.index("<h3>good</h3>")
    assert page.count("data:image/jpeg") == 2


def test_the_sample_of_cases_depends_on_the_seed_alone(folder: Path) -> None:
    pages = []
    for seed in (1, 1, 2, 3, 4, 5):
        run(folder, "--cases", 1, "--seed", seed)
        pages.append((folder / "out" / "report.html").read_text(encoding="utf-8"))
    assert pages[0] == pages[1]
    assert len(set(pages)) > 1
    assert pages[0].count('<article class="case">') == 1


def test_reports_of_another_split_are_refused(folder: Path) -> None:
    with pytest.raises(DataError, match=r"3 without a report.*1 without a reference"):
        run(folder, "--split", "test", "--predictions", _only(folder, "other"))
    assert not (folder / "out").exists()


def test_references_may_be_a_file(folder: Path) -> None:
    assert run(folder, "--references", folder / "reports.jsonl") == 0
    assert json.loads((folder / "out" / "scorecard.json").read_text(encoding="utf-8"))["model"]["macro_f1"] == 1


def _only(folder: Path, key: str) -> Path:
    write_json_lines(folder / "other.jsonl", [{"id": key, "report": ""}])
    return folder / "other.jsonl"
