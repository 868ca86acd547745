"""A model of the real architecture at toy size, with random weights.

The imports stand inside the functions: this file is loaded for every test, and most need no torch.
"""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

SENTENCES = [
    "The heart is enlarged. There is no pleural effusion.",
    "The lungs are clear. No acute cardiopulmonary abnormality.",
    "Small left pleural effusion with basilar atelectasis.",
    "Right upper lobe consolidation, concerning for pneumonia.",
]

PROMPTS = [
    "<Img><ImageHere></Img> Describe this chest X-ray.",
    "<Img><ImageHere></Img> What does this chest radiograph show?",
]

TINY_MODEL = {
    "arch": "mini_gpt4",
    "image_size": 28,
    "vit": {"patch_size": 14, "embed_dim": 32, "depth": 2, "num_heads": 2, "mlp_ratio": 2.0},
    "num_query_token": 4,
    "qformer": {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "cross_attention_frequency": 1,
        "dropout": 0.0,
    },
    "llm_from_scratch": True,
    "freeze_vit": False,
    "freeze_qformer": False,
    "freeze_llm": False,
    "max_txt_len": 32,
}
"""The `model:` block of the tiny model, but for its two paths."""


@pytest.fixture(scope="session")
def tiny_storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prepared folder of 4 training, 2 validation and 2 test images, 40 x 32 pixels, grey."""
    import numpy as np
    from PIL import Image

    folder = tmp_path_factory.mktemp("tiny_storage")
    (folder / "image").mkdir()
    rng = np.random.default_rng(0)
    annotations = []
    for i, split in enumerate(["train"] * 4 + ["val"] * 2 + ["test"] * 2):
        Image.fromarray(rng.integers(0, 256, (40, 32), dtype=np.uint8)).save(folder / "image" / f"x{i}.png")
        annotations.append({"image_id": f"x{i}", "study_id": f"s{i}", "split": split, "caption": SENTENCES[i % len(SENTENCES)]})
    (folder / "filter_cap.json").write_text(json.dumps({"annotations": annotations}), encoding="utf-8")
    (folder / "prompts.txt").write_text("\n".join(PROMPTS), encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def tiny_llm(tiny_storage: Path) -> Path:
    """A language model folder without weights: width 32, 2 layers, context of 256 tokens."""
    from xraygpt.cli.tokenizer import training_captions, training_texts
    from xraygpt.models.small_language_model import train_tokenizer, write_language_model

    texts = training_texts(training_captions(tiny_storage), tiny_storage / "prompts.txt")
    sizes = {"hidden_size": 32, "num_layers": 2, "num_heads": 2, "intermediate_size": 64, "context_length": 256}
    write_language_model(tiny_storage / "llm", train_tokenizer(texts, vocab_size=320), **sizes)
    return tiny_storage / "llm"


@pytest.fixture(scope="session")
def tiny_config(tiny_storage: Path, tiny_llm: Path) -> Callable[..., dict[str, Any]]:
    """A function that returns a whole configuration as plain containers; keyword arguments go into its `run:` block."""

    def make(**run: Any) -> dict[str, Any]:
        eval_processor = {"name": "blip2_image_eval", "image_size": 28}
        return {
            "run": {
                "task": "image_text_pretrain",
                "max_epoch": 1,
                "batch_size_train": 2,
                "init_lr": 1e-3,
                "device": "cpu",
                "num_workers": 0,
                "generation": {"max_new_tokens": 8},
                **run,
            },
            "model": {**TINY_MODEL, "llama_model": str(tiny_llm), "prompt_path": str(tiny_storage / "prompts.txt")},
            "datasets": {
                "mimic": {
                    "storage": str(tiny_storage),
                    "vis_processor": {"train": eval_processor, "eval": eval_processor},
                    "text_processor": {"train": {"name": "report_text"}, "eval": {"name": "report_text"}},
                }
            },
        }

    return make


@pytest.fixture
def no_default_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Models and datasets take nothing from the package's default files: what a test configures is all there is."""
    from xraygpt.datasets.builders import MIMICBuilder
    from xraygpt.models import MiniGPT4

    monkeypatch.setattr(MiniGPT4, "PRETRAINED_MODEL_CONFIG_DICT", {})
    monkeypatch.setattr(MIMICBuilder, "DATASET_CONFIG_DICT", {})


@pytest.fixture
def tiny_model(tiny_config: Callable[..., dict[str, Any]]) -> Iterator[Any]:
    """A fresh `MiniGPT4` in eval mode, with the same random weights each time, large enough that its texts differ from image to image."""
    import torch

    from xraygpt.common.schema import check_section
    from xraygpt.models import MiniGPT4, MiniGPT4Config

    cfg, problems = check_section(MiniGPT4Config, tiny_config()["model"], "model")
    assert problems == ["model.model_type: required, but not given."]
    cfg.model_type = "tiny"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = MiniGPT4.from_config(cfg)
        for parameter in model.parameters():
            if parameter.ndim > 1:
                torch.nn.init.normal_(parameter, std=0.3)
    yield model.eval()
