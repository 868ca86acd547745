"""Attention of packed rows: each token sees the constant beginning, and the tokens of its own row up to itself.

On CUDA in half precision all rows in one kernel, flash attention over rows of different lengths (Dao, FlashAttention-2, 2023) as torch has
it; elsewhere row by row. Neither computes or stores anything between tokens of different rows.

`N` tokens of all rows together, `P` of the constant beginning, `H` heads, `H_k` those of keys and values, `D_h` width of a head.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

Beginning = tuple[Tensor, Tensor]
"""Keys and values [1, H_k, P, D_h] of one layer."""
_FLASH_WIDTH = 128
"""The widest head for which every GPU that has flash attention has its backward pass, too."""
_FLASH_CAPABILITY = (8, 0)
"""The oldest GPUs that have it."""


def row_by_row(
    module: Any, query: Tensor, key: Tensor, value: Tensor, lengths: Sequence[int], beginning: Beginning | None, **options: Any
) -> Tensor:
    """[1, H, N, D_h] and twice [1, H_k, N, D_h] → [1, N, H, D_h].

    Args:
        module: the attention layer of transformers.
        lengths: of the rows; their sum is N.
        options: of transformers' attention functions.
    """
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    seen = []
    for q, k, v in zip(*(each.split(tuple(lengths), dim=2) for each in (query, key, value)), strict=True):
        mask = None
        if beginning is not None:
            k, v = (torch.cat([constant, own], dim=2) for constant, own in zip(beginning, (k, v), strict=True))
            mask = _causal(q.shape[2], k.shape[2], q.dtype, q.device)
        seen.append(sdpa_attention_forward(module, q, k, v, mask, **options)[0])
    return torch.cat(seen, dim=1)


@functools.lru_cache(maxsize=64)
def _causal(num_queries: int, num_keys: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """[1, 1, queries, keys], 0 or -inf: the queries are the last of the keys, and each sees those up to itself. All layers share it."""
    hidden = torch.full((num_queries, num_keys), -torch.inf, dtype=dtype, device=device)
    return hidden.triu(num_keys - num_queries + 1)[None, None]


def can_be_at_once(query: Tensor, dropout: float) -> bool:
    """Whether `at_once` can compute it: on a GPU that has flash attention, in half precision, without dropout."""
    width = query.shape[-1]
    return (
        query.is_cuda
        and _computed_in(query) in (torch.float16, torch.bfloat16)
        and not dropout
        and width <= _FLASH_WIDTH
        and width % 8 == 0
        and torch.backends.cuda.is_flash_attention_available()
        and torch.cuda.get_device_capability(query.device) >= _FLASH_CAPABILITY
    )


def at_once(
    query: Tensor, key: Tensor, value: Tensor, lengths: tuple[int, ...], beginning: Beginning | None, *, scaling: float | None = None
) -> Tensor:
    """As `row_by_row`, in one kernel, with scores times `scaling`."""
    from torch.nn.attention.varlen import varlen_attn

    dtype, of_keys = _computed_in(query), lengths
    q, k, v = (each[0].transpose(0, 1) for each in (query, key, value))
    if beginning is not None:
        k, v = (_with_beginning(constant[0].transpose(0, 1), own, lengths) for constant, own in zip(beginning, (k, v), strict=True))
        of_keys = tuple(beginning[0].shape[2] + length for length in lengths)
    # The window is causal: nothing later. Where a row has more keys than queries, its queries are the last of them.
    seen: Any = varlen_attn(
        q.to(dtype),
        k.to(dtype),
        v.to(dtype),
        _bounds(lengths, q.device),
        _bounds(of_keys, q.device),
        max(lengths),
        max(of_keys),
        scale=scaling,
        window_size=(-1, 0),
        enable_gqa=q.shape[1] != k.shape[1],
    )
    return seen[None]


def _computed_in(query: Tensor) -> torch.dtype:
    """torch's own attention is told by autocast; this one must be given the type."""
    kind = query.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else query.dtype


def _with_beginning(constant: Tensor, own: Tensor, lengths: tuple[int, ...]) -> Tensor:
    """[P, H_k, D_h] before each row of [N, H_k, D_h]."""
    return torch.cat([part for row in own.split(lengths) for part in (constant, row)])


@functools.lru_cache(maxsize=8)
def _bounds(lengths: tuple[int, ...], device: torch.device) -> Tensor:
    """int32 [rows + 1], where each row begins and the last one ends. All layers share it."""
    return torch.tensor([0, *accumulate(lengths)], dtype=torch.int32).to(device, non_blocking=True)
