"""`xraygpt label` from file to file."""

import csv
from pathlib import Path

import pytest

from xraygpt.cli.main import main
from xraygpt.common.files import write_json_lines
from xraygpt.evaluation import FINDINGS, OBSERVATIONS

REPORTS = {
    "a, 1": "Small left effusion. No pneumothorax. Possible pneumonia.",
    "b": "The heart is normal. A pacemaker is in place.",
    "c": "",
}


@pytest.fixture
def reports(tmp_path: Path) -> Path:
    write_json_lines(tmp_path / "reports.jsonl", [{"id": key, "report": text} for key, text in REPORTS.items()])
    return tmp_path / "reports.jsonl"


def label(reports: Path, *options: str) -> dict[str, dict[str, str]]:
    """id -> the columns that are not empty."""
    out = reports.with_name("labels.csv")
    assert main(["label", "--reports", str(reports), "--out", str(out), *options]) == 0
    with open(out, newline="", encoding="utf-8") as handle:
        rows = list(csv.DictReader(handle))
    return {row["id"]: {name: value for name, value in row.items() if name != "id" and value} for row in rows}


def test_writes_the_chexpert_observations(reports: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert label(reports) == {
        "a, 1": {"Pleural Effusion": "1", "Pneumothorax": "0", "Pneumonia": "-1"},
        "b": {"Cardiomegaly": "0", "Support Devices": "1", "No Finding": "1"},
        "c": {},
    }
    header = reports.with_name("labels.csv").read_text(encoding="utf-8").splitlines()[0]
    assert header == "id," + ",".join(OBSERVATIONS)
    assert "3 reports" in capsys.readouterr().out


def test_writes_the_finer_list(reports: Path) -> None:
    assert label(reports, "--findings", "fine") == {
        "a, 1": {"pleural_effusion": "1", "pneumothorax": "0", "pneumonia": "-1"},
        "b": {"cardiomegaly": "0", "pacemaker": "1"},
        "c": {},
    }
    assert reports.with_name("labels.csv").read_text(encoding="utf-8").startswith("id," + ",".join(FINDINGS) + "\n")


def test_reads_csv(tmp_path: Path) -> None:
    (tmp_path / "reports.csv").write_text('id,report\nx,"Edema, mild."\n', encoding="utf-8")
    assert label(tmp_path / "reports.csv") == {"x": {"Edema": "1"}}


def test_refuses_to_overwrite_the_reports(reports: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = reports.read_bytes()
    assert main(["label", "--reports", str(reports), "--out", str(reports)]) == 1
    assert "overwrite" in capsys.readouterr().err
    assert reports.read_bytes() == before


def test_a_bad_file_leaves_no_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "reports.jsonl").write_text('{"id": "a"}\n', encoding="utf-8")
    assert main(["label", "--reports", str(tmp_path / "reports.jsonl"), "--out", str(tmp_path / "labels.csv")]) == 1
    assert "no field 'report'" in capsys.readouterr().err
    assert not (tmp_path / "labels.csv").exists()


def test_the_table_holds_no_formula_and_numbers_stay_numbers(tmp_path: Path) -> None:
    write_json_lines(tmp_path / "reports.jsonl", [{"id": key, "report": "Possible pneumonia."} for key in ("=1+1", "-2", "a\x1b")])
    assert label(tmp_path / "reports.jsonl") == {"'=1+1": {"Pneumonia": "-1"}, "'-2": {"Pneumonia": "-1"}, "a\x1b": {"Pneumonia": "-1"}}
