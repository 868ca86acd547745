"""`xraygpt doctor`: whether this machine, and with a configuration the run itself, can be expected to work.

    OK    device cuda:0    NVIDIA H100, 85 GB (84.6 GB free), compute 9.0, bf16
    FAIL  model.ckpt       weights/minigpt4.pth is missing (looked for …)
          → A checkpoint of an earlier stage, or a published projection: docs/training.md.

Every check is made, whatever became of those before it; the exit code is 1 if one line says FAIL. For the ranks of a distributed run:

    torchrun --nproc_per_node=8 -m xraygpt.cli.main doctor --cfg-path …
"""

import argparse
import os
from collections import Counter
from collections.abc import Generator, Iterator
from dataclasses import asdict
from typing import Any

from xraygpt.common.config import add_config_arguments
from xraygpt.common.printable import json_text, message_text
from xraygpt.common.run_config import RunConfig
from xraygpt.diagnosis import FAIL, OK, WARN, Finding, examine, quiet_logging

_WIDTH = 20  # of the column that says what was looked at
_DEFAULT_TIMEOUT = 30.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `xraygpt doctor`."""
    add_config_arguments(parser, cfg_path="")
    parser.add_argument(
        "--timeout",
        type=float,
        default=_DEFAULT_TIMEOUT,
        metavar="SECONDS",
        help="how long ranks wait for each other (default: %(default)s)",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    """Print the findings as they come. Returns 1 if one is a FAIL. Of several ranks, those above 0 take part in the all-reduce alone."""
    above_rank_0 = int(os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0"))) > 0
    findings = []
    with quiet_logging():
        for finding in _meet(args) if above_rank_0 else diagnose(args):
            findings.append(finding)
            if not args.json and not (above_rank_0 and finding.level == OK):
                print(message_text(format_finding(finding)), flush=True)
    counts = Counter(finding.level for finding in findings)
    if args.json and not above_rank_0:
        print(json_text({"findings": [asdict(finding) for finding in findings], "counts": dict(counts)}, indent=1))
    elif not above_rank_0:
        print(f"\n{counts[OK]} OK, {counts[WARN]} to look at (WARN), {counts[FAIL]} failed (FAIL)")
    return 1 if counts[FAIL] else 0


def diagnose(args: argparse.Namespace) -> Iterator[Finding]:
    """All findings, one after another. Without a configuration only the machine is examined."""
    yield from examine("Python", "xraygpt.diagnosis.packages:check_python")
    yield from examine("packages", "xraygpt.diagnosis.packages:check_packages")
    yield from examine("constraints", "xraygpt.diagnosis.packages:check_constraints")
    yield from examine("torch", "xraygpt.diagnosis.machine:check_torch")
    cfg = yield from _load_config(args)
    run_cfg: Any = cfg.run_cfg if cfg else RunConfig
    yield from examine("device", "xraygpt.diagnosis.machine:check_devices", run_cfg.device)
    yield from _all_reduce(run_cfg, args.timeout)
    if cfg is None:
        yield from examine("memory", "xraygpt.diagnosis.machine:check_memory")
        return
    yield from examine("data", "xraygpt.diagnosis.run_inputs:check_data", cfg)
    yield from examine("files", "xraygpt.diagnosis.run_inputs:check_paths", cfg)
    yield from examine("tokenizer", "xraygpt.diagnosis.run_inputs:check_tokenizer", cfg)
    yield from examine("language model", "xraygpt.diagnosis.run_inputs:check_language_model", cfg)
    yield from examine("prompts", "xraygpt.diagnosis.run_inputs:check_prompts", cfg)
    yield from examine("model", "xraygpt.diagnosis.run_needs:check_model", cfg)
    yield from examine("output folder", "xraygpt.diagnosis.run_needs:check_output", cfg)


def _meet(args: argparse.Namespace) -> Iterator[Finding]:
    """A rank above 0: what it could not do in the all-reduce. Rank 0 says everything else."""
    cfg = yield from _load_config(args)
    yield from _all_reduce(cfg.run_cfg if cfg else RunConfig, args.timeout)


def _load_config(args: argparse.Namespace) -> Generator[Finding, None, Any]:
    if not args.cfg_path:
        return None
    return (yield from examine("configuration", "xraygpt.diagnosis.run_inputs:load_config", args))


def _all_reduce(run_cfg: Any, timeout: float) -> Iterator[Finding]:
    yield from examine("all-reduce", "xraygpt.diagnosis.ranks:check_ranks", run_cfg.device, run_cfg.distributed, run_cfg.dist_url, timeout)


def format_finding(finding: Finding) -> str:
    """A finding as one line, and a second one with what to do."""
    line = f"{finding.level:<4}  {finding.what:<{_WIDTH}}  {finding.found}"
    return f"{line}\n{'':>6}→ {finding.advice}" if finding.advice else line
