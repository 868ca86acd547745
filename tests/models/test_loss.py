"""The loss over supervised tokens: no logit too many, in chunks as in one piece, and for every kind of last layer."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AutoModelForCausalLM, CohereConfig, Gemma2Config, GraniteConfig, LlamaConfig, OPTConfig, PreTrainedModel

from tests.models.conftest import ModelFactory
from xraygpt.common.errors import ConfigError
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
    for rows in (100, chunk_rows):
        llm: Any = language_model()
        leaf = inputs.clone().requires_grad_()
        loss = supervised_loss(llm, leaf, labels, chunk_rows=rows)
        loss.backward()
        results.append((loss.detach(), leaf.grad, llm.lm_head.weight.grad))
    torch.testing.assert_close(results[1], results[0], rtol=1e-5, atol=1e-6)


def test_a_last_layer_that_is_shared_with_the_embeddings_gets_both_gradients(batch: tuple[Tensor, Tensor]) -> None:
    _, labels = batch
    ids = labels.clamp(min=0)
    gradients = []
    for compute in (written_out, supervised_loss):
        llm: Any = language_model("gemma2")
        assert llm.lm_head.weight is llm.get_input_embeddings().weight
        compute(llm, llm.get_input_embeddings()(ids), labels).backward()
        gradients.append(llm.lm_head.weight.grad)
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-4, atol=1e-5)


def test_what_comes_after_the_loss_scales_the_gradient(batch: tuple[Tensor, Tensor]) -> None:
    llm, (inputs, labels) = language_model(), batch
    leaf = inputs.clone().requires_grad_()
    (of_one,) = torch.autograd.grad(supervised_loss(llm, leaf, labels), leaf)
    (of_three,) = torch.autograd.grad(supervised_loss(llm, leaf, labels) * 3, leaf)
    torch.testing.assert_close(of_three, 3 * of_one)


def test_no_gradient_is_computed_where_none_is_wanted(batch: tuple[Tensor, Tensor]) -> None:
    llm, (inputs, labels) = language_model(), batch
    expected = written_out(llm, inputs, labels)
    with torch.no_grad(), torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        loss = supervised_loss(llm, inputs.requires_grad_(), labels)
    torch.testing.assert_close(loss, expected)
    assert not loss.requires_grad
    assert not [event.key for event in profile.key_averages() if "backward" in event.key.lower()]


def test_small_gradients_survive_float16(batch: tuple[Tensor, Tensor]) -> None:
    """Without a scale they are near float16's smallest number, 6e-8."""
    llm: Any = language_model().half()
    torch.nn.init.normal_(llm.lm_head.weight, std=1e-7)
    gradients = []
    for dtype in (torch.float16, torch.float32):
        leaf = batch[0].clone().to(dtype).requires_grad_()
        (supervised_loss(llm.to(dtype), leaf, batch[1]) * 2.0**10).backward()
        assert leaf.grad is not None
        gradients.append(leaf.grad.float())
    assert (gradients[0] - gradients[1]).norm() < 0.05 * gradients[1].norm()


def rows_of_logits(llm: Any) -> list[int]:
    """Grows by the number of rows each time that the last layer is computed."""
    rows: list[int] = []
    llm.get_output_embeddings().register_forward_hook(lambda module, args, output: rows.append(output.numel() // output.shape[-1]))
    return rows


@pytest.mark.parametrize("chunk_rows", [100, 5])
def test_rows_of_logits_are_supervised_tokens(make_model: ModelFactory, samples: Samples, chunk_rows: int) -> None:
    """Computed divided by supervised is 1.00, the backward pass included."""
    model = make_model(loss_chunk_rows=chunk_rows)
    rows = rows_of_logits(model.llama_model)
    output = model(samples)
    output["loss"].backward()
    assert sum(rows) == output["num_tokens"] > 20
    assert max(rows) <= chunk_rows


def test_at_least_one_row_at_a_time(make_model: ModelFactory) -> None:
    with pytest.raises(ConfigError, match="loss_chunk_rows is 0"):
        make_model(loss_chunk_rows=0)
