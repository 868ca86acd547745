"""A user's own module (`--import user_module`) whose tasks train as usual, and meanwhile send signals or measure the process."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import torch
from torch import nn

from xraygpt.common.dist_utils import get_rank
from xraygpt.common.registry import registry
from xraygpt.tasks.image_text_pretrain import ImageTextPretrainTask

SIGNALS = "RELIABILITY_SIGNALS"
"""JSON: for each life of a run (by TORCHELASTIC_RESTART_COUNT) {"rank", "step": of this life, from 0, "signals": names}."""
MEASURES = "RELIABILITY_MEASURES"
"""A file that gets a line of JSON every so many steps: {"rss_mib", "handles", "threads"}."""
STEPS_BETWEEN_MEASURES = 5


@registry.register_task("signalled_pretrain")
class SignalledTask(ImageTextPretrainTask):
    """Pre-training in which a rank gets signals in the middle of a step."""

    def __init__(self, cfg: Any) -> None:
        super().__init__(cfg)
        lives = json.loads(os.environ.get(SIGNALS, "[]"))
        life = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))
        self.fate, self.step = lives[life] if life < len(lives) else None, 0

    def train_step(self, model: nn.Module, samples: dict[str, Any]) -> tuple[torch.Tensor, int]:
        """As usual, and then the signals, if this is the step."""
        result = super().train_step(model, samples)
        if self.fate and (self.fate["rank"], self.fate["step"]) == (get_rank(), self.step):
            for name in self.fate["signals"]:
                os.kill(os.getpid(), signal.Signals[name])
        self.step += 1
        return result


@registry.register_task("measured_pretrain")
class MeasuredTask(ImageTextPretrainTask):
    """Pre-training that notes what the process holds."""

    step = 0

    def train_step(self, model: nn.Module, samples: dict[str, Any]) -> tuple[torch.Tensor, int]:
        """As usual, and then the measures."""
        result = super().train_step(model, samples)
        if self.step % STEPS_BETWEEN_MEASURES == 0:
            with open(os.environ[MEASURES], "a", encoding="utf-8") as handle:
                handle.write(json.dumps(measure()) + "\n")
        self.step += 1
        return result


def measure() -> dict[str, float]:
    """Resident memory in MiB, open file handles, threads."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return {
        "rss_mib": pages * os.sysconf("SC_PAGE_SIZE") / 2**20,
        "handles": len(os.listdir("/proc/self/fd")),
        "threads": len(os.listdir("/proc/self/task")),
    }
