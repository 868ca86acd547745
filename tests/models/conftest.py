"""Tiny models in any configuration, and samples for them."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.fixtures import SENTENCES

ModelFactory = Callable[..., Any]


@pytest.fixture
def make_model(tiny_config: Callable[..., dict[str, Any]]) -> ModelFactory:
    """A function that builds the tiny model from its configuration, with keyword arguments in place of its values."""
    import torch

    from xraygpt.common.schema import check_section
    from xraygpt.models import MiniGPT4, MiniGPT4Config

    def make(seed: int = 0, **values: Any) -> Any:
        cfg, problems = check_section(MiniGPT4Config, {**tiny_config()["model"], "model_type": "tiny", **values}, "model")
        assert not problems
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return MiniGPT4.from_config(cfg)

    return make


@pytest.fixture
def samples() -> dict[str, Any]:
    """A batch of four images with captions of different lengths and different prompts."""
    import torch

    return {
        "image": torch.randn(4, 3, 28, 28, generator=torch.Generator().manual_seed(0)),
        "caption": [SENTENCES[0], "Clear.", SENTENCES[2], "No effusion."],
        "sample_id": ["a", "b", "c", "d"],
        "prompt_seed": [0, 1, 3, 2],
    }


@pytest.fixture(scope="session")
def other_llm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A language model of the same size whose tokenizer has learned other words."""
    from xraygpt.models.small_language_model import train_tokenizer, write_language_model

    folder = tmp_path_factory.mktemp("other") / "llm"
    tokenizer = train_tokenizer(["the quick brown fox jumps over the lazy dog " * 9] * 9, vocab_size=320)
    write_language_model(folder, tokenizer, hidden_size=32, num_layers=2, num_heads=2, intermediate_size=64, context_length=256)
    return folder


@pytest.fixture(scope="module")
def saved(tiny_llm: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with weights, as transformers saves it; look, do not touch."""
    import torch

    from xraygpt.models.language_model import load_language_model, load_tokenizer

    folder = tmp_path_factory.mktemp("llm") / "saved"
    torch.manual_seed(0)
    load_language_model(tiny_llm, from_scratch=True).save_pretrained(folder)
    load_tokenizer(tiny_llm).save_pretrained(folder)
    return folder


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    """A copy to spoil."""
    return shutil.copytree(saved, tmp_path / "llm")
