"""Rows one after another: the numbers of each row alone, and not one token more."""

from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, MistralConfig, PreTrainedModel, Qwen2Config, Qwen3Config

from tests.models.conftest import ModelFactory
from xraygpt.models import mini_gpt4
from xraygpt.models.packing import ARCHITECTURES, can_pack, packed

SIZES = {
    "vocab_size": 50,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
}
CONFIGS = {
    "llama": LlamaConfig(**SIZES),
    "mistral": MistralConfig(**SIZES, sliding_window=None),
    "qwen2": Qwen2Config(**SIZES),
    "qwen3": Qwen3Config(**SIZES),
}
FROZEN = {"freeze_vit": True, "freeze_qformer": True, "freeze_llm": True}
TEMPLATE = "###Patient: {} ###Doctor: "


def language_model(config: Any) -> PreTrainedModel:
    torch.manual_seed(0)
    llm = AutoModelForCausalLM.from_config(config)
    for parameter in llm.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return llm.eval()


@pytest.mark.parametrize("architecture", sorted(ARCHITECTURES))
def test_each_row_sees_itself_alone(architecture: str) -> None:
    """Hidden states and gradients of three rows in one are those of each row by itself."""
    llm: Any = language_model(CONFIGS[architecture])
    rows = [torch.randn(1, length, 32, generator=torch.Generator().manual_seed(length)) for length in (7, 1, 12)]
    alone = [row.clone().requires_grad_() for row in rows]
    expected = torch.cat([llm.get_decoder()(inputs_embeds=row).last_hidden_state for row in alone], dim=1)
    weights = torch.randn(expected.shape, generator=torch.Generator().manual_seed(0))
    (expected * weights).sum().backward()
    assert can_pack(llm)
    together = torch.cat(rows, dim=1).requires_grad_()
    found = llm.get_decoder()(inputs_embeds=together, use_cache=False, **packed([7, 1, 12]).arguments(together.device)).last_hidden_state
    (found * weights).sum().backward()
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(together.grad, torch.cat([row.grad for row in alone], dim=1), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "config",
    [
        MistralConfig(**SIZES, sliding_window=4),
        LlamaConfig(**SIZES, attn_implementation="eager"),
        "gemma2",
    ],
)
def test_others_are_padded(config: Any) -> None:
    if config == "gemma2":
        from transformers import Gemma2Config

        config = Gemma2Config(**SIZES)
    llm = language_model(config)
    before = llm.config._attn_implementation
    assert not can_pack(llm)
    assert llm.config._attn_implementation == before


def test_a_packed_model_still_writes_the_same(make_model: ModelFactory, samples: dict[str, Any]) -> None:
    model = make_model(**FROZEN, prompt_template=TEMPLATE).eval()
    before = model.write_reports(samples["image"], max_new_tokens=12)
    model(samples)
    assert can_pack(model.llama_model)
    assert model.write_reports(samples["image"], max_new_tokens=12) == before


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("template", ["{}", TEMPLATE])
def test_packed_is_padded_without_the_padding(
    make_model: ModelFactory, samples: dict[str, Any], template: str, recompute: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Loss and gradient, with and without a constant beginning; and only real tokens are computed."""
    samples = {**samples, "caption": ["Short.", *samples["caption"][1:]]}
    model = make_model(**FROZEN, prompt_template=template, grad_checkpoint={"llm": recompute}).train()
    for parameter in model.llama_model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    results, computed = [], []
    model.llama_model.get_decoder().register_forward_pre_hook(
        lambda module, args, kwargs: computed.append(kwargs["inputs_embeds"].shape[:2].numel()), with_kwargs=True
    )
    for packs in (True, False):
        monkeypatch.setattr(mini_gpt4, "can_pack", can_pack if packs else lambda llm: False)
        model.zero_grad()
        model.beginning.forget()
        loss = model(samples)["loss"]
        loss.backward()
        results.append([loss.detach(), model.llama_proj.weight.grad.clone()])
        last = computed[-1]
        computed.append(last)
    torch.testing.assert_close(results[0], results[1], rtol=1e-5, atol=1e-6)
    prompts = model.prompt_wrap(model.choose_prompts(samples))
    answers = [len(model.llama_tokenizer(text + "###", add_special_tokens=False).input_ids) for text in samples["caption"]]
    beginning = model.beginning._ids
    constant = 0 if model.beginning._cache is None else len(beginning)
    real = sum(map(len, prompts)) + sum(min(count, model.max_txt_len) for count in answers) - 4 * constant
    assert real in computed and computed[-1] > real


def test_a_trained_language_model_is_packed_too(make_model: ModelFactory, samples: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    gradients = []
    for packs in (True, False):
        monkeypatch.setattr(mini_gpt4, "can_pack", can_pack if packs else lambda llm: False)
        model = make_model().train()
        model(samples)["loss"].backward()
        gradients.append({name: value.grad for name, value in model.named_parameters() if value.grad is not None})
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-4, atol=1e-6)
