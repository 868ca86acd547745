"""Token ids, embeddings, loss and gradients of a training batch, and greedy text.

The original cuts a target that is too long at its end, so that the third caption of the recording has no end symbol. Ours keeps
it; where that matters, the recorded ids are put in.
"""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from tests.parity.reference import TOLERANCE, assert_close, recorded_batch
from xraygpt.conversation.prompts import IMAGE_PLACEHOLDER
from xraygpt.models import MiniGPT4
from xraygpt.models.sequence import IGNORE, IMAGE, answer_ids, embed, pad_rows, tokenize

Recorded = dict[str, Any]
ALL = [0, 1, 2]


def test_prompt_ids(reference_model: MiniGPT4, inputs: Recorded, outputs: Recorded) -> None:
    bos = [reference_model.llama_tokenizer.bos_token_id]
    expected = bos + outputs["prompt_before_ids"] + [IMAGE] * 32 + outputs["prompt_after_ids"]
    assert reference_model.prompt_wrap([inputs["prompt"]]) == [expected]


def test_targets(reference_model: MiniGPT4, inputs: Recorded, recorded_answers: list[list[int]]) -> None:
    tokenizer = reference_model.llama_tokenizer
    ours = [answer_ids(tokenizer, caption, "###", 160) for caption in inputs["captions"]]
    assert ours[:2] == recorded_answers[:2]
    assert tokenize(tokenizer, inputs["captions"][2] + "###")[:160] == recorded_answers[2]


def test_end_symbol_is_supervised_after_truncation(reference_model: MiniGPT4, inputs: Recorded, recorded_answers: list[list[int]]) -> None:
    ours = answer_ids(reference_model.llama_tokenizer, inputs["captions"][2], "###", 160)
    assert len(ours) == 160
    assert ours[:-3] == recorded_answers[2][:-3]
    assert ours[-3:] == recorded_answers[0][-3:] != recorded_answers[2][-3:]
    out = reference_model({"image": inputs["image"][2:], "caption": inputs["captions"][2:]})
    assert out["num_tokens"] == 160


@torch.no_grad()
def test_batch(reference_model: MiniGPT4, inputs: Recorded, outputs: Recorded, recorded_answers: list[list[int]]) -> None:
    batch = recorded_batch(reference_model, recorded_answers, ALL)
    assert torch.equal(batch.labels, outputs["labels"])
    assert torch.equal(batch.attention_mask, outputs["attention_mask"])
    embeds = embed(batch, reference_model.llama_model.get_input_embeddings(), reference_model.encode_img(inputs["image"]))
    assert embeds.shape == outputs["inputs_embeds_shape"]
    # A sum over 60,000 values; float32 itself keeps no more than the tolerance of each.
    assert embeds.double().sum((1, 2)).tolist() == pytest.approx(outputs["inputs_embeds_sum"].tolist(), abs=100 * TOLERANCE)


@torch.no_grad()
def test_log_probability_of_each_target(
    reference_model: MiniGPT4, inputs: Recorded, outputs: Recorded, recorded_answers: list[list[int]]
) -> None:
    batch = recorded_batch(reference_model, recorded_answers, ALL)
    embeds = embed(batch, reference_model.llama_model.get_input_embeddings(), reference_model.encode_img(inputs["image"]))
    logits = reference_model.llama_model(inputs_embeds=embeds, attention_mask=batch.attention_mask).logits[:, :-1]
    targets = batch.labels[:, 1:]
    ours = -F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none").view_as(targets)
    supervised = targets != IGNORE
    assert_close(ours[supervised], outputs["target_logprob"][supervised])


def test_loss_and_gradients(model_to_train: MiniGPT4, inputs: Recorded, outputs: Recorded, recorded_answers: list[list[int]]) -> None:
    batch = recorded_batch(model_to_train, recorded_answers, ALL)
    loss = model_to_train.loss_of(batch, model_to_train.encode_img(inputs["image"]))
    assert_close(loss, outputs["loss"])
    loss.backward()
    assert_close(model_to_train.llama_proj.weight.grad, outputs["grad_llama_proj_weight"])
    assert_close(model_to_train.llama_proj.bias.grad, outputs["grad_llama_proj_bias"])


@torch.no_grad()
@pytest.mark.parametrize("i", [0, 1])
def test_loss_of_one_sample(reference_model: MiniGPT4, inputs: Recorded, outputs: Recorded, i: int) -> None:
    out = reference_model({"image": inputs["image"][i : i + 1], "caption": [inputs["captions"][i]]})
    assert_close(out["loss"], outputs["loss_single"][i])


@torch.no_grad()
def test_loss_of_the_truncated_sample(
    reference_model: MiniGPT4, inputs: Recorded, outputs: Recorded, recorded_answers: list[list[int]]
) -> None:
    batch = recorded_batch(reference_model, recorded_answers, [2])
    assert_close(reference_model.loss_of(batch, reference_model.encode_img(inputs["image"][2:])), outputs["loss_single"][2])


@torch.no_grad()
def test_loss_without_a_prompt(reference_model: MiniGPT4, inputs: Recorded, outputs: Recorded) -> None:
    """Begin-of-text, image, text: targets of 32 tokens, whose newline at the end the original's cut takes away."""
    prompt = reference_model.prompt_wrap([IMAGE_PLACEHOLDER])[0]
    assert prompt == [reference_model.llama_tokenizer.bos_token_id] + [IMAGE] * 32
    answers = [tokenize(reference_model.llama_tokenizer, caption + "\n")[:32] for caption in inputs["captions"]]
    batch = pad_rows([prompt + answer for answer in answers], [32] * 3, pad_id=0)
    loss = reference_model.loss_of(batch, reference_model.encode_img(inputs["image"]))
    assert_close(loss, outputs["loss_stage1_noprompt_maxlen32_newline"])


@torch.no_grad()
@pytest.mark.parametrize(("recorded", "settings"), [("no_stop", {}), ("no_stop_beam3", {"num_beams": 3})])
def test_generated_tokens(reference_model: MiniGPT4, reference: Path, inputs: Recorded, recorded: str, settings: dict[str, Any]) -> None:
    """The smallest margin between the best two tokens is 0.002, far above the tolerance."""
    turn = json.loads((reference / "generation.json").read_text(encoding="utf-8"))[recorded][0]
    image_embeds = reference_model.encode_img(inputs["image"][:1])
    rows = reference_model.prompt_wrap([turn["prompt"]])
    embeds = embed(pad_rows(rows, [0], pad_id=0), reference_model.llama_model.get_input_embeddings(), image_embeds)
    assert embeds.shape[1] == turn["prompt_embeds"]
    assert float(embeds.double().sum()) == pytest.approx(turn["prompt_embeds_sum"], abs=100 * TOLERANCE)
    (written,) = reference_model.generate([turn["prompt"]], image_embeds, max_new_tokens=48, end_sym="", **settings)
    assert written.token_ids == turn["token_ids"]
