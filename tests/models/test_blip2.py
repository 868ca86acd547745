"""The vision half: sizes, precisions, and parts that stay frozen."""

import pytest
import torch
from torch import Tensor, nn

from xraygpt.common.errors import ConfigError
from xraygpt.models.blip2 import Blip2Base, QFormerSize, VitSize, build_qformer, build_vit

TINY_VIT = VitSize(patch_size=14, embed_dim=16, depth=2, num_heads=2, mlp_ratio=2.0)
TINY_QFORMER = QFormerSize(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32)


def tiny_vit(**settings: bool | float) -> nn.Module:
    torch.manual_seed(0)
    return build_vit(name="eva_clip_g", image_size=28, size=TINY_VIT, **settings)


@pytest.fixture
def image() -> Tensor:
    return torch.randn(3, 3, 28, 28, generator=torch.Generator().manual_seed(0))


def test_vit_returns_every_token(image: Tensor) -> None:
    assert tiny_vit()(image).shape == (3, 5, 16)


def test_grad_checkpointing_changes_no_number(image: Tensor) -> None:
    gradients = []
    for vit in (tiny_vit(), tiny_vit(grad_checkpointing=True)):
        vit.train()(image).sum().backward()
        gradients.append(vit.patch_embed.proj.weight.grad)
    assert torch.allclose(gradients[0], gradients[1])


def test_drop_path_acts_in_training_only(image: Tensor) -> None:
    vit, plain = tiny_vit(drop_path_rate=0.9), tiny_vit()
    assert torch.equal(vit.eval()(image), plain.eval()(image))
    assert not torch.equal(vit.train()(image), plain(image))


@pytest.mark.parametrize(
    ("name", "image_size", "size", "message"),
    [
        ("eva_clip", 28, TINY_VIT, "model.vit_model: 'eva_clip' is not known.*eva_clip_g"),
        ("eva_clip_g", 30, TINY_VIT, "model.image_size 30 of patch_size 14"),
        ("eva_clip_g", 28, VitSize(14, 16, 2, 3, 2.0), "embed_dim 16 must be a multiple of num_heads 3"),
    ],
)
def test_vit_that_cannot_be_built(name: str, image_size: int, size: VitSize, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_vit(name=name, image_size=image_size, size=size)


def test_queries_look_at_the_image_in_every_second_layer() -> None:
    qformer, queries = build_qformer(vision_width=24, num_query_token=4, size=QFormerSize(16, 4, 2, 32))
    assert queries.shape == (1, 4, 16)
    crossing = {name.split(".")[2] for name, _ in qformer.named_parameters() if "crossattention" in name}
    assert crossing == {"0", "2"}


@pytest.fixture
def blip2() -> Blip2Base:
    qformer, queries = build_qformer(vision_width=16, num_query_token=4, size=TINY_QFORMER)
    return Blip2Base(visual_encoder=tiny_vit(drop_path_rate=0.5), ln_vision=nn.LayerNorm(16), qformer=qformer, query_tokens=queries)


def test_encode_queries(blip2: Blip2Base, image: Tensor) -> None:
    """One row of queries an image, whatever else is in the batch."""
    blip2.eval()
    together = blip2.encode_queries(image)
    assert together.shape == (3, 4, 16)
    assert torch.allclose(together[1:2], blip2.encode_queries(image[1:2]), atol=1e-6)


def test_frozen_parts_stay_in_eval_mode(blip2: Blip2Base, image: Tensor) -> None:
    blip2.freeze(blip2.visual_encoder)
    blip2.train()
    assert not any(module.training for module in blip2.visual_encoder.modules())
    assert blip2.Qformer.training and blip2.training
    assert torch.equal(blip2.visual_encoder(image), blip2.visual_encoder(image))  # no drop path
    assert not any(parameter.requires_grad for parameter in blip2.visual_encoder.parameters())


def test_parameter_counts(blip2: Blip2Base) -> None:
    blip2.freeze(blip2.Qformer)
    counts = blip2.parameter_counts()
    assert counts["query_tokens"] == (64, 64)
    assert counts["ln_vision"] == (32, 32)
    assert counts["Qformer"] == (sum(parameter.numel() for parameter in blip2.Qformer.parameters()), 0)
    assert blip2.device == torch.device("cpu")
