"""The whole model: loss, prompts, what is trained, and which checkpoints it takes."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from omegaconf import OmegaConf

from tests.fixtures import PROMPTS, SENTENCES, TINY_MODEL
from tests.models.conftest import ModelFactory
from xraygpt.common.checkpoint import save_checkpoint, trainable_state
from xraygpt.common.config import load_yaml
from xraygpt.common.errors import CheckpointError, DataError
from xraygpt.common.schema import check_section
from xraygpt.models import MiniGPT4, MiniGPT4Config

Samples = dict[str, Any]
FROZEN = {"freeze_vit": True, "freeze_qformer": True, "freeze_llm": True}


def one(samples: Samples, i: int) -> Samples:
    return {key: values[i : i + 1] for key, values in samples.items()}


# Training ----------------------------------------------------------------------------------------------------------


def test_a_batch_equals_its_samples(tiny_model: Any, samples: Samples) -> None:
    """Prompts of different lengths, and captions; the batch's loss is the mean over tokens."""
    assert len(set(tiny_model.choose_prompts(samples))) == 2
    singles = [tiny_model(one(samples, i)) for i in range(4)]
    batch = tiny_model(samples)
    num_tokens = [single["num_tokens"] for single in singles]
    assert batch["num_tokens"] == sum(num_tokens)
    assert len(set(num_tokens)) > 2
    weighted = sum(float(single["loss"].detach()) * single["num_tokens"] for single in singles) / sum(num_tokens)
    assert float(batch["loss"].detach()) == pytest.approx(weighted, rel=1e-5)


def test_loss_is_the_cross_entropy_of_caption_and_end_symbol(tiny_model: Any, samples: Samples) -> None:
    """Written out for one sample: all logits, each token predicted from the position before it."""
    tiny_model.max_txt_len = 100
    tokenizer, llm = tiny_model.llama_tokenizer, tiny_model.llama_model
    answer = tokenizer(samples["caption"][2] + "###", add_special_tokens=False).input_ids
    before, after = (tokenizer(text, add_special_tokens=False).input_ids for text in tiny_model.prompt_list[1].split("<ImageHere>"))
    look_up = llm.get_input_embeddings()
    image = tiny_model.encode_img(samples["image"][2:3])[0]
    embeds = torch.cat([look_up(torch.tensor([tokenizer.bos_token_id, *before])), image, look_up(torch.tensor(after + answer))])
    logits = llm(inputs_embeds=embeds[None]).logits[0]
    expected = F.cross_entropy(logits[-len(answer) - 1 : -1], torch.tensor(answer))
    out = tiny_model(one(samples, 2))
    assert out["loss"].item() == pytest.approx(expected.item(), rel=1e-5)
    assert out["loss"].dtype is torch.float32
    assert out["num_tokens"] == len(answer)


def test_long_captions_are_cut_to_max_txt_len(tiny_model: Any, samples: Samples) -> None:
    samples["caption"] = [" ".join(SENTENCES * 4)] * 4
    assert tiny_model(samples)["num_tokens"] == 4 * tiny_model.max_txt_len


def test_an_empty_caption_teaches_the_end_symbol(tiny_model: Any, samples: Samples) -> None:
    samples["caption"] = [""] * 4
    assert tiny_model(samples)["num_tokens"] == 4 * len(tiny_model.llama_tokenizer("###", add_special_tokens=False).input_ids)


@pytest.mark.parametrize("named", [True, False])
def test_nothing_to_learn_from_names_the_sample(tiny_model: Any, samples: Samples, named: bool) -> None:
    tiny_model.end_sym = ""
    samples["caption"][2] = ""
    if not named:
        del samples["sample_id"]
    with pytest.raises(DataError, match=f"No token to learn from in sample {'c' if named else '2'}:"):
        tiny_model(samples)


def test_every_part_learns_from_scratch(make_model: ModelFactory, samples: Samples) -> None:
    model = make_model().train()
    model(samples)["loss"].backward()
    without = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    assert without == []


def test_frozen_parts_stay_as_they_are(make_model: ModelFactory, samples: Samples) -> None:
    """In training mode too: no gradient, no dropout, no drop path."""
    model = make_model(**FROZEN, drop_path_rate=0.5, qformer={**TINY_MODEL["qformer"], "dropout": 0.5}).train()
    assert model.llama_proj.training
    for part in (model.visual_encoder, model.ln_vision, model.Qformer, model.llama_model):
        assert not any(module.training for module in part.modules())
    losses = [model(samples)["loss"] for _ in range(2)]
    assert losses[0].item() == losses[1].item()
    losses[0].backward()
    assert {name for name, parameter in model.named_parameters() if parameter.grad is not None} == {"llama_proj.weight", "llama_proj.bias"}
    assert {part for part, (_, trainable) in model.parameter_counts().items() if trainable} == {"llama_proj"}


