"""How parts are stored: frozen ones in float32, in half precision or quantised; those that are trained in float32.

A part is converted tensor by tensor on its way to the device, so that there is never a second copy of it. Weights that come from a file are
mapped into memory (see `xraygpt.models.weights`): what needs no conversion is not even copied.
"""

from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import torch
from torch import nn

from xraygpt.common.errors import ConfigError
from xraygpt.common.registry import suggest
from xraygpt.models.frozen_linear import onednn_is_faster, use_onednn

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
WEIGHT_BYTES = {"fp32": 4.0, "bf16": 2.0, "fp16": 2.0, "int8": 1.0, "nf4": 0.5 + 4 / 64}
"""Bytes of a number in a matrix; nf4 has a float32 scale for each 64."""
QUANTIZED = ("int8", "nf4")
"""8-bit integers with a scale for each row (LLM.int8(), Dettmers et al. 2022); 4-bit normal floats, a scale for 64 (QLoRA, 2023)."""

_INT8_OUTLIER = 6.0
"""Columns of an input with larger values are multiplied in 16 bits, as LLM.int8() found necessary for large language models."""


@dataclass
class FrozenDtype:
    """How a frozen part is stored: auto, fp32, bf16, fp16, int8 or nf4. A part that is trained is float32, and takes auto or fp32 only.

    "auto" is fp32 on the CPU, and on CUDA bf16 (fp16 where the GPU has no bf16). int8 and nf4 (they need the extra `quant`) are for linear
    layers; the rest of the part is as with auto, and so is the language model's last layer.
    """

    vit: str = "auto"
    llm: str = "auto"


def check_frozen_dtype(wanted: str, *, part: str, frozen: bool) -> None:
    """Raise ConfigError unless the part "vit" or "llm" can be stored like that."""
    known = ["auto", *DTYPES, *QUANTIZED]
    if wanted not in known:
        raise ConfigError(f"model.frozen_dtype.{part}: {wanted!r} is not known.{suggest(wanted, known)}")
    if not frozen and wanted not in ("auto", "fp32"):
        raise ConfigError(
            f"model.frozen_dtype.{part} is {wanted}, but the part is trained (model.freeze_{part}=False), and then it is float32. "
            "Freeze it, or take auto."
        )
    if wanted in QUANTIZED and find_spec("bitsandbytes") is None:
        raise ConfigError(f"model.frozen_dtype.{part}={wanted} needs bitsandbytes: make install-extras EXTRAS=quant.")


def compute_dtype(wanted: str, device: torch.device) -> torch.dtype:
    """The type in which a part that is stored like that computes on the device."""
    if wanted in DTYPES:
        return DTYPES[wanted]
    if device.type != "cuda":
        return torch.float32
    return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16


def stored_as(wanted: str, device: torch.device) -> str:
    """How messages call it: "int8", "nf4", or the type in which the part computes, such as "bfloat16"."""
    return wanted if wanted in QUANTIZED else str(compute_dtype(wanted, device)).removeprefix("torch.")


def place_part(part: nn.Module, device: torch.device, wanted: str = "fp32", *, keep_vectors: bool = False, last: str = "") -> torch.dtype:
    """Move a part to the device, stored as wanted. Buffers keep their type.

    Args:
        wanted: as in `FrozenDtype`.
        keep_vectors: norms and other vectors stay in float32, as in LAVIS; the part is then run under autocast.
        last: name of the layer that is not quantised, since every token's probability comes straight from it.

    Returns:
        The type in which it computes.
    """
    dtype = compute_dtype(wanted, device)
    if wanted in QUANTIZED:
        _quantize(part, wanted, device, dtype, last)
    for module in part.modules():
        stored = torch.float32 if keep_vectors and not isinstance(module, (nn.Conv2d, nn.Linear)) else dtype
        for parameter in module.parameters(recurse=False):
            parameter.data = parameter.data.to(device, stored if parameter.is_floating_point() else None)
        for buffer in module.buffers(recurse=False):
            buffer.data = buffer.data.to(device)
    if device.type == "cpu" and onednn_is_faster():
        use_onednn(part)
    return dtype


def _quantize(part: nn.Module, wanted: str, device: torch.device, dtype: torch.dtype, last: str) -> None:
    for name, module in list(part.named_modules()):
        if hasattr(module, "qkv_bias_separate"):
            module.qkv_bias_separate = True  # timm would otherwise multiply by the weight itself, not by what it stands for
        if type(module) is nn.Linear and name != last:
            part.set_submodule(name, _quantized_linear(module, wanted, device, dtype))


def _quantized_linear(linear: nn.Linear, wanted: str, device: torch.device, dtype: torch.dtype) -> nn.Module:
    import bitsandbytes.nn as bnb  # an optional dependency

    size = (linear.in_features, linear.out_features, linear.bias is not None)
    quantized: Any
    with torch.device("meta"):
        if wanted == "int8":
            quantized = bnb.Linear8bitLt(*size, has_fp16_weights=False, threshold=_INT8_OUTLIER)
        else:
            quantized = bnb.Linear4bit(*size, compute_dtype=dtype, quant_type="nf4")
            # Its fast path on CPUs repacks the weight at the first call without gradients, and then no later call has any.
            quantized.support_avx512bf16_for_cpu = False
    weight: Any = linear.weight.data.cpu()
    if wanted == "int8":
        weight = bnb.Int8Params(weight, requires_grad=False, has_fp16_weights=False)
    else:
        weight = bnb.Params4bit(weight, quant_type="nf4", module=quantized)
    quantized.weight = weight.to(device)  # is quantised on the way
    quantized.bias = linear.bias
    return quantized
