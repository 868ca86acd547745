"""Published names of parameters, and files that do not fit."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from xraygpt.common.errors import CheckpointError
from xraygpt.models.blip2 import QFormerSize, VitSize, build_qformer, build_vit
from xraygpt.models.weights import load_into, load_qformer_weights, load_vit_weights, qformer_state

QFORMER_SIZE = QFormerSize(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32)
VIT_SIZE = VitSize(patch_size=14, embed_dim=16, depth=2, num_heads=2, mlp_ratio=2.0)

QFORMER_NAMES = [
    # LAVIS, ours
    ("Qformer.bert.embeddings.LayerNorm.bias", "layernorm.bias"),
    ("Qformer.bert.encoder.layer.0.attention.self.query.weight", "encoder.layer.0.attention.attention.query.weight"),
    ("Qformer.bert.encoder.layer.0.attention.output.dense.weight", "encoder.layer.0.attention.output.dense.weight"),
    ("Qformer.bert.encoder.layer.0.crossattention.self.key.bias", "encoder.layer.0.crossattention.attention.key.bias"),
    ("Qformer.bert.encoder.layer.0.crossattention.output.LayerNorm.bias", "encoder.layer.0.crossattention.output.LayerNorm.bias"),
    ("Qformer.bert.encoder.layer.1.intermediate_query.dense.bias", "encoder.layer.1.intermediate_query.dense.bias"),
    ("Qformer.bert.encoder.layer.1.output_query.LayerNorm.weight", "encoder.layer.1.output_query.LayerNorm.weight"),
]
TEXT_HALF = [
    "Qformer.cls.predictions.bias",
    "Qformer.bert.embeddings.position_ids",
    "Qformer.bert.embeddings.word_embeddings.weight",
    "Qformer.bert.embeddings.position_embeddings.weight",
    "Qformer.bert.encoder.layer.1.intermediate.dense.weight",
    "Qformer.bert.encoder.layer.1.output.dense.weight",
    "Qformer.bert.encoder.layer.1.output.LayerNorm.bias",
]


class VisionHalf(nn.Module):
    """The parts that a BLIP-2 checkpoint fills."""

    def __init__(self) -> None:
        super().__init__()
        self.Qformer, self.query_tokens = build_qformer(vision_width=16, num_query_token=4, size=QFORMER_SIZE)
        self.ln_vision = nn.LayerNorm(16)
        for parameter in self.parameters():
            nn.init.normal_(parameter)

    def lavis_state(self) -> dict[str, Tensor]:
        """These parameters under LAVIS' names, with the text half that a published file also has."""
        state = {key: value.clone() for key, value in self.state_dict().items() if not key.startswith("Qformer.")}
        for key, value in self.Qformer.state_dict().items():
            name = key.replace(".attention.attention.", ".attention.self.").replace(".crossattention.attention.", ".crossattention.self.")
            name = f"embeddings.LayerNorm.{name.removeprefix('layernorm.')}" if name.startswith("layernorm.") else name
            state[f"Qformer.bert.{name}"] = value.clone()
        return state | {name: torch.zeros(3) for name in TEXT_HALF}

    def load(self, path: Path) -> None:
        load_qformer_weights(self.Qformer, self.ln_vision, self.query_tokens, path)


def save(state: dict[str, Any], path: Path) -> Path:
    torch.save(state, path)
    return path


def assert_equal(one: nn.Module, other: nn.Module) -> None:
    assert all(torch.equal(value, other.state_dict()[key]) for key, value in one.state_dict().items())


# Q-Former ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("lavis", "ours"), QFORMER_NAMES)
def test_qformer_names(lavis: str, ours: str) -> None:
    assert list(qformer_state({lavis: torch.zeros(1)})) == [ours]
    assert ours in build_qformer(vision_width=16, num_query_token=4, size=QFORMER_SIZE)[0].state_dict()


@pytest.mark.parametrize("name", TEXT_HALF)
def test_the_text_half_is_left_out(name: str) -> None:
    assert qformer_state({name: torch.zeros(1)}) == {}


def test_a_blip2_file_fills_all_three_parts(tmp_path: Path) -> None:
    published, ours = VisionHalf(), VisionHalf()
    extra = {"t5_proj.weight": torch.zeros(2), "t5_proj.bias": torch.zeros(2)}
    ours.load(save({"model": published.lavis_state() | extra}, tmp_path / "blip2.pth"))
    assert_equal(ours, published)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"Qformer.bert.encoder.layer.1.attention.self.value.bias": None}, "encoder.layer.1.attention.attention.value.bias is missing"),
        ({"Qformer.bert.encoder.layer.2.attention.self.key.bias": torch.zeros(16)}, "encoder.layer.2.* is unexpected"),
        ({"Qformer.bert.embeddings.LayerNorm.bias": torch.zeros(7)}, r"layernorm.bias is \(7,\), expected \(16,\)"),
        ({"ln_vision.weight": None}, "weight is missing"),
        ({"query_tokens": torch.zeros(1, 8, 16)}, r"query_tokens is \(1, 8, 16\).*model.num_query_token"),
        ({"query_tokens": None}, "holds no BLIP-2 Q-Former"),
    ],
)
def test_a_blip2_file_that_does_not_fit(tmp_path: Path, change: dict[str, Tensor | None], message: str) -> None:
    state = {key: value for key, value in (VisionHalf().lavis_state() | change).items() if value is not None}
    path = save({"model": state}, tmp_path / "blip2.pth")
    with pytest.raises(CheckpointError, match=message) as raised:
        VisionHalf().load(path)
    assert str(path) in str(raised.value)


