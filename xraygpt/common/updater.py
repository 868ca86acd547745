"""From the losses of one or more micro-batches to one parameter update.

The gradient of an update is that of the mean loss over all its tokens, whichever way they are split into accumulated batches
and ranks: each micro-batch contributes the gradient of (mean loss × tokens), and the sum is divided by all tokens at the end.

On CUDA no update waits for the device: whether it is finite decides the optimizer's kernel, and its numbers are read when the next update
is on its way, or at once where somebody needs them (`Updater.settle`).
"""

import logging
import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from xraygpt.common.dist_utils import all_gather_objects, get_rank, get_world_size, is_main_process, sum_over_ranks
from xraygpt.common.errors import TrainingError
from xraygpt.common.loss_watch import LossWatch
from xraygpt.common.optims import LRScheduler
from xraygpt.common.rank_watch import waiting_for_ranks

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class UpdateStats:
    """One update, over all ranks: mean loss over `num_tokens` supervised tokens, and the gradient's norm before clipping.

    `i` is the iteration of the epoch that completed it, `lr` its learning rate. `stop` and `save` say whether any rank asked, before this
    update, that the run ends or is saved after it. An update that was `skipped` has a loss or a norm that is not finite. `bad_samples`
    lists what could not be used and was replaced, on any rank. `latest`: the parameters are those after this update. If another is on its
    way when an update's numbers are read, what was asked for is said with the latest one.
    """

    i: int
    lr: float
    loss: float
    num_tokens: int
    grad_norm: float
    stop: bool = False
    save: bool = False
    skipped: bool = False
    bad_samples: tuple[Any, ...] = ()
    latest: bool = True


@dataclass(frozen=True)
class MicroBatch:
    """What one iteration of one rank added to a gradient. `draws` are (dataset, index, seed) of each sample, see `Draw`."""

    rank: int
    loss: float
    sample_ids: list[str]
    draws: list[list[int]]


@dataclass(frozen=True)
class _Part:
    """An iteration of this rank: its mean loss, float64, perhaps still on its way; see `MicroBatch`."""

    loss: Tensor
    num_tokens: int
    sample_ids: list[str]
    draws: list[list[int]]


