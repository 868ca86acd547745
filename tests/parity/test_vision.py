"""From pixels to image embeddings, stage by stage, and the loading of the original's weight files."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.parity.reference import TOLERANCE, assert_close, unloaded_model
from xraygpt.models import MiniGPT4
from xraygpt.models.blip2 import VitSize, build_vit
from xraygpt.models.weights import load_vit_weights


@torch.no_grad()
def test_vit_without_final_norm(reference_model: MiniGPT4, inputs: dict[str, Any], outputs: dict[str, Any]) -> None:
    assert_close(reference_model.visual_encoder(inputs["image"])[:, :2], outputs["vit_raw_first2tokens"])


@torch.no_grad()
def test_vit_after_ln_vision(reference_model: MiniGPT4, inputs: dict[str, Any], outputs: dict[str, Any]) -> None:
    assert_close(reference_model.ln_vision(reference_model.visual_encoder(inputs["image"])), outputs["vit_ln"])


@torch.no_grad()
def test_qformer(reference_model: MiniGPT4, inputs: dict[str, Any], outputs: dict[str, Any]) -> None:
    assert_close(reference_model.encode_queries(inputs["image"]), outputs["qformer_last_hidden_state"])


@torch.no_grad()
def test_image_embeddings(reference_model: MiniGPT4, inputs: dict[str, Any], outputs: dict[str, Any]) -> None:
    assert_close(reference_model.encode_img(inputs["image"]), outputs["inputs_llama"])


@pytest.fixture(scope="module")
def eva(reference: Path) -> dict[str, Any]:
    """A vision transformer whose heads are 88 wide, as EVA-ViT-g's."""
    return torch.load(reference / "eva_only.pt")


def loaded_eva(eva: dict[str, Any], image_size: int, folder: Path) -> nn.Module:
    torch.save(eva["state_dict"], folder / "eva.pth")
    vit = build_vit(name="eva_clip_g", image_size=image_size, size=VitSize(14, 176, 3, 2, 4.3637))
    load_vit_weights(vit, folder / "eva.pth")
    return vit.eval()


@torch.no_grad()
def test_heads_as_wide_as_eva_g(eva: dict[str, Any], inputs: dict[str, Any], tmp_path: Path) -> None:
    vit = loaded_eva(eva, 224, tmp_path)
    after_block: list[Tensor] = []
    for block in vit.blocks:
        block.register_forward_hook(lambda _, __, output: after_block.append(output[:, :4]))
    assert_close(vit(inputs["image"][:1]), eva["output"])
    assert len(after_block) == len(eva["after_block"])
    for ours, theirs in zip(after_block, eva["after_block"], strict=True):
        assert_close(ours, theirs)


def test_position_embeddings_of_a_larger_image(eva: dict[str, Any], tmp_path: Path) -> None:
    """Bicubic interpolation from 16 x 16 to 20 x 20 patches; the class token's stays."""
    pos_embed = loaded_eva(eva, 280, tmp_path).pos_embed.detach()
    assert pos_embed.shape == (1, 401, 176)
    assert_close(pos_embed[:, :8], eva["pos_embed_280_first8"])
    assert float(pos_embed.double().sum()) == pytest.approx(float(eva["pos_embed_280_sum"]), abs=100 * TOLERANCE)  # of 70,000 values


@torch.no_grad()
def test_a_file_of_the_original_loads(
    reference: Path, reference_model: MiniGPT4, inputs: dict[str, Any], outputs: dict[str, Any], tmp_path: Path
) -> None:
    """All parts under "model", with the buffers that its checkpoints carry along."""
    state = torch.load(reference / "state_dict.pt")
    assert {key.rsplit(".", 1)[-1] for key in state} >= {"position_ids", "inv_freq"}
    torch.save({"model": state, "epoch": 3}, tmp_path / "checkpoint_3.pth")
    model = unloaded_model(reference)
    model.load_parts(str(tmp_path / "checkpoint_3.pth"))
    assert all(torch.equal(value, reference_model.state_dict()[key]) for key, value in model.state_dict().items())
    assert_close(model.eval().encode_img(inputs["image"]), outputs["inputs_llama"])


def test_a_checkpoint_of_the_original_holds_the_projection_and_buffers(reference: Path, reference_model: MiniGPT4, tmp_path: Path) -> None:
    state = torch.load(reference / "state_dict.pt")
    kept = {key: value for key, value in state.items() if key.startswith("llama_proj.") or key.endswith(("position_ids", "inv_freq"))}
    torch.save({"model": kept}, tmp_path / "checkpoint.pth")
    model = unloaded_model(reference)
    before = model.query_tokens.detach().clone()
    model.load_parts(str(tmp_path / "checkpoint.pth"))
    assert torch.equal(model.llama_proj.weight, reference_model.llama_proj.weight)
    assert torch.equal(model.query_tokens, before)
