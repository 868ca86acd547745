"""`xraygpt tokenizer`: the tokenizer that comes back from the folder, and the folder that is whole or not there."""

import argparse
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer

from xraygpt.cli import tokenizer as command
from xraygpt.common.errors import ConfigError, DataError
from xraygpt.models.language_model import load_language_model, load_tokenizer
from xraygpt.models.sequence import answer_ids, tokenize
from xraygpt.models.small_language_model import train_tokenizer


def run(storage: Path, out: Path, *options: object) -> int:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    required = ["--storage", storage, "--prompts", storage / "prompts.txt", "--out", out]
    return command.run(parser.parse_args([str(word) for word in (*required, "--vocab-size", 300, *options)]))


@pytest.fixture(scope="module")
def tokenizer(tiny_llm: Path) -> Any:
    return load_tokenizer(tiny_llm)


def test_folder_is_a_language_model_to_train(tiny_storage: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tiny_storage, tmp_path / "llm", "--hidden-size", 32, "--layers", 3, "--heads", 2, "--intermediate-size", 40) == 0
    assert "300 tokens from 4 captions" in capsys.readouterr().out
    model = load_language_model(tmp_path / "llm", from_scratch=True)
    assert (len(model.model.layers), model.config.hidden_size, model.config.vocab_size) == (3, 32, 300)
    assert model(input_ids=torch.tensor([[1, 5]])).logits.shape == (1, 2, 300)
    model.save_pretrained(tmp_path / "llm")
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "llm").config.bos_token_id == 1


def test_special_tokens_are_those_of_llama(tokenizer: Any) -> None:
    assert (tokenizer.unk_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id) == (0, 1, 2)
    assert tokenizer.pad_token_id != tokenizer.eos_token_id
    assert tokenizer("a").input_ids[0] == 1


def test_same_input_gives_the_same_files(tiny_storage: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        run(tiny_storage, tmp_path / name)
    for file in (tmp_path / "one").iterdir():
        assert file.read_bytes() == (tmp_path / "two" / file.name).read_bytes()


def test_reloaded_tokenizer_gives_the_same_ids(tiny_llm: Path) -> None:
    texts = ["The heart is enlarged.###", "###Patient: <Img>", "naïve 😀"]
    trained = train_tokenizer(texts * 3, vocab_size=300)
    trained.save_pretrained(tiny_llm.parent / "again")
    reloaded = AutoTokenizer.from_pretrained(tiny_llm.parent / "again", local_files_only=True)
    assert [trained(text).input_ids for text in texts] == [reloaded(text).input_ids for text in texts]


@given(text=st.text())
def test_any_text_comes_back(tokenizer: Any, text: str) -> None:
    ids = tokenize(tokenizer, text)
    assert not {0, 1, 2} & set(ids)
    assert tokenizer.decode(ids, skip_special_tokens=True) == text


@given(text=st.text().filter(lambda text: not text.endswith("#")))
def test_the_end_symbol_is_the_same_token_after_any_text(tokenizer: Any, text: str) -> None:
    (end,) = tokenize(tokenizer, "###")
    assert answer_ids(tokenizer, text, "###", 10_000) == [*tokenize(tokenizer, text), end]


def test_only_training_captions_are_used(tmp_path: Path) -> None:
    rows = [{"image_id": s, "caption": f"{s} " * 50, "split": s} for s in ("train", "test")]
    (tmp_path / "filter_cap.json").write_text(json.dumps({"annotations": rows}))
    assert command.training_captions(tmp_path) == [rows[0]["caption"]]
    (tmp_path / "filter_cap.json").write_text(json.dumps({"annotations": rows[1:]}))
    with pytest.raises(DataError, match="no annotation of the split train"):
        command.training_captions(tmp_path)


def test_an_existing_folder_is_only_replaced_on_demand(tiny_storage: Path, tmp_path: Path) -> None:
    run(tiny_storage, tmp_path / "llm")
    with pytest.raises(DataError, match="--overwrite"):
        run(tiny_storage, tmp_path / "llm")
    run(tiny_storage, tmp_path / "llm", "--overwrite", "--layers", 1)
    assert json.loads((tmp_path / "llm" / "config.json").read_text())["num_hidden_layers"] == 1
    (tmp_path / "llm" / "model.safetensors").write_bytes(b"weights")
    with pytest.raises(DataError, match=r"model\.safetensors"):
        run(tiny_storage, tmp_path / "llm", "--overwrite")


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (["--vocab-size", 100], ConfigError, "at least 259"),
        (["--heads", 5], ConfigError, "multiple of 2 x 5"),
        (["--prompts", "nowhere.txt"], DataError, "no prompt file nowhere.txt"),
        (["--storage", "nowhere"], DataError, "not a prepared folder"),
    ],
)
def test_unusable_arguments_leave_nothing_behind(
    tiny_storage: Path, tmp_path: Path, options: list[object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        run(tiny_storage, tmp_path / "llm", *options)
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_write_leaves_nothing_behind(tiny_storage: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("transformers.LlamaConfig.save_pretrained", lambda *args, **kwargs: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run(tiny_storage, tmp_path / "llm")
    assert list(tmp_path.iterdir()) == []
