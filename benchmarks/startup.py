"""Seconds from a command to what its user waits for: python benchmarks/startup.py [--repeats 3]

The baseline, in the same run and in turn, is the import of the libraries that a model is built from, by themselves. Each is a fresh
process, on the quickstart's configuration and made data. Processor seconds are those of the process itself; where a process is ended as
soon as what is waited for is there, they are those until then.
"""

import argparse
import os
import resource
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
PYTHON = [sys.executable]
COMMAND = [*PYTHON, "-m", "xraygpt.cli.main"]
BASELINE = "plain imports"
WITHOUT_TRAINING = ["--options", "model.ckpt=[]", "run.known_images=''"]

CASES: dict[str, tuple[list[str], str]] = {
    BASELINE: ([*PYTHON, "-c", "import torch, transformers, timm, torchvision"], ""),
    "xraygpt --help": ([*COMMAND, "--help"], ""),
    "train.py --check": ([*PYTHON, f"{ROOT}/train.py", "--cfg-path", f"{ROOT}/train_configs/quickstart_stage1.yaml", "--check"], ""),
    "demo.py --cli to its prompt": (
        [*PYTHON, f"{ROOT}/demo.py", "--cfg-path", f"{ROOT}/eval_configs/quickstart.yaml", "--cli", *WITHOUT_TRAINING],
        "Ask about the image",
    ),
    "train.py to its first step": (
        [*PYTHON, f"{ROOT}/train.py", "--cfg-path", f"{ROOT}/train_configs/quickstart_stage1.yaml"],
        "Train: data epoch: [0]",
    ),
}
"""Name → the command, and the words in its output that end the waiting; without any, the end of the process."""


def make_quickstart_data(folder: Path) -> None:
    """What the quickstart's configurations name, small: phantoms, tokenizer, prompts."""
    (folder / "prompts").symlink_to(ROOT / "prompts")
    phantoms = ["phantom", "--out", "data/phantom", "--image-size", "128", "--num-studies", "400"]
    tokenizer = ["tokenizer", "--storage", "data/phantom/mimic", "--prompts", "prompts/quickstart.txt", "--out", "output/quickstart/llm"]
    for arguments in (phantoms, tokenizer):
        subprocess.run([*COMMAND, *arguments], cwd=folder, env=ENVIRONMENT, check=True, capture_output=True)


def measure(command: list[str], awaited: str, folder: Path) -> tuple[float, float]:
    """Seconds, and processor seconds, from the start of a command to its end or to the awaited words."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.perf_counter()
    process = subprocess.Popen(
        command,
        cwd=folder,
        env=ENVIRONMENT,
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    output: list[str] = []
    assert process.stdout is not None
    for line in process.stdout:
        output.append(line)
        if awaited and awaited in line:
            break
    seconds = time.perf_counter() - start
    if awaited:
        os.killpg(process.pid, signal.SIGKILL)  # its data workers too
    if process.wait() != 0 and not (awaited and awaited in output[-1]):
        sys.exit(f"{' '.join(command)} failed:\n{''.join(output)}")
    using = resource.getrusage(resource.RUSAGE_CHILDREN)
    return seconds, using.ru_utime + using.ru_stime - used.ru_utime - used.ru_stime


def main() -> None:
    """Measure all in turn, and print medians and ratios to the baseline."""
    parser = argparse.ArgumentParser(description="Seconds from a command to what its user waits for.")
    parser.add_argument("--repeats", type=int, default=3)
    repeats = parser.parse_args().repeats
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in CASES}
    with tempfile.TemporaryDirectory() as name:
        make_quickstart_data(Path(name))
        for _ in range(repeats):
            for case, (command, awaited) in CASES.items():
                times[case].append(measure(command, awaited, Path(name)))
    baseline = [statistics.median(column) for column in zip(*times[BASELINE], strict=True)]
    print(f"{'':<28} {'seconds':>8} {'min – max':>14} {'x':>6}   {'processor s':>11} {'x':>6}     (x: times {BASELINE}; {repeats} repeats)")
    for case, measured in times.items():
        wall, processor = zip(*measured, strict=True)
        medians = [statistics.median(wall), statistics.median(processor)]
        spread = f"{min(wall):.2f} – {max(wall):.2f}"
        ratios = [median / base for median, base in zip(medians, baseline, strict=True)]
        print(f"{case:<28} {medians[0]:>8.2f} {spread:>14} {ratios[0]:>6.2f}   {medians[1]:>11.2f} {ratios[1]:>6.2f}")


if __name__ == "__main__":
    main()
