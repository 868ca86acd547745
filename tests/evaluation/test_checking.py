"""`--check`: a scorecard that holds, and every way in which one does not."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.evaluation.example import TRAINING, example
from xraygpt.common.errors import DataError
from xraygpt.evaluation.checking import check_scorecard
from xraygpt.evaluation.evaluate import EvaluatedSet, write_evaluation
from xraygpt.evaluation.scoring import Settings


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A result folder as `xraygpt score` writes it."""
    evaluated = EvaluatedSet(
        corpus=example(), split="test", training_reports=TRAINING, extra_baselines={}, images={}, provenance={"by": "me"}, title="T"
    )
    write_evaluation(tmp_path, evaluated, settings=Settings(resamples=50), num_cases=2)
    return tmp_path


def edit(folder: Path, change: Any) -> None:
    """Change the stored scorecard."""
    path = folder / "scorecard.json"
    stored = json.loads(path.read_text(encoding="utf-8"))
    change(stored)
    path.write_text(json.dumps(stored), encoding="utf-8")


def test_a_scorecard_holds(folder: Path) -> None:
    result = check_scorecard(folder / "scorecard.json")
    assert result.differences == [] and result.changes == []
    assert result.num_compared > 500


def test_it_holds_where_the_folder_was_moved(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    other = tmp_path_factory.mktemp("moved") / "result"
    folder.rename(other)
    assert check_scorecard(other / "scorecard.json").differences == []


def test_a_better_number_does_not_hold(folder: Path) -> None:
    def flatter(card: dict[str, Any]) -> None:
        card["scores"][0]["value"] += 0.01

    edit(folder, flatter)
    (line,) = check_scorecard(folder / "scorecard.json").differences
    assert line.startswith("scores.finding_f1_macro.value: stored 0.")


def test_a_changed_prediction_is_noticed(folder: Path) -> None:
    file = folder / "predictions.jsonl"
    file.write_text(file.read_text(encoding="utf-8").replace("right pleural", "left pleural"), encoding="utf-8")
    differences = check_scorecard(folder / "scorecard.json").differences
    assert any(line.startswith("data.files_sha256.predictions.jsonl") for line in differences)
    assert any(line.startswith("scores.laterality_error_rate") for line in differences)


def test_a_hidden_warning_is_noticed(folder: Path) -> None:
    edit(folder, lambda card: card["warnings"].clear())
    assert check_scorecard(folder / "scorecard.json").differences[0].startswith("warnings: stored []")


def test_another_environment_is_named(folder: Path) -> None:
    edit(folder, lambda card: card["provenance"]["libraries"].update(numpy="1.0"))
    result = check_scorecard(folder / "scorecard.json")
    assert result.differences == []
    (line,) = result.changes
    assert line.startswith("libraries.numpy: stored '1.0'")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "line 1: not JSON"),
        ("[]", "is no scorecard"),
        ('{"scores": []}', "is no scorecard of xraygpt: it has no baselines, data"),
    ],
)
def test_what_is_no_scorecard_is_refused(folder: Path, content: str, message: str) -> None:
    (folder / "scorecard.json").write_text(content)
    with pytest.raises(DataError, match=message):
        check_scorecard(folder / "scorecard.json")


def test_another_format_is_refused(folder: Path) -> None:
    edit(folder, lambda card: card.update(format=99))
    with pytest.raises(DataError, match="has format 99"):
        check_scorecard(folder / "scorecard.json")


def test_a_missing_file_is_named(folder: Path) -> None:
    (folder / "references.jsonl").unlink()
    with pytest.raises(DataError, match=r"references\.jsonl: cannot be read"):
        check_scorecard(folder / "scorecard.json")


def test_baselines_of_other_samples_are_refused(folder: Path) -> None:
    file = folder / "baselines.jsonl"
    file.write_text("".join(file.read_text(encoding="utf-8").splitlines(keepends=True)[1:]), encoding="utf-8")
    with pytest.raises(DataError, match=r"baselines\.jsonl: expected the fields id, most_frequent"):
        check_scorecard(folder / "scorecard.json")
