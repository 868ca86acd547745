"""Folders of language models and encoders that come from someone else: what their files ask for is checked before a library reads them.

transformers takes a folder's JSON files at their word: a configuration can name code, kernels, other files and any size. Here
they are read first, as bounded JSON. What asks for code, kernels, or a file elsewhere is refused by its key; what published
folders carry and nobody needs (`auto_map`, the attention implementation) is left out of the copy of config.json that
transformers is given.
"""

import re
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from xraygpt.common.errors import CheckpointError, XrayGPTError, first_line
from xraygpt.common.files import read_small_json, write_json
from xraygpt.common.offline import require_offline
from xraygpt.common.printable import printable_line

CONFIG = "config.json"
TOKENIZER_CONFIG = "tokenizer_config.json"
INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
WEIGHT_FILES = ("model.safetensors", INDEXES[0], "pytorch_model.bin", INDEXES[1])
"""In the order in which transformers looks for them."""

MIB = 2**20
MAX_BYTES = {CONFIG: MIB, TOKENIZER_CONFIG: 8 * MIB}
"""Of the other files of JSON and text: `MAX_OTHER_BYTES`. The largest published tokenizers have about 35 MB."""
MAX_OTHER_BYTES = 64 * MIB
MAX_DEPTH = 16
MAX_LAYERS = 1000
"""The deepest published language models have 126."""
MAX_PARTS = 65_536
"""Experts, heads, labels."""
MAX_SIZE = 2**31 - 1
MAX_TOKEN_ID = 2**22

DTYPES = ("float32", "float16", "bfloat16", "float64")
_READ_AS_TEXT = (".json", ".jinja", ".txt", ".model", ".tiktoken")

_LEFT_OUT = {
    "auto_map",
    "attn_implementation",
    "_attn_implementation",
    "_attn_implementation_internal",
    "experts_implementation",
    "_experts_implementation",
    "_experts_implementation_internal",
}
"""Published folders have them. No code of a folder is run, and the implementation is the library's own choice: sdpa, else eager."""
_REFUSED = {
    "adapter_kwargs": "an adapter",
    "backbone": "another model",
    "backbone_config": "another model",
    "configuration_files": "another file",
    "custom_generate": "code",
    "distributed_config": "other processes",
    "fusion_config": "code",
    "gguf_file": "another file",
    "kernel_config": "kernels",
    "timm_model": "another model",
    "transformers_weights": "another file",
    "use_kernels": "kernels",
    "use_pretrained_backbone": "another model",
    "use_timm_backbone": "another model",
}
"""Key → what it asks for, in a configuration at any depth; a value of null or false asks for nothing."""
_CLASS_ATTRIBUTES = {
    "attribute_map",
    "base_config_key",
    "base_model_ep_plan",
    "base_model_fsdp_plan",
    "base_model_pp_plan",
    "base_model_tp_plan",
    "extra_config_files",
    "extra_files",
    "sub_configs",
    "sub_configs_defaults",
}
"""Of transformers' configuration classes: in a file they would change what the other keys mean."""

_IMPLEMENTATIONS = (None, "eager", "sdpa", "grouped_mm", "batched_mm")
"""Of attention and experts, in torch and transformers themselves."""

_LAYER_KEY = re.compile(r"(layers?|blocks?|depths?|stages)$")
_PART_KEY = re.compile(r"(experts?|heads?|labels|groups|repeats)$")
_FREE_KEY = re.compile(r"(theta|base|seed|max_length)$")
_BITSANDBYTES_KEYS = re.compile(r"(quant_method|_?load_in_[48]bit|llm_int8_\w+|bnb_4bit_\w+)$")
_TOKENIZER_CLASS = re.compile(r"(?!Auto|Rag)[A-Za-z]\w*(Tokenizer|TokenizerFast|Backend)$|PreTrainedTokenizerFast$")
_DISTRIBUTED = re.compile(r"shard-\d{5}-model-\d{5}-of-\d{5}\.safetensors$")


# Reading ----------------------------------------------------------------------------------------------------------------------------


