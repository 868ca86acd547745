"""Attention of packed rows, row by row and at once, gives each row what it gets alone."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from xraygpt.models import packed_attention
from xraygpt.models.packed_attention import at_once, can_be_at_once, row_by_row

LENGTHS = (7, 1, 12)
HEADS, KEY_HEADS, WIDTH, BEGINNING = 4, 2, 8, 5
MODULE = SimpleNamespace(num_key_value_groups=HEADS // KEY_HEADS, is_causal=True)


def tensors(device: str = "cpu", dtype: torch.dtype = torch.float32) -> tuple[list[Tensor], tuple[Tensor, Tensor]]:
    """Queries, keys and values of all rows, and keys and values of a beginning."""
    made = torch.Generator().manual_seed(0)
    shapes = [(1, heads, sum(LENGTHS), WIDTH) for heads in (HEADS, KEY_HEADS, KEY_HEADS)]
    rows = [torch.randn(shape, generator=made).to(device, dtype).requires_grad_() for shape in shapes]
    before = [torch.randn(1, KEY_HEADS, BEGINNING, WIDTH, generator=made).to(device, dtype) for _ in range(2)]
    return rows, (before[0], before[1])


def written_out(rows: list[Tensor], beginning: tuple[Tensor, Tensor] | None, scaling: float) -> Tensor:
    """Each row alone, its softmax spelled out."""
    seen = []
    for q, k, v in zip(*(each.split(LENGTHS, dim=2) for each in rows), strict=True):
        if beginning is not None:
            k, v = torch.cat([beginning[0], k], dim=2), torch.cat([beginning[1], v], dim=2)
        k, v = (each.repeat_interleave(HEADS // KEY_HEADS, dim=1) for each in (k, v))
        scores = scaling * q @ k.transpose(2, 3)
        later = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).triu(k.shape[2] - q.shape[2] + 1)
        seen.append(scores.masked_fill(later, -torch.inf).softmax(dim=-1) @ v)
    return torch.cat(seen, dim=2).transpose(1, 2)


def flash_attention(
    q: Tensor, k: Tensor, v: Tensor, cu_seq_q: Tensor, cu_seq_k: Tensor, max_q: int, max_k: int, *, scale: float, **options: Any
) -> Tensor:
    """torch's varlen_attn as its documentation says, for the CPU, which has none: causal, the last query beside the last key."""
    assert options == {"window_size": (-1, 0), "enable_gqa": True}
    assert cu_seq_q.dtype == cu_seq_k.dtype == torch.int32
    assert (max_q, max_k) == (int(cu_seq_q.diff().max()), int(cu_seq_k.diff().max()))
    assert cu_seq_q[-1] == len(q) and cu_seq_k[-1] == len(k) == len(v)
    seen = []
    for row in range(len(cu_seq_q) - 1):
        own = q[cu_seq_q[row] : cu_seq_q[row + 1]]
        keys, values = (each[cu_seq_k[row] : cu_seq_k[row + 1]].repeat_interleave(HEADS // KEY_HEADS, dim=1) for each in (k, v))
        scores = scale * torch.einsum("qhd,khd->hqk", own, keys)
        later = torch.ones(len(own), len(keys), dtype=torch.bool).triu(len(keys) - len(own) + 1)
        seen.append(torch.einsum("hqk,khd->qhd", scores.masked_fill(later, -torch.inf).softmax(dim=-1), values))
    return torch.cat(seen)


def value_and_gradients(way: Any, rows: list[Tensor]) -> list[Tensor]:
    seen = way()
    weights = torch.linspace(-1, 1, seen.numel(), device=seen.device).view_as(seen)
    return [seen.detach(), *torch.autograd.grad((seen.float() * weights).sum(), rows)]


@pytest.mark.parametrize("with_beginning", [False, True])
@pytest.mark.parametrize("way", ["row by row", "at once"])
def test_each_row_gets_what_it_gets_alone(way: str, with_beginning: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", flash_attention)
    rows, before = tensors()
    beginning = before if with_beginning else None
    ways = {
        "row by row": lambda: row_by_row(MODULE, *rows, LENGTHS, beginning, scaling=0.3),
        "at once": lambda: at_once(*rows, LENGTHS, beginning, scaling=0.3),
    }
    found = value_and_gradients(ways[way], rows)
    torch.testing.assert_close(found, value_and_gradients(lambda: written_out(rows, beginning, 0.3), rows), rtol=1e-4, atol=1e-5)


def test_all_layers_share_where_rows_begin() -> None:
    bounds = packed_attention._bounds(LENGTHS, torch.device("cpu"))
    assert bounds.tolist() == [0, 7, 8, 20] and packed_attention._bounds(LENGTHS, torch.device("cpu")) is bounds


def test_on_the_cpu_rows_are_computed_one_by_one() -> None:
    assert not can_be_at_once(torch.zeros(1, 1, 1, 8, dtype=torch.bfloat16), 0.0)


@pytest.mark.gpu
@pytest.mark.parametrize("with_beginning", [False, True])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_flash_attention_of_the_gpu(dtype: torch.dtype, with_beginning: bool) -> None:
    """Against the same written out in float32, within the precision of its type; also under autocast."""
    rows, before = tensors("cuda", dtype)
    exact, exact_before = tensors("cuda")
    assert can_be_at_once(rows[0], 0.0) and not can_be_at_once(rows[0], 0.1) and not can_be_at_once(exact[0], 0.0)
    expected = value_and_gradients(lambda: written_out(exact, exact_before if with_beginning else None, 0.3), exact)
    found = value_and_gradients(lambda: at_once(*rows, LENGTHS, before if with_beginning else None, scaling=0.3), rows)
    for one, other in zip(found, expected, strict=True):
        assert (one.float() - other).norm() < 0.02 * other.norm()
    with torch.autocast("cuda", dtype=dtype):
        assert can_be_at_once(exact[0], 0.0)
        assert at_once(*exact, LENGTHS, None, scaling=0.3).dtype is dtype


@pytest.mark.gpu
def test_dispatch_on_the_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A packed language model in bfloat16 gives the same hidden states either way."""
    from transformers import AutoModelForCausalLM, LlamaConfig

    from xraygpt.models import packing

    config = LlamaConfig(
        vocab_size=50, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2
    )
    torch.manual_seed(0)
    llm: Any = AutoModelForCausalLM.from_config(config).to("cuda", torch.bfloat16).eval()
    assert packing.can_pack(llm)
    inputs = torch.randn(1, sum(LENGTHS), 64, device="cuda", dtype=torch.bfloat16)

    def hidden() -> Tensor:
        with torch.no_grad():
            seen = packing.packed(LENGTHS).arguments(inputs.device)
            return llm.get_decoder()(inputs_embeds=inputs, use_cache=False, **seen).last_hidden_state.float()

    at_once_states = hidden()
    monkeypatch.setattr(packing, "can_be_at_once", lambda query, dropout: False)
    assert (at_once_states - hidden()).norm() < 0.02 * hidden().norm()
