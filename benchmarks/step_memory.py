"""Memory of a training step by switch: python benchmarks/step_memory.py [--rows 4] [--repeats 3] [--small]

A frozen language model of 'mid' size (LLaMA 1024 x 12, 32,000 tokens) reads rows of 150 tokens, of which 70 are supervised. The gradient
of its inputs is computed, as training the projection needs it. The baseline computes the logits of every row, builds keys and values for
generation, and passes an attention mask, as the original does. Each measurement is a process of its own that starts with the model in
memory: by how much its peak grew, its processor time, and the bytes that were kept for the backward pass. Loss and gradient must be those
of the baseline.
"""

from xraygpt.common.startup import started  # first, as in train.py

# isort: split
import argparse
import copy
import multiprocessing
import statistics
import time
import weakref
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from _mid import peak_mib
from torch import Tensor
from transformers import AutoModelForCausalLM, LlamaConfig

from xraygpt.models.gated_mlp import keep_less_of_gates
from xraygpt.models.loss import supervised_loss
from xraygpt.models.recomputation import recompute_layers
from xraygpt.models.sequence import IGNORE

NUM_TOKENS, NUM_SUPERVISED = 150, 70
BASELINE, HALF = "every logit, keys and values, mask", "a bf16 model"
Loss = Callable[[Any, Tensor, Tensor], Tensor]


def every_logit(llm: Any, inputs: Tensor, labels: Tensor) -> Tensor:
    """As the original."""
    mask = torch.ones(labels.shape, dtype=torch.int64)
    logits = llm(inputs_embeds=inputs, attention_mask=mask, use_cache=True).logits
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=IGNORE)


def ours(llm: Any, inputs: Tensor, labels: Tensor) -> Tensor:
    """As the program does it where nothing is set."""
    keep_less_of_gates(llm)
    return supervised_loss(llm, inputs, labels)


def recomputed(llm: Any, inputs: Tensor, labels: Tensor) -> Tensor:
    """`grad_checkpoint: {llm: true}`."""
    recompute_layers(llm)
    return ours(llm, inputs, labels)


def half_precision(llm: Any, inputs: Tensor, labels: Tensor) -> Tensor:
    """`frozen_dtype: {llm: bf16}`."""
    return ours(llm, inputs.bfloat16(), labels)


started()  # also in the processes that are measured

WAYS: dict[str, Loss] = {
    BASELINE: every_logit,
    "supervised logits in chunks": supervised_loss,
    "and gates computed again": ours,
    "and layers computed again": recomputed,
    HALF: half_precision,
}


class Kept:
    """A tensor for as long as autograd keeps it."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor


def measure(way: str, llm: Any, num_rows: int, results: Any) -> None:
    """In a process of its own: one step."""
    generator = torch.Generator().manual_seed(0)
    inputs = (torch.randn(num_rows, NUM_TOKENS, llm.config.hidden_size, generator=generator) * 0.02).requires_grad_()
    labels = torch.full((num_rows, NUM_TOKENS), IGNORE)
    labels[:, -NUM_SUPERVISED:] = torch.randint(llm.config.vocab_size, (num_rows, NUM_SUPERVISED), generator=generator)
    own = {parameter.untyped_storage().data_ptr() for parameter in llm.parameters()}
    alive: weakref.WeakSet[Kept] = weakref.WeakSet()

    def pack(tensor: Tensor) -> Kept:
        holder = Kept(tensor)
        alive.add(holder)
        return holder

    before, start = peak_mib(), time.process_time()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda holder: holder.tensor):
        loss = WAYS[way](llm, inputs, labels)
    storages = {holder.tensor.untyped_storage().data_ptr(): holder.tensor.untyped_storage().nbytes() for holder in alive}
    kept = sum(count for address, count in storages.items() if address not in own)
    loss.backward()
    peak, seconds = peak_mib() - before, time.process_time() - start
    norm = float(inputs.grad.norm()) if inputs.grad is not None else float("nan")
    results.put({"peak": peak, "kept": kept / 2**20, "seconds": seconds, "loss": loss.item(), "norm": norm})


def main() -> None:
    """Measure each way in turn, and print medians, spread and ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--small", action="store_true", help="a small model, to try the command")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    size = {"hidden_size": 256, "num_hidden_layers": 2} if args.small else {"hidden_size": 1024, "num_hidden_layers": 12}
    config = LlamaConfig(vocab_size=32000, intermediate_size=2816, num_attention_heads=16, max_position_embeddings=1024, **size)
    llm = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval().requires_grad_(False)
    half = copy.deepcopy(llm).to(torch.bfloat16)
    fork = multiprocessing.get_context("fork")
    results: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    for _ in range(args.repeats):
        for way in WAYS:
            queue = fork.SimpleQueue()
            child = fork.Process(target=measure, args=(way, half if way == HALF else llm, args.rows, queue))
            child.start()
            results[way].append(queue.get())
            child.join()
    print(f"{args.rows} rows of {NUM_TOKENS} tokens, {args.repeats} repeats in turn, 1 thread: medians (lowest to highest)")
    for way, runs in results.items():
        fields = []
        for key, name, unit in (("peak", "peak", "MiB"), ("seconds", "time", "s")):
            values = sorted(run[key] for run in runs)
            ratio = statistics.median(run[key] / base[key] for base, run in zip(results[BASELINE], runs, strict=True))
            fields.append(f"{name} {statistics.median(values):.1f} {unit} ({values[0]:.1f} to {values[-1]:.1f}), {ratio:.2f} x")
        first = runs[0]
        print(f"{way:<36} {'; '.join(fields)}; kept {first['kept']:.0f} MiB; loss {first['loss']:.5f}, gradient {first['norm']:.5f}")


if __name__ == "__main__":
    main()
