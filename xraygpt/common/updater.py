"""From the losses of one or more micro-batches to one parameter update.

The gradient of an update is that of the mean loss over all its tokens, whichever way they are split into accumulated batches
and ranks: each micro-batch contributes the gradient of (mean loss × tokens), and the sum is divided by all tokens at the end.
"""

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from xraygpt.common.dist_utils import all_gather_objects, all_reduce_sum, get_rank, get_world_size, is_main_process
from xraygpt.common.errors import TrainingError
from xraygpt.common.loss_watch import LossWatch
from xraygpt.common.optims import LRScheduler
from xraygpt.common.rank_watch import waiting_for_ranks

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class UpdateStats:
    """One update, over all ranks: mean loss over `num_tokens` supervised tokens, and the gradient's norm before clipping.

    `stop` and `save` say whether any rank asked, before this update, that the run ends or is saved after it. An update that was `skipped`
    has a loss or a norm that is not finite. `bad_samples` lists what could not be used and was replaced, on any rank.
    """

    loss: float
    num_tokens: int
    grad_norm: float
    stop: bool = False
    save: bool = False
    skipped: bool = False
    bad_samples: tuple[Any, ...] = ()


@dataclass(frozen=True)
class MicroBatch:
    """What one iteration of one rank added to a gradient. `draws` are (dataset, index, seed) of each sample, see `Draw`."""

    rank: int
    loss: float
    sample_ids: list[str]
    draws: list[list[int]]


