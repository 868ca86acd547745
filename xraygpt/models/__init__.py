"""Models, by the name that `model.arch` uses; importing this package registers them."""

from typing import Any

import torch
from omegaconf import OmegaConf

from xraygpt.common.config import load_yaml
from xraygpt.common.dist_utils import resolve_device
from xraygpt.common.errors import ConfigError
from xraygpt.common.registry import registry
from xraygpt.common.schema import check_section, missing_paths
from xraygpt.models.base_model import BaseModel
from xraygpt.models.blip2 import Blip2Base
from xraygpt.models.mini_gpt4 import MiniGPT4, MiniGPT4Config

__all__ = ["BaseModel", "Blip2Base", "MiniGPT4", "MiniGPT4Config", "load_model", "model_zoo"]


def load_model(
    name: str, model_type: str, is_eval: bool = False, device: str | torch.device = "cpu", checkpoint: str | None = None, **overrides: Any
) -> BaseModel:
    """A model from its default file, placed on `device`.

    Args:
        name: registered name ("mini_gpt4").
        model_type: one of its default files ("pretrain_vicuna").
        is_eval: switch to evaluation.
        checkpoint: weights loaded on top of the default file's.
        overrides: values of the model's configuration, such as `llama_model="weights/vicuna-7b"`.

    Raises:
        ConfigError: lists all that is wrong with the configuration, missing files included.
    """
    model_class = registry.get_model_class(name)
    path = model_class.default_config_path(model_type)
    given: Any = OmegaConf.merge(load_yaml(path).model if path else {}, {"arch": name, "model_type": model_type}, overrides)
    if checkpoint is not None:
        given.ckpt = checkpoint
    values: Any = OmegaConf.to_container(given, resolve=True)
    cfg, problems = check_section(model_class.config_schema, values, "model")
    problems += [] if problems else missing_paths(model_class.config_schema, cfg, "model")
    if problems:
        raise ConfigError(f"{name} ({model_type}) cannot be built:\n  " + "\n  ".join(problems))
    model = model_class.from_config(cfg).place(resolve_device(str(device)))
    return model.eval() if is_eval else model


def model_zoo() -> str:
    """A table of the registered models and their types."""
    rows = [(name, ", ".join(registry.get_model_class(name).PRETRAINED_MODEL_CONFIG_DICT)) for name in registry.list_models()]
    return "\n".join(f"{name:<30} {types}" for name, types in [("Architectures", "Types"), *rows])
