import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.evaluation.model_score_weights import corpus
from xraygpt.common.errors import ConfigError
from xraygpt.evaluation.model_scores import MODEL_SCORES, compute_model_scores, export_for_other_tools

TEXTS = ["The heart is normal.", 'Lungs "clear", no effusion.\nStable.']


def test_only_what_is_asked_for() -> None:
    assert compute_model_scores(corpus(TEXTS, TEXTS), {}) == ([], {})


def test_unknown_name() -> None:
    with pytest.raises(ConfigError, match=r"no model-based score 'chexpert'\. Did you mean 'chexbert'\?"):
        compute_model_scores(corpus(TEXTS, TEXTS), {"chexpert": Path("x")})


@pytest.mark.parametrize("name", ["bertscore", "chexbert"])
def test_skipped_without_weights(name: str, tmp_path: Path) -> None:
    pytest.importorskip("bert_score")
    for folder, missing in ((tmp_path / "nowhere", "no folder"), (tmp_path, "lacks")):
        metrics, skipped = compute_model_scores(corpus(TEXTS, TEXTS), {name: folder})
        assert metrics == []
        assert missing in skipped[name]
        assert str(folder) in skipped[name]  # where
        assert "hf download" in skipped[name]  # how to get them


def test_every_reason_is_told_and_what_can_be_computed_is(tmp_path: Path) -> None:
    _, skipped = compute_model_scores(corpus(TEXTS, TEXTS), {name: tmp_path / name for name in MODEL_SCORES})
    assert list(skipped) == list(MODEL_SCORES)


def test_no_heavy_import_before_a_score_is_asked_for() -> None:
    heavy = ("torch", "transformers", "bert_score", "radgraph")
    code = f"import sys, xraygpt.evaluation, xraygpt.evaluation.model_scores; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# Files for other tools --------------------------------------------------------------------------------------------


def read_csv(path: Path) -> list[list[str]]:
    with open(path, encoding="utf-8", newline="") as handle:
        return list(csv.reader(handle))


def test_export(tmp_path: Path) -> None:
    exported = corpus([TEXTS[1], " \n"], [[TEXTS[0], "another reader"], TEXTS[1]])
    files = export_for_other_tools(exported, tmp_path / "new" / "export")
    folder = tmp_path / "new" / "export"
    assert sorted(files) == sorted(path.name for path in folder.iterdir())
    # Lists that are zipped: an empty report must keep its place, and tools drop or choke on empty text.
    assert json.loads((folder / "pairs.json").read_text()) == {"references": TEXTS, "hypotheses": [TEXTS[1], "."]}
    assert read_csv(folder / "cxr_report_metric_references.csv") == [["study_id", "report"], ["0", TEXTS[0]], ["1", TEXTS[1]]]
    assert read_csv(folder / "cxr_report_metric_predictions.csv") == [["study_id", "report"], ["0", TEXTS[1]], ["1", "."]]
    assert read_csv(folder / "index.csv") == [["study_id", "id"], ["0", "case/0"], ["1", "case/1"]]
    rexrank = json.loads((folder / "rexrank.json").read_text())
    assert rexrank["case/0"] == {"section_findings": TEXTS[0], "section_impression": "", "model_prediction": TEXTS[1]}


def test_export_again_replaces_the_files(tmp_path: Path) -> None:
    export_for_other_tools(corpus(TEXTS, TEXTS), tmp_path)
    export_for_other_tools(corpus(TEXTS[:1], TEXTS[:1]), tmp_path)
    assert len(read_csv(tmp_path / "cxr_report_metric_predictions.csv")) == 2
    assert len(json.loads((tmp_path / "rexrank.json").read_text())) == 1
