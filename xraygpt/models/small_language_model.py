"""A language model small enough to be trained from nothing: its tokenizer, and the folder that `model.llama_model` names.

The architecture is LLaMA's. The tokenizer is a byte-level BPE, so that no text is unknown to it and every text comes back as it was.
"""

from collections.abc import Iterable
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import LlamaConfig, PreTrainedTokenizerFast

from xraygpt.common.errors import ConfigError, DataError
from xraygpt.common.files import atomic_folder

UNKNOWN, BEGIN, END = SPECIAL_TOKENS = ("<unk>", "<s>", "</s>")
"""Ids 0, 1 and 2, as in LLaMA."""

_TOKENIZER_FILE, _CONFIG_FILE = "tokenizer.json", "config.json"
_FILES = {_TOKENIZER_FILE, _CONFIG_FILE, "tokenizer_config.json", "special_tokens_map.json", "generation_config.json"}


def train_tokenizer(texts: Iterable[str], *, vocab_size: int, end_sym: str = "###") -> PreTrainedTokenizerFast:
    """Train a byte-level BPE tokenizer. The same texts give the same tokenizer.

    Args:
        texts: what the vocabulary is made for.
        vocab_size: number of tokens, with 3 special ones and 256 bytes; fewer if the texts do not have that many.
        end_sym: never shares a token with the text around it, so that an answer always ends with the same tokens.

    Raises:
        ConfigError: the vocabulary is too small for the special tokens and the bytes.
    """
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    smallest = len(SPECIAL_TOKENS) + len(alphabet)
    if vocab_size < smallest:
        raise ConfigError(f"The vocabulary needs at least {smallest} tokens (special tokens and bytes), got {vocab_size}.")
    tokenizer = Tokenizer(models.BPE(unk_token=UNKNOWN))
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(end_sym, "isolated"), byte_level])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=list(SPECIAL_TOKENS), initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{BEGIN} $A", special_tokens=[(BEGIN, tokenizer.token_to_id(BEGIN))])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token=UNKNOWN, bos_token=BEGIN, eos_token=END, clean_up_tokenization_spaces=False
    )


def write_language_model(
    folder: str | Path,
    tokenizer: PreTrainedTokenizerFast,
    *,
    hidden_size: int,
    num_layers: int,
    num_heads: int,
    intermediate_size: int,
    context_length: int,
    initializer_range: float = 0.06,
    overwrite: bool = False,
) -> LlamaConfig:
    """Write tokenizer and config.json of a LLaMA without weights, for `model.llm_from_scratch=True`: all files or none.

    Args:
        hidden_size: width; a multiple of twice `num_heads`, since positions turn pairs of numbers in each head.
        intermediate_size: width inside the feed-forward layers.
        context_length: most tokens of prompt, image and answer together.
        initializer_range: standard deviation of the initial weights; small widths learn sooner with more than the usual 0.02.
        overwrite: replace a folder that this function wrote.

    Raises:
        ConfigError: the width does not divide.
        DataError: `folder` exists, or is to be replaced but holds other files, such as weights.
    """
    if hidden_size % (2 * num_heads):
        raise ConfigError(f"The hidden size must be a multiple of 2 x {num_heads} heads, got {hidden_size}.")
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden_size,
        intermediate_size=intermediate_size,
        num_hidden_layers=num_layers,
        num_attention_heads=num_heads,
        max_position_embeddings=context_length,
        initializer_range=initializer_range,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        architectures=["LlamaForCausalLM"],
    )
    _refuse_to_lose(Path(folder), overwrite=overwrite)
    with atomic_folder(folder) as temporary:
        tokenizer.save_pretrained(temporary)
        config.save_pretrained(temporary)
    return config


def _refuse_to_lose(folder: Path, *, overwrite: bool) -> None:
    """Raise unless `folder` is new, or may be replaced because it holds nothing but what `write_language_model` writes."""
    if folder.exists() and not overwrite:
        raise DataError(f"{folder} exists already. Choose another folder, or replace it with --overwrite.")
    if folder.exists() and (foreign := sorted({path.name for path in folder.iterdir()} - _FILES)):
        raise DataError(f"{folder} is not replaced: it also holds {', '.join(foreign[:5])}. Choose another folder.")
