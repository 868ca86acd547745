"""What a cache of the frozen vision parts' features saves: python benchmarks/feature_cache.py [--depth 8] [--images 12] [--repeats 2]

Whole trainings at 'mid' size on Open-i's films and captions, batch 3, float32, one thread, in processes of their own and in turn: four
epochs without a cache (the baseline), four with one that is empty at first, and four with one that is complete. Timed are computing the
features and training, not starting; images are 256 x 256 here, larger ones take longer to decode. Memory is by how much the process's peak
grew from when the libraries stood; all have large tensors in mappings of their own, as `train.py` has. With two loading processes, it is
also measured which share of a cached step is waiting for data.
"""

from xraygpt.common.startup import started  # first, as in train.py

# isort: split
import argparse
import json
import multiprocessing
import shutil
import statistics
import tempfile
import time
from argparse import Namespace
from pathlib import Path
from typing import Any

import torch
from _mid import keep_samples, model_section, of_length, peak_mib, prepare_openi, ratio, size_named, target_row, write_files
from omegaconf import OmegaConf

import xraygpt.runners  # noqa: F401  registers the runner
from xraygpt.common.config import Config
from xraygpt.common.logger import setup_logger
from xraygpt.common.seed import seed_everything
from xraygpt.datasets.dataloaders import evenly_spaced
from xraygpt.models.language_model import load_tokenizer
from xraygpt.runners import RunnerBase
from xraygpt.tasks import setup_task

started()  # also in the processes that are measured

EPOCHS, BATCH = 4, 3
Result = dict[str, float]


def write_config(folder: Path, size: dict[str, Any]) -> Path:
    """run.yaml of the training."""
    run = {
        "task": "image_text_pretrain",
        "max_epoch": EPOCHS,
        "batch_size_train": BATCH,
        "output_dir": str(folder / "output"),
        "device": "cpu",
        "num_workers": 0,
        "log_freq": 1,
        "progress_bar": False,
    }
    processors = {"train": {"name": "blip2_image_eval", "image_size": 224}, "eval": {"name": "blip2_image_eval", "image_size": 224}}
    data = {"openi": {"storage": str(folder / "openi"), "vis_processor": processors}}
    path = folder / "run.yaml"
    OmegaConf.save({"model": model_section(folder, size), "datasets": data, "run": run}, path)
    return path


def train(config: Path, options: list[str], results: Any) -> None:
    """In this process: build everything, compute the features that are missing, train; puts seconds, MiB and shares."""
    torch.set_num_threads(1)
    at_start = peak_mib()
    cfg = Config(Namespace(cfg_path=str(config), options=options, imports=[]))
    setup_logger()
    seed_everything(0)
    task = setup_task(cfg)
    datasets = task.build_datasets(cfg)
    computing, use = [0.0], task.use_features

    def timed(*args: Any) -> str:
        start = time.perf_counter()
        key = use(*args)
        computing[0] = time.perf_counter() - start
        return key

    task.use_features = timed  # type: ignore[method-assign]
    runner = RunnerBase(cfg=cfg, job_id=f"{time.time_ns()}", task=task, model=task.build_model(cfg), datasets=datasets)
    start = time.perf_counter()
    runner.train()
    seconds = time.perf_counter() - start
    log = [json.loads(line) for line in (runner.output_dir / "log.txt").read_text().splitlines()]
    steps = [record for record in log if "grad_norm" in record]
    waited = sum(record["data_time"] for record in steps[2:]) / (seconds * len(steps[2:]) / len(steps))
    results.put(
        {
            "seconds": seconds + computing[0],
            "computing": computing[0],
            "peak": peak_mib() - at_start,
            "waited": waited,
            "loss": steps[-1]["loss"],
        }
    )


def measure(config: Path, *options: str) -> Result:
    """`train` in a process of its own."""
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    process = context.Process(target=train, args=(config, list(options), results))
    process.start()
    result = results.get()
    process.join()
    return result


def main() -> None:
    """Measure, and print ratios with their spread."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--depth", type=int, default=8, help="layers of the ViT")
    parser.add_argument("--images", type=int, default=12)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--recompute", action="store_true", help="with model.grad_checkpoint.llm, which trades time for memory")
    parser.add_argument("--small", action="store_true", help="a small model, to try the command")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        annotations = prepare_openi(folder / "openi")
        size = size_named("small" if args.small else "mid", depth=None if args.small else args.depth)
        write_files(folder, size, [ann["caption"] for ann in annotations])
        long = of_length(annotations, load_tokenizer(folder / "llm"))
        keep_samples(folder / "openi", [long[i] for i in evenly_spaced(len(long), args.images)])
        config, cache = write_config(folder, size), folder / "cache"
        recompute = f"model.grad_checkpoint.llm={str(args.recompute).lower()}"
        rounds: dict[str, list[Result]] = {"without": [], "from empty": [], "complete": []}
        for _ in range(args.repeats):
            shutil.rmtree(cache, ignore_errors=True)
            rounds["without"].append(measure(config, recompute))
            rounds["from empty"].append(measure(config, recompute, f"run.feature_cache.path={cache}"))
            rounds["complete"].append(measure(config, recompute, f"run.feature_cache.path={cache}", "run.num_workers=2"))
    print(f"\n{args.images} images, {EPOCHS} epochs, {args.images // BATCH} steps each, ViT of {size['vit']['depth']} layers")
    for case, results in rounds.items():
        middle = {key: statistics.median(result[key] for result in results) for key in results[0]}
        seconds, computing, peak = middle["seconds"], middle["computing"], middle["peak"]
        print(f"{case:<10} {seconds:6.1f} s, computing features {computing:5.1f} s of it; peak {peak:,.0f} MiB;", end=" ")
        print(f"waiting for data {middle['waited']:.2%}; last loss {middle['loss']:.4f}")
    numbers = {case: {key: [result[key] for result in results] for key in results[0]} for case, results in rounds.items()}
    without, empty, complete = numbers["without"], numbers["from empty"], numbers["complete"]
    wanted = "≥ 3.5 x" if args.depth == 39 else "≥ 1.8 x"
    target_row(
        f"{EPOCHS} epochs with cache, built first", f"without ({args.depth} layers)", wanted, ratio(without["seconds"], empty["seconds"])
    )
    target_row("peak memory with complete cache", "without", "≤ 0.55 x", ratio(complete["peak"], without["peak"]))
    target_row("waiting for data, cached, 2 workers", "a step", "≤ 2 %", f"{statistics.median(complete['waited']):.2%}")


if __name__ == "__main__":
    main()
