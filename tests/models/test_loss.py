"""The loss over supervised tokens: no logit too many, in chunks as in one piece, and for every kind of last layer."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AutoModelForCausalLM, CohereConfig, Gemma2Config, GraniteConfig, LlamaConfig, OPTConfig, PreTrainedModel

from tests.models.conftest import ModelFactory
from xraygpt.models import loss as loss_module
from xraygpt.models.loss import logits_of, supervised_loss
from xraygpt.models.sequence import IGNORE

Samples = dict[str, Any]
SIZES = {
    "vocab_size": 50,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "pad_token_id": 0,
}
OPT_SIZES = {
    "vocab_size": 50,
    "hidden_size": 32,
    "ffn_dim": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "word_embed_proj_dim": 32,
}
CONFIGS = {
    "llama": LlamaConfig(**SIZES),
    "gemma2": Gemma2Config(**SIZES, final_logit_softcapping=0.5),
    "cohere": CohereConfig(**SIZES, logit_scale=0.25),
    "granite": GraniteConfig(**SIZES, logits_scaling=3.0),
    "opt": OPTConfig(**OPT_SIZES),
}


def language_model(architecture: str = "llama") -> PreTrainedModel:
    torch.manual_seed(0)
    llm = AutoModelForCausalLM.from_config(CONFIGS[architecture])
    for parameter in llm.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return llm.eval()


@pytest.fixture
def batch() -> tuple[Tensor, Tensor]:
    """Two rows of 9 and 6 tokens, 4 and 3 of them supervised, padded on the right with numbers that must not matter."""
    inputs = torch.randn(2, 9, 32, generator=torch.Generator().manual_seed(1))
    labels = torch.full((2, 9), IGNORE)
    labels[0, 5:] = torch.tensor([7, 8, 9, 10])
    labels[1, 3:6] = torch.tensor([1, 2, 3])
    return inputs, labels


def written_out(llm: PreTrainedModel, inputs: Tensor, labels: Tensor) -> Tensor:
    """All logits of each row alone, without its padding."""
    losses = []
    for row, wanted, length in zip(inputs, labels, [9, 6], strict=True):
        logits = llm(inputs_embeds=row[None, :length]).logits[0]
        losses.append(F.cross_entropy(logits[:-1], wanted[1:length], reduction="sum"))
    return torch.stack(losses).sum() / 7


@pytest.mark.parametrize("architecture", CONFIGS)
def test_loss_and_gradient_are_those_of_all_logits(architecture: str, batch: tuple[Tensor, Tensor]) -> None:
    llm, (inputs, labels) = language_model(architecture), batch
    gradients = []
    for compute in (written_out, supervised_loss):
        leaf = inputs.clone().requires_grad_()
        loss = compute(llm, leaf, labels)
        loss.backward()
        gradients.append((loss.detach(), leaf.grad))
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("architecture", CONFIGS)
def test_logits_are_the_models_own(architecture: str, batch: tuple[Tensor, Tensor]) -> None:
    llm: Any = language_model(architecture)
    hidden = llm.get_decoder()(inputs_embeds=batch[0]).last_hidden_state
    torch.testing.assert_close(logits_of(llm, hidden), llm(inputs_embeds=batch[0]).logits)


@pytest.mark.parametrize("chunk_rows", [1, 3, 7])
def test_chunks_change_no_number(batch: tuple[Tensor, Tensor], chunk_rows: int) -> None:
    """Nor the gradient of the last layer, where it is trained."""
    inputs, labels = batch
    results = []
    for rows in (None, chunk_rows):
        llm: Any = language_model()
        leaf = inputs.clone().requires_grad_()
        loss = supervised_loss(llm, leaf, labels, chunk_rows=rows)
        loss.backward()
        results.append((loss.detach(), leaf.grad, llm.lm_head.weight.grad))
    torch.testing.assert_close(results[1], results[0], rtol=1e-5, atol=1e-6)


def rows_of_logits(llm: Any) -> list[int]:
    """Grows by the number of rows each time that the last layer is computed."""
    rows: list[int] = []
    llm.get_output_embeddings().register_forward_hook(lambda module, args, output: rows.append(output.numel() // output.shape[-1]))
    return rows


def test_large_logits_come_in_chunks_by_themselves(monkeypatch: pytest.MonkeyPatch, batch: tuple[Tensor, Tensor]) -> None:
    llm = language_model()
    rows = rows_of_logits(llm)
    supervised_loss(llm, *batch)
    assert rows == [7]
    monkeypatch.setattr(loss_module, "LOGIT_BYTES", 3 * 4 * 50)
    supervised_loss(llm, *batch)
    assert rows[1:] == [3, 3, 1]


@pytest.mark.parametrize("chunk_rows", [None, 5])
def test_rows_of_logits_are_supervised_tokens(make_model: ModelFactory, samples: Samples, chunk_rows: int | None) -> None:
    """Computed divided by supervised is 1.00."""
    model = make_model(loss_chunk_rows=chunk_rows)
    rows = rows_of_logits(model.llama_model)
    num_tokens = model(samples)["num_tokens"]
    assert sum(rows) == num_tokens > 20
    assert max(rows) == (chunk_rows or num_tokens)
