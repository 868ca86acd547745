"""RadGraph F1: our side of it against a stub of the package, and the package itself, where it is installed, with toy weights."""

import importlib.metadata
import json
import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from tests.evaluation.model_score_weights import bert_config, corpus, write_tokenizer
from xraygpt.evaluation.model_scores import compute_model_scores, radgraph_f1

HUB_NAME = "microsoft/some-encoder"
EXTRACTOR = {"spans_per_word": 0.5}
EVENTS = {"trigger_spans_per_word": 0.3, "argument_spans_per_word": 0.3, "loss_weights": {"trigger": 0, "arguments": 0}}


def write_weights(folder: Path) -> Path:
    """An unpacked archive of the package, its encoder beside it; weights.th holds two numbers."""
    import torch

    (folder / "vocabulary").mkdir(parents=True)
    (folder / "encoder").mkdir()
    bert_config(write_tokenizer(folder / "encoder")).save_pretrained(folder / "encoder")
    bert = {"model_name": HUB_NAME, "max_length": 64}
    model = {
        "type": "dygie",
        "embedder": {"token_embedders": {"bert": bert}},
        "initializer": {},
        "module_initializer": {},
        "modules": {"ner": {}, "coref": {**EXTRACTOR, "max_antecedents": 10}, "relation": EXTRACTOR, "events": EVENTS},
        "feature_size": 8,
        "max_span_width": 4,
        "target_task": "ner",
        "feedforward_params": {"num_layers": 1, "hidden_dims": 16, "dropout": 0.0},
        "loss_weights": {"ner": 1, "relation": 1, "coref": 0, "events": 0},
    }
    config = {"dataset_reader": {"max_span_width": 4, "token_indexers": {"bert": bert}}, "model": model}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "vocabulary" / "non_padded_namespaces.txt").write_text("*labels\n")
    (folder / "vocabulary" / "radgraph-xl__ner_labels.txt").write_text(
        "\nObservation::definitely present\nObservation::definitely absent\n"
    )
    (folder / "vocabulary" / "radgraph-xl__relation_labels.txt").write_text("modify\nlocated_at\n")
    torch.save({"bias": torch.ones(2)}, folder / "weights.th")
    return folder


class StubRadGraph:
    """Stands for the package's model: checks its cache, and calls each word an entity."""

    texts_read: list[str]

    def __init__(self, *, model_type: str, model_cache_dir: str) -> None:
        cache = Path(model_cache_dir) / model_type
        config = json.loads((cache / "config.json").read_text())
        encoders = {
            config["dataset_reader"]["token_indexers"]["bert"]["model_name"],
            config["model"]["embedder"]["token_embedders"]["bert"]["model_name"],
        }
        assert all(Path(name, "config.json").is_file() for name in encoders), f"the package would ask the hub for {encoders}"
        (cache / "vocabulary" / ".lock").touch()
        self.state = torch.load(cache / "weights.th", weights_only=True)
        StubRadGraph.texts_read = []
        sys.stdout.write("Using device: cpu")  # as the package does

    def named_parameters(self) -> list[tuple[str, torch.Tensor]]:
        return list(self.state.items())

    def __call__(self, texts: list[str]) -> dict[str, Any]:
        StubRadGraph.texts_read += texts
        return {str(index): {"entities": set(text.split())} for index, text in enumerate(texts)}


def stub_reward(hypothesis: dict[str, Any], reference: dict[str, Any], level: str) -> tuple[float, float, float]:
    assert level == "all"
    common = len(hypothesis["entities"] & reference["entities"])
    simple = 2 * common / (len(hypothesis["entities"]) + len(reference["entities"]))
    return simple, simple / 2, simple / 4


@pytest.fixture
def package(monkeypatch: pytest.MonkeyPatch) -> None:
    """The stub, in place of radgraph."""
    stub, rewards = ModuleType("radgraph"), ModuleType("radgraph.rewards")
    stub.RadGraph, rewards.compute_reward = StubRadGraph, stub_reward  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "radgraph", stub)
    monkeypatch.setitem(sys.modules, "radgraph.rewards", rewards)
    version = importlib.metadata.version
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "0.1.18" if name == "radgraph" else version(name))
    radgraph_f1.load_reader.cache_clear()


