"""From the losses of one or more micro-batches to one parameter update.

The gradient of an update is that of the mean loss over all its tokens, whichever way they are split into accumulated batches
and ranks: each micro-batch contributes the gradient of (mean loss × tokens), and the sum is divided by all tokens at the end.
"""

import logging
import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from xraygpt.common.dist_utils import all_reduce_sum, get_world_size
from xraygpt.common.errors import TrainingError
from xraygpt.common.optims import LRScheduler

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class UpdateStats:
    """One update, over all ranks: mean loss over `num_tokens` supervised tokens, and the gradient's norm before clipping."""

    loss: float
    num_tokens: int
    grad_norm: float


def amp_dtype(device: torch.device, amp: bool) -> torch.dtype | None:
    """The precision of autocast: bf16 where the device has it, else fp16, on CUDA; None (float32) on the CPU or without `amp`."""
    if not amp or device.type != "cuda":
        return None
    return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16


class Updater:
    """Applies the schedule, scales, accumulates, clips, updates; skips an update whose gradient is not finite.

    Args:
        model: the model as it is called in training, perhaps wrapped for distribution.
        iters_per_epoch: the last group of an epoch ends there, full or not.
        max_grad_norm: clip to this; 0: do not clip.
        max_nonfinite_steps: this many skipped updates in a row raise a TrainingError.
    """

    def __init__(
        self,
        *,
        model: nn.Module,
        optimizer: Optimizer,
        lr_scheduler: LRScheduler,
        device: torch.device,
        amp: bool,
        iters_per_epoch: int,
        accum_grad_iters: int = 1,
        max_grad_norm: float = 0.0,
        max_nonfinite_steps: int = 5,
    ) -> None:
        self.model, self.optimizer, self.lr_scheduler, self.device = model, optimizer, lr_scheduler, device
        self.dtype = amp_dtype(device, amp)
        # Losses are summed over tokens here, so the scale starts 64 times below torch's default of 2**16.
        self.scaler = torch.amp.GradScaler(device.type, init_scale=2.0**10, enabled=self.dtype is torch.float16)
        self.iters_per_epoch, self.accum_grad_iters = iters_per_epoch, accum_grad_iters
        self.max_grad_norm, self.max_nonfinite_steps = max_grad_norm, max_nonfinite_steps
        self.skipped_in_a_row = 0
        self._loss_sum, self._num_tokens = 0.0, 0
        self._samples: list[str] = []

    def completes_group(self, i: int) -> bool:
        """Whether an update follows iteration i of an epoch."""
        return (i + 1) % self.accum_grad_iters == 0 or i == self.iters_per_epoch - 1

    def schedule(self, epoch: int, i: int) -> float:
        """Set the learning rate of the group that iteration i belongs to: that of the group's first iteration."""
        return self.lr_scheduler.step(cur_epoch=epoch, cur_step=i - i % self.accum_grad_iters)

    def autocast(self) -> AbstractContextManager:
        """The precision of the forward pass."""
        return torch.autocast(self.device.type, dtype=self.dtype, enabled=self.dtype is not None)

    def gradient_sync(self, i: int) -> AbstractContextManager:
        """Ranks exchange gradients only in the last iteration of a group. Encloses forward and backward pass."""
        if isinstance(self.model, DistributedDataParallel) and not self.completes_group(i):
            return self.model.no_sync()
        return nullcontext()

    def backward(self, loss: Tensor, num_tokens: int, sample_ids: Sequence[str]) -> None:
        """Add the gradient of `loss` (a mean over `num_tokens`) to the group's."""
        self.scaler.scale(loss * num_tokens).backward()
        value = float(loss.detach())
        if not math.isfinite(value):
            logger.warning("The loss is %s for the samples %s.", value, ", ".join(map(str, sample_ids)))
        self._loss_sum += value * num_tokens
        self._num_tokens += num_tokens
        self._samples += sample_ids

    def update(self, step: int) -> UpdateStats:
        """Update the parameters from the group's gradient, or skip it if it is not finite; `step` is for messages.

        Raises:
            TrainingError: `max_nonfinite_steps` updates in a row had to be skipped.
        """
        loss_sum, num_tokens = all_reduce_sum([self._loss_sum, float(self._num_tokens)], self.device)
        self.scaler.unscale_(self.optimizer)
        parameters = [p for group in self.optimizer.param_groups for p in group["params"] if p.grad is not None]
        # Distributed training has averaged the ranks' gradients, hence the factor world size.
        torch._foreach_mul_([p.grad for p in parameters], get_world_size() / num_tokens)
        norm = float(nn.utils.clip_grad_norm_(parameters, self.max_grad_norm if self.max_grad_norm > 0 else math.inf))
        self._guard(step, loss_finite=math.isfinite(loss_sum), norm_finite=math.isfinite(norm))
        if math.isfinite(norm) or self.scaler.is_enabled():
            self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        self._loss_sum, self._num_tokens, self._samples = 0.0, 0, []
        return UpdateStats(loss_sum / num_tokens, int(num_tokens), norm)

    def _guard(self, step: int, *, loss_finite: bool, norm_finite: bool) -> None:
        """Count skipped updates. An overflow under the loss scaler is part of its search and does not count."""
        if norm_finite or (loss_finite and self.scaler.is_enabled()):
            self.skipped_in_a_row = 0
            return
        self.skipped_in_a_row += 1
        what = "gradient" if loss_finite else "loss"
        samples = ", ".join(map(str, self._samples))
        logger.warning("Step %d: the %s is not finite; the update is skipped. Samples on this rank: %s", step, what, samples)
        if self.skipped_in_a_row >= self.max_nonfinite_steps:
            raise TrainingError(
                f"Step {step}: the {what} was not finite in {self.skipped_in_a_row} updates in a row (last samples: {samples}). "
                "Lower run.init_lr, set run.max_grad_norm=1, or look at these samples; run.max_nonfinite_steps sets the limit."
            )

    def state_dict(self) -> dict[str, Any]:
        """Optimizer and scaler, under the family's names."""
        return {"optimizer": self.optimizer.state_dict(), "scaler": self.scaler.state_dict() if self.scaler.is_enabled() else None}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict`; a checkpoint of a run without scaler starts a new one."""
        self.optimizer.load_state_dict(state["optimizer"])
        if state.get("scaler") and self.scaler.is_enabled():
            self.scaler.load_state_dict(state["scaler"])