@contextmanager
def library_errors(say: str) -> Iterator[None]:
    """Whatever a library raises inside becomes a CheckpointError: `say`, a colon, and the beginning of its message."""
    try:
        yield
    except XrayGPTError:
        raise
    except BaseException as error:  # transformers raises nearly any type on odd files; tokenizers' panics are no Exception
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise CheckpointError(f"{say}: {_message(error)}") from error


def _message(error: BaseException) -> str:
    """One line; with the second where the first only announces it, as in "Validation error for field 'hidden_size':"."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    text = " ".join(lines[: 1 + lines[0].endswith(":")])
    text = printable_line(text)
    return text if len(text) <= 300 else f"{text[:300]}…"


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file of a bounded size and depth.

    Raises:
        CheckpointError: it is no such file, or holds NaN.
    """
    _check_file(path)
    try:
        content = read_small_json(path, max_bytes=_limit(path))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be used: it is not valid JSON in UTF-8 ({first_line(error)}).") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} cannot be used: expected a JSON object, got a {type(content).__name__}.")
    if odd := [key for key, value in _items(content, path) if value != value]:
        raise CheckpointError(f"{path} cannot be used: {_shown(odd[0])} is NaN, expected a number.")
    return content


def _limit(path: Path) -> int:
    return MAX_BYTES.get(path.name, MAX_OTHER_BYTES)


def _check_file(path: Path) -> None:
    """Raise CheckpointError unless it is a file, directly or through a link, of a size that such files have."""
    limit = _limit(path)
    try:
        found = path.stat()
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}.") from error
    if not stat.S_ISREG(found.st_mode):
        raise CheckpointError(f"{path} is not a file. Use the folder as it was published.")
    if found.st_size > limit:
        raise CheckpointError(f"{path} is refused: it has {found.st_size:,} bytes, and such files have at most {limit:,}.")


def _items(content: Any, path: Path) -> Iterator[tuple[str, Any]]:
    """Every (key, value) at any depth, the key of a list for its items. Raises CheckpointError for what is nested too deeply."""
    waiting: list[tuple[str, Any, int]] = [("", content, 0)]
    while waiting:
        key, value, depth = waiting.pop()
        if depth > MAX_DEPTH:
            raise CheckpointError(f"{path} is refused: its values are nested more than {MAX_DEPTH} deep.")
        if depth:
            yield key, value
        if isinstance(value, dict):
            waiting.extend((name, inner, depth + 1) for name, inner in value.items())
        elif isinstance(value, list):
            waiting.extend((key, inner, depth + 1) for inner in value)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]}…"


# The folder -------------------------------------------------------------------------------------------------------------------------


def check_folder(folder: Path) -> None:
    """Check everything but the weights' numbers, and make sure that the process is offline.

    Raises:
        CheckpointError: a file is too large or no file; an adapter or a distributed checkpoint is there; a tokenizer's or an index's
            file asks for what is refused.
    """
    require_offline()
    try:
        for path in [*folder.iterdir(), *(folder / "additional_chat_templates").glob("*")]:
            _check_entry(path)
        tokenizer_options(folder)
        for name in INDEXES:
            if (folder / name).exists():
                _shards(folder, name)
    except OSError as error:
        raise CheckpointError(f"{folder.absolute()} cannot be read: {error.strerror}.") from error


def _check_entry(path: Path) -> None:
    if path.name in ("adapter_config.json", "custom_generate"):
        raise CheckpointError(f"{path} is refused: adapters and code are not loaded. Merge the adapter into the weights, or remove it.")
    if _DISTRIBUTED.match(path.name):
        raise CheckpointError(f"{path} is part of a distributed checkpoint. Save the model with save_pretrained, as model.safetensors.")
    if path.suffix in _READ_AS_TEXT and not path.is_dir():
        _check_file(path)