@pytest.mark.usefixtures("package")
def test_levels_and_references(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_weights(tmp_path / "radgraph-xl")
    reports = corpus(["heart enlarged", "clear", " "], ["heart normal", ["effusion", "clear"], "clear"])
    metrics, skipped = compute_model_scores(reports, {"radgraph": folder})
    assert skipped == {}
    assert {metric.key: metric.value for metric in metrics} == {
        "radgraph_simple": pytest.approx((1 / 2 + 1 + 0) / 3),  # the best of two references; an empty report counts 0
        "radgraph_partial": pytest.approx((1 / 2 + 1 + 0) / 6),
        "radgraph_complete": pytest.approx((1 / 2 + 1 + 0) / 12),
    }
    assert "|model:radgraph-xl-" in metrics[0].id
    assert metrics[0].id.endswith("|lib:radgraph-0.1.18")
    assert capsys.readouterr().out == ""
    assert not (folder / "vocabulary" / ".lock").exists()  # the user's folder stays as it is
    assert HUB_NAME in (folder / "config.json").read_text()


@pytest.mark.usefixtures("package")
def test_weights_that_are_not_finite_give_no_score(tmp_path: Path) -> None:
    folder = write_weights(tmp_path / "radgraph-xl")
    torch.save({"bias": torch.tensor([1.0, torch.nan])}, folder / "weights.th")
    _, skipped = compute_model_scores(corpus(["clear"], ["clear"]), {"radgraph": folder})
    assert "weights.th cannot be used: bias holds NaN" in skipped["radgraph"]


@pytest.mark.usefixtures("package")
def test_each_text_is_read_once(tmp_path: Path) -> None:
    folder = write_weights(tmp_path / "radgraph-xl")
    for _ in range(2):
        compute_model_scores(corpus(["clear", "clear", "heart"], ["heart", "clear", "clear"]), {"radgraph": folder})
    assert sorted(StubRadGraph.texts_read) == ["clear", "heart"]


@pytest.mark.usefixtures("package")
@pytest.mark.parametrize("missing", ["weights.th", "encoder/config.json", "encoder/vocab.txt", "vocabulary/radgraph-xl__ner_labels.txt"])
def test_skipped_without_a_part(missing: str, tmp_path: Path) -> None:
    folder = write_weights(tmp_path / "radgraph-xl")
    (folder / missing).unlink()
    metrics, skipped = compute_model_scores(corpus(["clear"], ["clear"]), {"radgraph": folder})
    assert metrics == []
    assert str(folder) in skipped["radgraph"]
    assert "StanfordAIMI/RRG_scorers" in skipped["radgraph"]


def test_skipped_without_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "radgraph", None)
    _, skipped = compute_model_scores(corpus(["clear"], ["clear"]), {"radgraph": write_weights(tmp_path / "radgraph-xl")})
    assert "make install-extras EXTRAS=radgraph" in skipped["radgraph"]


def test_tokenizers_are_left_as_they_were() -> None:
    from transformers import PreTrainedTokenizerBase

    before = dict(vars(PreTrainedTokenizerBase))
    with pytest.raises(KeyError), radgraph_f1.removed_tokenizer_methods():
        raise KeyError
    assert dict(vars(PreTrainedTokenizerBase)) == before


# The package itself -----------------------------------------------------------------------------------------------


def write_random_parameters(folder: Path) -> None:
    """weights.th of the package's own model at toy size."""
    import torch
    from dotmap import DotMap
    from radgraph.allennlp.data import Vocabulary
    from radgraph.allennlp.modules import text_field_embedders, token_embedders
    from radgraph.dygie.models import dygie

    sizes = DotMap(json.loads((folder / "config.json").read_text())["model"])
    for name in ("type", "embedder", "initializer", "module_initializer"):
        del sizes[name]
    torch.manual_seed(0)
    with radgraph_f1.removed_tokenizer_methods():
        encoder = token_embedders.PretrainedTransformerMismatchedEmbedder(model_name=str(folder / "encoder"), max_length=64)
        embedder = text_field_embedders.BasicTextFieldEmbedder({"bert": encoder})
        model = dygie.DyGIE(vocab=Vocabulary.from_files(str(folder / "vocabulary")), embedder=embedder, **sizes)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.5)
    torch.save(model.state_dict(), folder / "weights.th")


def test_equals_the_package(tmp_path: Path) -> None:
    package = pytest.importorskip("radgraph")
    folder = write_weights(tmp_path / "radgraph-xl")
    write_random_parameters(folder)
    radgraph_f1.load_reader.cache_clear()
    predictions = ["The heart is enlarged. No pleural effusion.", "Lungs are clear.", "Small left pleural effusion ."]
    references = ["The heart is enlarged.", "Lungs are clear.", "Large right pleural effusion, consolidation."]
    metrics, skipped = compute_model_scores(corpus(predictions, references), {"radgraph": folder})
    assert skipped == {}

    # The package's own score, from a cache whose encoder is local; it needs the methods that transformers has removed.
    bare = json.loads((folder / "config.json").read_text().replace(HUB_NAME, str(folder / "encoder")))
    (folder / "config.json").write_text(json.dumps(bare))
    with radgraph_f1.removed_tokenizer_methods():
        scorer = package.F1RadGraph(reward_level="all", model_type="radgraph-xl", model_cache_dir=os.fspath(tmp_path))
        _, rewards, *_ = scorer(hyps=predictions, refs=references)
    assert [metric.statistics[:, 0].tolist() for metric in metrics] == [list(level) for level in rewards]
    assert 0 < metrics[0].value < 1
