"""Reports written in batches beside one by one: python benchmarks/generation.py [--reports 64] [--batch-size 16] [--repeats 3]

The baseline is this project's own generation, one image at a time, measured in the same run, in turn with the batches. The model has
the quickstart's size and random weights; every report has the same number of tokens, and both ways must write the same texts.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch

import xraygpt.models  # noqa: F401  registers the model
from xraygpt.models import load_model
from xraygpt.models.small_language_model import train_tokenizer, write_language_model

TEXTS = ["The heart is normal in size. The lungs are clear. No pleural effusion or pneumothorax.###"] * 8


def seconds(model: torch.nn.Module, images: Sequence[torch.Tensor], max_new_tokens: int) -> tuple[float, list[str]]:
    """Wall time of writing a report for every image of the given batches, and the reports."""
    start = time.perf_counter()
    texts = [text for batch in images for text in model.write_reports(batch, max_new_tokens=max_new_tokens, min_new_tokens=max_new_tokens)]
    return time.perf_counter() - start, texts


def main() -> None:
    """Measure, and print the ratio."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--reports", type=int, default=64)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--max-new-tokens", type=int, default=40)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        tokenizer = train_tokenizer(TEXTS, vocab_size=400, end_sym="###")
        sizes = {"hidden_size": 128, "num_layers": 2, "num_heads": 4, "intermediate_size": 344, "context_length": 512}
        write_language_model(Path(folder) / "llm", tokenizer, initializer_range=0.06, overwrite=False, **sizes)
        model = load_model("mini_gpt4", "quickstart", is_eval=True, device="auto", llama_model=f"{folder}/llm", prompt_path="")
    images = torch.randn(args.reports, 3, 64, 64)
    batched, single = images.split(args.batch_size), images.split(1)
    seconds(model, batched[:1], args.max_new_tokens)
    ratios = []
    for repeat in range(args.repeats):
        one_by_one, texts = seconds(model, single, args.max_new_tokens)
        in_batches, same_texts = seconds(model, batched, args.max_new_tokens)
        ratios.append(one_by_one / in_batches)
        rates = f"{args.reports / one_by_one:.1f} reports/s one by one, {args.reports / in_batches:.1f} in batches of {args.batch_size}"
        print(f"repeat {repeat}: {rates}; same texts: {texts == same_texts}")
    spread = max(ratios) - min(ratios)
    print(f"ratio (median of {args.repeats}): {statistics.median(ratios):.2f} x, spread {spread:.2f}, {torch.get_num_threads()} threads")


if __name__ == "__main__":
    main()
