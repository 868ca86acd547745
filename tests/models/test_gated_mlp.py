"""Gated layers that keep less compute what transformers' own do."""

import copy
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config

from xraygpt.models.gated_mlp import keep_less_of_gates

SIZES: dict[str, Any] = {
    "vocab_size": 50, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 2, "head_dim": 16, "pad_token_id": 0,
}  # fmt: skip
CONFIGS = {"llama": LlamaConfig, "mistral": MistralConfig, "qwen2": Qwen2Config, "qwen3": Qwen3Config}


def language_model(architecture: str, **values: Any) -> Any:
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(CONFIGS[architecture](**SIZES, **values)).eval()


@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.parametrize("architecture", CONFIGS)
def test_numbers_stay(architecture: str, trained: bool) -> None:
    plain = language_model(architecture).requires_grad_(trained)
    ours = copy.deepcopy(plain)
    keep_less_of_gates(ours)
    assert all("forward" in vars(layer.mlp) for layer in ours.model.layers)
    results = []
    for llm in (plain, ours):
        inputs = torch.randn(2, 9, 32, generator=torch.Generator().manual_seed(1)).requires_grad_()
        logits = llm(inputs_embeds=inputs).logits
        logits.square().sum().backward()
        results.append([logits.detach(), inputs.grad, *(parameter.grad for parameter in llm.parameters() if parameter.grad is not None)])
    torch.testing.assert_close(results[1], results[0], rtol=1e-5, atol=1e-6)


def test_a_copy_computes_with_its_own_weights() -> None:
    ours = language_model("llama")
    keep_less_of_gates(ours)
    other = copy.deepcopy(ours)
    for parameter in other.parameters():
        torch.nn.init.zeros_(parameter)
    inputs = torch.randn(1, 5, 32)
    assert other(inputs_embeds=inputs).logits.abs().max() == 0 < ours(inputs_embeds=inputs).logits.abs().max()


def test_another_activation_is_left_alone() -> None:
    llm = language_model("llama", hidden_act="gelu")
    keep_less_of_gates(llm)
    assert not any("forward" in vars(layer.mlp) for layer in llm.model.layers)
