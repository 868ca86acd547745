"""Two ranks against one: python benchmarks/scaling.py [--steps 4] [--repeats 3] [--small]

A projection is trained under frozen parts with DDP, over gloo, one thread a rank and the same batch on each, as many steps on two ranks as
on one (weak scaling). The baseline is one rank in the same run. Printed are the bytes that DDP hands over for an all-reduce in each step,
counted by a communication hook, beside those of the projection and of all parameters; the time from the gradient's readiness to the end of
the backward pass, which is all that an all-reduce could be hidden behind on one rank; and the share of its speed that a rank keeps beside
another, by the clock (the second rank needs a core of its own) and by the processor's time.
"""

import argparse
import os
import socket
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.nn.parallel import DistributedDataParallel

from xraygpt.common.optims import build_adamw
from xraygpt.common.schema import check_section
from xraygpt.models import MiniGPT4, MiniGPT4Config
from xraygpt.models.small_language_model import train_tokenizer, write_language_model

CAPTION = "The heart is normal in size. The lungs are clear. No pleural effusion or pneumothorax."
BATCH = 2
SIZES: dict[str, dict[str, Any]] = {
    "mid": {
        "image_size": 224,
        "vit": {"patch_size": 14, "embed_dim": 1408, "depth": 8, "num_heads": 16, "mlp_ratio": 4.3637},
        "num_query_token": 32,
        "qformer": {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072},
        "llm": {"hidden_size": 1024, "num_layers": 12, "num_heads": 16, "intermediate_size": 2816, "context_length": 512},
    },
    "small": {
        "image_size": 112,
        "vit": {"patch_size": 14, "embed_dim": 128, "depth": 4, "num_heads": 4, "mlp_ratio": 4.0},
        "num_query_token": 32,
        "qformer": {"hidden_size": 256, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 1024},
        "llm": {"hidden_size": 256, "num_layers": 4, "num_heads": 4, "intermediate_size": 688, "context_length": 512},
    },
}


def build_model(size: str, folder: Path) -> Any:
    """A model of a size with random weights, of which only the projection is trained."""
    values = dict(SIZES[size])
    llm = values.pop("llm")
    if not folder.exists():
        write_language_model(folder, train_tokenizer([CAPTION] * 8, vocab_size=400), **llm)
    given = {"model_type": "quickstart", "llama_model": str(folder), "llm_from_scratch": True, "vit_weights": "", "q_former_model": ""}
    cfg, problems = check_section(MiniGPT4Config, {**given, **values, "freeze_llm": True}, "model")
    if problems:
        raise SystemExit("\n".join(problems))
    return MiniGPT4.from_config(cfg).place(torch.device("cpu"))


def rank_main(rank: int, world_size: int, port: int, size: str, folder: str, num_steps: int, results: Any) -> None:
    """Train on one rank. Rank 0 puts a dictionary with the medians of a step's seconds, and the bytes handed over in it."""
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    torch.manual_seed(0)
    dist.init_process_group("gloo", rank=rank, world_size=world_size)
    model = build_model(size, Path(folder) / "llm").train()
    wrapped = DistributedDataParallel(model)
    handed_over: list[int] = []
    ready: list[float] = []

    def hook(state: Any, bucket: dist.GradBucket) -> torch.futures.Future[torch.Tensor]:
        handed_over.append(bucket.buffer().nbytes)
        ready.append(time.perf_counter())
        return allreduce_hook(state, bucket)

    wrapped.register_comm_hook(None, hook)
    optimizer = build_adamw(model, lr=1e-4, weight_decay=0.05, beta2=0.999)
    image = torch.randn(BATCH, 3, model.visual_encoder.patch_embed.img_size[0], model.visual_encoder.patch_embed.img_size[1])
    samples = {"image": image, "caption": [CAPTION] * BATCH, "prompt_seed": [0] * BATCH}
    seconds, processor, left = [], [], []
    for step in range(num_steps + 1):
        handed_over.clear()
        ready.clear()
        start, used = time.perf_counter(), time.process_time()
        wrapped(samples)["loss"].backward()
        left.append(time.perf_counter() - ready[0])
        optimizer.step()
        optimizer.zero_grad()
        if step:  # the first one sets things up
            seconds.append(time.perf_counter() - start)
            processor.append(time.process_time() - used)
    if rank == 0:
        counts = model.parameter_counts()
        projection, everything = (4 * sum(count[i] for count in counts.values()) for i in (1, 0))
        medians = {"seconds": statistics.median(seconds), "processor": statistics.median(processor), "left": statistics.median(left[1:])}
        results.put({**medians, "handed_over": sum(handed_over), "projection": projection, "everything": everything})
    dist.destroy_process_group()


def measure(world_size: int, size: str, folder: str, num_steps: int) -> dict[str, float]:
    """What rank 0 says of a training on so many ranks."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    results: Any = mp.get_context("spawn").SimpleQueue()
    mp.spawn(rank_main, args=(world_size, port, size, folder, num_steps, results), nprocs=world_size)
    return results.get()


def main() -> None:
    """Measure one rank and two in turn, and print."""
    parser = argparse.ArgumentParser(description="Two ranks against one.")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--small", action="store_true", help="a small model, to try the benchmark")
    args = parser.parse_args()
    size = "small" if args.small else "mid"
    one, two = [], []
    with tempfile.TemporaryDirectory() as folder:
        build_model(size, Path(folder) / "llm")
        for _ in range(args.repeats):
            one.append(measure(1, size, folder, args.steps))
            two.append(measure(2, size, folder, args.steps))
    bytes_of = two[-1]
    on_wire, projection = bytes_of["handed_over"], bytes_of["projection"]
    print(f"size {size}, batch {BATCH} a rank, {args.steps} steps, {args.repeats} repeats, in turn")
    print(f"bytes handed over in a step: {on_wire:,} = {on_wire / projection:.4f} x the projection's gradient")
    print(f"  (a gradient of all parameters would have {bytes_of['everything']:,}; of {on_wire:,} a rank of two sends as many bytes)")
    for name, key in (("by the clock", "seconds"), ("by the processor's time", "processor")):
        ratios = [alone[key] / together[key] for alone, together in zip(one, two, strict=True)]
        alone, together = (statistics.median(row[key] for row in rows) for rows in (one, two))
        kept = f"{statistics.median(ratios):.1%} (min {min(ratios):.1%}, max {max(ratios):.1%})"
        print(f"{name}: a step on 1 rank {alone * 1e3:.1f} ms, on 2 ranks {together * 1e3:.1f} ms; weak-scaling efficiency {kept}")
    for rows in (one, two):
        left, step = (statistics.median(row[key] for row in rows) for key in ("left", "seconds"))
        ranks = "1 rank" if rows is one else "2 ranks"
        print(f"from the gradient's readiness to the end of the backward pass, {ranks}: {left * 1e3:.2f} ms = {left / step:.2%} of a step")


if __name__ == "__main__":
    main()
