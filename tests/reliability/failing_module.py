"""A user's own module (`--import failing_module`) whose task lets rank 1 fail in step 3, in the way that `run.job_id` names."""

import os
import signal
import time
from typing import Any

import torch
from torch import nn

from xraygpt.common import rank_watch
from xraygpt.common.dist_utils import get_rank
from xraygpt.common.registry import registry
from xraygpt.tasks.image_text_pretrain import ImageTextPretrainTask

# Judged and given up sooner than in a run of days.
rank_watch.INTERVAL_S, rank_watch.SILENCE_S, rank_watch.GRACE_S = 0.25, 2.0, 5.0

STEP = 3


@registry.register_task("failing_pretrain")
class FailingTask(ImageTextPretrainTask):
    """Pre-training as usual, until rank 1 fails."""

    step = 0

    def train_step(self, model: nn.Module, samples: dict[str, Any]) -> tuple[torch.Tensor, int]:
        """As usual, but for step `STEP` of rank 1."""
        if (get_rank(), self.step) == (1, STEP):
            fail(self.cfg.run_cfg.job_id)
        self.step += 1
        return super().train_step(model, samples)


def fail(how: str) -> None:
    """Raise, get killed, or sleep much longer than the others wait."""
    if how == "raises":
        raise ZeroDivisionError("a mistake in a user's own task")
    if how == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "sleeps":
        time.sleep(600)
