"""Whether a tensor can be a weight. Without torch at import: the scores' weights are checked here too."""

import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from xraygpt.common.errors import CheckpointError
from xraygpt.common.printable import printable_line

if TYPE_CHECKING:
    from torch import Tensor

_FLOATS = {"torch.float16", "torch.bfloat16", "torch.float32", "torch.float64"}
_SHOWN = 8


def form_problem(tensor: "Tensor") -> str:
    """Why a tensor cannot be a weight whatever its numbers are, in words that follow its name; "" if it can. No number is read."""
    if tensor.is_nested or tensor.is_quantized or str(tensor.layout) != "torch.strided":
        return f"is a {'nested' if tensor.is_nested else 'quantised' if tensor.is_quantized else 'sparse'} tensor, expected a dense one"
    if tensor.is_meta:
        return "has no numbers (it was saved from the meta device)"
    if tensor.is_complex() or (tensor.is_floating_point() and str(tensor.dtype) not in _FLOATS):
        return f"is {_name(tensor)}, expected one of {', '.join(sorted(name.removeprefix('torch.') for name in _FLOATS))}"
    return ""


def kind_problem(given: "Tensor", wanted: "Tensor") -> str:
    """Whether whole numbers stand where others are needed, or the reverse, in words; "" if not."""
    if given.is_floating_point() == wanted.is_floating_point():
        return ""
    return f"is {_name(given)}, expected {_name(wanted)}"


def value_problem(tensor: "Tensor", *, largest: float = math.inf) -> str:
    """Whether a number is not finite, or beyond `largest`, in words; "" if all are good.

    Reads each number once, without a copy: 0.1 s for a gigabyte in float32, twice that in half precision.
    """
    if not tensor.is_floating_point() or not tensor.numel():
        return ""
    low, high = (float(value) for value in tensor.detach().aminmax())
    if math.isnan(low):
        return "holds NaN"
    if math.isinf(low) or math.isinf(high):
        return "holds infinite values"
    return f"holds {max(high, -low):.3g}, more than the model's type can" if max(high, -low) > largest else ""


def require_finite(tensors: Iterable[tuple[str, "Tensor"]], path: str | Path) -> None:
    """CheckpointError, with the names, if a number of the tensors is not finite."""
    require_none(((name, value_problem(tensor)) for name, tensor in tensors), path)


def require_none(problems: Iterable[tuple[str, str]], path: str | Path) -> None:
    """CheckpointError that lists the problems that are not "", each after its name."""
    found = list(_found(problems))
    if found:
        more = f" (and {len(found) - _SHOWN} more)" if len(found) > _SHOWN else ""
        raise CheckpointError(f"{path} cannot be used: {'; '.join(found[:_SHOWN])}{more}. Fetch or train the weights again.")


def _found(problems: Iterable[tuple[str, str]]) -> Iterator[str]:
    return (f"{printable_line(name):.200} {problem}" for name, problem in problems if problem)


def _name(tensor: "Tensor") -> str:
    return str(tensor.dtype).removeprefix("torch.")
