"""Names in published weight files → names of our parts. The only file with key maps.

`eva_vit_g.pth` has timm's own names; the BLIP-2 checkpoint's Q-Former needs three replacements for transformers' names.

Files are mapped into memory, and their tensors become the parameters: what is not used is not read, what is used is read once to see that
it is finite, and nothing is copied that need not be converted.

Do not write into a file whose weights are in use; replace it by another (as `mv` does, and not `cp`).
"""

import logging
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from xraygpt.common.checkpoint import PUBLISHED_BUFFERS, largest_of, load_checkpoint, model_state, require_parameters
from xraygpt.common.errors import CheckpointError, first_line
from xraygpt.common.printable import printable_line
from xraygpt.common.tensor_checks import kind_problem, require_none, value_problem
from xraygpt.models.language_model import identity_differences

logger = logging.getLogger(__name__)

_QFORMER_NAMES = (
    (".attention.self.", ".attention.attention."),
    (".crossattention.self.", ".crossattention.attention."),
    ("embeddings.LayerNorm.", "layernorm."),
)
_QFORMER_TEXT_HALF = (".intermediate.dense.", ".output.dense.", ".output.LayerNorm.")


def without_weights(filled: bool) -> AbstractContextManager:
    """Modules that are built inside have parameters without storage and initial values, if a file will fill them; buffers are made."""
    from accelerate import init_empty_weights  # seconds, like timm

    return init_empty_weights(include_buffers=False) if filled else nullcontext()


def load_vit_weights(vit: nn.Module, path: str | Path) -> None:
    """Load EVA-ViT weights in LAVIS or timm naming; position embeddings are interpolated bicubically to the model's size.

    Keys the model has no place for (a head, a final norm) are left out; a missing one is a CheckpointError.
    """
    from timm.models.eva import checkpoint_filter_fn  # see `build_vit`

    given = model_state(load_checkpoint(path, mmap=True), path)
    wanted = vit.state_dict()
    parts = {key.split(".")[0] for key in wanted}
    state = _renamed(given, lambda key: key.removeprefix("visual_encoder."), path)
    state = {key: value for key, value in state.items() if key.split(".")[0] in parts}
    if "pos_embed" not in state or "patch_embed.proj.weight" not in state:
        raise CheckpointError(f"{path} holds no EVA vision transformer: expected keys such as pos_embed and blocks.0.attn.qkv.weight.")
    positions = state["pos_embed"]
    # timm would resize the kernels of other patches, by matrices that grow with the fourth power of their sides.
    _check_one("patch_embed.proj.weight", wanted["patch_embed.proj.weight"], state["patch_embed.proj.weight"], path)
    if positions.ndim != 3 or positions.shape[-1] != wanted["pos_embed"].shape[-1] or not positions.is_floating_point():
        raise CheckpointError(
            f"{path} does not fit this model: pos_embed is {positions.dtype} {tuple(positions.shape)}, expected numbers of the shape "
            f"(1, positions, {wanted['pos_embed'].shape[-1]})."
        )
    try:
        filtered = checkpoint_filter_fn(state, vit, antialias=False)
    except Exception as error:  # names and shapes that nobody publishes make it fail in every way there is
        raise CheckpointError(f"{path} holds no EVA vision transformer that can be used: {first_line(error)}") from error
    if len(filtered) != len(state):
        raise CheckpointError(
            f"{path} holds a parameter twice, under different names: {len(state)} entries are {len(filtered)} parameters."
        )
    _load_exactly(vit, {key: value for key, value in filtered.items() if key in wanted}, path)


def _renamed(state: Mapping[str, Tensor], new_name: Callable[[str], str], path: str | Path) -> dict[str, Tensor]:
    """The state under other names, without the entries whose new name is "".

    Raises:
        CheckpointError: two entries get the same name, so that one of them would be lost.
    """
    old_names: dict[str, str] = {}
    for key in state:
        if name := new_name(key):
            if name in old_names:
                raise CheckpointError(f"{path} holds {name!r:.200} twice, as {old_names[name]!r:.200} and as {key!r:.200}.")
            old_names[name] = key
    return {name: state[key] for name, key in old_names.items()}


def qformer_state(state: Mapping[str, Tensor], path: str | Path = "The checkpoint") -> dict[str, Tensor]:
    """The query half of a LAVIS Q-Former (`Qformer.bert.…`) in transformers' names; the text half is left out.

    Raises:
        CheckpointError: two entries of the file at `path` get the same name.
    """
    return _renamed(state, _qformer_name, path)


def _qformer_name(key: str) -> str:
    """transformers' name of a parameter of the query half; "" for others."""
    name = key.removeprefix("Qformer.bert.")
    if name == key or key.endswith(PUBLISHED_BUFFERS) or "word_embeddings" in name or "position_embeddings" in name:
        return ""
    if any(text in name for text in _QFORMER_TEXT_HALF) and "attention" not in name:
        return ""
    for ours, theirs in _QFORMER_NAMES:
        name = name.replace(ours, theirs)
    return name


