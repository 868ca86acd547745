import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.evaluation.model_score_weights import WORDS, corpus, write_chexbert
from xraygpt.evaluation.model_scores import chexbert, compute_model_scores
from xraygpt.evaluation.model_scores.chexbert import BLANK, NEGATIVE, OBSERVATIONS, POSITIVE, UNCERTAIN, Labeller

TEXTS = ["The heart is enlarged.", "No pleural effusion.", "Small left pleural effusion, possible edema.", "The lungs are clear.", ""]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_chexbert(tmp_path_factory.mktemp("weights") / "chexbert")


def load(folder: Path) -> Labeller:
    chexbert.load_labeller.cache_clear()
    return chexbert.load_labeller(folder, "test")


def test_reads_what_the_heads_say(weights: Path) -> None:
    """Against the published layout, applied by hand to one text: the last hidden state of [CLS], no dropout, 14 heads."""
    from transformers import BertConfig, BertModel, BertTokenizer

    state = torch.load(weights / "chexbert.pth", weights_only=True)["model_state_dict"]
    bert = BertModel(BertConfig.from_pretrained(weights)).eval()
    bert.load_state_dict({key.removeprefix("module.bert."): value for key, value in state.items() if ".bert." in key})
    with torch.no_grad():
        hidden = bert(**BertTokenizer.from_pretrained(weights)(TEXTS[2], return_tensors="pt")).last_hidden_state[:, 0]
    expected = [int((hidden @ state[f"module.linear_heads.{head}.weight"].T).argmax()) for head in range(14)]
    classes = load(weights).classes(TEXTS)
    assert classes[2].tolist() == expected
    assert classes.shape == (5, 14)
    assert len(np.unique(classes, axis=0)) > 1  # the toy labeller tells texts apart


def test_batches_give_what_single_reports_give(weights: Path) -> None:
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(WORDS, size)) for size in rng.integers(1, 60, chexbert.TEXTS_PER_BATCH * 2 + 5)]
    labeller = load(weights)
    together = labeller.classes(texts)
    alone = np.concatenate([Labeller("fresh", labeller._model, labeller._tokenizer).classes([text]) for text in texts])
    assert together.tolist() == alone.tolist()
    assert len(np.unique(together, axis=0)) > 10


