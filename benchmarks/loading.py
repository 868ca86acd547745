"""Building a model from weight files: python benchmarks/loading.py [--repeats 3] [--small]

The baseline is the usual way: every part built with random weights, each file read into memory, its tensors copied over them. The files are
made here, at 'mid' size (ViT 1408 wide and 8 deep, Q-Former 768 x 12, LLaMA 1024 x 12 with 32,000 tokens; 2.1 GB). Each measurement is a
process of its own: seconds of building, and by how much its peak memory grew until the model stood, and until a first training step was
done (mapped weights enter memory when they are first used, and the system may drop them again). The loss must be the same.
"""

from xraygpt.common.startup import started  # first, as in train.py

# isort: split
import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from _mid import SIZES, TEMPLATE, model_section, peak_mib, write_files
from safetensors.torch import load_file
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from xraygpt.common.schema import check_section
from xraygpt.conversation.prompts import load_prompts
from xraygpt.models import MiniGPT4, MiniGPT4Config
from xraygpt.models.blip2 import QFormerSize, VitSize, build_qformer, build_vit
from xraygpt.models.language_model import load_tokenizer

CAPTION = "The heart is normal in size. The lungs are clear. No pleural effusion or pneumothorax."
BASELINE = "random, then copied"


def our_way(folder: Path, size: dict[str, Any], llm_dtype: str = "auto") -> MiniGPT4:
    """From the configuration, as training builds it."""
    given = model_section(folder, size) | {"frozen_dtype": {"llm": llm_dtype}}
    cfg, problems = check_section(MiniGPT4Config, given, "model")
    assert not problems, problems
    return MiniGPT4.from_config(cfg).place(torch.device("cpu"))


def usual_way(folder: Path, size: dict[str, Any]) -> MiniGPT4:
    """Random weights, files read into memory, `load_state_dict`."""
    vit_size = VitSize(**size["vit"])
    qformer, queries = build_qformer(vision_width=vit_size.embed_dim, num_query_token=32, size=QFormerSize(**size["qformer"]))
    model = MiniGPT4(
        visual_encoder=build_vit(name="eva_clip_g", image_size=224, size=vit_size),
        ln_vision=nn.LayerNorm(vit_size.embed_dim),
        qformer=qformer,
        query_tokens=queries,
        llama_tokenizer=load_tokenizer(folder / "llm"),
        llama_model=AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder / "llm"), dtype=torch.float32),
        prompt_list=load_prompts(folder / "prompt.txt", TEMPLATE),
    )
    model.visual_encoder.load_state_dict(torch.load(folder / "vit.pth", weights_only=True))
    model.load_state_dict(torch.load(folder / "qformer.pth", weights_only=True)["model"], strict=False)
    model.llama_model.load_state_dict(load_file(folder / "llm" / "model.safetensors"))
    model.freeze_parts(vit=True, qformer=True, llm=True, proj=False)
    return model


WAYS: dict[str, Callable[[Path, dict[str, Any]], MiniGPT4]] = {
    BASELINE: usual_way,
    "mapped": our_way,
    "mapped, bf16 language model": lambda folder, size: our_way(folder, size, "bf16"),
}


def measure(way: str, folder: Path, size: dict[str, Any]) -> dict[str, float]:
    """In this process: build, then one step."""
    at_start = peak_mib()
    start = time.perf_counter()
    model = WAYS[way](folder, size)
    seconds, built = time.perf_counter() - start, peak_mib() - at_start
    nn.init.constant_(model.llama_proj.weight, 0.01)
    nn.init.zeros_(model.llama_proj.bias)
    loss = model.train()({"image": torch.linspace(-1, 1, 3 * 224 * 224).view(1, 3, 224, 224), "caption": [CAPTION]})["loss"]
    loss.backward()
    return {"seconds": seconds, "built": built, "stepped": peak_mib() - at_start, "loss": loss.item()}


def main() -> None:
    """Measure each way in turn, and print medians, spread and ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--small", action="store_true", help="a small model, to try the command")
    parser.add_argument("--measure", nargs=2, metavar=("WAY", "FOLDER"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    started()
    size_name = "small" if args.small else "mid"
    torch.set_num_threads(1)
    if args.measure:
        print(json.dumps(measure(args.measure[0], Path(args.measure[1]), SIZES[size_name])))
        return
    results: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory() as folder:
        write_files(Path(folder), SIZES[size_name], [CAPTION] * 8)
        for _ in range(args.repeats):
            for way in WAYS:
                command = [sys.executable, __file__, "--measure", way, folder, *(["--small"] if args.small else [])]
                out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
                results[way].append(json.loads(out.splitlines()[-1]))
    print(f"{size_name} size, {args.repeats} repeats in turn, 1 thread: median (lowest to highest), against '{BASELINE}'")
    for way, runs in results.items():
        fields = []
        for key, name, unit in (("seconds", "building", "s"), ("built", "peak after building", "MiB"), ("stepped", "after a step", "MiB")):
            values = sorted(run[key] for run in runs)
            ratio = statistics.median(base[key] / max(run[key], 0.01) for base, run in zip(results[BASELINE], runs, strict=True))
            fields.append(f"{name} {statistics.median(values):.1f} {unit} ({values[0]:.1f} to {values[-1]:.1f}), 1/{ratio:.2f}")
        print(f"{way:<28} {'; '.join(fields)}; loss {runs[0]['loss']:.5f}")


if __name__ == "__main__":
    main()
