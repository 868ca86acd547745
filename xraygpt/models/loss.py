"""The loss over supervised tokens, without computing a logit that it does not need.

`B` rows, `T` tokens, `D` width of the language model, `V` size of its vocabulary, `N` supervised tokens.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from xraygpt.models.sequence import IGNORE

if TYPE_CHECKING:
    from transformers import PreTrainedModel

LOGIT_BYTES = 256 * 2**20
"""float32 logits of one chunk at most, where `chunk_rows` does not say otherwise: 2,097 rows at 32,000 tokens."""


def supervised_loss(llm: PreTrainedModel, inputs: Tensor, labels: Tensor, *, chunk_rows: int | None = None, **seen: Any) -> Tensor:
    """Mean cross-entropy over the labels, a float32 scalar.

    No attention mask is needed: attention is causal, and padding, if there is any, stands on the right, where no real token sees it.

    Args:
        inputs: [B, T, D], padded on the right; or packed rows, see `xraygpt.models.packing`.
        labels: int64 [B, T] on the CPU, so that choosing rows waits for no device; `IGNORE` where nothing is to be predicted.
        chunk_rows: logits of at most so many tokens exist at a time. They are computed again in the backward pass, if there is more than
            one chunk. None: as many as `LOGIT_BYTES` holds.
        seen: given to the decoder as it is, such as keys and values of what stands before `inputs` in every row.
    """
    decoder: Any = llm.get_decoder()
    hidden = decoder(inputs_embeds=inputs, use_cache=False, **seen).last_hidden_state
    targets = F.pad(labels, (0, 1), value=IGNORE)[:, 1:].flatten()
    where = (targets != IGNORE).nonzero().squeeze(1)
    rows = hidden.flatten(0, 1).index_select(0, where.to(hidden.device, non_blocking=True))
    wanted = targets[where].to(hidden.device, non_blocking=True)
    size = chunk_rows or max(1, LOGIT_BYTES // (4 * llm.config.vocab_size))
    if len(rows) <= size:
        return _summed_loss(llm, rows, wanted) / len(rows)
    chunks = zip(rows.split(size), wanted.split(size), strict=True)
    losses = [checkpoint(_summed_loss, llm, *chunk, use_reentrant=False) for chunk in chunks]
    return torch.stack(losses).sum() / len(rows)


def _summed_loss(llm: PreTrainedModel, rows: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(logits_of(llm, rows).float(), targets, reduction="sum")


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
