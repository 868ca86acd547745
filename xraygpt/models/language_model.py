"""The language model: loading it from a local folder, and knowing it again."""

from __future__ import annotations

import copy
import hashlib
import json
import logging
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from xraygpt.common.checkpoint_guard import check_weights_file
from xraygpt.common.errors import CheckpointError
from xraygpt.common.model_folder import (
    CONFIG,
    WEIGHT_FILES,
    accept_config,
    check_folder,
    checked_config,
    library_errors,
    tokenizer_options,
    weight_files,
)
from xraygpt.common.model_size import MAX_NEW_NUMBERS, MAX_NUMBERS, counted, numbers_in
from xraygpt.common.offline import require_offline

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

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
    from transformers import AutoTokenizer, PreTrainedTokenizerBase

    folder = Path(folder).expanduser()
    if not folder.is_dir():
        raise CheckpointError(f"There is no language model folder {folder} (looked for {folder.absolute()}).")
    check_folder(folder)
    options: dict[str, Any] = {**_LOCAL, **tokenizer_options(folder)}
    if (folder / CONFIG).exists():
        options["config"] = read_config(folder)
    with library_errors(f"{folder} holds no tokenizer that can be read"):
        tokenizer = AutoTokenizer.from_pretrained(str(folder), **options)
        if not isinstance(tokenizer, PreTrainedTokenizerBase):
            raise CheckpointError(f"{folder} holds a {type(tokenizer).__name__} in place of a tokenizer.")
        _check_special_tokens(tokenizer, folder, getattr(options.get("config"), "vocab_size", None))
        tokenizer("The heart is normal.")  # some fail at their first text only
    return tokenizer


def _check_special_tokens(tokenizer: PreTrainedTokenizerBase, folder: Path, vocab_size: Any) -> None:
    if tokenizer.bos_token_id is None or tokenizer.eos_token_id is None:
        raise CheckpointError(f"The tokenizer in {folder} names no begin-of-text or no end-of-text token; both are needed.")
    limit = vocab_size if isinstance(vocab_size, int) else len(tokenizer)
    if beyond := [number for number in (tokenizer.bos_token_id, tokenizer.eos_token_id) if number >= limit]:
        raise CheckpointError(
            f"The tokenizer in {folder} has the special token {beyond[0]}, and config.json a vocabulary of {limit}: "
            "they do not belong together."
        )
    if tokenizer.pad_token_id in (None, tokenizer.eos_token_id) or tokenizer.pad_token_id >= limit:
        tokenizer.pad_token = tokenizer.unk_token or tokenizer.bos_token


def read_config(folder: Path) -> PreTrainedConfig:
    """transformers' configuration of what config.json says, without what it must not choose (`clean_config`).

    Raises:
        CheckpointError: the file cannot be used.
    """
    from transformers import AutoConfig

    require_offline()
    say = f"{folder.absolute() / CONFIG} cannot be used"
    with checked_config(folder) as checked, library_errors(say):
        config = AutoConfig.from_pretrained(checked, **_LOCAL)
        accept_config(config, folder)
    return config


def load_language_model(folder: str | Path, *, from_scratch: bool = False) -> PreTrainedModel:
    """A causal language model from a local folder; nothing is downloaded.

    Args:
        folder: config.json with weights (safetensors, or .bin read without executing pickles).
        from_scratch: random weights of the size in config.json, float32.

    Returns:
        The model in the precision that its files have. Safetensors are mapped into memory, not copied.

    Raises:
        CheckpointError: the folder has no config.json or no weights, they do not fit, or the folder asks for code, for other files or for
            more numbers than its weights have.
    """
    from transformers import AutoModelForCausalLM, GenerationConfig  # seconds, like timm

    folder = Path(folder).expanduser()
    check_folder(folder)
    if not (folder / CONFIG).is_file():
        raise CheckpointError(f"There is no config.json in {folder.absolute()}: expected a language model folder as transformers saves it.")
    config = read_config(folder)
    if from_scratch:
        _check_size(config, folder, [])
        with library_errors(f"{folder.absolute() / CONFIG} cannot be used"):
            return AutoModelForCausalLM.from_config(config, dtype=torch.float32, trust_remote_code=False)
    files = weight_files(folder)
    if not files:
        raise CheckpointError(
            f"{folder.absolute()} has a config.json but no weights ({', '.join(WEIGHT_FILES)}). "
            "Put them there, or set model.llm_from_scratch=True to train a new language model of that size."
        )
    for path in files:
        check_weights_file(path)
    _check_size(config, folder, files)
    if getattr(config, "quantization_config", None) is not None and find_spec("bitsandbytes") is None:
        raise CheckpointError(f"The weights in {folder.absolute()} are quantised, and need bitsandbytes: make install-extras EXTRAS=quant.")
    # Sizes that do not match are let pass there, to be named below. The folder's generation_config.json is not read.
    options: dict[str, Any] = {"dtype": "auto", "ignore_mismatched_sizes": True, "generation_config": GenerationConfig(), **_LOCAL}
    with library_errors(
        f"The weights in {folder.absolute()} cannot be loaded. They may be git-LFS pointers or incomplete downloads: "
        "compare their sizes with those published. transformers says"
    ):
        loaded: Any = AutoModelForCausalLM.from_pretrained(folder, config=config, output_loading_info=True, **options)
    model, report = loaded
    wrong = [key for kind in ("missing_keys", "mismatched_keys") for key in report[kind]]
    if wrong:
        raise CheckpointError(
            f"{folder.absolute()}: {len(wrong)} parameters are missing or misshapen, first {sorted(map(str, wrong))[:5]}."
        )
    return model


def _check_size(config: PreTrainedConfig, folder: Path, files: list[Path]) -> None:
    """Build the model without storage, and raise CheckpointError if it is no causal model, or has more numbers than its files can hold."""
    from transformers import AutoModelForCausalLM

    source = folder.absolute() / CONFIG
    if files:
        limit = numbers_in(files)
        allowed = "the most that its files of weights can hold."
    elif nn.LayerNorm(1).weight.is_meta:  # no storage is wanted, as when parameters are counted; a norm draws no random numbers
        limit, allowed = MAX_NUMBERS, "the most that is counted."
    else:
        limit, allowed = MAX_NEW_NUMBERS, "the most that may start from random weights. Give a folder with weights."
    with library_errors(f"{source} cannot be used"), counted(limit, source, allowed):
        AutoModelForCausalLM.from_config(copy.deepcopy(config), dtype=torch.float32, trust_remote_code=False)


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
