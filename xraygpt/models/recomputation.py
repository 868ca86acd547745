"""Gradient checkpointing of a language model: activations inside its layers are computed again in the backward pass, not kept."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from torch.utils.checkpoint import checkpoint

from xraygpt.common.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def recompute_layers(llm: PreTrainedModel) -> None:
    """Keep only each layer's input for the backward pass.

    Not by transformers' own switch: that one acts in training mode only, and a frozen language model is in evaluation mode.

    Raises:
        ConfigError: the architecture has no layers that say they can be computed again.
    """
    from transformers.modeling_layers import GradientCheckpointingLayer  # seconds, see `build_vit`

    layers = [module for module in llm.modules() if isinstance(module, GradientCheckpointingLayer)]
    if not layers:
        raise ConfigError(f"model.grad_checkpoint.llm: {type(llm).__name__} has no gradient checkpointing. Set it to False.")
    for layer in layers:
        forward: Any = partial(checkpoint, layer.forward, use_reentrant=False)
        layer.forward = forward
