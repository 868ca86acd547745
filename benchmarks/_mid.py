"""The 'mid' size that benchmarks measure at, with real texts and images: ViT 1408 x 8, Q-Former 768 x 12, LLaMA 1024 x 12, 32,000 tokens.

The weights are random. The tokenizer is trained on the captions, with so few tokens that a caption is about as long as with LLaMA's.
The captions and films are Open-i's, in the test data folder (XRAYGPT_TEST_DATA, or ../shared/data beside the checkout).
"""

import json
import os
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM, LlamaConfig

from xraygpt.cli.main import main as xraygpt
from xraygpt.models.blip2 import QFormerSize, VitSize, build_qformer, build_vit
from xraygpt.models.small_language_model import train_tokenizer

DATA = Path(os.environ.get("XRAYGPT_TEST_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
PROMPT = "<Img><ImageHere></Img> Could you describe the contents of this image for me?"
TEMPLATE = "###Patient: {} ###Doctor: "
VOCABULARY = 1000
SIZES: dict[str, dict[str, Any]] = {
    "mid": {"vit": {"depth": 8}, "qformer": {}, "llm": {"hidden_size": 1024, "intermediate_size": 2816, "num_hidden_layers": 12}},
    "small": {"vit": {"depth": 1}, "qformer": {"num_hidden_layers": 2}, "llm": {"hidden_size": 256, "num_hidden_layers": 1}},
}


def size_named(name: str, *, depth: int | None = None) -> dict[str, Any]:
    """A size, its ViT perhaps of another depth."""
    size = SIZES[name]
    return size if depth is None else {**size, "vit": {**size["vit"], "depth": depth}}


def write_files(folder: Path, size: dict[str, Any], captions: list[str]) -> None:
    """Weight files with random numbers, under the published names, and a prompt."""
    torch.manual_seed(0)
    vit_size = VitSize(**size["vit"])
    torch.save(build_vit(name="eva_clip_g", image_size=224, size=vit_size).state_dict(), folder / "vit.pth")
    qformer, queries = build_qformer(vision_width=vit_size.embed_dim, num_query_token=32, size=QFormerSize(**size["qformer"]))
    norm = nn.LayerNorm(vit_size.embed_dim)
    state = {f"Qformer.{key}": value for key, value in qformer.state_dict().items()}
    state |= {f"ln_vision.{key}": value for key, value in norm.state_dict().items()}
    torch.save({"model": state | {"query_tokens": queries.data}}, folder / "qformer.pth")
    config = LlamaConfig(vocab_size=32000, num_attention_heads=16, max_position_embeddings=1024, **size["llm"])
    AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(folder / "llm")
    train_tokenizer(captions, vocab_size=VOCABULARY).save_pretrained(folder / "llm")
    (folder / "prompt.txt").write_text(PROMPT + "\n", encoding="utf-8")


def model_section(folder: Path, size: dict[str, Any]) -> dict[str, Any]:
    """The `model:` block over `write_files`."""
    return {
        "arch": "mini_gpt4",
        "model_type": "pretrain_vicuna",
        "vit": size["vit"],
        "qformer": size["qformer"],
        "vit_weights": str(folder / "vit.pth"),
        "q_former_model": "",
        "ckpt": str(folder / "qformer.pth"),
        "llama_model": str(folder / "llm"),
        "prompt_path": str(folder / "prompt.txt"),
        "prompt_template": TEMPLATE,
        "max_txt_len": 160,
    }


def prepare_openi(folder: Path) -> list[dict[str, Any]]:
    """Make a training folder of Open-i's films and reports, and return its annotations."""
    if not (DATA / "openi").is_dir():
        raise SystemExit(f"Open-i is not at {DATA}; set XRAYGPT_TEST_DATA to the folder of the test data.")
    if xraygpt(["prepare", "openi", "--source", str(DATA / "openi"), "--out", str(folder)]):
        raise SystemExit("Open-i could not be prepared.")
    return json.loads((folder / "filter_cap.json").read_text(encoding="utf-8"))["annotations"]


def keep_samples(folder: Path, annotations: list[dict[str, Any]]) -> None:
    """Let the training folder have these samples, in its split "train", and no others."""
    chosen = [{**ann, "split": "train"} for ann in annotations]
    (folder / "filter_cap.json").write_text(json.dumps({"annotations": chosen}), encoding="utf-8")


def of_length(annotations: list[dict[str, Any]], tokenizer: Any, *, least: int = 100, most: int = 151) -> list[dict[str, Any]]:
    """The annotations whose captions have between `least` and `most` tokens."""
    counts = tokenizer([ann["caption"] for ann in annotations]).input_ids
    return [ann for ann, ids in zip(annotations, counts, strict=True) if least <= len(ids) <= most]


def in_turn(ways: Mapping[str, Callable[[], Any]], repeats: int) -> dict[str, list[float]]:
    """Seconds of each way, measured in turn; one round before them is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(repeats + 1):
        for name, way in ways.items():
            start = time.perf_counter()
            way()
            if number:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def peak_mib() -> float:
    """Most memory that this process has had; getrusage would begin with that of the process which started it."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) / 1024


def median_and_spread(values: list[float]) -> str:
    """3.21 (3.10 to 3.40)"""
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def ratio(one: list[float], other: list[float]) -> str:
    """The ratio of two series that were measured in turn: the median, least and most of the ratios of each round."""
    return median_and_spread([a / b for a, b in zip(one, other, strict=True)])


def target_row(what: str, against: str, target: str, measured: str) -> None:
    """Print a row of the table in docs/performance.md."""
    print(f"| {what} | {against} | {target} | {measured} |", flush=True)