def weight_files(folder: Path) -> list[Path]:
    """The files of weights that transformers would read; [] if there are none.

    Raises:
        CheckpointError: an index names a file that is missing, or not in the folder.
    """
    first = next((name for name in WEIGHT_FILES if (folder / name).is_file()), None)
    if first is None:
        return []
    return _shards(folder, first) if first in INDEXES else [folder / first]


def _shards(folder: Path, name: str) -> list[Path]:
    index = read_json(folder / name)
    names = index.get("weight_map")
    if not isinstance(names, dict) or not names or not all(isinstance(value, str) for value in names.values()):
        raise CheckpointError(f"{folder / name} cannot be used: expected a weight_map of parameters to the names of files.")
    for shard in (shards := sorted(set(names.values()))):
        if not _is_plain_name(shard):
            raise CheckpointError(f"{folder / name} is refused: it names {_shown(shard)}, which is not a file of the folder.")
        if not (folder / shard).is_file():
            raise CheckpointError(f"{folder / name} names {_shown(shard)}, which is missing. Fetch all files of the folder.")
    if not isinstance(index.get("metadata"), dict):
        raise CheckpointError(f"{folder / name} cannot be used: expected an object 'metadata'.")
    return [folder / shard for shard in shards]


def _is_plain_name(name: str) -> bool:
    return name not in ("", ".", "..") and not set(name) & set("/\\:\0")


# The configuration ------------------------------------------------------------------------------------------------------------------


@contextmanager
def checked_config(folder: Path) -> Iterator[Path]:
    """A temporary folder with a config.json that transformers may read; see `clean_config`."""
    cleaned = clean_config(folder)
    with tempfile.TemporaryDirectory() as copy:
        write_json(Path(copy) / CONFIG, cleaned)
        yield Path(copy)


def clean_config(folder: Path) -> dict[str, Any]:
    """What config.json says, without the keys that ask for code or choose an implementation.

    Raises:
        CheckpointError: it asks for something that is refused, or for an impossible size; it names no model type.
    """
    path = folder / CONFIG
    content = _without(read_json(path), _LEFT_OUT)
    for key, value in _items(content, path):
        _check_item(key, value, path)
    if not isinstance(kind := content.get("model_type"), str):
        raise CheckpointError(f"{path} cannot be used: model_type is {_shown(kind)}, expected the name of an architecture.")
    _check_tokenizer_class(content, path)
    if isinstance(content.get("text_config"), dict):
        _check_quantization(content["text_config"], path)
    _check_quantization(content, path)
    return content


def accept_config(config: Any, folder: Path) -> None:
    """Check the configuration that transformers made of the copy (`checked_config`), and name it after its own folder.

    Raises:
        CheckpointError: it, or a part of it, chooses an implementation that could be loaded as a kernel.
    """
    config.name_or_path = str(folder)
    for part in [config, *(getattr(config, name, None) for name in type(config).sub_configs)]:
        names = [getattr(part, f"_{kind}_implementation", None) for kind in ("attn", "experts")]
        if foreign := [name for name in names if name not in _IMPLEMENTATIONS]:
            raise CheckpointError(f"{folder / CONFIG} is refused: it chooses the implementation {_shown(foreign[0])}.")


def _without(content: Any, keys: set[str]) -> Any:
    """A copy of JSON values without some keys, at any depth (which `read_json` has bounded)."""
    if isinstance(content, dict):
        return {key: _without(value, keys) for key, value in content.items() if key not in keys}
    return [_without(value, keys) for value in content] if isinstance(content, list) else content


def _check_item(key: str, value: Any, path: Path) -> None:
    if key in _REFUSED and value not in (None, False):
        raise CheckpointError(
            f"{path} is refused: {key} = {_shown(value)} asks for {_REFUSED[key]}; only the folder's own weights are read. "
            "Remove the key if the model works without it."
        )
    if key in _CLASS_ATTRIBUTES or (key.startswith("__") and key != "__float__"):
        raise CheckpointError(f"{path} is refused: {_shown(key)} would change what the other keys mean, and no published folder has it.")
    if key in ("dtype", "torch_dtype") and value is not None and value not in DTYPES:
        raise CheckpointError(f"{path} cannot be used: {key} is {_shown(value)}, expected one of {', '.join(DTYPES)}.")
    if isinstance(value, int) and not isinstance(value, bool) and not _FREE_KEY.search(key):
        limit = MAX_LAYERS if _LAYER_KEY.search(key) or key == "n_layer" else MAX_PARTS if _PART_KEY.search(key) else MAX_SIZE
        if abs(value) > limit:
            raise CheckpointError(f"{path} is refused: {_shown(key)} is {_shown(value)}, more than {limit:,}.")


