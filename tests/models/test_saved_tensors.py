"""What a training step keeps for its backward pass: nothing that no gradient needs."""

from typing import Any

import pytest
import torch

from tests.models.conftest import ModelFactory
from tests.saved_tensors import kept_bytes, kept_tensors

Samples = dict[str, Any]
FROZEN = {"freeze_vit": True, "freeze_qformer": True, "freeze_llm": True}


def test_frozen_vision_parts_keep_nothing(make_model: ModelFactory, samples: Samples) -> None:
    model = make_model(**FROZEN).train()
    assert kept_tensors(model, lambda: model.encode_queries(samples["image"])) == []
    (queries,) = kept_tensors(model, lambda: model.encode_img(samples["image"]))  # the projection's input
    assert queries.numel() == 4 * 4 * 32


def test_without_anything_to_train_nothing_is_kept(make_model: ModelFactory, samples: Samples) -> None:
    model = make_model(**FROZEN, freeze_proj=True).train()
    assert kept_tensors(model, lambda: model(samples)) == []


def test_frozen_layers_keep_what_their_inputs_gradient_needs(make_model: ModelFactory) -> None:
    """For each token, with width D and inner width I: 2 D before the norms, 4 D in attention, 2 I in the gated layer; no layer's input."""
    model = make_model(**FROZEN).train()
    inputs = torch.randn(1, 100, 32, requires_grad=True)
    tensors = kept_tensors(model, lambda: model.llama_model.get_decoder()(inputs_embeds=inputs, use_cache=False))
    in_layers = sum(tensor.numel() for tensor in tensors) / 100 / 2
    needed = 6 * 32 + 2 * 64
    extra = 2 + 2 + (32 + 1 + 2 * 16) / 2  # each norm's scale, each head's normaliser; once a model: the last norm, and the rotations
    assert needed <= in_layers <= needed + extra


def test_no_logits_are_kept(make_model: ModelFactory, samples: Samples) -> None:
    """Of the supervised tokens only the gradient of the last hidden states."""
    model = make_model(**FROZEN).train()
    vocabulary = model.llama_model.config.vocab_size
    assert not [tensor.shape for tensor in kept_tensors(model, lambda: model(samples)) if vocabulary in tensor.shape]


@pytest.mark.parametrize("frozen", [True, False])
def test_gradient_checkpointing_keeps_less_and_changes_no_gradient(make_model: ModelFactory, samples: Samples, frozen: bool) -> None:
    model, plain = (
        make_model(freeze_llm=frozen, freeze_vit=True, freeze_qformer=True, grad_checkpoint={"llm": on}).train() for on in (True, False)
    )
    assert kept_bytes(model, lambda: model(samples)) < 0.5 * kept_bytes(plain, lambda: plain(samples))
    for each in (model, plain):
        each(samples)["loss"].backward()
    own, expected = ({name: value.grad for name, value in each.named_parameters() if value.grad is not None} for each in (model, plain))
    torch.testing.assert_close(own, expected, rtol=1e-5, atol=1e-7)
    assert model.eval().write_reports(samples["image"], max_new_tokens=4) == plain.eval().write_reports(samples["image"], max_new_tokens=4)


def test_no_keys_and_values_are_built_in_training(make_model: ModelFactory, samples: Samples, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model(freeze_vit=True, freeze_qformer=True).train()
    seen: list[Any] = []
    monkeypatch.setattr(
        model.llama_model.model,
        "forward",
        lambda forward=model.llama_model.model.forward, **kwargs: seen.append(kwargs) or forward(**kwargs),
    )
    model(samples)
    assert seen[0]["use_cache"] is False and "past_key_values" not in seen[0]
    assert seen[0]["attention_mask"].numel() == 1  # rows are told apart by their lengths
