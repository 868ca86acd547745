"""Models by name."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from xraygpt.common.errors import ConfigError, RegistryError
from xraygpt.models import MiniGPT4, load_model, model_zoo


@pytest.fixture
def sizes(tiny_config: Callable[..., dict[str, Any]]) -> dict[str, Any]:
    """What makes the small default model tiny."""
    return tiny_config()["model"]


def test_a_default_file_with_values_replaced(sizes: dict[str, Any]) -> None:
    model = load_model("mini_gpt4", "quickstart", is_eval=True, **sizes)
    assert isinstance(model, MiniGPT4)
    assert not model.training
    assert model.max_txt_len == sizes["max_txt_len"]
    assert model.prompt_template == "###Patient: {} ###Doctor: "  # the default file's
    assert load_model("mini_gpt4", "quickstart", **sizes).training


def test_weights_on_top(sizes: dict[str, Any], tmp_path: Path) -> None:
    torch.save({"model": {"llama_proj.weight": torch.ones(32, 32), "llama_proj.bias": torch.ones(32)}}, tmp_path / "x.pth")
    model = load_model("mini_gpt4", "quickstart", checkpoint=str(tmp_path / "x.pth"), **sizes)
    assert (model.llama_proj.weight == 1).all()


def test_all_that_is_wrong_is_told_at_once(sizes: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"(?s)cannot be built:.*max_text_len.*image_size"):
        load_model("mini_gpt4", "quickstart", **{**sizes, "max_text_len": 3, "image_size": "large"})


def test_files_that_are_missing_are_named(sizes: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"(?s)llama_model.*nowhere"):
        load_model("mini_gpt4", "quickstart", **{**sizes, "llama_model": str(tmp_path / "nowhere")})


@pytest.mark.parametrize(
    ("name", "model_type", "error", "message"),
    [
        ("mini_gpt", "quickstart", RegistryError, "mini_gpt4"),
        ("mini_gpt4", "quickstar", ConfigError, "'quickstar' is not one of MiniGPT4's.*quickstart"),
        ("mini_gpt4", None, ConfigError, "model_type is required"),
    ],
)
def test_unknown_names(name: str, model_type: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        load_model(name, model_type)


def test_zoo_lists_names_and_types() -> None:
    rows = [line.split(maxsplit=1) for line in model_zoo().splitlines()]
    assert rows[0] == ["Architectures", "Types"]
    assert ["mini_gpt4", "pretrain_vicuna, quickstart"] in rows
