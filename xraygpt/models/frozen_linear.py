"""Frozen linear layers on the CPU, multiplied by oneDNN in place of MKL: the same to float32's last digits, in less time.

torch takes MKL for float32, forward and backward, which is made for Intel's processors. oneDNN, which is part of torch too and which its
compiler takes for frozen layers, needs no other layout of the weights, so it costs no memory. `benchmarks/training_step.py` measures both:
oneDNN took 0.84 to 0.94 of the time of a step on AMD, and more than MKL on Intel.
"""

import functools
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

MIN_ROWS = 64
"""With fewer, as in writing token by token, reading the weights takes the time, and both are as fast."""


class _Product(torch.autograd.Function):
    """x [R, I] and weight [O, I] → [R, O]; the gradient of x alone."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.weight = (
            weight  # a leaf that does not change; as a saved tensor it would make a checkpointed layer compute its last product again
        )
        return _multiply(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return _multiply(gradients[0].contiguous(), ctx.weight.t(), None), None, None


@torch.library.custom_op("xraygpt::multiply", mutates_args=())
def _multiply(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """An operation of its own, since torch's compiler would have the weight be a constant."""
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


@_multiply.register_fake
def _shape_of_product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return x.new_empty(*x.shape[:-1], weight.shape[0])


class FrozenLinear(nn.Linear):
    """A linear layer that takes oneDNN for many rows of float32 on the CPU while its weight is frozen, and is torch's otherwise."""

    def forward(self, input: Tensor) -> Tensor:
        """[…, I] → […, O]."""
        fits = input.device.type == "cpu" and input.dtype == self.weight.dtype == torch.float32 and not self.weight.requires_grad
        if not fits or input.numel() < MIN_ROWS * self.in_features or torch.is_autocast_enabled("cpu"):
            return super().forward(input)
        return _Product.apply(input, self.weight, self.bias)


@functools.cache
def onednn_is_faster() -> bool:
    """Whether this machine's processor is one on which oneDNN was measured to be faster: AMD's, as Linux names it.

    By the processor's name and not by timing, so that a run that goes on computes as it did before.
    """
    cpuinfo = Path("/proc/cpuinfo")
    return cpuinfo.is_file() and "AuthenticAMD" in cpuinfo.read_text(encoding="utf-8", errors="replace")


def use_onednn(part: nn.Module) -> None:
    """Let the linear layers of a part be `FrozenLinear`, where torch has oneDNN; weights and names stay."""
    if not torch.backends.mkldnn.is_available():
        return
    module: Any
    for module in part.modules():
        if type(module) is nn.Linear:
            module.__class__ = FrozenLinear
        if hasattr(module, "qkv_bias_separate"):
            module.qkv_bias_separate = True  # timm would otherwise multiply by the weight itself
