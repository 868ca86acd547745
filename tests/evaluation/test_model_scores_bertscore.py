import json
import shutil
import socket
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.evaluation.model_score_weights import corpus, write_encoder
from xraygpt.evaluation.model_scores import compute_model_scores
from xraygpt.evaluation.model_scores.bertscore import load_encoder, scored_layer

PREDICTIONS = ["The heart is enlarged.", "No pleural effusion.", "The lungs are clear.", ""]
REFERENCES = ["The heart is normal.", "Small left pleural effusion.", "The lungs are clear.", "The heart is normal."]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("bert_score")
    return write_encoder(tmp_path_factory.mktemp("weights") / "tiny-bert")


def values(predictions: list[str], references: list[Any], folder: Path) -> dict[str, float]:
    metrics, skipped = compute_model_scores(corpus(predictions, references), {"bertscore": folder})
    assert skipped == {}
    return {metric.key: metric.value for metric in metrics}


def test_equals_the_library(encoder: Path) -> None:
    from bert_score import BERTScorer

    scorer = BERTScorer(model_type=str(encoder), num_layers=3, device="cpu")
    scorer._tokenizer.model_max_length = 64
    expected = scorer.score(PREDICTIONS[:3], REFERENCES[:3])
    metrics, _ = compute_model_scores(corpus(PREDICTIONS, REFERENCES), {"bertscore": encoder})
    assert [metric.key for metric in metrics] == ["bertscore_precision", "bertscore_recall", "bertscore_f1"]
    for metric, column in zip(metrics, expected, strict=True):
        assert metric.statistics[:3, 0] == pytest.approx(column.tolist(), abs=1e-5)
        assert metric.statistics[3].tolist() == [0, 1]  # an empty report is counted, with 0
    assert expected[2][0] < 0.999 < expected[2][2]  # the library tells them apart, and equal texts are perfect


def test_takes_the_best_of_several_references(encoder: Path) -> None:
    apart = [values(PREDICTIONS[:1], [text], encoder)["bertscore_f1"] for text in REFERENCES[:2]]
    assert apart[0] != apart[1]
    assert values(PREDICTIONS[:1], [REFERENCES[:2]], encoder)["bertscore_f1"] == max(apart)


def test_number_does_not_depend_on_the_company(encoder: Path) -> None:
    together = compute_model_scores(corpus(PREDICTIONS, REFERENCES), {"bertscore": encoder})[0][2].statistics[:, 0]
    alone = [values([text], [reference], encoder)["bertscore_f1"] for text, reference in zip(PREDICTIONS, REFERENCES, strict=True)]
    assert together.tolist() == alone


def test_long_reports_are_cut_where_the_tokenizer_has_no_limit(encoder: Path) -> None:
    long = "the heart is enlarged " * 50
    assert values([long], [long], encoder)["bertscore_f1"] == pytest.approx(1)


def test_id_names_encoder_layer_and_version(encoder: Path, tmp_path: Path) -> None:
    def identity(folder: Path) -> str:
        return compute_model_scores(corpus(PREDICTIONS, REFERENCES), {"bertscore": folder})[0][2].id

    name, model, *rest = identity(encoder).split("|")
    assert name == "bertscore_f1"
    assert model.startswith("model:tiny-bert-")
    assert {"layer:3", "idf:none", "rescale:none"} < set(rest)
    other = tmp_path / "tiny-bert"
    shutil.copytree(encoder, other)
    assert identity(other) == identity(encoder)
    (other / "config.json").write_text((encoder / "config.json").read_text() + "\n")
    assert identity(other) != identity(encoder)


@pytest.mark.parametrize(
    ("folder", "published", "num_layers", "layer"),
    [
        ("roberta-large", None, 24, 17),  # the folder is called as the encoder
        ("x", "distilbert-base-uncased", 6, 5),
        ("x", "allenai/scibert_scivocab_uncased", 12, 8),
        ("x", "/old/place/of/bert-base-uncased/", 12, 9),
        ("Bio_ClinicalBERT", None, 12, 12),  # not in the table: the last
        ("bert-base-uncased", None, 3, 3),  # another encoder under a known name has not so many layers
    ],
)
def test_layer(folder: str, published: str | None, num_layers: int, layer: int, tmp_path: Path) -> None:
    pytest.importorskip("bert_score")
    (tmp_path / folder).mkdir()
    (tmp_path / folder / "config.json").write_text(json.dumps({"_name_or_path": published} if published else {}))
    assert scored_layer(tmp_path / folder, num_layers) == layer


def test_a_layer_below_the_last_is_scored(encoder: Path, tmp_path: Path) -> None:
    from bert_score import BERTScorer

    folder = tmp_path / "bert_uncased_L-2_H-128_A-2"  # layer 1 in the table
    shutil.copytree(encoder, folder)
    scorer = BERTScorer(model_type=str(encoder), num_layers=1, device="cpu")
    scorer._tokenizer.model_max_length = 64
    assert values(PREDICTIONS[:1], REFERENCES[:1], folder)["bertscore_f1"] == pytest.approx(
        float(scorer.score(PREDICTIONS[:1], REFERENCES[:1])[2]), abs=1e-5
    )


def test_roberta_reads_the_first_word_like_any_other(tmp_path: Path) -> None:
    pytest.importorskip("bert_score")
    from tokenizers import ByteLevelBPETokenizer
    from transformers import RobertaConfig, RobertaModel

    folder = tmp_path / "tiny-roberta"
    folder.mkdir()
    tokenizer = ByteLevelBPETokenizer()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    tokenizer.train_from_iterator([" the heart is enlarged"] * 9, vocab_size=300, special_tokens=special, show_progress=False)
    tokenizer.save_model(str(folder))
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    RobertaModel(RobertaConfig(vocab_size=tokenizer.get_vocab_size(), max_position_embeddings=66, **sizes)).save_pretrained(folder)
    first, *_ = load_encoder(folder, "").tokenizer.tokenize("heart")
    assert first == "Ġheart"


def test_no_connection_is_tried(encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("a connection was tried")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    folder = tmp_path / "scibert-t5"  # bert-score would fetch a model for either part of this name
    shutil.copytree(encoder, folder)
    assert 0 < values(PREDICTIONS[:1], REFERENCES[:1], folder)["bertscore_f1"] < 1


def test_skipped_without_the_package(encoder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bert_score", None)
    metrics, skipped = compute_model_scores(corpus(PREDICTIONS, REFERENCES), {"bertscore": encoder})
    assert metrics == []
    assert "make install-extras EXTRAS=bertscore" in skipped["bertscore"]


def test_skipped_with_weights_of_another_encoder(encoder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "deeper"
    shutil.copytree(encoder, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 4}))
    _, skipped = compute_model_scores(corpus(PREDICTIONS, REFERENCES), {"bertscore": folder})
    assert "lack" in skipped["bertscore"]
    assert "encoder.layer.3" in skipped["bertscore"]
    (folder / "model.safetensors").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    _, skipped = compute_model_scores(corpus(PREDICTIONS, REFERENCES), {"bertscore": folder})
    assert str(folder) in skipped["bertscore"]
