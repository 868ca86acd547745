"""The vision parts by themselves: built from a model's configuration, without its language model; and what tells one from another."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

from xraygpt.common.checkpoint import load_checkpoint, model_state
from xraygpt.common.errors import ConfigError
from xraygpt.models.blip2 import Blip2Base, build_qformer, build_vit
from xraygpt.models.precision import place_part, stored_as
from xraygpt.models.weights import load_into, load_qformer_weights, load_vit_weights, without_weights

VISION_PARTS = ("visual_encoder", "ln_vision", "Qformer", "query_tokens")


def checkpoint_paths(ckpt: str | list[str] | None) -> list[str]:
    """The files that `model.ckpt` names."""
    return [path for path in ([ckpt] if isinstance(ckpt, str) else ckpt or []) if path]


def parts_in(path: str) -> set[str]:
    """The parts of a model of which a checkpoint has weights; its numbers are not read."""
    return {key.split(".")[0] for key in model_state(load_checkpoint(path, mmap=True), path)}


class VisionParts(Blip2Base):
    """ViT, `ln_vision`, Q-Former and query tokens of a configuration, frozen: images → what the query tokens read."""

    @classmethod
    def from_config(cls, cfg: Any) -> "VisionParts":
        """Build the parts and load their weights.

        Args:
            cfg: a `MiniGPT4Config` object.
        """
        parts = cls(**build_vision(cfg))
        load_vision(parts, cfg)
        for path in checkpoint_paths(cfg.ckpt):
            state = model_state(load_checkpoint(path, mmap=True), path)
            if vision := {key: value for key, value in state.items() if key.split(".")[0] in VISION_PARTS}:
                load_into(parts, vision, path)
        for part in (parts.visual_encoder, parts.ln_vision, parts.Qformer):
            parts.freeze(part)
        parts.query_tokens.requires_grad_(False)
        parts.vit_dtype = cfg.frozen_dtype.vit
        return parts

    vit_dtype = "auto"

    def place(self, device: torch.device) -> "VisionParts":
        """Move to `device`; the ViT is stored as `frozen_dtype` says."""
        self.vision_dtype = place_part(self.visual_encoder, device, self.vit_dtype, keep_vectors=True)
        for part in (self.ln_vision, self.Qformer):
            place_part(part, device)
        self.query_tokens.data = self.query_tokens.data.to(device, torch.float32)
        return self

    @property
    def device(self) -> torch.device:
        """Where images go."""
        return self.query_tokens.device


def build_vision(cfg: Any) -> dict[str, Any]:
    """The arguments of `Blip2Base` at the sizes of a `MiniGPT4Config`; without storage where a file will bring the weights."""
    filled = {part for path in checkpoint_paths(cfg.ckpt) for part in parts_in(path)}
    with without_weights(bool(cfg.vit_weights) or "visual_encoder" in filled):
        vit = build_vit(
            name=cfg.vit_model,
            image_size=cfg.image_size,
            size=cfg.vit,
            drop_path_rate=cfg.drop_path_rate,
            grad_checkpointing=cfg.grad_checkpoint.vit,
        )
    with without_weights(bool(cfg.q_former_model) or "Qformer" in filled):
        qformer, queries = build_qformer(vision_width=cfg.vit.embed_dim, num_query_token=cfg.num_query_token, size=cfg.qformer)
    return {"visual_encoder": vit, "ln_vision": nn.LayerNorm(cfg.vit.embed_dim), "qformer": qformer, "query_tokens": queries}


def load_vision(parts: Blip2Base, cfg: Any) -> None:
    """Load the weights that are published for the vision parts alone, where the configuration names them."""
    if cfg.vit_weights:
        load_vit_weights(parts.visual_encoder, cfg.vit_weights)
    if cfg.q_former_model:
        load_qformer_weights(parts.Qformer, parts.ln_vision, parts.query_tokens, cfg.q_former_model)


def absent_vision(cfg: Any) -> dict[str, Any]:
    """The arguments of `Blip2Base` for a model that is given features in place of images: nothing but the number of query tokens."""
    # As many random numbers are drawn as `build_vision` draws for parts that files fill: the projection then starts the same.
    queries = nn.Parameter(torch.randn(1, cfg.num_query_token, cfg.qformer.hidden_size), requires_grad=False)
    return {"visual_encoder": nn.Identity(), "ln_vision": nn.Identity(), "qformer": nn.Identity(), "query_tokens": queries}


def describe_vision(cfg: Any, device: torch.device, sha256_of: Callable[[str], str]) -> dict[str, Any]:
    """All that decides what the vision parts make of an image, as plain values.

    Args:
        cfg: a `MiniGPT4Config` object.
        device: on which they compute.
        sha256_of: the checksum of a file.

    Raises:
        ConfigError: the parts are trained, or have random weights, so that what they made once is not what they will make.
    """
    trained = [name for name, frozen in (("freeze_vit", cfg.freeze_vit), ("freeze_qformer", cfg.freeze_qformer)) if not frozen]
    if trained:
        raise ConfigError(
            f"run.feature_cache keeps what frozen vision parts make of an image, but model.{trained[0]} is False. "
            "Freeze ViT and Q-Former, or train without a cache (run.feature_cache.path=)."
        )
    files = list(_vision_files(cfg))
    brought = {part for _, parts in files for part in parts}
    if missing := [part for part in VISION_PARTS if part not in brought]:
        raise ConfigError(
            f"run.feature_cache knows the vision parts by their weight files, but {', '.join(missing)} would have random weights. "
            "Set model.vit_weights and model.q_former_model, or a model.ckpt that has them."
        )
    sizes = {"vit": cfg.vit, "qformer": cfg.qformer}
    return {
        "vit_model": cfg.vit_model,
        "image_size": cfg.image_size,
        "num_query_token": cfg.num_query_token,
        **{name: dataclasses.asdict(size) for name, size in sizes.items()},
        "files": [sha256_of(path) for path, _ in files],
        "precision": stored_as(cfg.frozen_dtype.vit, device),
    }


def _vision_files(cfg: Any) -> Iterator[tuple[str, set[str]]]:
    """The files that bring vision parts, in the order in which they are loaded, and the parts that each brings."""
    if cfg.vit_weights:
        yield cfg.vit_weights, {"visual_encoder"}
    if cfg.q_former_model:
        yield cfg.q_former_model, {"ln_vision", "Qformer", "query_tokens"}
    for path in checkpoint_paths(cfg.ckpt):
        if parts := parts_in(path) & set(VISION_PARTS):
            yield path, parts
