"""A training run of a second: images of 28 pixels, a language model of 32 numbers, all parts trained from scratch on the CPU."""

import argparse
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import OmegaConf
from PIL import Image

import train
from tests.fixtures import TINY_MODEL
from xraygpt.models.small_language_model import train_tokenizer, write_language_model

NUM_TRAIN, NUM_VAL, NUM_TEST = 22, 5, 4
STEP_KEYS = ("step", "epoch", "lr", "loss", "grad_norm")
"""What a line of log.txt says about the training itself; the rest is about speed."""

_FINDINGS = ("effusion", "edema", "a nodule", "consolidation")


def make_workspace(folder: Path) -> Path:
    """Fill `folder` with data/ (a prepared folder), llm/ (tokenizer and size), prompts.txt and run.yaml; return run.yaml."""
    captions = make_prepared_folder(folder / "data")
    tokenizer = train_tokenizer(captions, vocab_size=300)
    write_language_model(
        folder / "llm", tokenizer, hidden_size=32, num_layers=2, num_heads=2, intermediate_size=64, context_length=256
    )  # fmt: skip
    (folder / "prompts.txt").write_text("<Img><ImageHere></Img> Report.\n<Img><ImageHere></Img> What is seen in this film?\n")
    OmegaConf.save(tiny_config(folder), folder / "run.yaml")
    return folder / "run.yaml"


def make_prepared_folder(folder: Path, *, size: int = 32) -> list[str]:
    """Write grey images of `size` pixels, and captions of very different lengths; return the captions."""
    annotations = []
    for i in range(NUM_TRAIN + NUM_VAL + NUM_TEST):
        split = "train" if i < NUM_TRAIN else "val" if i < NUM_TRAIN + NUM_VAL else "test"
        caption = " ".join(f"There is {_FINDINGS[(i + k) % 4]} in zone {k}." for k in range(1 + i % 5))
        annotations.append({"image_id": f"film-{i}", "caption": caption, "study_id": f"s{i}", "split": split})
        pixels = np.random.default_rng(i).integers(0, 256, (size, size), dtype=np.uint8)
        (folder / "image").mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / "image" / f"film-{i}.png")
    (folder / "filter_cap.json").write_text(json.dumps({"annotations": annotations}))
    return [ann["caption"] for ann in annotations]


def tiny_config(folder: Path) -> dict[str, Any]:
    """The configuration of the tiny run over the workspace `folder`."""
    processors = {"train": {"name": "blip2_image_train", "image_size": 28}, "eval": {"name": "blip2_image_eval", "image_size": 28}}
    paths = {"llama_model": str(folder / "llm"), "prompt_path": str(folder / "prompts.txt")}
    model = {**TINY_MODEL, **paths, "model_type": "quickstart", "max_txt_len": 80}
    run = {
        "task": "image_text_pretrain",
        "max_epoch": 2,
        "iters_per_epoch": 10,
        "batch_size_train": 2,
        "batch_size_eval": 2,
        "init_lr": 1e-3,
        "warmup_lr": 1e-5,
        "warmup_steps": 5,
        "valid_splits": ["val"],
        "test_splits": ["test"],
        "num_workers": 0,
        "device": "cpu",
        "log_freq": 1,
        "output_dir": str(folder / "output"),
        "job_id": "run",
    }
    return {"model": model, "datasets": {"mimic": {"storage": str(folder / "data"), "vis_processor": processors}}, "run": run}


def arguments(cfg_path: Path, *options: str, imports: tuple[str, ...] = ()) -> argparse.Namespace:
    """The command line of `train.py`."""
    return argparse.Namespace(cfg_path=str(cfg_path), options=list(options), imports=list(imports))


@contextmanager
def kept_logging() -> Iterator[None]:
    """Leave the logging of the tests as it was, whatever the block sets up."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        yield
    finally:
        root.handlers[:], root.level = handlers, level


def run_training(cfg_path: Path, *options: str, imports: tuple[str, ...] = ()) -> Path:
    """Train in this process and return the run's folder."""
    with kept_logging():
        train.train(arguments(cfg_path, *options, imports=imports))
    merged = OmegaConf.merge(OmegaConf.load(cfg_path), OmegaConf.from_dotlist(list(options)))
    return Path(merged.run.output_dir) / merged.run.job_id


def read_log(folder: Path) -> list[dict[str, Any]]:
    """The lines of a run's log.txt."""
    return [json.loads(line) for line in (folder / "log.txt").read_text().splitlines()]


def trace(folder: Path) -> list[tuple[Any, ...]]:
    """(step, epoch, lr, loss, grad_norm) of each update."""
    return [tuple(record[key] for key in STEP_KEYS) for record in read_log(folder) if "grad_norm" in record]


def weights(folder: Path, name: str) -> dict[str, torch.Tensor]:
    """The parameters in checkpoint_{name}.pth."""
    return torch.load(folder / f"checkpoint_{name}.pth", weights_only=True)["model"]


def same_weights(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    """Whether two sets of parameters are equal bit for bit."""
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