def _check_quantization(content: dict[str, Any], path: Path) -> None:
    quantization = content.get("quantization_config")
    if quantization is None:
        return
    known = isinstance(quantization, dict) and quantization.get("quant_method", "bitsandbytes") == "bitsandbytes"
    if not known:
        method = quantization.get("quant_method") if isinstance(quantization, dict) else quantization
        raise CheckpointError(
            f"{path} is refused: quantization_config names the method {_shown(method)}; only bitsandbytes is supported. "
            "Use the published weights in 16 bits, with model.frozen_dtype.llm=int8 or nf4."
        )
    for key, value in quantization.items():
        if not _BITSANDBYTES_KEYS.match(key):
            raise CheckpointError(f"{path} is refused: quantization_config has {_shown(key)}, which is not a setting of bitsandbytes.")
        if key == "bnb_4bit_compute_dtype" and value is not None and value not in DTYPES:
            raise CheckpointError(f"{path} cannot be used: {key} is {_shown(value)}, expected one of {', '.join(DTYPES)}.")


# The tokenizer ----------------------------------------------------------------------------------------------------------------------


def tokenizer_options(folder: Path) -> dict[str, Any]:
    """Options for `from_pretrained`: every file that tokenizer_config.json names is None, so that those of the folder are taken.

    Raises:
        CheckpointError: a file of the tokenizer asks for what is refused.
    """
    path = folder / TOKENIZER_CONFIG
    content = read_json(path) if path.exists() else {}
    _check_tokenizer_class(content, path)
    length = content.get("model_max_length")
    if length is not None and (isinstance(length, bool) or not isinstance(length, int | float) or not length >= 1):
        raise CheckpointError(f"{path} cannot be used: model_max_length is {_shown(length)}, expected a number of at least 1.")
    names = content.get("fast_tokenizer_files") or []
    if not isinstance(names, list) or not all(isinstance(name, str) and _is_plain_name(name) for name in names):
        raise CheckpointError(f"{path} is refused: fast_tokenizer_files names {_shown(names)}, expected files of the folder.")
    _check_token_ids(content.get("added_tokens_decoder") or {}, path, "added_tokens_decoder")
    added = folder / "added_tokens.json"
    if added.exists():
        ids = read_json(added).values()
        if any(isinstance(number, bool) or not isinstance(number, int) for number in ids):
            raise CheckpointError(f"{added} cannot be used: expected the numbers of tokens.")
        _check_token_ids({str(number): None for number in ids}, added, "a token's number")
    return {key: None for key in content if key.endswith("_file")}


def _check_token_ids(numbers: Any, path: Path, name: str) -> None:
    """The library makes lists as long as the largest number."""
    if not isinstance(numbers, dict):
        raise CheckpointError(f"{path} cannot be used: {name} is {_shown(numbers)}, expected an object.")
    for number in numbers:
        if not re.fullmatch(r"\d{1,9}", number) or int(number) > MAX_TOKEN_ID:
            raise CheckpointError(f"{path} is refused: {name} has {_shown(number)}, expected a number from 0 to {MAX_TOKEN_ID:,}.")


def _check_tokenizer_class(content: dict[str, Any], path: Path) -> None:
    """The library would take any of its classes by that name, those of models included."""
    name = content.get("tokenizer_class")
    if name is not None and not (isinstance(name, str) and _TOKENIZER_CLASS.match(name)):
        raise CheckpointError(f"{path} is refused: tokenizer_class is {_shown(name)}, expected the name of a tokenizer.")
