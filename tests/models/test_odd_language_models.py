"""Folders of language models that are damaged, odd or hostile end in a model or in one line that says what is wrong."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from xraygpt.common.errors import CheckpointError
from xraygpt.models.language_model import load_language_model, load_tokenizer, read_config

CONFIG, TOKENIZER, TOKENIZER_CONFIG, INDEX = "config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors.index.json"

Change = Callable[[Path], Any]


def assert_refused(load: Callable[[Path], Any], folder: Path, message: str) -> None:
    """Loading ends in one line that names the folder."""
    with pytest.raises(CheckpointError, match=message) as raised:
        load(folder)
    assert str(folder) in str(raised.value)
    assert len(str(raised.value).splitlines()) == 1


def sets(name: str = CONFIG, **values: Any) -> Change:
    """Set keys of a JSON file."""
    return lambda folder: writes(name, json.dumps(json.loads((folder / name).read_text()) | values))(folder)


def config(**values: Any) -> Change:
    """Replace config.json."""
    return writes(CONFIG, json.dumps(values))


def writes(name: str, content: str | bytes) -> Change:
    """Write a file."""
    return lambda folder: (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())


def replaces(name: str, how: Callable[[Path], Any]) -> Change:
    """Remove a file, and put something else there."""

    def change(folder: Path) -> None:
        (folder / name).unlink()
        how(folder / name)

    return change


def cuts(name: str) -> Change:
    """Leave the first half of a file."""
    return lambda folder: (folder / name).write_bytes((content := (folder / name).read_bytes())[: len(content) // 2])


def shards(*names: str, **more: Any) -> Change:
    """Rename the weights to a.safetensors, and write an index that names other files."""

    def change(folder: Path) -> None:
        (folder / "model.safetensors").rename(folder / "a.safetensors")
        writes(INDEX, json.dumps({"metadata": {}, "weight_map": dict(zip("abc", names, strict=False))} | more))(folder)

    return change


def nested(depth: int) -> str:
    return '{"model_type": "llama", "x": ' + "[" * depth + "]" * depth + "}"


MODELS: dict[str, tuple[Change, str]] = {
    "a size as text": (sets(hidden_size="32"), "Field 'hidden_size' expected int, got str"),
    "a size as a list": (sets(hidden_size=[32]), "Field 'hidden_size' expected int, got list"),
    "half a layer": (sets(num_hidden_layers=2.5), "Field 'num_hidden_layers' expected int, got float"),
    "no model type": (config(hidden_size=32), "model_type is None, expected the name"),
    "a model type of another type": (sets(model_type=["llama"]), r"model_type is \['llama'\], expected the name"),
    "an unknown model type": (sets(model_type="nonesuch"), "model type `nonesuch`"),
    "a model type that colours the terminal": (sets(model_type="\x1b[31mred"), r"model type `\\x1b\[31mred`"),
    "a list": (writes(CONFIG, "[1, 2]"), "expected a JSON object, got a list"),
    "deep": (writes(CONFIG, nested(100)), "nested more than 16 deep"),
    "very deep": (writes(CONFIG, nested(5000)), "not valid JSON"),
    "not UTF-8": (writes(CONFIG, b"\xff\xfe{}"), "not valid JSON in UTF-8"),
    "NaN": (writes(CONFIG, '{"model_type": "llama", "rms_norm_eps": NaN}'), "'rms_norm_eps' is NaN"),
    "long": (writes(CONFIG, " " * 2**20 + "{}"), r"has 1,048,578 bytes, and such files have at most 1,048,576"),
    "a folder in place of a file": (replaces(CONFIG, Path.mkdir), "There is no config.json"),
    "a link to nowhere": (replaces(CONFIG, lambda path: path.symlink_to("nowhere")), "cannot be read: No such file or directory"),
    "a large vocabulary": (sets(vocab_size=2_000_000_000), "more than 16,.* numbers, the most that its files of weights can hold"),
    "wide": (sets(hidden_size=2**20, intermediate_size=2**20), "more than 16,.* numbers"),
    "many layers": (sets(num_hidden_layers=10**6), "'num_hidden_layers' is 1000000, more than 1,000"),
    "many labels": (sets(num_labels=10**6), "'num_labels' is 1000000, more than 65,536"),
    "a long number": (sets(vocab_size=10**400), "'vocab_size' is 1000"),
    "a negative size": (sets(hidden_size=-32), "negative dimension"),
    "no heads": (sets(num_attention_heads=0), "modulo by zero"),
    "heads that do not divide": (sets(num_attention_heads=3), "not a multiple of the number of attention heads"),
    "an unknown number type": (sets(dtype="float17"), "dtype is 'float17', expected one of float32"),
    "a number type that is a module": (sets(torch_dtype="nn"), "torch_dtype is 'nn', expected one of"),
    "odd positions": (sets(rope_parameters={"rope_type": "linear", "factor": "x", "rope_theta": 1e4}), "cannot be used"),
    "unknown positions": (sets(rope_parameters={"rope_type": "nonesuch", "rope_theta": 1e4}), "cannot be used"),
    "an encoder with a decoder": (config(model_type="t5"), "Unrecognized configuration class"),
    "images and text": (config(model_type="llava"), "Unrecognized configuration class"),
    "a method's name": (sets(get_text_config="x"), "cannot be used"),
    "weights cut off": (cuts("model.safetensors"), "incomplete downloads"),
    "weights of another type": (replaces("model.safetensors", Path.mkdir), "no weights"),
    "a long header": (writes("model.safetensors", (2**40).to_bytes(8, "little") + b"{}"), "damaged or incomplete"),
    "a missing shard": (shards("a.safetensors", "b.safetensors"), "names 'b.safetensors', which is missing"),
    "an index of a list": (shards(weight_map=[]), "expected a weight_map"),
    "an index without metadata": (shards("a.safetensors", metadata=None), "expected an object 'metadata'"),
}


@pytest.mark.parametrize("odd", MODELS)
def test_a_model_that_is_odd(folder: Path, odd: str) -> None:
    change, message = MODELS[odd]
    change(folder)
    assert_refused(load_language_model, folder, message)


REFUSED: dict[str, tuple[Change, str]] = {
    "another file of weights": (sets(transformers_weights="../model.safetensors"), "transformers_weights .* asks for another file"),
    "kernels": (sets(use_kernels=True), "use_kernels = True asks for kernels"),
    "fused layers": (sets(fusion_config={"x": True}), "fusion_config .* asks for code"),
    "another model inside": (sets(text_config={"use_pretrained_backbone": True}), "use_pretrained_backbone .* asks for another model"),
    "other names of keys": (sets(attribute_map={"a": "b"}), "'attribute_map' would change what the other keys mean"),
    "another dictionary": (sets(__dict__={"a": "b"}), "'__dict__' would change"),
    "unsupported quantisation": (sets(quantization_config={"quant_method": "gptq"}), "names the method 'gptq'; only bitsandbytes"),
    "quantisation by kernels": (sets(quantization_config={"quant_method": "mxfp4"}), "names the method 'mxfp4'; only bitsandbytes"),
    "quantisation of a part": (sets(text_config={"quantization_config": {"quant_method": "fp8"}}), "names the method 'fp8'"),
    "odd quantisation": (sets(quantization_config={"load_in_4bit": True, "path": "x"}), "has 'path', which is not a setting"),
    "an adapter": (writes("adapter_config.json", '{"base_model_name_or_path": "org/base"}'), "adapters and code are not loaded"),
    "a shard above the folder": (shards("../a.safetensors"), "names '../a.safetensors', which is not a file of the folder"),
    "a shard elsewhere": (shards("/a.safetensors"), "names '/a.safetensors', which is not a file of the folder"),
    "a distributed checkpoint": (writes("shard-00000-model-00001-of-00001.safetensors", b""), "distributed checkpoint"),
}


@pytest.mark.parametrize("from_scratch", [False, True])
@pytest.mark.parametrize("what", REFUSED)
def test_what_a_folder_may_not_ask_for(folder: Path, what: str, from_scratch: bool) -> None:
    change, message = REFUSED[what]
    change(folder)
    with pytest.raises(CheckpointError, match=message):
        load_language_model(folder, from_scratch=from_scratch)


TOKENIZERS: dict[str, tuple[Change, str]] = {
    "cut off": (cuts(TOKENIZER), "holds no tokenizer that can be read"),
    "empty": (writes(TOKENIZER, ""), "holds no tokenizer that can be read"),
    "null": (writes(TOKENIZER, "null"), "holds no tokenizer that can be read"),
    "deep": (writes(TOKENIZER, "[" * 5000 + "]" * 5000), "holds no tokenizer that can be read"),
    "an unknown model": (sets(TOKENIZER, model={"type": "nonesuch"}), "holds no tokenizer that can be read"),
    "a file in other bytes": (lambda folder: replaces(TOKENIZER, lambda path: path.write_bytes(b"\xff"))(folder), "holds no tokenizer"),
    "settings as a list": (writes(TOKENIZER_CONFIG, "[]"), "expected a JSON object, got a list"),
    "a class of another type": (sets(TOKENIZER_CONFIG, tokenizer_class=["x"]), r"tokenizer_class is \['x'\]"),
    "a class of models": (sets(TOKENIZER_CONFIG, tokenizer_class="LlamaForCausalLM"), "expected the name of a tokenizer"),
    "a class that chooses": (sets(TOKENIZER_CONFIG, tokenizer_class="AutoTokenizer"), "expected the name of a tokenizer"),
    "a class of models in config.json": (sets(tokenizer_class="LlamaForCausalLM"), "expected the name of a tokenizer"),
    "a token as a number": (sets(TOKENIZER_CONFIG, bos_token=5), "bos_token has to be either str or AddedToken"),
    "no end of text": (sets(TOKENIZER_CONFIG, eos_token=None), "names no begin-of-text or no end-of-text token"),
    "a new token beyond the vocabulary": (sets(TOKENIZER_CONFIG, eos_token="<new>"), "they do not belong together"),
    "a length as text": (sets(TOKENIZER_CONFIG, model_max_length="x"), "model_max_length is 'x', expected a number"),
    "an unknown side": (sets(TOKENIZER_CONFIG, padding_side="up"), "Padding side"),
    "a large token number": (sets(TOKENIZER_CONFIG, added_tokens_decoder={"9" * 9: {"content": "x"}}), "expected a number from 0 to"),
    "added tokens as a list": (sets(TOKENIZER_CONFIG, added_tokens_decoder=[1]), "expected an object"),
    "an added token without a number": (writes("added_tokens.json", '{"x": "y"}'), "expected the numbers of tokens"),
    "files elsewhere": (sets(TOKENIZER_CONFIG, fast_tokenizer_files=["tokenizer.../../x.json"]), "expected files of the folder"),
    "special tokens as a list": (writes("special_tokens_map.json", "[]"), "holds no tokenizer that can be read"),
    "no configuration of a model": (writes(CONFIG, "{}"), "model_type is None"),
}


@pytest.mark.parametrize("odd", TOKENIZERS)
def test_a_tokenizer_that_is_odd(folder: Path, odd: str) -> None:
    change, message = TOKENIZERS[odd]
    change(folder)
    assert_refused(load_tokenizer, folder, message)


# What published folders carry --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        sets(_attn_implementation="flash_attention_2"),
        sets(attn_implementation="org/kernel", _experts_implementation="org/kernel"),
        sets(auto_map={"AutoConfig": "own_code.Config", "AutoModelForCausalLM": "own_code.Model"}),
        sets(use_pretrained_backbone=False, quantization_config=None),
        writes("generation_config.json", '{"custom_generate": "org/code", "cache_implementation": "x"}'),
        writes("generation_config.json", "["),
    ],
)
def test_what_nobody_needs_is_ignored(folder: Path, saved: Path, change: Change) -> None:
    change(folder)
    model, expected = load_language_model(folder), load_language_model(saved)
    assert model.config._attn_implementation == expected.config._attn_implementation == "sdpa"
    assert model.generation_config.to_dict() == expected.generation_config.to_dict()
    ids = torch.arange(1, 9)[None]
    with torch.inference_mode():
        assert torch.equal(model(ids).logits, expected(ids).logits)
    assert load_tokenizer(folder).get_vocab() == load_tokenizer(saved).get_vocab()


def test_paths_of_the_machine_that_saved_it_are_ignored(folder: Path, saved: Path) -> None:
    sets(TOKENIZER_CONFIG, tokenizer_file="/home/x/tokenizer.json", vocab_file="../vocab.json", gguf_file="../x.gguf")(folder)
    assert load_tokenizer(folder)("The heart.")["input_ids"] == load_tokenizer(saved)("The heart.")["input_ids"]


def test_a_configuration_is_named_after_its_folder(folder: Path) -> None:
    """transformers chooses the tokenizer of some models by it."""
    assert read_config(folder).name_or_path == str(folder)


def test_padding_is_never_beyond_the_vocabulary(folder: Path) -> None:
    """A padding token that was added to the tokenizer alone; its embedding would be looked up in training."""
    sets(TOKENIZER_CONFIG, pad_token="<new>")(folder)
    tokenizer = load_tokenizer(folder)
    assert len(tokenizer) == 321
    assert tokenizer.pad_token_id == tokenizer.unk_token_id


def test_shards_and_links_load(folder: Path, tmp_path: Path) -> None:
    """As in the cache of huggingface_hub, where each file is a link to one in another folder."""
    load_language_model(folder).save_pretrained(tmp_path / "sharded", max_shard_size="20KB")
    linked = tmp_path / "linked"
    linked.mkdir()
    for path in (tmp_path / "sharded").iterdir():
        (linked / path.name).symlink_to(path)
    assert (linked / INDEX).exists()
    assert torch.equal(load_language_model(linked).lm_head.weight, load_language_model(folder).lm_head.weight)


def test_a_large_model_is_not_started_from_nothing(folder: Path) -> None:
    sets(vocab_size=2**30)(folder)
    with pytest.raises(CheckpointError, match="more than 2,000,000,000 numbers, the most that may start from random weights"):
        load_language_model(folder, from_scratch=True)
    with torch.device("meta"):  # parameters are counted without storage
        assert load_language_model(folder, from_scratch=True).lm_head.weight.numel() == 2**35


def test_counting_does_not_touch_the_random_numbers(tiny_llm: Path) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    expected = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(tiny_llm)).state_dict()
    torch.manual_seed(0)
    found = load_language_model(tiny_llm, from_scratch=True).state_dict()
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_a_folder_that_is_missing_or_a_file(folder: Path) -> None:
    for path in (folder / "nowhere", folder / CONFIG):
        with pytest.raises(CheckpointError, match=str(path)):
            load_language_model(path)
        with pytest.raises(CheckpointError, match=str(path)):
            load_tokenizer(path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_folder_that_may_not_be_read(folder: Path) -> None:
    folder.chmod(0)
    try:
        with pytest.raises(CheckpointError, match="cannot be read: Permission denied"):
            load_language_model(folder)
    finally:
        folder.chmod(0o700)


def test_quantised_weights_without_the_package(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sets(quantization_config={"quant_method": "bitsandbytes", "load_in_8bit": True})(folder)
    monkeypatch.setattr("xraygpt.models.language_model.find_spec", lambda name: None)
    with pytest.raises(CheckpointError, match="need bitsandbytes: make install-extras EXTRAS=quant"):
        load_language_model(folder)


def test_weights_in_4_bits_load(folder: Path) -> None:
    pytest.importorskip("bitsandbytes")
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    quantization = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_compute_dtype=torch.float32, bnb_4bit_quant_type="nf4")
    AutoModelForCausalLM.from_pretrained(folder, quantization_config=quantization).save_pretrained(folder)
    assert "quantization_config" in json.loads((folder / CONFIG).read_text())
    model: Any = load_language_model(folder)
    assert model.is_quantized
    assert torch.isfinite(model(torch.arange(1, 9)[None]).logits).all()