def test_each_part_is_frozen_on_its_own(make_model: ModelFactory) -> None:
    parts = {
        "freeze_vit": {"visual_encoder", "ln_vision"},
        "freeze_qformer": {"Qformer", "query_tokens"},
        "freeze_llm": {"llama_model"},
        "freeze_proj": {"llama_proj"},
    }
    for option, expected in parts.items():
        counts = make_model(**{option: True}).parameter_counts()
        assert {part for part, (_, trainable) in counts.items() if not trainable} == expected


# Prompts -----------------------------------------------------------------------------------------------------------


def test_prompts_follow_the_seeds(tiny_model: Any, samples: Samples) -> None:
    first, second = tiny_model.prompt_list
    assert tiny_model.choose_prompts(samples) == [first, second, second, first]
    assert tiny_model.choose_prompts({**samples, "prompt_seed": torch.tensor([1, 0, 0, 7])}) == [second, first, first, second]


def test_without_seeds_the_first_prompt_is_taken(tiny_model: Any, samples: Samples) -> None:
    del samples["prompt_seed"]
    assert tiny_model.choose_prompts(samples) == tiny_model.prompt_list[:1] * 4


def test_a_samples_own_instruction_goes_first(tiny_model: Any, samples: Samples) -> None:
    own = [f"<Img><ImageHere></Img> Question {i}?" for i in range(4)]
    assert tiny_model.choose_prompts({**samples, "instruction": own}) == own
    assert tiny_model({**samples, "instruction": own})["loss"] != tiny_model(samples)["loss"]


def test_prompts_are_put_into_the_template(make_model: ModelFactory) -> None:
    model = make_model(prompt_template="Q: {} A: ")
    assert model.prompt_list == [f"Q: {prompt} A: " for prompt in PROMPTS]
    assert model.report_prompt() == model.prompt_list[0]
    assert model.report_prompt("Is there an effusion?") == "Q: <Img><ImageHere></Img> Is there an effusion? A: "


def test_without_prompt_file_the_template_holds_the_image(make_model: ModelFactory) -> None:
    assert make_model(prompt_path="", prompt_template="Q: {} A: ").prompt_list == ["Q: <Img><ImageHere></Img> A: "]


def test_text_and_parts_are_the_same_prompt(tiny_model: Any) -> None:
    parts = ["<Img>", "<ImageHere>", "</Img> What?"]
    assert tiny_model.prompt_wrap(["".join(parts)]) == tiny_model.prompt_wrap([parts])


def test_reports_are_as_many_as_images(tiny_model: Any, samples: Samples) -> None:
    reports = tiny_model.write_reports(samples["image"], max_new_tokens=5)
    assert len(reports) == 4
    assert reports[1:2] == tiny_model.write_reports(samples["image"][1:2], max_new_tokens=5)


def test_reports_and_features_from_one_encoding(tiny_model: Any, samples: Samples) -> None:
    calls: list[int] = []
    hook = tiny_model.visual_encoder.register_forward_hook(lambda *_: calls.append(1))
    written, features = tiny_model.generate_reports(samples["image"], max_new_tokens=5)
    hook.remove()
    assert calls == [1]
    assert [row.text for row in written] == tiny_model.write_reports(samples["image"], max_new_tokens=5)
    assert torch.equal(features, tiny_model.image_features(samples["image"]))
    assert features.shape == (4, 32) and features.dtype is torch.float32
    assert torch.allclose(tiny_model.llama_proj(features), tiny_model.encode_img(samples["image"]).mean(dim=1), atol=1e-5)


# Checkpoints -------------------------------------------------------------------------------------------------------


def save(model: Any, path: Path) -> str:
    save_checkpoint(path, {"model": trainable_state(model), "llm": model.identity(), "epoch": 0})
    return str(path)


@pytest.fixture
def projection(make_model: ModelFactory, tmp_path: Path) -> tuple[Any, str]:
    """A model whose language model is frozen, and its checkpoint: the projection alone."""
    model = make_model(**FROZEN)
    return model, save(model, tmp_path / "projection.pth")


