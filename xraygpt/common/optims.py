"""Learning-rate schedules as pure functions of the global iteration, and AdamW's parameter groups.

A schedule keeps no state: after a resume it follows from the iteration alone. Iterations count micro-batches, as in the
LAVIS family: t = cur_epoch * iters_per_epoch + cur_step.
"""

import math

from torch import nn
from torch.optim import AdamW, Optimizer

from xraygpt.common.registry import registry


class LRScheduler:
    """Base of the schedules: linear warm-up over `warmup_steps` iterations (across epochs), then `decayed(t)`.

    Args:
        optimizer: all its parameter groups get the same rate.
        max_epoch, iters_per_epoch: length of the schedule.
        init_lr, min_lr: peak and final rate.
        warmup_start_lr: rate at t = 0; negative means `init_lr` (no warm-up).
        decay_rate: factor an epoch, for the step schedule.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        *,
        max_epoch: int,
        iters_per_epoch: int,
        init_lr: float,
        min_lr: float = 0.0,
        warmup_steps: int = 0,
        warmup_start_lr: float = -1.0,
        decay_rate: float | None = None,
    ) -> None:
        self.optimizer = optimizer
        self.max_epoch, self.iters_per_epoch = max_epoch, iters_per_epoch
        self.init_lr, self.min_lr = init_lr, min_lr
        self.warmup_steps = warmup_steps
        self.warmup_start_lr = warmup_start_lr if warmup_start_lr >= 0 else init_lr
        self.decay_rate = 1.0 if decay_rate is None else decay_rate

    def lr_at(self, t: int) -> float:
        """The learning rate at global iteration t: min(init, w0 + (init - w0) * t / W) while t < W, then `decayed(t)`."""
        if t < self.warmup_steps:
            rise = (self.init_lr - self.warmup_start_lr) * t / max(self.warmup_steps, 1)
            return min(self.init_lr, self.warmup_start_lr + rise)
        return self.decayed(t)

    def decayed(self, t: int) -> float:
        """The learning rate after warm-up."""
        raise NotImplementedError

    def step(self, cur_epoch: int, cur_step: int) -> float:
        """Set the rate for iteration `cur_step` of epoch `cur_epoch` in every parameter group, and return it."""
        lr = self.lr_at(cur_epoch * self.iters_per_epoch + cur_step)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        return lr


@registry.register_lr_scheduler("linear_warmup_cosine_lr")
class LinearWarmupCosineLRScheduler(LRScheduler):
    """Half a cosine from `init_lr` at t = 0 to `min_lr` at the end; not shifted by the warm-up, as in the original."""

    def decayed(self, t: int) -> float:
        """(init - min) * (1 + cos(pi * t / T)) / 2 + min, with T = max_epoch * iters_per_epoch."""
        total = self.max_epoch * self.iters_per_epoch
        return (self.init_lr - self.min_lr) * 0.5 * (1.0 + math.cos(math.pi * t / total)) + self.min_lr


@registry.register_lr_scheduler("linear_warmup_step_lr")
class LinearWarmupStepLRScheduler(LRScheduler):
    """Multiplies the rate by `decay_rate` at each epoch, never below `min_lr`."""

    def decayed(self, t: int) -> float:
        """max(min, init * decay_rate ** epoch)."""
        return max(self.min_lr, self.init_lr * self.decay_rate ** (t // self.iters_per_epoch))


@registry.register_lr_scheduler("constant_lr")
class ConstantLRScheduler(LRScheduler):
    """`init_lr` throughout, after the warm-up."""

    def decayed(self, t: int) -> float:
        """init."""
        return self.init_lr


def build_adamw(model: nn.Module, *, lr: float, weight_decay: float, beta2: float) -> AdamW:
    """AdamW over the trainable parameters in two groups: matrices decay; vectors, biases and norms ("ln", "bn") do not.

    Fused, where all of them are on the CPU or on CUDA: one kernel a step, which can skip an update by itself (`Updater.update`).
    """
    decay: list[nn.Parameter] = []
    no_decay: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            plain = parameter.ndim < 2 or "bias" in name or "ln" in name or "bn" in name
            (no_decay if plain else decay).append(parameter)
    groups = [{"params": decay, "weight_decay": weight_decay}, {"params": no_decay, "weight_decay": 0.0}]
    fused = {parameter.device.type for parameter in (*decay, *no_decay)} <= {"cpu", "cuda"}
    return AdamW([group for group in groups if group["params"]], lr=lr, betas=(0.9, beta2), fused=fused)
