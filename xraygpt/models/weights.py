"""Names in published weight files → names of our parts. The only file with key maps.

`eva_vit_g.pth` has timm's own names; the BLIP-2 checkpoint's Q-Former needs three replacements for transformers' names.

Files are mapped into memory, and their tensors become the parameters: nothing is read before it is used, and nothing is copied that need
not be converted. Do not write into a file whose weights are in use; replace it by another (as `mv` does, and not `cp`).
"""

import logging
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from torch import Tensor, nn

from xraygpt.common.checkpoint import PUBLISHED_BUFFERS, load_checkpoint, model_state
from xraygpt.common.errors import CheckpointError

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

    state = {key.removeprefix("visual_encoder."): value for key, value in model_state(load_checkpoint(path, mmap=True)).items()}
    if "pos_embed" not in state or "patch_embed.proj.weight" not in state:
        raise CheckpointError(f"{path} holds no EVA vision transformer: expected keys such as pos_embed and blocks.0.attn.qkv.weight.")
    state = checkpoint_filter_fn(state, vit, antialias=False)
    _load_exactly(vit, {key: value for key, value in state.items() if key in vit.state_dict()}, path)


def qformer_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The query half of a LAVIS Q-Former (`Qformer.bert.…`) in transformers' names; the text half is left out."""
    renamed = {}
    for key, value in state.items():
        name = key.removeprefix("Qformer.bert.")
        if name == key or key.endswith(PUBLISHED_BUFFERS) or "word_embeddings" in name or "position_embeddings" in name:
            continue
        if any(text in name for text in _QFORMER_TEXT_HALF) and "attention" not in name:
            continue
        for ours, theirs in _QFORMER_NAMES:
            name = name.replace(ours, theirs)
        renamed[name] = value
    return renamed


def load_qformer_weights(qformer: nn.Module, ln_vision: nn.Module, query_tokens: nn.Parameter, path: str | Path) -> None:
    """Load the Q-Former, `ln_vision` and the query tokens from a BLIP-2 checkpoint; each must be complete."""
    state = model_state(load_checkpoint(path, mmap=True))
    if "query_tokens" not in state:
        raise CheckpointError(f"{path} holds no BLIP-2 Q-Former: expected keys query_tokens, ln_vision.* and Qformer.bert.*.")
    if state["query_tokens"].shape != query_tokens.shape:
        raise CheckpointError(
            f"{path}: query_tokens is {tuple(state['query_tokens'].shape)}, this model has {tuple(query_tokens.shape)}; "
            "set model.num_query_token to match."
        )
    _load_exactly(qformer, qformer_state(state), path)
    _load_exactly(ln_vision, {key.removeprefix("ln_vision."): value for key, value in state.items() if key.startswith("ln_vision.")}, path)
    query_tokens.data = state["query_tokens"]


def load_into(model: nn.Module, state: Mapping[str, Tensor], path: str | Path) -> None:
    """Load the parameters in `state` into `model`, by this project's names or LAVIS' (Q-Former, buffers tolerated).

    Parts that the file does not mention keep their weights; a part that it mentions must be complete.

    Raises:
        CheckpointError: names the parameters that are missing, unexpected or of another shape.
    """
    renamed = {f"Qformer.{key}": value for key, value in qformer_state(state).items()}
    renamed |= {key: value for key, value in state.items() if not key.startswith("Qformer.bert.") and not key.endswith(PUBLISHED_BUFFERS)}
    parts = {key.split(".")[0] for key in renamed}
    wanted = {key: value for key, value in model.state_dict().items() if key.split(".")[0] in parts}
    _check(wanted, renamed, path)
    model.load_state_dict({key: _like(wanted[key], value) for key, value in renamed.items()}, strict=False, assign=True)
    logger.info("Loaded %s from %s", ", ".join(sorted(parts)), path)


def _load_exactly(module: nn.Module, state: Mapping[str, Tensor], path: str | Path) -> None:
    _check(module.state_dict(), state, path)
    module.load_state_dict({key: _like(wanted, state[key]) for key, wanted in module.state_dict().items()}, assign=True)


def _like(wanted: Tensor, given: Tensor) -> Tensor:
    """`given` where and as what it is wanted; the tensor itself, still mapped to its file, for a parameter that was built empty."""
    return given if wanted.is_meta else given.to(wanted.device, wanted.dtype)


def _check(wanted: Mapping[str, Tensor], given: Mapping[str, Tensor], path: str | Path) -> None:
    problems = [f"{key} is missing" for key in sorted(wanted.keys() - given.keys())]
    problems += [f"{key} is unexpected" for key in sorted(given.keys() - wanted.keys())]
    problems += [
        f"{key} is {tuple(given[key].shape)}, expected {tuple(wanted[key].shape)}"
        for key in sorted(wanted.keys() & given.keys())
        if given[key].shape != wanted[key].shape
    ]
    if problems:
        more = f" (and {len(problems) - 8} more)" if len(problems) > 8 else ""
        raise CheckpointError(f"{path} does not fit this model: {'; '.join(problems[:8])}{more}.")