@dataclass(frozen=True)
class _Pending:
    """An update whose numbers are not read yet.

    `numbers` are float64 [6] in the CPU's memory, there when `ready` is: the sums over all ranks of loss × tokens, tokens, wishes to stop
    and to save, and bad samples; then the gradient's norm.
    """

    step: int
    lr: float
    numbers: Tensor
    ready: torch.cuda.Event | None
    group: list[_Part]
    bad_samples: list[Any]


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
        reads_late: whether an update's numbers may be read after the next one has begun. That needs an optimizer whose kernel can
            skip an update by itself (fused), and at least one skipped update before the run gives up.
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
        is_fused = all(group.get("fused") for group in optimizer.param_groups)
        self.reads_late = device.type == "cuda" and is_fused and not self.scaler.is_enabled() and max_nonfinite_steps > 1
        self._failure: NonFiniteError | None = None
        self._pending: deque[_Pending] = deque()
        self._lr = 0.0
        self._begin_group()

    def _begin_group(self) -> None:
        self._group: list[_Part] = []
        self._bad_samples: list[Any] = []

    def completes_group(self, i: int) -> bool:
        """Whether an update follows iteration i of an epoch."""
        return (i + 1) % self.accum_grad_iters == 0 or i == self.iters_per_epoch - 1

    def schedule(self, epoch: int, i: int) -> float:
        """Set the learning rate of the group that iteration i belongs to: that of the group's first iteration."""
        self._lr = self.lr_scheduler.step(cur_epoch=epoch, cur_step=i - i % self.accum_grad_iters)
        return self._lr

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
            value = loss.detach().double() if self.reads_late else loss.detach().cpu().double()
        draws = samples["draw"].tolist() if "draw" in samples else []
        self._group.append(_Part(value, num_tokens, list(map(str, samples.get("sample_id", []))), draws))
        self._bad_samples += samples.get("bad_samples", [])

    def update(self, step: int) -> None:
        """Update the parameters from the group's gradient, or skip it if it is not finite; `settle` gives the numbers.

        Args:
            step: for messages.
        """
        stop, save = self.wishes()
        of_host = [sum(part.num_tokens for part in self._group), stop, save, len(self._bad_samples)]
        loss_sum = torch.stack([part.loss * part.num_tokens for part in self._group]).sum()
        own = torch.cat([loss_sum.view(1), torch.tensor(of_host, dtype=torch.float64).to(loss_sum.device, non_blocking=True)])
        numbers = sum_over_ranks(own, self.device)
        self.scaler.unscale_(self.optimizer)
        parameters = [p for group in self.optimizer.param_groups for p in group["params"] if p.grad is not None]
        # Distributed training has averaged the ranks' gradients, hence the factor world size.
        scale = get_world_size() / numbers[1]
        torch._foreach_mul_([p.grad for p in parameters], scale.float() if self.reads_late else float(scale))
        norm = nn.utils.clip_grad_norm_(parameters, self.max_grad_norm if self.max_grad_norm > 0 else math.inf)
        numbers = torch.cat([numbers, norm.detach().to(numbers.device, torch.float64).view(1)])
        if self.reads_late:
            # The optimizer's kernel does nothing where this is 1, and takes back the step that it has counted.
            self.optimizer.found_inf = 1.0 - numbers.isfinite().all().float()  # type: ignore[attr-defined]
            self.optimizer.step()
        elif self._what_is_not_finite(float(numbers[0]), float(norm)) is None:
            self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        self._pending.append(_Pending(step, self._lr, *_to_host(numbers), self._group, self._bad_samples))
        self._begin_group()

    def settle(self, *, keep: int = 0) -> list[UpdateStats]:
        """Read the numbers of the updates, the oldest first, but for the `keep` latest.

        After one that was skipped or after which something is to be done, none is kept: the parameters are then those after the last one.
        """
        stats: list[UpdateStats] = []
        while len(self._pending) > (keep if self.reads_late and not self.skipped_in_a_row else 0):
            stats.append(self._read(self._pending.popleft()))
            if stats[-1].stop or stats[-1].save or stats[-1].skipped or stats[-1].bad_samples:
                keep = 0
        if not stats:
            return []
        *earlier, last = stats
        plain = [replace(each, stop=False, save=False, bad_samples=(), latest=False) for each in earlier]
        last = replace(
            last,
            stop=any(each.stop for each in stats),
            save=any(each.save for each in stats),
            bad_samples=tuple(bad for each in stats for bad in each.bad_samples),
            latest=not self._pending,
        )
        return [*plain, last]

    def _read(self, pending: _Pending) -> UpdateStats:
        if pending.ready is not None:
            with waiting_for_ranks("exchanging gradients"):
                pending.ready.synchronize()
        loss_sum, num_tokens, stops, saves, num_bad, norm = pending.numbers.tolist()
        loss, what = loss_sum / num_tokens, self._what_is_not_finite(loss_sum, norm)
        if what is None:
            self._note_done(pending, loss)
        else:
            self._note_skipped(pending, what)
        bad_samples = tuple(bad for of_rank in all_gather_objects(pending.bad_samples) for bad in of_rank) if num_bad else ()
        self.counts["bad_samples"] += len(bad_samples)
        return UpdateStats(
            pending.step % self.iters_per_epoch,
            pending.lr,
            loss,
            int(num_tokens),
            norm,
            stop=stops > 0,
            save=saves > 0,
            skipped=what is not None,
            bad_samples=bad_samples,
        )

    def require_progress(self) -> None:
        """Called when what the last update asked for is done.

        Raises:
            NonFiniteError: `max_nonfinite_steps` updates in a row had to be skipped.
        """
        if self._failure is not None:
            raise self._failure

    def _what_is_not_finite(self, loss_sum: float, norm: float) -> str | None:
        """Why an update is to be skipped. An overflow under the loss scaler is part of its search, and for the scaler to skip."""
        if not math.isfinite(loss_sum):
            return "loss"
        return "gradient" if not math.isfinite(norm) and not self.scaler.is_enabled() else None

    def _note_done(self, pending: _Pending, loss: float) -> None:
        self.skipped_in_a_row = 0
        if (usual := self.loss_watch.spike_over(loss)) is not None:
            self.counts["spikes"] += 1
            message = f"Step {pending.step}: the loss is {loss:.4f}, the median of those before it {usual:.4f}."
            self._warn(message, _of_all_ranks(pending.group))

    def _note_skipped(self, pending: _Pending, what: str) -> None:
        self.counts["skipped"] += 1
        self.skipped_in_a_row += 1
        step, group = pending.step, _of_all_ranks(pending.group)
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

    @staticmethod
    def _warn(message: str, batches: Sequence[MicroBatch]) -> None:
        if is_main_process():
            logger.warning("%s Samples: %s", message, _in_words(batches))

    def state_dict(self) -> dict[str, Any]:
        """Optimizer and scaler, under the family's names, and what is counted; all updates must be settled."""
        if self._pending:
            raise RuntimeError(f"{len(self._pending)} updates are not settled, so what is counted does not belong to these parameters.")
        guard = {**self.counts, "skipped_in_a_row": self.skipped_in_a_row, "losses": self.loss_watch.state_dict()}
        scaler = self.scaler.state_dict() if self.scaler.is_enabled() else None
        return {"optimizer": self.optimizer.state_dict(), "scaler": scaler, "guard": guard}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict`; a checkpoint of a run without scaler starts a new one, and an old one without counts counts anew."""
        stored = state["optimizer"]
        # How the optimizer computes is this run's matter.
        groups = [
            {**own, **group, **{key: own[key] for key in ("fused", "foreach") if key in own}}
            for group, own in zip(stored["param_groups"], self.optimizer.param_groups, strict=False)
        ]
        self.optimizer.load_state_dict({**stored, "param_groups": groups})
        if state.get("scaler") and self.scaler.is_enabled():
            self.scaler.load_state_dict(state["scaler"])
        if guard := state.get("guard"):
            self.counts = {name: guard[name] for name in self.counts}
            self.skipped_in_a_row = guard["skipped_in_a_row"]
            self.loss_watch.load_state_dict(guard["losses"])


def _in_words(batches: Sequence[MicroBatch]) -> str:
    """film-1, film-2 (rank 0); film-7, film-8 (rank 1)"""
    return "; ".join(f"{', '.join(batch.sample_ids)} (rank {batch.rank})" for batch in batches)


def _of_all_ranks(group: Sequence[_Part]) -> list[MicroBatch]:
    """The micro-batches of an update. All ranks call it at the same time: what leads here is the same number on each."""
    own = [MicroBatch(get_rank(), float(part.loss), part.sample_ids, part.draws) for part in group]
    return [batch for of_rank in all_gather_objects(own) for batch in of_rank]


def _to_host(numbers: Tensor) -> tuple[Tensor, torch.cuda.Event | None]:
    """Numbers on their way to the CPU's memory, and what tells that they are there; None: they are."""
    if numbers.device.type != "cuda":
        return numbers, None
    host = torch.empty(numbers.shape, dtype=numbers.dtype, pin_memory=True)
    host.copy_(numbers, non_blocking=True)
    ready = torch.cuda.Event()
    ready.record()
    return host, ready