class NonFiniteError(TrainingError):
    """Too many updates in a row had to be skipped.

    Attributes:
        step: the last one's.
        what: "loss" or "gradient", which was not finite.
        micro_batches: what went into it, of all ranks, in the order of the ranks and of their iterations, the last of which is `step`.
    """

    def __init__(self, message: str, *, step: int, what: str, micro_batches: Sequence[MicroBatch]) -> None:
        super().__init__(message)
        self.step, self.what, self.micro_batches = step, what, list(micro_batches)


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
        max_nonfinite_steps: after this many skipped updates in a row, `require_progress` raises.
        wishes: whether this rank wants to (stop, save) after the next update; travels with the loss, so that all ranks agree.
        loss_watch: finds losses that jump; None: nobody looks.

    Attributes:
        counts: of the whole run so far, the same on every rank: updates "skipped", "spikes" of the loss, "bad_samples" replaced.
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
        wishes: Callable[[], tuple[bool, bool]] = lambda: (False, False),
        loss_watch: LossWatch | None = None,
    ) -> None:
        self.model, self.optimizer, self.lr_scheduler, self.device = model, optimizer, lr_scheduler, device
        self.dtype = amp_dtype(device, amp)
        # Losses are summed over tokens here, so the scale starts 64 times below torch's default of 2**16.
        self.scaler = torch.amp.GradScaler(device.type, init_scale=2.0**10, enabled=self.dtype is torch.float16)
        self.iters_per_epoch, self.accum_grad_iters = iters_per_epoch, accum_grad_iters
        self.max_grad_norm, self.max_nonfinite_steps = max_grad_norm, max_nonfinite_steps
        self.wishes = wishes
        self.loss_watch = loss_watch or LossWatch(window=0, factor=2.0)
        self.counts = {"skipped": 0, "spikes": 0, "bad_samples": 0}
        self.skipped_in_a_row = 0
        self._failure: NonFiniteError | None = None
        self._begin_group()

    def _begin_group(self) -> None:
        self._loss_sum, self._num_tokens = 0.0, 0
        self._group: list[MicroBatch] = []
        self._bad_samples: list[Any] = []

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

    def backward(self, loss: Tensor, num_tokens: int, samples: Mapping[str, Any]) -> None:
        """Add the gradient of `loss` (a mean over `num_tokens`) to the group's.

        Args:
            samples: the batch; its "sample_id", "draw" and "bad_samples" are kept until the update, where it has them.
        """
        with waiting_for_ranks("exchanging gradients"):
            self.scaler.scale(loss * num_tokens).backward()
            value = float(loss.detach())
        self._loss_sum += value * num_tokens
        self._num_tokens += num_tokens
        draws = samples["draw"].tolist() if "draw" in samples else []
        self._group.append(MicroBatch(get_rank(), value, list(map(str, samples.get("sample_id", []))), draws))
        self._bad_samples += samples.get("bad_samples", [])

    def update(self, step: int) -> UpdateStats:
        """Update the parameters from the group's gradient, or skip it if it is not finite; `step` is for messages."""
        stop, save = self.wishes()
        own = [self._loss_sum, float(self._num_tokens), stop, save, len(self._bad_samples)]
        loss_sum, num_tokens, stops, saves, num_bad = all_reduce_sum(own, self.device)
        self.scaler.unscale_(self.optimizer)
        parameters = [p for group in self.optimizer.param_groups for p in group["params"] if p.grad is not None]
        # Distributed training has averaged the ranks' gradients, hence the factor world size.
        torch._foreach_mul_([p.grad for p in parameters], get_world_size() / num_tokens)
        norm = float(nn.utils.clip_grad_norm_(parameters, self.max_grad_norm if self.max_grad_norm > 0 else math.inf))
        loss = loss_sum / num_tokens
        skipped = self._guard(step, loss, norm)
        if not skipped:
            self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        bad_samples = tuple(bad for of_rank in all_gather_objects(self._bad_samples) for bad in of_rank) if num_bad else ()
        self.counts["bad_samples"] += len(bad_samples)
        self._begin_group()
        return UpdateStats(
            loss,
            int(num_tokens),
            norm,
            stop=stops > 0,
            save=saves > 0,
            skipped=skipped,
            bad_samples=bad_samples,
        )

    def require_progress(self) -> None:
        """Called when what the last update asked for is done.

        Raises:
            NonFiniteError: `max_nonfinite_steps` updates in a row had to be skipped.
        """
        if self._failure is not None:
            raise self._failure

    def _guard(self, step: int, loss: float, norm: float) -> bool:
        """Whether the update is to be skipped. An overflow under the loss scaler is part of its search, and for the scaler to skip."""
        if not math.isfinite(loss):
            self._note_skipped(step, "loss")
            return True
        if not math.isfinite(norm) and not self.scaler.is_enabled():
            self._note_skipped(step, "gradient")
            return True
        self.skipped_in_a_row = 0
        if (usual := self.loss_watch.spike_over(loss)) is not None:
            self.counts["spikes"] += 1
            self._warn(f"Step {step}: the loss is {loss:.4f}, the median of those before it {usual:.4f}.", self._group_of_all_ranks())
        return False

    def _note_skipped(self, step: int, what: str) -> None:
        self.counts["skipped"] += 1
        self.skipped_in_a_row += 1
        group = self._group_of_all_ranks()
        suspects = [batch for batch in group if not math.isfinite(batch.loss)] or group
        self._warn(f"Step {step}: the {what} is not finite; the update is skipped.", suspects)
        if self.skipped_in_a_row >= self.max_nonfinite_steps:
            self._failure = NonFiniteError(
                f"Step {step}: the {what} was not finite in {self.skipped_in_a_row} updates in a row (last samples: "
                f"{_in_words(suspects)}). Lower run.init_lr, set run.max_grad_norm=1, or look at these samples; run.max_nonfinite_steps "
                "sets the limit.",
                step=step,
                what=what,
                micro_batches=group,
            )

    def _group_of_all_ranks(self) -> list[MicroBatch]:
        """The micro-batches of this update. All ranks call it at the same time: what leads here is the same number on each."""
        return [batch for of_rank in all_gather_objects(self._group) for batch in of_rank]

    @staticmethod
    def _warn(message: str, batches: Sequence[MicroBatch]) -> None:
        if is_main_process():
            logger.warning("%s Samples: %s", message, _in_words(batches))

    def state_dict(self) -> dict[str, Any]:
        """Optimizer and scaler, under the family's names, and what is counted."""
        guard = {**self.counts, "skipped_in_a_row": self.skipped_in_a_row, "losses": self.loss_watch.state_dict()}
        scaler = self.scaler.state_dict() if self.scaler.is_enabled() else None
        return {"optimizer": self.optimizer.state_dict(), "scaler": scaler, "guard": guard}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict`; a checkpoint of a run without scaler starts a new one, and an old one without counts counts anew."""
        self.optimizer.load_state_dict(state["optimizer"])
        if state.get("scaler") and self.scaler.is_enabled():
            self.scaler.load_state_dict(state["scaler"])
        if guard := state.get("guard"):
            self.counts = {name: guard[name] for name in self.counts}
            self.skipped_in_a_row = guard["skipped_in_a_row"]
            self.loss_watch.load_state_dict(guard["losses"])


def _in_words(batches: Sequence[MicroBatch]) -> str:
    """film-1, film-2 (rank 0); film-7, film-8 (rank 1)"""
    return "; ".join(f"{', '.join(batch.sample_ids)} (rank {batch.rank})" for batch in batches)
