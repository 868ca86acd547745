"""Folders of language models, usable and not, and how one is told from another."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from xraygpt.common.errors import CheckpointError
from xraygpt.models.language_model import identity_differences, identity_of, load_language_model, load_tokenizer

# Tokenizer ---------------------------------------------------------------------------------------------------------


def test_padding_is_never_the_end_of_text(saved: Path, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(saved)
    assert tokenizer.pad_token_id not in (None, tokenizer.eos_token_id)
    tokenizer.pad_token = tokenizer.eos_token
    tokenizer.save_pretrained(tmp_path)
    again = load_tokenizer(tmp_path)
    assert again.pad_token_id == again.unk_token_id != again.eos_token_id


def test_a_pad_token_of_its_own_is_kept(saved: Path, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(saved)
    tokenizer.pad_token = tokenizer.convert_ids_to_tokens(7)
    tokenizer.save_pretrained(tmp_path)
    assert load_tokenizer(tmp_path).pad_token_id == 7


def test_sentencepiece_tokenizer_loads(test_data: Path) -> None:
    tokenizer = load_tokenizer(test_data / "reference" / "llama")
    assert (tokenizer.unk_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id) == (0, 1, 2)
    assert tokenizer.pad_token_id != 2


def test_a_folder_without_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="holds no tokenizer that can be read"):
        load_tokenizer(tmp_path)


# Folders -----------------------------------------------------------------------------------------------------------


def test_what_was_saved_loads(saved: Path) -> None:
    model = load_language_model(saved)
    weights = load_file(saved / "model.safetensors")
    assert all(torch.equal(model.state_dict()[name], value) for name, value in weights.items())
    assert not model.training


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_precision_is_that_of_the_files(folder: Path, dtype: torch.dtype) -> None:
    load_language_model(folder).to(dtype).save_pretrained(folder)
    assert load_language_model(folder).dtype is dtype


def test_bin_files_load(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(weights, folder / "pytorch_model.bin")
    assert torch.equal(load_language_model(folder).state_dict()["lm_head.weight"], weights["lm_head.weight"])


def test_from_scratch_needs_no_weights(tiny_llm: Path) -> None:
    model = load_language_model(tiny_llm, from_scratch=True)
    assert model.dtype is torch.float32
    assert model.config.hidden_size == 32


class Executes:
    """Pickled, it would create a file when it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def without_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def broken_config(folder: Path) -> None:
    (folder / "config.json").write_text("{", encoding="utf-8")


def unknown_model_type(folder: Path) -> None:
    (folder / "config.json").write_text('{"model_type": "nonesuch"}', encoding="utf-8")


def without_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def truncated(folder: Path) -> None:
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[: len(content) // 2])


def lfs_pointer(folder: Path) -> None:
    (folder / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n", encoding="utf-8")


def malicious_bin(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    torch.save({"lm_head.weight": Executes(folder / "executed")}, folder / "pytorch_model.bin")


def change_weights(folder: Path, name: str, value: torch.Tensor | None) -> None:
    weights: dict[str, Any] = load_file(folder / "model.safetensors") | {name: value}
    kept = {key: tensor for key, tensor in weights.items() if tensor is not None}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})


def missing_parameter(folder: Path) -> None:
    change_weights(folder, "model.norm.weight", None)


def misshapen_parameter(folder: Path) -> None:
    change_weights(folder, "model.norm.weight", torch.ones(7))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (without_config, "There is no config.json in"),
        (broken_config, "config.json cannot be used"),
        (unknown_model_type, "config.json cannot be used: .*nonesuch"),
        (without_weights, "no weights .*model.safetensors.*model.llm_from_scratch=True"),
        (truncated, "cannot be loaded. They may be git-LFS pointers or incomplete downloads"),
        (lfs_pointer, "is a git-LFS pointer of 63 bytes, not the weights"),
        (malicious_bin, "pytorch_model.bin is refused: .* could run code"),
        (missing_parameter, "1 parameters are missing or misshapen.*model.norm.weight"),
        (misshapen_parameter, "1 parameters are missing or misshapen.*model.norm.weight"),
    ],
)
def test_a_folder_that_cannot_be_used(folder: Path, spoil: Callable[[Path], None], message: str) -> None:
    spoil(folder)
    with pytest.raises(CheckpointError, match=message) as raised:
        load_language_model(folder)
    assert str(folder) in str(raised.value)
    assert not (folder / "executed").exists()


# Identity ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def identity(saved: Path) -> dict[str, Any]:
    return identity_of(load_tokenizer(saved), load_language_model(saved), "saved")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_precision_is_no_difference(saved: Path, identity: dict[str, Any], dtype: torch.dtype) -> None:
    model = load_language_model(saved).to(dtype)
    assert identity_differences(identity, identity_of(load_tokenizer(saved), model, "x")) == []
    assert identity_differences(identity, identity_of(load_tokenizer(saved), model.float(), "x")) == []


def test_another_name_is_no_difference(identity: dict[str, Any]) -> None:
    assert identity_differences(identity, {**identity, "name": "moved/elsewhere"}) == []


def test_other_weights_are_a_difference(saved: Path, tiny_llm: Path, identity: dict[str, Any]) -> None:
    torch.manual_seed(1)
    other = identity_of(load_tokenizer(saved), load_language_model(tiny_llm, from_scratch=True), "x")
    (difference,) = identity_differences(identity, other)
    assert "embeddings differ by 1" in difference  # about 140 %: two draws
    assert identity_differences(identity, other, compare_embedding=False) == []


def test_slightly_other_weights_are_a_difference(saved: Path, identity: dict[str, Any]) -> None:
    """As of another fine-tuning of the same model."""
    model = load_language_model(saved)
    with torch.no_grad():
        weight = model.get_input_embeddings().weight
        weight += 0.03 * weight.std() * torch.randn(weight.shape, generator=torch.Generator().manual_seed(0))
    assert identity_differences(identity, identity_of(load_tokenizer(saved), model, "x"))


def test_another_tokenizer_is_a_difference(saved: Path, other_llm: Path, identity: dict[str, Any]) -> None:
    other = identity_of(load_tokenizer(other_llm), load_language_model(saved), "x")
    (difference,) = identity_differences(identity, other)
    assert difference.startswith("tokenizer ")


def test_broken_weights_are_a_difference(identity: dict[str, Any]) -> None:
    broken = {**identity, "embedding": [float("nan")] * len(identity["embedding"])}
    assert identity_differences(identity, broken)


def test_identity_is_plain_values(identity: dict[str, Any]) -> None:
    assert {type(value) for value in identity.values()} == {str, int, list}
    assert len(identity["embedding"]) == 256