def test_a_checkpoint_for_this_language_model_loads(make_model: ModelFactory, projection: tuple[Any, str]) -> None:
    trained, path = projection
    model = make_model(**FROZEN)
    torch.nn.init.zeros_(model.llama_proj.weight)
    model.load_parts(path)
    assert torch.equal(model.llama_proj.weight, trained.llama_proj.weight)


@pytest.mark.parametrize("difference", ["weights", "tokenizer"])
def test_a_checkpoint_for_another_language_model_is_refused(
    make_model: ModelFactory, projection: tuple[Any, str], other_llm: Path, tiny_llm: Path, difference: str
) -> None:
    trained, path = projection
    model = make_model(seed=1, **FROZEN, **({"llama_model": str(other_llm)} if difference == "tokenizer" else {}))
    before = model.llama_proj.weight.clone()
    with pytest.raises(CheckpointError, match=r"was trained with the language model.*allow_other_llm=True") as raised:
        model.load_parts(path)
    assert repr(str(tiny_llm)) in str(raised.value)
    assert repr(model.llm_name) in str(raised.value)
    assert torch.equal(model.llama_proj.weight, before)
    model.load_parts(path, allow_other_llm=True)
    assert torch.equal(model.llama_proj.weight, trained.llama_proj.weight)


def test_a_checkpoint_that_brings_its_language_model_loads(make_model: ModelFactory, samples: Samples, tmp_path: Path) -> None:
    """The first stage from scratch, then the second: there, the language model of the folder has other random weights."""
    trained = make_model().eval()
    path = save(trained, tmp_path / "stage1.pth")
    model = make_model(seed=1, ckpt=path, **FROZEN).eval()
    torch.testing.assert_close(model(samples)["loss"], trained(samples)["loss"])
    assert model.llm_is_pretrained


def test_but_not_with_another_tokenizer(make_model: ModelFactory, other_llm: Path, tmp_path: Path) -> None:
    path = save(make_model(), tmp_path / "stage1.pth")
    with pytest.raises(CheckpointError, match=r"tokenizer .* there, .* here"):
        make_model(ckpt=path, llama_model=str(other_llm))


def test_a_checkpoint_without_identity_loads(make_model: ModelFactory, projection: tuple[Any, str], tmp_path: Path) -> None:
    """Published projections have none."""
    torch.save({"model": trainable_state(projection[0])}, tmp_path / "published.pth")
    model = make_model(seed=1, ckpt=str(tmp_path / "published.pth"), **FROZEN)
    assert torch.equal(model.llama_proj.weight, projection[0].llama_proj.weight)


def test_of_several_checkpoints_the_last_wins(make_model: ModelFactory, tmp_path: Path) -> None:
    paths = []
    for value in (1.0, 2.0):
        paths.append(str(tmp_path / f"{value}.pth"))
        torch.save({"llama_proj.weight": torch.full((32, 32), value), "llama_proj.bias": torch.zeros(32)}, paths[-1])
    assert (make_model(ckpt=paths).llama_proj.weight == 2.0).all()


# Sizes and warnings ------------------------------------------------------------------------------------------------


def test_full_size(test_data: Path, repo_root: Path) -> None:
    """The default file's model, counted without its storage or its weight files; the language model is the small reference."""
    values: Any = OmegaConf.to_container(load_yaml(repo_root / "xraygpt/configs/models/xraygpt.yaml").model)
    values |= {"llama_model": str(test_data / "reference/llama"), "prompt_path": str(repo_root / values["prompt_path"])}
    cfg, problems = check_section(MiniGPT4Config, {**values, "model_type": "pretrain_vicuna"}, "model")
    assert not problems
    model = MiniGPT4.skeleton(cfg)
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}
    assert model.parameter_counts() == {
        "visual_encoder": (985_894_528, 0),
        "ln_vision": (2 * 1408, 0),
        "Qformer": (105_137_664, 0),
        "query_tokens": (24_576, 0),
        "llama_proj": (768 * 256 + 256, 768 * 256 + 256),
        "llama_model": (3_254_528, 0),
    }


def test_a_pretrained_model_does_not_start_by_guessing(tiny_model: Any) -> None:
    guessing = math.log(tiny_model.llama_model.config.vocab_size)
    assert tiny_model.first_loss_warning(guessing) is None  # from scratch it does
    tiny_model.llm_is_pretrained = True
    assert "delta weights" in tiny_model.first_loss_warning(guessing)
    assert "delta weights" in tiny_model.first_loss_warning(float("nan"))
    assert tiny_model.first_loss_warning(0.5 * guessing) is None
