"""What `model.compile_llm` brings, and after how many steps: python benchmarks/compilation.py [--repeats 9] [--batch 3]

The batch and the 'mid' size of training_step.py, float32, one thread: steps whose features are cached, in turn with and without compiled
layers. Compiling is what the first step takes beyond a later one: with torch's cache on the disk empty, and again with what is there then.
Losses must agree.
"""

from xraygpt.common.startup import started  # first, as in train.py

# isort: split
import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from _mid import in_turn, median_and_spread, ratio, size_named, target_row
from training_step import Steps, make_steps

from xraygpt.models.compilation import compile_llm


def first_call(way: Callable[[], Any]) -> float:
    """Seconds of a call at which nothing is compiled."""
    torch._dynamo.reset()
    start = time.perf_counter()
    way()
    return time.perf_counter() - start


def measure(steps: Steps, repeats: int) -> None:
    """Print the rows."""
    plain = steps.ours_cached
    plain()  # its attention becomes that of packed rows
    layers: list[Any] = list(steps.model.llama_model.get_decoder().layers)
    compile_llm(steps.model.llama_model)
    forwards = [layer.__dict__.pop("forward") for layer in layers]

    def compiled() -> float:
        for layer, forward in zip(layers, forwards, strict=True):
            layer.forward = forward
        try:
            return plain()
        finally:
            for layer in layers:
                del layer.forward

    empty, warm = first_call(compiled), first_call(compiled)
    assert abs(plain() - compiled()) < 1e-4
    seconds = in_turn({"plain": plain, "compiled": compiled}, repeats)
    for name, values in seconds.items():
        print(f"{name:<9} {median_and_spread(values)} s")
    target_row("step with cache, language model compiled", "not compiled", "", ratio(seconds["compiled"], seconds["plain"]))
    later, gain = statistics.median(seconds["compiled"]), statistics.median(seconds["plain"]) - statistics.median(seconds["compiled"])
    for name, first in (("with an empty cache", empty), ("from torch's cache", warm)):
        pays = f"pays back after {(first - later) / gain:,.0f} steps" if gain > 0 else "never pays back"
        print(f"compiling {name}: {first - later:.1f} s, {pays}")


def main() -> None:
    """Measure, and print ratios with their spread."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--batch", type=int, default=3)
    parser.add_argument("--small", action="store_true", help="a small model, to try the command")
    args = parser.parse_args()
    started()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(Path(folder) / "inductor")
        measure(make_steps(Path(folder), size_named("small" if args.small else "mid"), args.batch), args.repeats)


if __name__ == "__main__":
    main()
