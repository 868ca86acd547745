"""The gated layers of a language model (SwiGLU, Shazeer 2020), with a third less kept for the backward pass.

`silu(gate) * up` as transformers writes it keeps gate, up and silu(gate) of the inner width. The third is computed again here: it costs one
pass over memory, where the layer's three matrices cost hundreds.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_CLASSES = frozenset({"LlamaMLP", "MistralMLP", "Qwen2MLP", "Qwen3MLP"})
"""Classes of transformers whose `forward` is down_proj(act_fn(gate_proj(x)) * up_proj(x))."""


class _Gate(torch.autograd.Function):
    """silu(gate) * up, of one shape."""

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        ctx.save_for_backward(gate, up)
        return F.silu(gate).mul_(up)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        gate, up = ctx.saved_tensors
        of_up = F.silu(gate).mul_(gradients[0])
        return torch.ops.aten.silu_backward(up.mul(gradients[0]), gate), of_up


def keep_less_of_gates(llm: PreTrainedModel) -> None:
    """Let the gated layers of a language model keep gate and up alone, where they are of a class that is known. Numbers stay."""
    if getattr(llm.config, "hidden_act", None) != "silu":
        return
    for module in llm.modules():
        if type(module).__name__ in _CLASSES:
            module.forward = partial(_forward, module)


def _forward(mlp: Any, x: Tensor) -> Tensor:
    return mlp.down_proj(_Gate.apply(mlp.gate_proj(x), mlp.up_proj(x)))
