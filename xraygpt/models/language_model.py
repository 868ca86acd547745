"""The language model: loading it from a local folder, and knowing it again."""

from __future__ import annotations

import hashlib
import json
import logging
import pickle
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError

from xraygpt.common.errors import CheckpointError, first_line

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

WEIGHT_FILES = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
_UNREADABLE = (OSError, ValueError, RuntimeError, EOFError, pickle.UnpicklingError, SafetensorError)
_LOCAL: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
"""Nothing is fetched, and no code of the folder is run. Left out, transformers would ask at the terminal whether it may."""
_FINGERPRINT_SIZE = 256
_FINGERPRINT_TOLERANCE = 0.01


def load_tokenizer(folder: str | Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a local folder, with a pad token that is not its end-of-text token.

    Padding is told from text by masks alone, so any other token serves: the tokenizer's own, else unknown, else begin-of-text.

    Raises:
        CheckpointError: the folder holds no tokenizer that can be read, or one without begin- and end-of-text tokens.
    """
    from transformers import AutoTokenizer

    if not Path(folder).expanduser().is_dir():
        raise CheckpointError(f"There is no language model folder {folder} (looked for {Path(folder).expanduser().absolute()}).")
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(folder), **_LOCAL)
    except (OSError, ValueError, ImportError) as error:
        raise CheckpointError(f"{folder} holds no tokenizer that can be read: {first_line(error)}") from error
    if tokenizer.bos_token_id is None or tokenizer.eos_token_id is None:
        raise CheckpointError(f"The tokenizer in {folder} names no begin-of-text or no end-of-text token; both are needed.")
    if tokenizer.pad_token_id in (None, tokenizer.eos_token_id):
        tokenizer.pad_token = tokenizer.unk_token or tokenizer.bos_token
    return tokenizer


def load_language_model(folder: str | Path, *, from_scratch: bool = False) -> PreTrainedModel:
    """A causal language model from a local folder; nothing is downloaded.

    Args:
        folder: config.json with weights (safetensors, or .bin read without executing pickles).
        from_scratch: random weights of the size in config.json, float32.

    Returns:
        The model in the precision that its files have. Safetensors are mapped into memory, not copied.

    Raises:
        CheckpointError: the folder has no config.json or no weights, or they do not fit.
    """
    from transformers import AutoConfig, AutoModelForCausalLM  # seconds, like timm

    folder = Path(folder).expanduser()
    if not (folder / "config.json").is_file():
        raise CheckpointError(f"There is no config.json in {folder.absolute()}: expected a language model folder as transformers saves it.")
    try:
        config = AutoConfig.from_pretrained(folder, **_LOCAL)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{folder.absolute() / 'config.json'} cannot be used: {first_line(error)}") from error
    if from_scratch:
        return AutoModelForCausalLM.from_config(config, dtype=torch.float32, trust_remote_code=False)
    if not any((folder / name).is_file() for name in WEIGHT_FILES):
        raise CheckpointError(
            f"{folder.absolute()} has a config.json but no weights ({', '.join(WEIGHT_FILES)}). "
            "Put them there, or set model.llm_from_scratch=True to train a new language model of that size."
        )
    # Sizes that do not match are let pass there, to be named below.
    options: dict[str, Any] = {"dtype": "auto", "ignore_mismatched_sizes": True, **_LOCAL}
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(folder, config=config, output_loading_info=True, **options)
        model, report = loaded
    except _UNREADABLE as error:
        raise CheckpointError(
            f"The weights in {folder.absolute()} cannot be loaded. They may be git-LFS pointers or incomplete downloads: "
            f"compare their sizes with those published. ({first_line(error)})"
        ) from error
    wrong = [key for kind in ("missing_keys", "mismatched_keys") for key in report[kind]]
    if wrong:
        raise CheckpointError(
            f"{folder.absolute()}: {len(wrong)} parameters are missing or misshapen, first {sorted(map(str, wrong))[:5]}."
        )
    return model


def identity_of(tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel, name: str, *, with_embedding: bool = True) -> dict[str, Any]:
    """What tells one language model from another: tokenizer hash, sizes, and a sample of its embedding matrix, unless without.

    The sample is 256 values at even distances: fine-tuning shifts it, loading in another precision hardly does.
    """
    vocabulary = json.dumps([sorted(tokenizer.get_vocab().items()), tokenizer.bos_token_id, tokenizer.eos_token_id])
    embedding: Any = model.get_input_embeddings()
    weight = embedding.weight.detach().flatten()
    sample = weight[:: max(1, weight.numel() // _FINGERPRINT_SIZE)][:_FINGERPRINT_SIZE]
    return {
        "name": name,
        "tokenizer": hashlib.sha256(vocabulary.encode()).hexdigest(),
        "vocab_size": model.config.vocab_size,
        "hidden_size": model.config.hidden_size,
        **({"embedding": sample.float().cpu().tolist()} if with_embedding else {}),
    }


def identity_differences(stored: dict[str, Any], own: dict[str, Any], *, compare_embedding: bool = True) -> list[str]:
    """In words, how the language model of a checkpoint differs from this one; empty if it is the same."""
    different = [
        f"{key} {_short(stored[key])} there, {_short(own[key])} here"
        for key in ("vocab_size", "hidden_size", "tokenizer")
        if stored[key] != own[key]
    ]
    if compare_embedding and not different:
        there, here = torch.tensor(stored["embedding"]), torch.tensor(own["embedding"])
        distance = float((there - here).norm() / there.norm().clamp_min(1e-12))
        if not distance <= _FINGERPRINT_TOLERANCE:
            different.append(f"its embeddings differ by {distance:.1%}")
    return different


def _short(value: Any) -> str:
    return f"{value[:12]}…" if isinstance(value, str) else str(value)