def test_each_text_is_read_once_and_line_breaks_do_not_matter(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    labeller = load(weights)
    first = labeller.classes(TEXTS)
    monkeypatch.setattr(Labeller, "_read", lambda *_: pytest.fail("a known text is read again"))
    again = labeller.classes(["No \n pleural\teffusion. ", TEXTS[0]])
    assert again.tolist() == first[[1, 0]].tolist()


def test_long_reports_are_cut_after_512_tokens(weights: Path) -> None:
    labeller = load(weights)
    labeller._model["bert"].embeddings.register_buffer("position_ids", torch.arange(512)[None] % 64, persistent=False)
    words = ["heart"] * 510
    cut, same = labeller.classes([" ".join([*words, *["effusion"] * 90]), " ".join(words)])
    assert cut.tolist() == same.tolist()


class Stated:
    """Stands for the labeller: what it reads is said in the test."""

    name = "chexbert-stub"

    def __init__(self, **classes: dict[str, int]) -> None:
        self._classes = classes

    def classes(self, texts: tuple[str, ...]) -> np.ndarray:
        return np.array([[self._classes[text].get(name, BLANK) for name in OBSERVATIONS] for text in texts])


def scores(
    monkeypatch: pytest.MonkeyPatch, weights: Path, stated: Stated, predictions: list[str], references: list[Any]
) -> dict[str, float]:
    monkeypatch.setattr(chexbert, "load_labeller", lambda *_: stated)
    metrics, skipped = compute_model_scores(corpus(predictions, references), {"chexbert": weights})
    assert skipped == {}
    return {metric.key: metric.value for metric in metrics}


def test_f1_by_hand(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stated = Stated(
        sick={"Edema": POSITIVE, "Pneumonia": UNCERTAIN, "Fracture": NEGATIVE},
        edema={"Edema": POSITIVE},
        maybe={"Edema": UNCERTAIN, "Pneumonia": POSITIVE},
        well={"No Finding": POSITIVE},
    )
    found = scores(monkeypatch, weights, stated, ["edema", "maybe", "well"], ["sick", "edema", "well"])
    # Uncertain as negative. Edema: 1 tp, 1 fn. Pneumonia: 1 fp. No Finding: 1 tp. Pneumonia is in no reference, so not in the macro mean.
    assert found["chexbert_f1_micro_14"] == pytest.approx(2 * 2 / (2 * 2 + 1 + 1))
    assert found["chexbert_f1_macro_14"] == pytest.approx((2 / 3 + 1) / 2)
    assert found["chexbert_f1_micro_5"] == found["chexbert_f1_macro_5"] == pytest.approx(2 / 3)
    # As positive. Edema: 2 tp. Pneumonia: 1 fn, 1 fp. No Finding: 1 tp.
    assert found["chexbert_f1_micro_14_upos"] == pytest.approx(2 * 3 / (2 * 3 + 1 + 1))
    assert found["chexbert_f1_macro_14_upos"] == pytest.approx((1 + 0 + 1) / 3)
    assert found["chexbert_f1_micro_5_upos"] == 1


def test_several_references_are_joined(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stated = Stated(edema={"Edema": POSITIVE}, no_edema={"Edema": NEGATIVE, "No Finding": POSITIVE}, well={"No Finding": POSITIVE})
    found = scores(monkeypatch, weights, stated, ["edema", "well"], [["no_edema", "edema"], ["no_edema", "well"]])
    assert found["chexbert_f1_micro_14"] == 1  # one reader's edema makes edema, and the case is not one without finding


def test_ids_tell_the_variants_apart(weights: Path) -> None:
    metrics, _ = compute_model_scores(corpus(TEXTS[:2], TEXTS[:2]), {"chexbert": weights})
    assert len({metric.key for metric in metrics}) == len({metric.id for metric in metrics}) == 8
    identity = {metric.key: metric.id for metric in metrics}["chexbert_f1_macro_5_upos"]
    for part in ("labels:chexpert-5", "uncertain:positive", "average:macro-over-labels-in-references", "labeller:chexbert-"):
        assert f"|{part}" in identity


def damage(folder: Path, change: Any) -> None:
    checkpoint = torch.load(folder / "chexbert.pth", weights_only=True)
    change(checkpoint["model_state_dict"])
    torch.save(checkpoint, folder / "chexbert.pth")


def a_head_is_missing(state: dict[str, Any]) -> None:
    del state["module.linear_heads.13.weight"]


def another_head(state: dict[str, Any]) -> None:
    state["module.linear_heads.14.weight"] = torch.zeros(4, 32)


def classes_of_another_labeller(state: dict[str, Any]) -> None:
    state["module.linear_heads.0.weight"] = torch.zeros(2, 32)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (a_head_is_missing, "1 missing ['linear_heads.13.weight'], 0 unknown"),
        (another_head, "0 missing [], 1 unknown ['linear_heads.14.weight']"),
        (classes_of_another_labeller, "cannot be used"),
    ],
)
def test_skipped_with_other_parameters(change: Any, message: str, tmp_path: Path) -> None:
    folder = write_chexbert(tmp_path / "chexbert")
    damage(folder, change)
    metrics, skipped = compute_model_scores(corpus(TEXTS, TEXTS), {"chexbert": folder})
    assert metrics == []
    assert message in skipped["chexbert"]
    assert str(folder) in skipped["chexbert"]


def test_position_table_of_old_checkpoints_is_no_parameter(tmp_path: Path) -> None:
    folder = write_chexbert(tmp_path / "chexbert")
    expected = load(folder).classes(TEXTS)
    damage(folder, lambda state: state.update({"module.bert.embeddings.position_ids": torch.arange(64)[None]}))
    assert load(folder).classes(TEXTS).tolist() == expected.tolist()


def test_skipped_with_another_vocabulary(tmp_path: Path) -> None:
    folder = write_chexbert(tmp_path / "chexbert")
    (folder / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nheart\n")
    _, skipped = compute_model_scores(corpus(TEXTS, TEXTS), {"chexbert": folder})
    assert "vocabulary has 6 tokens" in skipped["chexbert"]


class Executes:
    def __reduce__(self) -> Any:
        return print, ("executed",)


def test_nothing_in_the_file_is_executed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_chexbert(tmp_path / "chexbert")
    (folder / "chexbert.pth").write_bytes(pickle.dumps({"model_state_dict": Executes()}, protocol=2))
    _, skipped = compute_model_scores(corpus(TEXTS, TEXTS), {"chexbert": folder})
    assert "refused" in skipped["chexbert"]
    assert "weights_only=False" not in skipped["chexbert"]
    assert "executed" not in capsys.readouterr().out


def test_config_says_the_size(tmp_path: Path) -> None:
    folder = write_chexbert(tmp_path / "chexbert")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 2}))
    _, skipped = compute_model_scores(corpus(TEXTS, TEXTS), {"chexbert": folder})
    assert "16 unknown" in skipped["chexbert"]  # the parameters of the third layer
