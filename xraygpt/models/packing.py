"""Rows of a training batch one after another, with no padding between them: each token of a row sees the earlier ones of its row alone.

All layers but attention treat tokens one by one, so the rows need not be told apart there; for attention see `packed_attention`. It costs
what the real tokens cost, on every device.

`N` tokens of all rows together, `T` of one row, `P` of the constant beginning, `H` heads, `D_h` width of a head.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from xraygpt.models.packed_attention import Beginning, at_once, can_be_at_once, row_by_row

if TYPE_CHECKING:
    from transformers import PreTrainedModel

ARCHITECTURES = frozenset({"llama", "mistral", "qwen2", "qwen3"})
"""Language models whose positions are given to them, and that have nothing but attention between tokens."""
_NAME = "xraygpt_rows"


@dataclass(frozen=True)
class PackedRows:
    """How rows stand in [1, N, D].

    Attributes:
        lengths: of each row.
        beginning: of each layer the keys and values [1, H, P, D_h] that stand before those of every row; none if P is 0.
    """

    lengths: tuple[int, ...]
    beginning: tuple[Beginning, ...] = ()

    def arguments(self, device: torch.device) -> dict[str, Any]:
        """What the decoder is given besides the embeddings."""
        first = self.beginning[0][0].shape[2] if self.beginning else 0
        positions = torch.cat([torch.arange(first, first + length) for length in self.lengths])
        # A mask of four dimensions is passed on as it is, and not made: attention needs none.
        return {"position_ids": positions[None].to(device), "attention_mask": torch.empty(1, 1, 1, 1, device=device), "packed_rows": self}


def can_pack(llm: PreTrainedModel) -> bool:
    """Whether a language model can read packed rows: of `ARCHITECTURES`, without a sliding window, with torch's attention.

    The first time, its attention is replaced by one that can; it is torch's for everything else.
    """
    if llm.config._attn_implementation == _NAME:
        return True
    if llm.config.model_type not in ARCHITECTURES or llm.config._attn_implementation != "sdpa" or not _has_full_attention(llm):
        return False
    _register()
    llm.set_attn_implementation(_NAME)
    return True


def _has_full_attention(llm: PreTrainedModel) -> bool:
    from transformers.cache_utils import DynamicCache, DynamicLayer

    return all(type(layer) is DynamicLayer for layer in DynamicCache(config=llm.config).layers)


@functools.cache
def _register() -> None:
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    # Compiled, it would be compiled anew for other lengths.
    AttentionInterface.register(_NAME, torch.compiler.disable(_attention))
    AttentionMaskInterface.register(_NAME, sdpa_mask)


def _attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    packed_rows: PackedRows | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """[1, H, N, D_h] each → [1, N, H, D_h]; without packed rows as transformers has it."""
    if packed_rows is None:
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        return sdpa_attention_forward(module, query, key, value, attention_mask, **options)
    beginning = packed_rows.beginning[module.layer_idx] if packed_rows.beginning else None
    if can_be_at_once(query, options.get("dropout", 0.0)):
        return at_once(query, key, value, packed_rows.lengths, beginning, scaling=options.get("scaling")), None
    return row_by_row(module, query, key, value, packed_rows.lengths, beginning, **options), None


def packed(lengths: Sequence[int], beginning: Any = None) -> PackedRows:
    """The layout of rows of these lengths after the keys and values of a cache."""
    layers = () if beginning is None else tuple((layer.keys, layer.values) for layer in beginning.layers)
    return PackedRows(tuple(lengths), layers)