# EVA-ViT -----------------------------------------------------------------------------------------------------------


def vit(image_size: int = 28) -> nn.Module:
    return build_vit(name="eva_clip_g", image_size=image_size, size=VIT_SIZE)


@pytest.mark.parametrize("prefix", ["", "visual_encoder."])
def test_vit_file_with_parts_that_are_not_used(tmp_path: Path, prefix: str) -> None:
    """The published file has a head, a final norm and one block more than BLIP-2 uses."""
    published, ours = vit(), vit()
    state = published.state_dict()
    state |= {key.replace("blocks.1.", "blocks.2."): value for key, value in state.items() if key.startswith("blocks.1.")}
    state |= {
        "head.weight": torch.zeros(10, 16),
        "head.bias": torch.zeros(10),
        "norm.weight": torch.ones(16),
        "fc_norm.bias": torch.ones(16),
    }
    load_vit_weights(ours, save({prefix + key: value for key, value in state.items()}, tmp_path / "eva_vit_g.pth"))
    assert_equal(ours, published)


def test_vit_position_embeddings_follow_the_image_size(tmp_path: Path) -> None:
    published, ours = vit(28), vit(56)
    load_vit_weights(ours, save(published.state_dict(), tmp_path / "eva.pth"))
    assert ours.pos_embed.shape == (1, 17, 16)
    assert torch.equal(ours.pos_embed[:, 0], published.pos_embed[:, 0])
    assert torch.allclose(ours.pos_embed[:, 1:].mean(), published.pos_embed[:, 1:].mean(), atol=0.05)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"blocks.1.attn.proj.bias": None}, "blocks.1.attn.proj.bias is missing"),
        ({"blocks.0.norm1.weight": torch.zeros(5)}, r"blocks.0.norm1.weight is \(5,\), expected \(16,\)"),
    ],
)
def test_vit_file_that_does_not_fit(tmp_path: Path, change: dict[str, Tensor | None], message: str) -> None:
    state = {key: value for key, value in (vit().state_dict() | change).items() if value is not None}
    with pytest.raises(CheckpointError, match=message):
        load_vit_weights(vit(), save(state, tmp_path / "eva.pth"))


def test_a_qformer_file_is_no_vit(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="holds no EVA vision transformer"):
        load_vit_weights(vit(), save({"model": VisionHalf().lavis_state()}, tmp_path / "blip2.pth"))


# Whole checkpoints -------------------------------------------------------------------------------------------------


class Model(VisionHalf):
    """With one more part than a BLIP-2 checkpoint."""

    def __init__(self) -> None:
        super().__init__()
        self.llama_proj = nn.Linear(16, 8)


@pytest.mark.parametrize("names", ["LAVIS", "ours"])
def test_load_into_takes_both_names(names: str) -> None:
    """A checkpoint under LAVIS' names is one that the original saved, without the text half's head."""
    published, ours = Model(), Model()
    state = published.lavis_state() if names == "LAVIS" else published.state_dict()
    load_into(ours, {key: value for key, value in state.items() if not key.startswith("Qformer.cls.")}, "x.pth")
    assert_equal(ours, published)


def test_parts_that_a_file_does_not_mention_stay() -> None:
    model = Model()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    buffers = {"Qformer.bert.embeddings.position_ids": torch.arange(5), "llama_model.layers.0.rotary_emb.inv_freq": torch.ones(2)}
    load_into(model, {"llama_proj.weight": torch.ones(8, 16), "llama_proj.bias": torch.ones(8), **buffers}, "x.pth")
    changed = {key for key, value in model.state_dict().items() if not torch.equal(value, before[key])}
    assert changed == {"llama_proj.weight", "llama_proj.bias"}


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"llama_proj.weight": torch.ones(8, 16)}, "llama_proj.bias is missing"),
        ({"llama_proj.weight": torch.ones(4, 16), "llama_proj.bias": torch.ones(8)}, r"weight is \(4, 16\), expected \(8, 16\)"),
        ({"opt_proj.weight": torch.ones(8, 16)}, "opt_proj.weight is unexpected"),
    ],
)
def test_load_into_a_model_that_does_not_fit(state: dict[str, Tensor], message: str) -> None:
    model = Model()
    before = model.llama_proj.weight.clone()
    with pytest.raises(CheckpointError, match=f"x.pth does not fit this model: .*{message}"):
        load_into(model, state, "x.pth")
    assert torch.equal(model.llama_proj.weight, before)


def test_only_the_first_problems_are_spelled_out() -> None:
    with pytest.raises(CheckpointError, match=r"a\.7 is unexpected \(and 4 more\)"):
        load_into(Model(), {f"a.{i:x}": torch.ones(1) for i in range(12)}, "x.pth")
