"""torch's compiler for a language model's layers: norms, gates, rotations and sums take one pass over memory in place of several.

Layer by layer: all share what is compiled for the first, so that the time to compile does not grow with their number. The attention of
packed rows stays outside, since its rows have other lengths each time (see `xraygpt.models.packing`).
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from xraygpt.common.errors import ConfigError
from xraygpt.models.packing import can_pack

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def check_compiler() -> None:
    """Raise ConfigError where torch.compile would have no compiler to call."""
    compiler = os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++")  # as torch looks for it
    if not torch.cuda.is_available() and shutil.which(compiler) is None:
        raise ConfigError(
            f"model.compile_llm needs a C++ compiler on the CPU; there is no {compiler}. Install it, name one in CXX, or set it to False."
        )


def compile_llm(llm: PreTrainedModel, *, backend: str = "inductor") -> None:
    """Compile the layers of a language model for packed rows of any number of tokens; for all else they stay as they are.

    Raises:
        ConfigError: its rows cannot be packed.
    """
    if not can_pack(llm):
        raise ConfigError(
            f"model.compile_llm is for language models whose rows are packed, and {type(llm).__name__} is none of them. Set it to False."
        )
    layer: Any
    for layer in llm.get_decoder().layers:
        layer.forward = _when_packed(torch.compile(layer.forward, dynamic=True, backend=backend), layer.forward)


def _when_packed(compiled: Callable[..., Any], plain: Callable[..., Any]) -> Callable[..., Any]:
    def forward(*args: Any, **kwargs: Any) -> Any:
        return (compiled if kwargs.get("packed_rows") is not None else plain)(*args, **kwargs)

    return forward
