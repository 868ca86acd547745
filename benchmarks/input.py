"""How training data reaches the model: python benchmarks/input.py [--folder PREPARED] [--passes 4] [--repeats 5]

Padding: tokens computed for each real one (prompt, image tokens and text; and the text alone) in batches of 16 Open-i captions, of the
random order and of the order grouped by length, over the same passes. It is counted, not timed. Open-i is prepared anew unless --folder
names it; the tokenizer is LLaMA's of the test data (XRAYGPT_TEST_DATA, or ../shared/data), else one made from the captions.

Annotations: seconds and memory until the datasets over 1,000,000 made annotations stand, at the first start and at later ones, and what
each of two loading processes adds in going through all of them; the baseline is a list with a dictionary for each.

Pass boundary: the time to the batch that begins a new pass over the data, beside that of the other batches, with a loader of 2 processes.
"""

import argparse
import json
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from _mid import peak_mib, target_row
from torch.utils.data import Dataset

from xraygpt.conversation.prompts import load_prompts, split_at_images
from xraygpt.datasets.builders import FolderBuilder, load_annotations
from xraygpt.datasets.data_utils import Draw
from xraygpt.datasets.dataloaders import build_train_iterator
from xraygpt.models.language_model import load_tokenizer
from xraygpt.models.mini_gpt4 import MiniGPT4Config
from xraygpt.models.sequence import RowLength, prompt_ids
from xraygpt.models.small_language_model import train_tokenizer

ROOT = Path(__file__).resolve().parents[1]
DATA = Path(os.environ.get("XRAYGPT_TEST_DATA", ROOT.parent / "shared" / "data"))
BATCH = 16
IMAGE_TOKENS = 32
BOUNDARY_SAMPLES = 5 * BATCH  # an odd number, so that both processes load the first batch of a pass by turns


class Captions(Dataset):
    """Training captions whose items say only which they are."""

    def __init__(self, captions: list[str], seconds: float = 0.0) -> None:
        self.captions, self.seconds = captions, seconds

    def __len__(self) -> int:
        return len(self.captions)

    def text(self, index: int) -> str:
        """The caption."""
        return self.captions[index]

    def __getitem__(self, draw: Draw) -> dict[str, int]:
        time.sleep(self.seconds)
        return {"index": draw.index, "seed": draw.seed}


def batches(dataset: Captions, *, workers: int = 0, **options: Any) -> Any:
    """The endless batches of a run on one rank."""
    fixed = {"seed": 42, "rank": 0, "world_size": 1, "start_iteration": 0, "pin_memory": False}
    return build_train_iterator([dataset], batch_size=BATCH, num_workers=workers, **fixed, **options)


