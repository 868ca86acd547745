"""What saving costs a run: python benchmarks/checkpointing.py [--repeats 25] [--case quickstart|100mb]

The quickstart's second stage (made films; the projection is trained), and the same with a wider language model, all parts trained and a
quarter of the batch, so that a checkpoint has 100 MB and the steps are short. In one run, blocks of five steps take turns: no saving (the
baseline), a save as the package does it (a snapshot, then another thread writes), the same save written in the training thread (the
baseline of that), and no saving once more, which shows the noise. A block with a save lasts until the save is on the disk.

What a save costs is the time of its block beyond the mean of the two without, on the wall and of the processor (all threads); its share
is that by the time of 10 or 100 steps. Blocks differ by their texts and by what else the machine does: look at the quartiles.
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

import xraygpt.tasks as tasks
from xraygpt.common.config import Config
from xraygpt.datasets.builders import load_annotations
from xraygpt.datasets.preparation.phantom import PhantomOptions, generate_phantoms
from xraygpt.models.small_language_model import train_tokenizer, write_language_model
from xraygpt.runners import RunnerBase

ROOT = Path(__file__).resolve().parent.parent
BLOCK = 5
MODES = ("no saving", "in a thread", "in the training thread", "no saving, again")
QUICKSTART = {"hidden_size": 128, "num_layers": 2, "num_heads": 4, "intermediate_size": 256}
WIDE = {"hidden_size": 352, "num_layers": 5, "num_heads": 4, "intermediate_size": 848}
CASES: dict[str, tuple[dict[str, int], list[str]]] = {
    "quickstart": (QUICKSTART, []),
    "100mb": (WIDE, ["model.freeze_vit=false", "model.freeze_qformer=false", "model.freeze_llm=false", "run.batch_size_train=8"]),
}


CLOCKS = {"on the wall": time.perf_counter, "of the processor": time.process_time}


class TimedRunner(RunnerBase):
    """Saves in turns, and notes how long each block takes."""

    blocks: dict[tuple[str, str], list[float]]
    """(clock, mode) → seconds of each block."""
    stands_still: dict[str, list[float]]
    """Mode → seconds that the training thread gives to each save."""

    def _after_update(self, epoch: int, i: int, *others: Any) -> None:
        super()._after_update(epoch, i, *others)
        block, within = divmod(i, BLOCK)
        mode = MODES[(block - 1) % len(MODES)]
        if block == 0:  # what happens once happens here
            self.blocks, self.stands_still = defaultdict(list), defaultdict(list)
        elif within == 0 and not mode.startswith("no"):
            self._begin(mode, i)
        if within == BLOCK - 1:
            self.checkpointer.wait()
            now = {name: clock() for name, clock in CLOCKS.items()}
            for name in CLOCKS if block else ():
                self.blocks[name, mode].append(now[name] - self.started[name])
            self.started = now

    def _begin(self, mode: str, i: int) -> None:
        start = time.perf_counter()
        self.checkpointer.save(f"step{i}")
        if mode == "in the training thread":
            self.checkpointer.wait()
        self.stands_still[mode].append(time.perf_counter() - start)


def build_runner(folder: Path, case: str, num_blocks: int) -> TimedRunner:
    """The second stage's configuration over made films, with a language model of the case's size and random weights."""
    sizes, options = CASES[case]
    generate_phantoms(folder / "openi", PhantomOptions("openi", 200, image_size=128, seed=0), workers=1, overwrite=False)
    captions = [annotation["caption"] for annotation in load_annotations(folder / "openi" / "filter_cap.json")]
    tokenizer = train_tokenizer([f"{caption}###" for caption in captions], vocab_size=800, end_sym="###")
    write_language_model(folder / "llm", tokenizer, context_length=512, initializer_range=0.06, overwrite=False, **sizes)
    given: Any = OmegaConf.load(ROOT / "train_configs" / "quickstart_stage2.yaml")
    given.model.pop("ckpt")  # random weights take the same time
    OmegaConf.save(given, folder / "run.yaml")
    own = [
        f"model.llama_model={folder}/llm",
        f"model.prompt_path={ROOT}/prompts/quickstart.txt",
        f"datasets.openi.storage={folder}/openi",
        f"run.output_dir={folder}/output",
        f"run.iters_per_epoch={num_blocks * BLOCK}",
        "run.valid_splits=[]",
        "run.save_every_minutes=0",
        "run.device=cpu",
    ]
    cfg = Config(argparse.Namespace(cfg_path=str(folder / "run.yaml"), options=[*own, *options]))
    task = tasks.setup_task(cfg)
    datasets = task.build_datasets(cfg)
    return TimedRunner(cfg=cfg, job_id="run", task=task, model=task.build_model(cfg), datasets=datasets)


def measure(case: str, repeats: int) -> None:
    """Print the times and shares of one case."""
    print(case)
    with tempfile.TemporaryDirectory() as name:
        runner = build_runner(Path(name), case, 1 + len(MODES) * repeats)
        runner.train_epoch(0)
        runner.train_loader.close()  # ends the loading process
        trained = sum(p.numel() for p in runner.model.parameters() if p.requires_grad)
        (newest, *_) = sorted(runner.output_dir.glob("checkpoint_step*.pth"), key=lambda path: path.stat().st_mtime_ns, reverse=True)
        size = newest.stat().st_size / 1e6
    for clock in CLOCKS:
        print_costs(runner, clock)
    print(f"  {trained:,} trained parameters, a checkpoint of {size:.1f} MB; the training thread stands still for a save:")
    for mode, seconds in runner.stands_still.items():
        print(f"    {mode:<24} {1000 * statistics.median(seconds):.1f} ms")


def print_costs(runner: TimedRunner, clock: str) -> None:
    """One line a mode: what a save costs, and which share of 10 and of 100 steps that is."""
    before, after = runner.blocks[clock, MODES[0]], runner.blocks[clock, MODES[3]]
    step = statistics.median(before + after) / BLOCK
    print(f"  {clock}: {1000 * step:.0f} ms a step; a save costs (median of {len(before)} blocks, quartiles; share of 10 and 100 steps)")
    for mode in MODES[1:]:
        with_save = runner.blocks[clock, mode]
        without = before if mode == MODES[3] else [(one + other) / 2 for one, other in zip(before, after, strict=True)]
        low, median, high = statistics.quantiles([one - other for one, other in zip(with_save, without, strict=True)], n=4)
        share = median / (10 * step)
        print(f"    {mode:<24} {1000 * median:+7.0f} ms ({1000 * low:+.0f} to {1000 * high:+.0f}); {share:+.2%} and {share / 10:+.3%}")


def main() -> None:
    """Measure, and print shares of the step time."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=25)
    parser.add_argument("--case", choices=CASES, help="one of the two; both without it")
    args = parser.parse_args()
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} at the start, Python {sys.version.split()[0]}")
    for case in [args.case] if args.case else CASES:
        measure(case, args.repeats)


if __name__ == "__main__":
    main()
