"""The loss over supervised tokens, without computing a logit that it does not need.

`B` rows, `T` tokens, `D` width of the language model, `V` size of its vocabulary, `N` supervised tokens.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from xraygpt.models.sequence import IGNORE

if TYPE_CHECKING:
    from transformers import PreTrainedModel

CHUNK_ROWS = 256
"""Supervised tokens whose logits exist at a time: 32 MiB in float32 at 32,000 tokens, and enough to keep a GPU busy."""
_SCALE = 2.0**10
"""Of the gradients while they wait, so that small ones are not lost in float16; a power of two, hence exact."""


def supervised_loss(llm: PreTrainedModel, inputs: Tensor, labels: Tensor, *, chunk_rows: int = CHUNK_ROWS, **seen: Any) -> Tensor:
    """Mean cross-entropy over the labels, a float32 scalar.

    No attention mask is needed: attention is causal, and padding, if there is any, stands on the right, where no real token sees it.

    Args:
        inputs: [B, T, D], padded on the right; or packed rows, see `xraygpt.models.packing`.
        labels: int64 [B, T] on the CPU, so that choosing rows waits for no device; `IGNORE` where nothing is to be predicted.
        chunk_rows: logits of at most so many tokens exist at a time.
        seen: given to the decoder as it is, such as keys and values of what stands before `inputs` in every row.
    """
    decoder: Any = llm.get_decoder()
    hidden = decoder(inputs_embeds=inputs, use_cache=False, **seen).last_hidden_state
    targets = F.pad(labels, (0, 1), value=IGNORE)[:, 1:].flatten()
    where = (targets != IGNORE).nonzero().squeeze(1)
    rows = hidden.flatten(0, 1).index_select(0, where.to(hidden.device, non_blocking=True))
    wanted = targets[where].to(hidden.device, non_blocking=True)
    if not torch.is_grad_enabled():
        rows, trained = rows.detach(), []
    else:
        trained = [parameter for parameter in llm.get_output_embeddings().parameters() if parameter.requires_grad]
    return _SummedLoss.apply(rows, wanted, llm, chunk_rows, *trained) / len(rows)


class _SummedLoss(torch.autograd.Function):
    """Rows [N, D] and targets [N] → sum of the cross-entropies.

    Each chunk's gradient is taken when its logits are there, so that they are neither kept nor computed again. What waits for the backward
    pass is the gradient of the rows, and of the last layer where that is trained.
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor, targets: Tensor, llm: PreTrainedModel, chunk_rows: int, *trained: Tensor) -> Tensor:
        """Losses, and gradients of those of rows and `trained` that want one."""
        needs_rows, wants = ctx.needs_input_grad[0], any(ctx.needs_input_grad)
        total = rows.new_zeros((), dtype=torch.float32)
        of_rows: list[Tensor] = []
        of_trained: list[Tensor] = []
        count = max(1, math.ceil(len(rows) / chunk_rows))
        for own, targets_of_own in zip(rows.tensor_split(count), targets.tensor_split(count), strict=True):
            with torch.set_grad_enabled(wants):
                leaf = own.detach().requires_grad_(needs_rows)
                # A view, since hooks on a module's inputs, as torch's FLOP counter sets them, stumble over a leaf here.
                logits = logits_of(llm, leaf.view_as(leaf))
            loss, of_logits = _cross_entropy_(logits.detach().float(), targets_of_own, with_gradient=wants)
            total += loss
            if not wants:
                continue
            gradients = list(torch.autograd.grad(logits, [leaf] * needs_rows + list(trained), of_logits.to(logits.dtype)))
            del logits, of_logits  # or they would stay beside the next chunk's
            if needs_rows:
                of_rows.append(gradients.pop(0))
            if of_trained:
                torch._foreach_add_(of_trained, gradients)
            else:
                of_trained = gradients
        ctx.save_for_backward(*([torch.cat(of_rows)] if of_rows else []), *of_trained)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        saved = [each * (gradients[0] / _SCALE) for each in ctx.saved_tensors]
        of_rows = saved.pop(0) if ctx.needs_input_grad[0] else None
        return of_rows, None, None, None, *saved


def _cross_entropy_(logits: Tensor, targets: Tensor, *, with_gradient: bool) -> tuple[Tensor, Tensor]:
    """Sum of the cross-entropies of logits [N, V] for targets [N]; and its gradient times `_SCALE`, written over the logits.

    The gradient is the softmax, less 1 at the target. In place, so that numbers of a whole vocabulary exist once and not four times.
    """
    at_target = targets[:, None]
    logits -= logits.amax(dim=1, keepdim=True)
    loss = -logits.gather(1, at_target).sum()
    sums = logits.exp_().sum(dim=1, keepdim=True)
    loss += sums.log().sum()
    if with_gradient:
        logits *= _SCALE / sums
        logits.scatter_add_(1, at_target, logits.new_full((), -_SCALE).expand_as(at_target))
    return loss, logits


def logits_of(llm: PreTrainedModel, hidden: Tensor) -> Tensor:
    """The decoder's last hidden states [N, D] → logits [N, V], as the language model's own `forward` computes them."""
    head: Any = llm.get_output_embeddings()
    logits = head(hidden)
    config = llm.config
    if scale := getattr(config, "logit_scale", None):  # Cohere
        logits = logits * scale
    if scaling := getattr(config, "logits_scaling", None):  # Granite
        logits = logits / scaling
    if cap := getattr(config, "final_logit_softcapping", None):  # Gemma
        logits = torch.tanh(logits / cap) * cap
    return logits