def training_captions(folder: Path | None) -> list[str]:
    """Those of a prepared Open-i folder, which is made for this purpose if there is none."""
    with tempfile.TemporaryDirectory() as made:
        if folder is None:
            folder = Path(made) / "openi"
            command = [sys.executable, "-m", "xraygpt.cli.main", "prepare", "openi", "--source", str(DATA / "openi"), "--out", str(folder)]
            subprocess.run(command, check=True, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        return [ann["caption"] for ann in load_annotations(folder / "filter_cap.json") if ann.get("split", "train") == "train"]


def padding(captions: list[str], passes: int) -> None:
    """Print computed/real tokens for both orders."""
    end_sym, folder = MiniGPT4Config.end_sym, DATA / "reference" / "llama"
    there = folder.is_dir()
    tokenizer = load_tokenizer(folder) if there else train_tokenizer([c + end_sym for c in captions], vocab_size=8000, end_sym=end_sym)
    prompts = load_prompts(ROOT / "prompts" / "alignment.txt", MiniGPT4Config.prompt_template)
    of_prompt = np.array([len(prompt_ids(tokenizer, split_at_images(prompt), IMAGE_TOKENS)) for prompt in prompts])
    count = RowLength(tokenizer, of_prompt.tolist(), end_sym, MiniGPT4Config.max_txt_len)
    kind = "LLaMA's" if there else "own"
    of_text = np.array([count(caption, 0) - of_prompt[0] for caption in captions])
    print(f"{len(captions)} captions, {kind} tokenizer: text {of_text.mean():.0f} tokens, prompt {of_prompt.mean():.0f}")
    orders: dict[str, dict[str, Any]] = {
        "random order": {},
        "grouped by words": {"group_by_length": True},
        "grouped by tokens (group_by_length)": {"group_by_length": True, "row_length": count},
    }
    for name, options in orders.items():
        iterator = batches(Captions(captions), **options)
        drawn = [next(iterator) for _ in range(passes * len(captions) // BATCH)]
        text = np.stack([of_text[batch["index"].numpy()] for batch in drawn])
        row = text + np.stack([of_prompt[batch["seed"].numpy() % len(prompts)] for batch in drawn])
        ratios = [BATCH * tokens.max(axis=1).sum() / tokens.sum() for tokens in (row, text)]
        print(f"computed/real tokens, batch {BATCH}, {name}: {ratios[0]:.3f} (the text alone {ratios[1]:.3f})")


def pass_boundary(captions: list[str], repeats: int) -> None:
    """Print how long the batches that begin a pass take, beside the others."""
    first, others = [], []
    for _ in range(repeats):
        iterator = batches(Captions(captions[:BOUNDARY_SAMPLES], seconds=0.002), workers=2, group_by_length=True)
        for number in range(10 * BOUNDARY_SAMPLES // BATCH):
            start = time.perf_counter()
            next(iterator)
            if number >= BOUNDARY_SAMPLES // BATCH:  # the loading processes start in the first pass
                (others if number % (BOUNDARY_SAMPLES // BATCH) else first).append(1000 * (time.perf_counter() - start))
        iterator.close()
    spread = np.percentile(first, [25, 75])
    print(
        f"batch that begins a pass: {statistics.median(first):.1f} ms (quartiles {spread[0]:.1f} and {spread[1]:.1f}), any other "
        f"{statistics.median(others):.1f} ms: ratio {statistics.median(first) / statistics.median(others):.2f}"
    )


def write_annotations(folder: Path, count: int) -> None:
    """A file of made annotations, as long as MIMIC's."""
    caption = "The heart is normal in size. The lungs are clear without consolidation. No pleural effusion or pneumothorax is seen. "
    rows = (
        {
            "image_id": f"{i:08d}-{i * 7919 % 10**10:010d}",
            "caption": caption + "x" * (i % 90),
            "study_id": f"s{i // 2}",
            "subject_id": f"p{i // 4}",
        }
        for i in range(count)
    )
    with open(folder / "filter_cap.json", "w", encoding="utf-8") as handle:
        handle.write('{"annotations": [')
        for i, row in enumerate(rows):
            handle.write((", " if i else "") + json.dumps({**row, "split": "train", "view": "frontal"}))
        handle.write("]}")
        handle.flush()
        os.fsync(handle.fileno())  # what waits to be written would count as memory of whoever maps the file


def anonymous_mib() -> float:
    """Memory of this process that no file and no other process has."""
    status = Path("/proc/self/smaps_rollup").read_text(encoding="utf-8")
    return sum(int(line.split()[1]) for line in status.splitlines() if line.startswith("Private_Dirty")) / 1024


def go_through(annotations: Any, results: Any) -> None:
    """In a loading process: look at all, put by how much this process grew."""
    before = anonymous_mib()
    for i in range(len(annotations)):
        _ = annotations[i]["image_id"]
    results.put(anonymous_mib() - before)


def start_up(folder: str, way: str, results: Any) -> None:
    """In this process: annotations as a dataset holds them; puts seconds, the peak's growth in MiB, and that of two loading processes."""
    peak = peak_mib()
    start = time.perf_counter()
    annotations: Any
    if way == "list of dictionaries":
        annotations = [{**ann, "instance_id": str(i)} for i, ann in enumerate(load_annotations(Path(folder) / "filter_cap.json"))]
    else:
        builder = FolderBuilder(SimpleNamespace(storage=folder, sample_ratio=None))
        builder.build_processors = lambda split: (None, str)  # type: ignore[assignment, method-assign, return-value]
        annotations = builder.build_datasets()["train"].annotation
    seconds, grown = time.perf_counter() - start, peak_mib() - peak
    queue: Any = multiprocessing.get_context("fork").Queue()
    processes = [multiprocessing.get_context("fork").Process(target=go_through, args=(annotations, queue)) for _ in range(2)]
    for process in processes:
        process.start()
    growth = [queue.get() for _ in processes]
    results.put((seconds, grown, max(growth)))


def annotations(count: int) -> None:
    """Print what a start over `count` annotations takes."""
    with tempfile.TemporaryDirectory() as folder:
        write_annotations(Path(folder), count)
        context = multiprocessing.get_context("spawn")
        found = {}
        for way in ("list of dictionaries", "table, first start", "table, later start"):
            results = context.Queue()
            process = context.Process(target=start_up, args=(folder, way, results))
            process.start()
            found[way] = results.get()
            process.join()
            print(f"{count:,} annotations, {way}: {found[way][0]:.2f} s, {found[way][1]:,.0f} MiB, {found[way][2]:,.0f} MiB in each worker")
    base, later = found["list of dictionaries"], found["table, later start"]
    target_row("1,000,000 annotations, start", "list of dictionaries", "< 5 s, < 1 GiB", f"{later[0]:.2f} s, {later[1]:.0f} MiB, "
               f"{later[0] / base[0]:.3f} x the time, {later[1] / base[1]:.3f} x the memory")  # fmt: skip


def main() -> None:
    """Count, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, help="a prepared Open-i folder")
    parser.add_argument("--passes", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--annotations", type=int, default=1_000_000)
    args = parser.parse_args()
    captions = training_captions(args.folder)
    padding(captions, args.passes)
    pass_boundary(captions, args.repeats)
    annotations(args.annotations)


if __name__ == "__main__":
    main()
