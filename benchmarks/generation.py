"""Reports written in batches beside one by one: python benchmarks/generation.py [--reports 64] [--batch-size 64] [--repeats 3]

The baseline is this project's own generation, one image at a time, measured in the same run, in turn with the batches. The model has
the quickstart's size and random weights; both ways must write the same tokens. Beside them, for the choice of the key-value cache:
transformers' `generate` on the same batches, with its dynamic and its static cache. `--ends spread` lets the reports end at different
lengths, half-way on average, where a batch gains from leaving ended rows out; transformers, which computes such rows to the end of the
batch, then writes all of them to the full length, and so not the same tokens.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig

import xraygpt.models  # noqa: F401  registers the model
from xraygpt.models import load_model
from xraygpt.models.sequence import embed, pad_rows
from xraygpt.models.small_language_model import train_tokenizer, write_language_model

TEXTS = ["The heart is normal in size. The lungs are clear. No pleural effusion or pneumothorax.###"] * 8
Tokens = list[list[int]]
Write = Callable[[torch.Tensor], Tokens]


def build_model() -> Any:
    """The quickstart's architecture with random weights."""
    with tempfile.TemporaryDirectory() as folder:
        tokenizer = train_tokenizer(TEXTS, vocab_size=400, end_sym="###")
        sizes = {"hidden_size": 128, "num_layers": 2, "num_heads": 4, "intermediate_size": 256, "context_length": 512}
        write_language_model(Path(folder) / "llm", tokenizer, initializer_range=0.06, overwrite=False, **sizes)
        return load_model("mini_gpt4", "quickstart", is_eval=True, device="auto", llama_model=f"{folder}/llm", prompt_path="")


def our_way(model: Any, num_tokens: int, ends: str) -> Write:
    """This project's engine. Row r of the run ends after a share of the tokens that depends on r, or after all of them."""

    def write(images: torch.Tensor) -> Tokens:
        # A row's number in the run is in its image, so that it ends at the same length in any batch.
        lengths = [num_tokens if ends == "equal" else 1 + int(image[0, 0, 0].abs() * 1e6) % num_tokens for image in images]
        prompts, embeds = [model.report_prompt()] * len(images), model.encode_img(images)
        rows = model.generate(
            prompts,
            embeds,
            end_sym="",
            max_new_tokens=num_tokens,
            min_new_tokens=num_tokens,
            watch=lambda row, token_ids: len(token_ids) >= lengths[row],
        )
        return [row.token_ids for row in rows]

    return write


def transformers_way(model: Any, num_tokens: int, cache: str) -> Write:
    """Transformers' `generate`, with the cache implementation of this name."""
    config = GenerationConfig(
        max_new_tokens=num_tokens,
        min_new_tokens=num_tokens,
        cache_implementation=cache,
        eos_token_id=2,
        pad_token_id=0,
        disable_compile=True,
    )

    def write(images: torch.Tensor) -> Tokens:
        ids = model.prompt_wrap([model.report_prompt()] * len(images))
        batch = pad_rows(ids, [0] * len(ids), pad_id=0, side="left")
        inputs = embed(batch, model.llama_model.get_input_embeddings(), model.encode_img(images))
        mask = batch.attention_mask.to(inputs.device)
        return model.llama_model.generate(inputs_embeds=inputs, attention_mask=mask, generation_config=config).tolist()

    return write


def seconds(write: Write, batches: Sequence[torch.Tensor]) -> tuple[float, Tokens]:
    """Wall time of writing about every image of the batches, and what was written."""
    start = time.perf_counter()
    rows = [row for batch in batches for row in write(batch)]
    return time.perf_counter() - start, rows


@torch.no_grad()
def main() -> None:
    """Measure, and print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--reports", type=int, default=64)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--max-new-tokens", type=int, default=60)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--ends", choices=["equal", "spread"], default="equal")
    args = parser.parse_args()
    torch.manual_seed(0)
    model = build_model()
    images = torch.randn(args.reports, 3, 64, 64).to(model.device)
    single, batched = images.split(1), images.split(args.batch_size)
    ours = our_way(model, args.max_new_tokens, args.ends)
    ways = {
        "one by one": (ours, single),
        "batches": (ours, batched),
        "batches, transformers, dynamic cache": (transformers_way(model, args.max_new_tokens, "dynamic"), batched),
        "batches, transformers, static cache": (transformers_way(model, args.max_new_tokens, "static"), batched),
    }
    rates: dict[str, list[float]] = {name: [] for name in ways}
    tokens: dict[str, Tokens] = {}
    for write, _ in ways.values():
        write(images[:2])
    for _ in range(args.repeats):
        for name, (write, batches) in ways.items():
            wall, tokens[name] = seconds(write, batches)
            rates[name].append(args.reports / wall)
    length = statistics.mean(map(len, tokens["one by one"]))
    print(f"{args.reports} reports of {length:.1f} tokens, batches of {args.batch_size}, {torch.get_num_threads()} threads, {model.device}")
    for name, values in rates.items():
        ratios = sorted(value / alone for value, alone in zip(values, rates["one by one"], strict=True))
        rate, ratio = statistics.median(values), statistics.median(ratios)
        same = tokens[name] == tokens["one by one"]
        print(f"{name:<36} {rate:7.1f} reports/s, {ratio:5.2f} x ({ratios[0]:.2f} to {ratios[-1]:.2f}), same tokens: {same}")


if __name__ == "__main__":
    main()
