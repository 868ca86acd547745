"""Counts from sizes alone equal those of the built model."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.models.conftest import ModelFactory
from xraygpt.common.errors import ConfigError
from xraygpt.common.schema import check_section
from xraygpt.models import BaseModel, MiniGPT4, MiniGPT4Config
from xraygpt.models.sizes import LlmSize

WIDE_QFORMER = {
    "hidden_size": 48, "num_hidden_layers": 5, "num_attention_heads": 4, "intermediate_size": 80, "cross_attention_frequency": 2,
}  # fmt: skip


def section(tiny_config: Any, **values: Any) -> Any:
    cfg, problems = check_section(MiniGPT4Config, {**tiny_config()["model"], "model_type": "tiny", **values}, "model")
    assert not problems
    return cfg


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"freeze_vit": True, "freeze_qformer": True, "freeze_llm": True},
        {"image_size": 48, "vit": {"patch_size": 8, "embed_dim": 48, "depth": 3, "num_heads": 4, "mlp_ratio": 4.3637}},
        {"num_query_token": 7, "qformer": WIDE_QFORMER, "freeze_proj": True},
    ],
)
def test_counts_are_those_of_the_skeleton(tiny_config: Any, values: dict[str, Any]) -> None:
    cfg = section(tiny_config, **values)
    assert MiniGPT4.count_parameters(cfg) == MiniGPT4.skeleton(cfg).parameter_counts()


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"num_key_value_heads": 1, "intermediate_size": 50},
        {"tie_word_embeddings": True},
        {"attention_bias": True, "mlp_bias": True, "head_dim": 8},
        {"model_type": "mistral", "architectures": ["MistralForCausalLM"]},
    ],
)
def test_counts_of_language_models(tiny_config: Any, tiny_llm: Path, tmp_path: Path, changes: dict[str, Any]) -> None:
    folder = other_folder(tiny_llm, tmp_path, **changes)
    cfg = section(tiny_config, llama_model=str(folder))
    assert MiniGPT4.count_parameters(cfg) == MiniGPT4.skeleton(cfg).parameter_counts()


def other_folder(llm: Path, to: Path, **changes: Any) -> Path:
    """The language model's folder with other values in its config.json."""
    for file in llm.iterdir():
        (to / file.name).write_bytes(file.read_bytes())
    config = {**json.loads((llm / "config.json").read_text()), **changes}
    (to / "config.json").write_text(json.dumps({key: value for key, value in config.items() if value is not None}))
    return to


@pytest.mark.parametrize(
    "changes",
    [
        {"model_type": "gpt2"},
        {"hidden_size": None},
        {"quantization_config": {"load_in_8bit": True}},
        {"num_attention_heads": 0},
        {"vocab_size": "x"},
        {"vocab_size": -1},
        {"num_hidden_layers": 10**6},
    ],
)
def test_of_other_language_models_no_size_is_guessed(tiny_llm: Path, tmp_path: Path, changes: dict[str, Any]) -> None:
    assert LlmSize.read(other_folder(tiny_llm, tmp_path, **changes)) is None
    assert LlmSize.read(tmp_path / "nowhere") is None


def test_a_derived_model_is_built_to_be_counted(tiny_config: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    class Derived(MiniGPT4):
        """May have parts of its own."""

    monkeypatch.setattr(BaseModel, "count_parameters", classmethod(lambda cls, cfg: {"built": (1, 1)}))
    assert Derived.count_parameters(section(tiny_config)) == {"built": (1, 1)}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"vit_model": "resnet"}, "model.vit_model"),
        ({"image_size": 30}, "patch_size 14"),
        ({"frozen_dtype": {"vit": "bf16", "llm": "auto"}}, "frozen_dtype.vit"),
    ],
)
def test_counting_refuses_what_cannot_be_built(tiny_config: Any, make_model: ModelFactory, values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        MiniGPT4.count_parameters(section(tiny_config, **values))
    with pytest.raises(ConfigError, match=message):
        make_model(**values)
