"""What a checkpoint or weights file holds, as plain values. Nothing in the file is executed, and its numbers stay on the disk: they are
read for the checksum, and to see that they are finite.
"""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from xraygpt.common.checkpoint import PUBLISHED_BUFFERS, load_checkpoint, model_state
from xraygpt.common.checkpoint_folder import CheckpointFolder
from xraygpt.common.errors import CheckpointError
from xraygpt.common.files import sha256_file
from xraygpt.common.tensor_checks import value_problem
from xraygpt.diagnosis.finding import size

_PROJECTION = {"llama_proj.weight", "llama_proj.bias"}
_KINDS = {  # a parameter's name begins so → what the file is; the first that fits
    "llama_proj.": "weights of a report model",
    "Qformer.bert.": "BLIP-2 (Q-Former, query tokens, ln_vision)",
    "blocks.0.attn.": "vision transformer",
    "visual_encoder.blocks.": "vision transformer",
    "model.layers.": "language model",
    "model.embed_tokens.": "language model",
}
_BYTES = 4  # of a float32
_OPTIMIZERS = {"exp_avg": "Adam or AdamW", "momentum_buffer": "SGD with momentum"}


def describe_file(path: Path) -> dict[str, Any]:
    """What a `.pth` or `.safetensors` file holds: kind, checksum, parts, numbers that are not finite, and for a training checkpoint all
    that belongs to the run.

    Raises:
        CheckpointError: the file is missing, damaged or refused (see `load_checkpoint`), or holds no parameters by name.
    """
    checkpoint = load_checkpoint(path, mmap=True)
    parameters = model_state(checkpoint, path)
    checksum, note = sha256_file(path), _note(parameters)
    weights = "projection without a training state" if note else kind_of(parameters)
    described = {
        "file": str(path),
        "bytes": path.stat().st_size,
        "sha256": checksum,
        "listed": _listed(path, checksum),
        "kind": "training checkpoint" if "model" in checkpoint and "optimizer" in checkpoint else weights,
        "parts": describe_parts(parameters),
        "problems": [f"{name} {problem}" for name, tensor in parameters.items() if (problem := value_problem(tensor))],
        "note": note,
    }
    return described | (_describe_run(checkpoint, path) if "model" in checkpoint else {})


def describe_parts(parameters: Mapping[str, Tensor]) -> dict[str, dict[str, Any]]:
    """Part (first word of the name) → its number of tensors and parameters, bytes, precisions, and its largest tensors' shapes."""
    parts: dict[str, dict[str, Tensor]] = {}
    for name, tensor in parameters.items():
        parts.setdefault(name.split(".")[0], {})[name] = tensor
    return {part: _describe_part(tensors) for part, tensors in parts.items()}


def _describe_part(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    shapes = Counter(tuple(tensor.shape) for tensor in sorted(tensors.values(), key=Tensor.numel, reverse=True))
    return {
        "tensors": len(tensors),
        "parameters": sum(tensor.numel() for tensor in tensors.values()),
        "bytes": sum(map(_bytes, tensors.values())),
        "dtypes": sorted({str(tensor.dtype).removeprefix("torch.") for tensor in tensors.values()}),
        "shapes": [{"shape": list(shape), "tensors": count} for shape, count in shapes.items()],
    }


def kind_of(parameters: Mapping[str, Tensor]) -> str:
    """What weights these are, by their names."""
    return next((kind for start, kind in _KINDS.items() if any(name.startswith(start) for name in parameters)), "weights")


def _listed(path: Path, checksum: str) -> bool | None:
    """Whether the checksum is that of checkpoints.json beside the file; None if the file is not listed there."""
    entries = CheckpointFolder(path.absolute().parent).entries() or []
    return next((entry.sha256 == checksum for entry in entries if entry.file == path.name), None)


def _note(parameters: Mapping[str, Tensor]) -> str:
    """A projection is small, and readers take it for a broken file."""
    learned = {name: tensor for name, tensor in parameters.items() if not name.endswith(PUBLISHED_BUFFERS)}
    weight = learned.get("llama_proj.weight")
    if learned.keys() != _PROJECTION or weight is None or weight.ndim != 2:
        return ""
    count = sum(tensor.numel() for tensor in learned.values())
    return (
        f"This is the projection alone, {count:,} parameters from width {weight.shape[1]} to {weight.shape[0]}, and it is whole: "
        f"nothing else was trained. {size(_BYTES * count)}, or {size(3 * _BYTES * count)} with AdamW's state, is the right size. "
        "ViT, Q-Former and language model come from their own files (docs/training.md)."
    )


# What belongs to the run -----------------------------------------------------------------------------------------


def _describe_run(checkpoint: dict[str, Any], path: Path) -> dict[str, Any]:
    """The entries of a checkpoint besides its parameters; those that it lacks are None."""
    reader = _Reader(checkpoint, path)
    get = reader.get
    return {
        "step": get("step", int),
        "epoch": get("epoch", int),
        "iteration": get("iteration", int),
        "best": reader.plain("best"),
        "optimizer": _optimizer(get("optimizer", dict)),
        "scaler": get("scaler", dict) is not None,
        "world_size": get("world_size", int),
        "rng": [_generators(rank) for rank in get("rng", list) or []],
        "llm": _identity(reader.plain("llm")),
        "data": reader.plain("data"),
        "libraries": reader.plain("libraries"),
        "version": get("version", str),
        "config": reader.plain("config"),
    }


class _Reader:
    """Entries of a file that anyone may have written: each is of the type that it must have, or an error."""

    def __init__(self, checkpoint: dict[str, Any], path: Path) -> None:
        self.checkpoint, self.path = checkpoint, path

    def get(self, key: str, kind: type) -> Any:
        """The entry; None if there is none."""
        value = self.checkpoint.get(key)
        if value is not None and not isinstance(value, kind):
            raise CheckpointError(f"{self.path}: {key!r} must be of type {kind.__name__}, but is {type(value).__name__}.")
        return value

    def plain(self, key: str) -> Any:
        """The dictionary under `key` as JSON knows it, anything else in it replaced by the name of its type; None if there is none.

        How many values it has, and how deep, `load_checkpoint` limits.
        """
        return _plain(self.get(key, dict))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value if value is None or isinstance(value, str | int | float) else f"<{type(value).__name__}>"


def _generators(rank: Any) -> list[str]:
    """The random generators of which a rank's state is there; without a GPU there is none of CUDA."""
    return sorted(str(name) for name, state in rank.items() if isinstance(state, Tensor) or state) if isinstance(rank, dict) else []


def _optimizer(state: dict[str, Any] | None) -> dict[str, Any] | None:
    if state is None:
        return None
    by_parameter = state.get("state")
    entries = [entry for entry in by_parameter.values() if isinstance(entry, dict)] if isinstance(by_parameter, dict) else []
    tensors = [(str(name), value) for entry in entries for name, value in entry.items() if isinstance(value, Tensor)]
    names = dict.fromkeys(name for name, _ in tensors)
    return {
        "kind": next((kind for name, kind in _OPTIMIZERS.items() if name in names), "unknown"),
        "keeps": list(names),
        "parameters": len(entries),
        "bytes": sum(_bytes(value) for _, value in tensors),
    }


def _identity(llm: dict[str, Any] | None) -> dict[str, Any] | None:
    """A language model's identity without the 256 numbers of its embedding sample."""
    if llm is None:
        return None
    sample = llm.get("embedding")
    return {**llm, "embedding": f"{len(sample) if isinstance(sample, list) else 0} values"}


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()