def _own_name(key: str) -> str:
    """This project's name of a parameter of a whole checkpoint; "" for buffers and for the text half."""
    if key.startswith("Qformer.bert."):
        name = _qformer_name(key)
        return f"Qformer.{name}" if name else ""
    return "" if key.endswith(PUBLISHED_BUFFERS) else key


def load_qformer_weights(qformer: nn.Module, ln_vision: nn.Module, query_tokens: nn.Parameter, path: str | Path) -> None:
    """Load the Q-Former, `ln_vision` and the query tokens from a BLIP-2 checkpoint; each must be complete."""
    state = model_state(load_checkpoint(path, mmap=True), path)
    if "query_tokens" not in state:
        raise CheckpointError(f"{path} holds no BLIP-2 Q-Former: expected keys query_tokens, ln_vision.* and Qformer.bert.*.")
    if state["query_tokens"].shape != query_tokens.shape:
        raise CheckpointError(
            f"{path}: query_tokens is {tuple(state['query_tokens'].shape)}, this model has {tuple(query_tokens.shape)}; "
            "set model.num_query_token to match."
        )
    _check_one("query_tokens", query_tokens, state["query_tokens"], path)
    _load_exactly(qformer, qformer_state(state, path), path)
    _load_exactly(ln_vision, {key.removeprefix("ln_vision."): value for key, value in state.items() if key.startswith("ln_vision.")}, path)
    query_tokens.data = state["query_tokens"]


def load_into(model: nn.Module, state: Mapping[str, Tensor], path: str | Path) -> None:
    """Load the parameters in `state` into `model`, by this project's names or LAVIS' (Q-Former, buffers tolerated).

    Parts that the file does not mention keep their weights; a part that it mentions must be complete.

    Raises:
        CheckpointError: names the parameters that are missing, unexpected, of another shape or type, or not finite. The model is as before.
    """
    renamed = _renamed(require_parameters(state, path), _own_name, path)
    if not renamed:
        raise CheckpointError(f"{path} holds no parameters of this model.")
    parts = {key.split(".")[0] for key in renamed}
    wanted = {key: value for key, value in model.state_dict().items() if key.split(".")[0] in parts}
    _check(wanted, renamed, path)
    model.load_state_dict({key: _like(wanted[key], value) for key, value in renamed.items()}, strict=False, assign=True)
    logger.info("Loaded %s from %s", ", ".join(sorted(parts)), path)


def saved_identity_differences(stored: Any, own: dict[str, Any], path: str | Path, *, compare_embedding: bool) -> list[str]:
    """`identity_differences` of an identity that stands in the file at `path`, which anyone may have written.

    Raises:
        CheckpointError: it is no identity.
    """
    try:
        return identity_differences(stored, own, compare_embedding=compare_embedding)
    except (LookupError, TypeError, ValueError, RuntimeError, ArithmeticError) as error:
        raise CheckpointError(f"{path} does not say which language model it belongs to, its 'llm' is damaged: {error!r:.200}") from error


def _load_exactly(module: nn.Module, state: Mapping[str, Tensor], path: str | Path) -> None:
    _check(module.state_dict(), state, path)
    module.load_state_dict({key: _like(wanted, state[key]) for key, wanted in module.state_dict().items()}, assign=True)


def _like(wanted: Tensor, given: Tensor) -> Tensor:
    """`given` where and as what it is wanted; the tensor itself, still mapped to its file, for a parameter that was built empty."""
    return given if wanted.is_meta else given.to(wanted.device, wanted.dtype)


def _check(wanted: Mapping[str, Tensor], given: Mapping[str, Tensor], path: str | Path) -> None:
    """CheckpointError unless the given parameters are those wanted, in name, shape and type, and their numbers are finite."""
    problems = [f"{key} is missing" for key in sorted(wanted.keys() - given.keys())]
    problems += [f"{printable_line(key):.200} is unexpected" for key in sorted(given.keys() - wanted.keys())]
    for key in sorted(wanted.keys() & given.keys()):
        if given[key].shape != wanted[key].shape:
            problems.append(f"{key} is {tuple(given[key].shape)}, expected {tuple(wanted[key].shape)}")
        elif problem := kind_problem(given[key], wanted[key]):
            problems.append(f"{key} {problem}")
    if problems:
        more = f" (and {len(problems) - 8} more)" if len(problems) > 8 else ""
        raise CheckpointError(f"{path} does not fit this model: {'; '.join(problems[:8])}{more}.")
    require_none(((key, value_problem(given[key], largest=largest_of(wanted[key]))) for key in wanted), path)


def _check_one(name: str, wanted: Tensor, given: Tensor, path: str | Path) -> None:
    _check({name: wanted}, {name: given}, path)
