"""What every model is to tasks and runners."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn

from xraygpt.common.errors import ConfigError
from xraygpt.common.registry import registry, suggest


class BaseModel(nn.Module):
    """A model that is built from a configuration, and whose frozen parts stay frozen.

    A subclass is registered with `@registry.register_model(name)`, has a dataclass `config_schema`, builds itself in
    `from_config`, and returns at least `{"loss": scalar}` from `forward(samples)`; with "num_tokens" in it, the loss is weighted
    by it across accumulated batches and ranks.
    """

    config_schema: ClassVar[type]
    PRETRAINED_MODEL_CONFIG_DICT: ClassVar[Mapping[str, str]] = {}
    """Model type → default YAML, relative to the package or absolute. Without any, the schema's defaults are all there is."""

    def __init__(self) -> None:
        super().__init__()
        self._frozen: list[nn.Module] = []

    @classmethod
    def default_config_path(cls, model_type: str | None) -> str | None:
        """The default YAML of a model type; None if the model has no default files."""
        if not cls.PRETRAINED_MODEL_CONFIG_DICT:
            return None
        if model_type is None or model_type not in cls.PRETRAINED_MODEL_CONFIG_DICT:
            came = "is required" if model_type is None else f"{model_type!r} is not one of {cls.__name__}'s"
            raise ConfigError(f"model_type {came}.{suggest(str(model_type), cls.PRETRAINED_MODEL_CONFIG_DICT)}")
        return str(Path(registry.get_path("library_root")) / cls.PRETRAINED_MODEL_CONFIG_DICT[model_type])

    @classmethod
    def from_config(cls, cfg: Any) -> "BaseModel":
        """Build the model from its configuration section."""
        raise NotImplementedError

    @classmethod
    def skeleton(cls, cfg: Any) -> "BaseModel":
        """The model without storage (meta device), for counting parameters."""
        with torch.device("meta"):
            return cls.from_config(cfg)

    @classmethod
    def count_parameters(cls, cfg: Any) -> dict[str, tuple[int, int]]:
        """`parameter_counts` of the model that a configuration describes; no weight file is read."""
        return cls.skeleton(cfg).parameter_counts()

    def row_length(self) -> Callable[[str, int], int] | None:
        """A function (target text, prompt seed) → tokens that the model reads, for loading processes; None: unknown."""
        return None

    def place(self, device: torch.device) -> "BaseModel":
        """Move to a device, frozen parts in the precision that suits it."""
        return self.to(device)

    def freeze(self, module: nn.Module) -> None:
        """No gradients, and eval mode that a later `.train()` does not undo."""
        module.requires_grad_(False)
        module.eval()
        self._frozen.append(module)

    def train(self, mode: bool = True) -> "BaseModel":
        """Switch the parts that are not frozen."""
        super().train(mode)
        for module in self._frozen:
            module.eval()
        return self

    @property
    def precision(self) -> str:
        """In which type the model computes, for the record of a result: "float32", "bfloat16", …"""
        return "float32"

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return next(self.parameters()).device

    def parameter_counts(self) -> dict[str, tuple[int, int]]:
        """Part (top-level attribute) → (all parameters, trainable ones)."""
        counts: dict[str, tuple[int, int]] = {}
        for name, parameter in self.named_parameters():
            part = name.split(".")[0]
            total, trainable = counts.get(part, (0, 0))
            counts[part] = (total + parameter.numel(), trainable + parameter.numel() * parameter.requires_grad)
        return counts

    def identity(self) -> dict[str, Any] | None:
        """What a checkpoint of this model must find again when it is loaded; None if nothing."""
        return None

    def identity_differences(self, stored: dict[str, Any]) -> list[str]:
        """In words, how the `identity` of the model that a checkpoint continues differs from this one's; empty if it does not."""
        return []

    def first_loss_warning(self, loss: float) -> str | None:
        """What a first loss like this says about a broken set-up; None if nothing."""
        return None


registry.declare_base("model", BaseModel)
