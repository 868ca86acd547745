"""The vision half of BLIP-2: EVA-ViT → `ln_vision` → Q-Former, built from timm and transformers at any size.

`B` images, `S` image size, `P` patches + class token (257 at 224 px), `Q` query tokens (32),
`D_v` ViT width (1408), `D_q` Q-Former width (768).
"""

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from xraygpt.common.errors import ConfigError
from xraygpt.common.registry import suggest
from xraygpt.models.base_model import BaseModel

logger = logging.getLogger(__name__)

VIT_MODELS = {"eva_clip_g": "eva_giant_patch14_224"}
"""`model.vit_model` → timm's name of the architecture."""


@dataclass
class VitSize:
    """Size of the vision transformer; the defaults are EVA-ViT-g's, without its last block, as BLIP-2 uses it."""

    patch_size: int = 14
    embed_dim: int = 1408
    depth: int = 39
    num_heads: int = 16
    mlp_ratio: float = 4.3637
    init_std: float | None = None
    """Standard deviation of random linear weights; none: timm's 0.02. A narrow ViT trained from scratch wants width ** -0.5."""
    pos_embed_std: float | None = None
    """Standard deviation of random position embeddings; none: timm's 0.02. At 1.0 a short training learns places at once."""


@dataclass
class QFormerSize:
    """Size of the Q-Former; the defaults are BERT-base's, as BLIP-2 uses it."""

    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    cross_attention_frequency: int = 2
    """Every how many layers the queries look at the image."""
    dropout: float = 0.1
    """Only where the Q-Former is trained: a frozen one has none."""
    init_std: float = 0.02
    """Standard deviation of random weights and queries; more makes the untrained queries look at different places."""


def check_vit(*, name: str, image_size: int, size: VitSize) -> None:
    """Raise ConfigError unless `build_vit` can build it."""
    if name not in VIT_MODELS:
        raise ConfigError(f"model.vit_model: {name!r} is not known.{suggest(name, VIT_MODELS)}")
    if size.embed_dim % size.num_heads or image_size % size.patch_size:
        raise ConfigError(
            f"model.vit: embed_dim {size.embed_dim} must be a multiple of num_heads {size.num_heads}, "
            f"and model.image_size {image_size} of patch_size {size.patch_size}."
        )


def build_vit(*, name: str, image_size: int, size: VitSize, drop_path_rate: float = 0.0, grad_checkpointing: bool = False) -> nn.Module:
    """A vision transformer [B, 3, S, S] → [B, P, D_v]: all tokens, no final norm, random weights."""
    import timm  # with all its models, torchvision and torch's compiler: seconds that only a model which is built need wait for

    check_vit(name=name, image_size=image_size, size=size)
    vit: Any = timm.create_model(
        VIT_MODELS[name],
        pretrained=False,
        img_size=image_size,
        patch_size=size.patch_size,
        embed_dim=size.embed_dim,
        depth=size.depth,
        num_heads=size.num_heads,
        mlp_ratio=size.mlp_ratio,
        num_classes=0,
        global_pool="",
        use_post_transformer_norm=False,
        use_fc_norm=False,
        drop_path_rate=drop_path_rate,
    )
    vit.set_grad_checkpointing(grad_checkpointing)
    if size.init_std is not None:
        for linear in (module for module in vit.modules() if isinstance(module, nn.Linear)):
            nn.init.trunc_normal_(linear.weight, std=size.init_std)
    if size.pos_embed_std is not None:
        nn.init.trunc_normal_(vit.pos_embed, std=size.pos_embed_std)
    return vit


def build_qformer(*, vision_width: int, num_query_token: int, size: QFormerSize) -> tuple[nn.Module, nn.Parameter]:
    """A Q-Former that reads [B, P, D_v], and its learned queries [1, Q, D_q], drawn from N(0, init_std)."""
    from transformers import Blip2QFormerConfig, Blip2QFormerModel  # seconds, like timm

    config = Blip2QFormerConfig(
        encoder_hidden_size=vision_width,
        hidden_size=size.hidden_size,
        num_hidden_layers=size.num_hidden_layers,
        num_attention_heads=size.num_attention_heads,
        intermediate_size=size.intermediate_size,
        cross_attention_frequency=size.cross_attention_frequency,
        hidden_dropout_prob=size.dropout,
        attention_probs_dropout_prob=size.dropout,
        initializer_range=size.init_std,
    )
    config._attn_implementation = "sdpa"
    queries = nn.Parameter(torch.randn(1, num_query_token, size.hidden_size) * size.init_std)
    return Blip2QFormerModel(config), queries


class Blip2Base(BaseModel):
    """A model with `visual_encoder`, `ln_vision`, `Qformer` and `query_tokens`.

    Args:
        visual_encoder: [B, 3, S, S] → [B, P, D_v].
        ln_vision: layer norm over D_v, computed in float32.
        qformer: as `build_qformer` returns it.
        query_tokens: [1, Q, D_q].
    """

    def __init__(self, *, visual_encoder: nn.Module, ln_vision: nn.Module, qformer: nn.Module, query_tokens: nn.Parameter) -> None:
        super().__init__()
        self.visual_encoder = visual_encoder
        self.ln_vision = ln_vision
        self.Qformer = qformer
        self.query_tokens = query_tokens
        self.vision_dtype = torch.float32
        self.vision_key = ""
        """Names the feature cache whose rows stand in place of images; "": none does."""
        self.absent_vision: Callable[[], Blip2Base] | None = None
        """Loads the vision parts, which are not there yet; None: they are."""

    def maybe_autocast(self) -> AbstractContextManager:
        """Autocast to the type in which the vision transformer computes, where `place` has made that half precision."""
        half = self.vision_dtype is not torch.float32
        return torch.autocast(self.device.type, dtype=self.vision_dtype if half else None, enabled=half)

    def encode_queries(self, image: Tensor) -> Tensor:
        """float32 [B, 3, S, S] → Q-Former output [B, Q, D_q]; what a feature cache kept of it, in any precision, comes as it is."""
        if image.ndim == 3:
            return image.float()
        if self.absent_vision is not None:
            self._bring_vision(self.absent_vision)
        features = self.ln_vision(self.visual_encoder(image))
        queries = self.query_tokens.expand(image.shape[0], -1, -1)
        return self.Qformer(query_embeds=queries, encoder_hidden_states=features).last_hidden_state

    def _bring_vision(self, load: Callable[[], "Blip2Base"]) -> None:
        logger.info("The vision parts are loaded: there is an image whose features are not in the feature cache.")
        parts: Any = load().place(self.device)
        self.visual_encoder, self.ln_vision, self.Qformer = parts.visual_encoder, parts.ln_vision, parts.Qformer
        self.query_tokens.data = parts.query_tokens.data
        self.vision_dtype = parts.vision_dtype
        for part in (self.visual_encoder, self.ln_vision, self.Qformer):
            self.freeze(part)
        self.absent_vision = None
