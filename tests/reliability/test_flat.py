"""A long run holds no more memory, file handles or threads at its end than after its first steps."""

import json
from collections.abc import Callable
from pathlib import Path
from statistics import median

from tests.reliability.user_module import MEASURES
from tests.reliability.warm_parent import WarmParent

STEPS_AN_EPOCH = 50
GROWTH_MIB = 4.0
"""The allocator's share; a leak of one batch a step would be ten times as much in the short form."""


def test_what_a_long_run_holds(
    cfg_path: Path, parent: WarmParent, soak: bool, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    steps = 2000 if soak else 300
    measures = tmp_path / "measures"
    options = ("run.task=measured_pretrain", "run.save_every_iters=10", f"run.iters_per_epoch={STEPS_AN_EPOCH}", "run.log_freq=10")
    arguments = ("--import", "user_module", "--options", *options, f"run.max_epoch={steps // STEPS_AN_EPOCH}")
    pid = parent.start(cfg_path, *arguments, environment={MEASURES: str(measures)})
    code = parent.wait(pid, seconds=600)
    assert code == 0, parent.said(pid)

    held = [json.loads(line) for line in measures.read_text().splitlines()]
    early, late = held[len(held) // 4 : len(held) // 2], held[-len(held) // 4 :]
    growth = median(row["rss_mib"] for row in late) - median(row["rss_mib"] for row in early)
    record_property("steps", steps)
    record_property("MiB resident at the end", round(late[-1]["rss_mib"]))
    record_property("MiB more in the last quarter than in the second", round(growth, 2))
    for name in ("handles", "threads"):
        before, after = sorted(row[name] for row in early), sorted(row[name] for row in late)
        record_property(f"{name}, and {before[0]}–{before[-1]} before", f"{after[0]}–{after[-1]}")
        assert after[0] <= before[0]  # a save that is under way holds a thread and some files more
    assert growth < GROWTH_MIB
