"""`xraygpt score` from files to files."""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.evaluation.example import PREDICTIONS, REFERENCES
from xraygpt.cli import score
from xraygpt.common.errors import ConfigError, DataError
from xraygpt.common.files import write_json, write_json_lines
from xraygpt.evaluation.baselines import NORMAL_REPORT


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A prepared folder with six test images and a training image, reports for them, and better ones."""
    rows = [{"image_id": key, "caption": text, "study_id": f"s{key}", "split": "test"} for key, text in REFERENCES.items()]
    rows.append({"image_id": "t", "caption": NORMAL_REPORT, "study_id": "st", "split": "train"})
    write_json(tmp_path / "data" / "filter_cap.json", {"annotations": rows})
    (tmp_path / "data" / "image").mkdir()
    for suffix, key in (("png", "a"), ("jpg", "b")):
        Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "data" / "image" / f"{key}.{suffix}")
    for name, reports in (("reports", PREDICTIONS), ("better", REFERENCES)):
        write_json_lines(tmp_path / f"{name}.jsonl", [{"id": key, "report": text} for key, text in reports.items()])
    return tmp_path


def call(*words: object) -> int:
    parser = argparse.ArgumentParser()
    score.add_arguments(parser)
    return score.run(parser.parse_args([str(word) for word in words]))


def run(folder: Path, *options: object) -> int:
    required = ["--predictions", folder / "reports.jsonl", "--references", folder / "data", "--out", folder / "out"]
    return call(*required, "--resamples", 50, *options)


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def test_prints_the_table_and_writes_the_result(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(folder) == 0
    assert "Pleural Effusion" in capsys.readouterr().out
    names = {"scorecard.json", "scorecard.md", "report.html", "predictions.jsonl", "references.jsonl", "baselines.jsonl"}
    assert {path.name for path in (folder / "out").iterdir()} == names
    card = read(folder / "out" / "scorecard.json")
    assert (card["data"]["num_samples"], card["data"]["split"]) == (6, "test")
    assert card["baselines"].keys() == {"most_frequent", "normal", "random_training"}
    assert "1 training report" in card["baselines"]["random_training"]
    assert card["provenance"]["reports"].endswith("reports.jsonl")
    page = (folder / "out" / "report.html").read_text(encoding="utf-8")
    assert "data:image/jpeg" in page


def test_what_was_scored_can_be_checked(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(folder)
    assert call("--check", folder / "out" / "scorecard.json") == 0
    assert "holds: all" in capsys.readouterr().out
    card = read(folder / "out" / "scorecard.json")
    card["scores"][3]["value"] = 0.99
    write_json(folder / "out" / "scorecard.json", card)
    assert call("--check", folder / "out" / "scorecard.json") == 1
    assert "does not hold: 1 of" in capsys.readouterr().out


def test_two_systems_are_compared(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    systems = (folder / "reports.jsonl", folder / "better.jsonl")
    assert call(*systems, "--references", folder / "data", "--out", folder / "out", "--metrics", "rouge_l", "--resamples", 200) == 0
    (row,) = read(folder / "out" / "comparison.json")["differences"]
    assert (row["key"], row["second"], row["better"]) == ("rouge_l", 1.0, "second")
    assert capsys.readouterr().out.startswith((folder / "out" / "comparison.md").read_text(encoding="utf-8"))


def test_references_may_be_a_file_and_training_reports_another(folder: Path) -> None:
    assert run(folder, "--references", folder / "better.jsonl", "--training", folder / "better.jsonl") == 0
    card = read(folder / "out" / "scorecard.json")
    assert "6 training reports" in card["baselines"]["random_training"]
    assert card["data"]["split"] == ""


def test_reports_for_other_images_are_refused(folder: Path) -> None:
    write_json_lines(folder / "other.jsonl", [{"id": "x", "report": ""}])
    with pytest.raises(DataError, match=r"6 without a report.*1 without a reference"):
        run(folder, "--predictions", folder / "other.jsonl")
    assert not (folder / "out").exists()


def test_an_unknown_metric_is_refused_before_anything_is_read(folder: Path) -> None:
    with pytest.raises(ConfigError, match="no metric 'rougel'"):
        run(folder, "--metrics", "rougel", "--predictions", folder / "absent.jsonl")


@pytest.mark.parametrize("words", [(), ("a.jsonl",), ("a.jsonl", "b.jsonl", "c.jsonl", "--references", "r", "--out", "o")])
def test_what_is_missing_is_said(words: tuple[str, ...]) -> None:
    with pytest.raises(DataError, match="Give one file of generated reports"):
        call(*words)


def test_files_for_other_tools(folder: Path) -> None:
    run(folder, "--export", folder / "export")
    assert any((folder / "export").iterdir())


def test_two_runs_write_the_same_bytes(folder: Path) -> None:
    run(folder)
    first = {path.name: path.read_bytes() for path in (folder / "out").iterdir()}
    run(folder)
    assert {path.name: path.read_bytes() for path in (folder / "out").iterdir()} == first


def test_names_neither_command_the_terminal_nor_forge_lines(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    odd = folder / "x\x1b[2J\nfirst: forged\u202e.jsonl"
    (folder / "better.jsonl").rename(odd)
    words = ("--references", folder / "data", "--out", folder / "out", "--resamples", 20)
    assert call(odd, folder / "reports.jsonl", *words) == 0
    assert call(odd, *words) == 0
    shown = "".join(capsys.readouterr())
    texts = [(folder / "out" / name).read_text(encoding="utf-8") for name in ("comparison.md", "scorecard.md", "report.html")]
    texts += [(folder / "out" / name).read_text(encoding="utf-8") for name in ("comparison.json", "scorecard.json")]
    for text in (shown, *texts):
        assert not {"\x1b", "\u202e"} & set(text)
    for text in (shown, *texts[:2]):
        assert "\nfirst: forged" not in text
    assert read(folder / "out" / "comparison.json")["first"] == str(odd)
