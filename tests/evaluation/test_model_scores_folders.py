"""What the encoder's folder of a score may not choose: kernels, files elsewhere, and sizes that its weights do not have."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.evaluation.model_score_weights import corpus, write_chexbert, write_encoder
from tests.evaluation.test_model_scores_radgraph import write_random_parameters, write_weights
from xraygpt.evaluation.model_scores import compute_model_scores


def write_radgraph(folder: Path) -> Path:
    """A folder that the package radgraph reads."""
    write_random_parameters(write_weights(folder))
    return folder


SCORES = [
    ("bertscore", "bert_score", write_encoder),
    ("chexbert", "transformers", write_chexbert),
    ("radgraph", "radgraph", write_radgraph),
]


@pytest.fixture(params=SCORES, ids=[name for name, *_ in SCORES])
def score(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, Path, Path]:
    """Name of a score, its folder, and the folder of its encoder."""
    name, package, write = request.param
    pytest.importorskip(package)
    folder = write(tmp_path / "weights")
    return name, folder, folder / "encoder" if name == "radgraph" else folder


def change(path: Path, **values: Any) -> None:
    """Set keys of a JSON file, which need not be there."""
    path.write_text(json.dumps((json.loads(path.read_text()) if path.exists() else {}) | values))


def compute(score: tuple[str, Path, Path]) -> tuple[list[float], str]:
    """The values of a score, and why it was skipped."""
    metrics, skipped = compute_model_scores(corpus(["no effusion"], ["effusion"]), {score[0]: score[1]})
    return [metric.value for metric in metrics], skipped.get(score[0], "")


def test_kernels_and_paths_are_ignored(score: tuple[str, Path, Path]) -> None:
    expected, _ = compute(score)
    assert expected
    change(score[2] / "config.json", _attn_implementation="org/kernel", _experts_implementation="org/kernel")
    change(score[2] / "tokenizer_config.json", tokenizer_file="/home/x/tokenizer.json")
    values, skipped = compute(score)
    assert skipped == ""
    assert values == pytest.approx(expected, nan_ok=True)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"vocab_size": 2**30}, "more than 1[67],.* numbers"),
        ({"num_hidden_layers": 10**6}, "'num_hidden_layers' is 1000000, more than 1,000"),
        ({"attribute_map": {"hidden_size": "x"}}, "'attribute_map' would change"),
        ({"transformers_weights": "../x.safetensors"}, "asks for another file"),
        ({"hidden_size": "x"}, "cannot be used"),
    ],
)
def test_what_is_refused(score: tuple[str, Path, Path], values: dict[str, Any], message: str) -> None:
    change(score[2] / "config.json", **values)
    found, skipped = compute(score)
    assert found == []
    assert re.search(message, skipped), skipped
