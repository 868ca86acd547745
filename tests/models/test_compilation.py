"""Compiled layers: the same numbers, and one compilation for all layers and all lengths."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, Gemma2Config, LlamaConfig

from tests.models.conftest import ModelFactory
from xraygpt.common.errors import ConfigError
from xraygpt.models.compilation import compile_llm
from xraygpt.models.packing import can_pack, packed
from xraygpt.models.recomputation import recompute_layers

SIZES = {"vocab_size": 50, "hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4, "num_key_value_heads": 2}
FROZEN = {"freeze_vit": True, "freeze_qformer": True, "freeze_llm": True}
Backend = Callable[[Any, Any], Any]


@pytest.fixture(autouse=True)
def _nothing_compiled() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def counting() -> tuple[Backend, list[int]]:
    """A compiler that leaves everything as it is, and the numbers of operations that it was given each time."""
    graphs: list[int] = []

    def compiler(graph: Any, inputs: Any) -> Any:
        graphs.append(len(graph.graph.nodes))
        return graph.forward

    return compiler, graphs


def language_model(layers: int) -> Any:
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(LlamaConfig(**SIZES, num_hidden_layers=layers)).requires_grad_(False).eval()


def hidden_and_gradient(llm: Any, lengths: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    inputs = torch.randn(1, sum(lengths), 32, generator=torch.Generator().manual_seed(len(lengths))).requires_grad_()
    hidden = llm.get_decoder()(inputs_embeds=inputs, use_cache=False, **packed(lengths).arguments(inputs.device)).last_hidden_state
    (hidden * torch.linspace(-1, 1, hidden.numel()).view_as(hidden)).sum().backward()
    assert inputs.grad is not None
    return hidden.detach(), inputs.grad


@pytest.mark.parametrize("recompute", [False, True])
def test_layers_and_lengths_share_what_is_compiled(recompute: bool) -> None:
    batches = [[7, 3, 12], [9, 4, 2], [5, 6], [11, 1, 8, 4]]
    compilations = []
    for layers in (2, 12):
        plain, compiled = language_model(layers), language_model(layers)
        can_pack(plain)
        backend, graphs = counting()
        compile_llm(compiled, backend=backend)
        if recompute:
            recompute_layers(compiled)
        for lengths in batches:
            torch.testing.assert_close(hidden_and_gradient(compiled, lengths), hidden_and_gradient(plain, lengths), rtol=1e-5, atol=1e-5)
        compilations.append(len(graphs))
        torch._dynamo.reset()
    assert compilations[0] == compilations[1] <= 6


def test_a_compiled_model_trains_and_writes_as_before(make_model: ModelFactory, samples: dict[str, Any]) -> None:
    found = []
    for compiled in (False, True):
        model = make_model(**FROZEN, compile_llm=compiled).train()
        loss = model(samples)["loss"]
        loss.backward()
        found.append((loss.detach(), model.llama_proj.weight.grad, model.eval().write_reports(samples["image"], max_new_tokens=8)))
    torch.testing.assert_close(found[1][:2], found[0][:2], rtol=1e-5, atol=1e-6)
    assert found[1][2] == found[0][2]


def test_a_language_model_that_is_padded_is_refused() -> None:
    llm = AutoModelForCausalLM.from_config(Gemma2Config(**SIZES, num_hidden_layers=1, head_dim=8))
    with pytest.raises(ConfigError, match="Gemma2ForCausalLM is none of them"):
        compile_llm(llm)


def test_without_a_compiler_the_configuration_is_refused(make_model: ModelFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(ConfigError, match="there is no no-such-compiler"):
        make_model(compile_llm=True)
