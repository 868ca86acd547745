"""What every model-based score needs: weights that are checked and named by their content, and packages imported only when asked.

Nothing here or in the scores imports torch, transformers or a metric's package at import: reports can be scored without them.
"""

import hashlib
import importlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from xraygpt.common.errors import CheckpointError, ConfigError, first_line
from xraygpt.common.files import sha256_file
from xraygpt.common.model_folder import library_errors

ENCODER_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
VOCABULARIES = ("tokenizer.json", "vocab.txt", "vocab.json", "spiece.model", "sentencepiece.bpe.model")


def require_package(name: str, *, install: str) -> Any:
    """The imported package; ConfigError, with the command that installs it, where it is missing or does not import."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ConfigError(f"The package {name} cannot be imported ({first_line(error)}). Install it: {install}") from error


def require_files(folder: Path, files: Sequence[str | Sequence[str]], *, source: str) -> list[Path]:
    """The absolute paths of files in the folder of a model's weights.

    Args:
        folder: as the user gave it.
        files: names; where an item is several names, one of them must be there, and the first that is counts.
        source: where the files come from, for the message.

    Raises:
        CheckpointError: there is no such folder, or files are missing in it; nothing is ever downloaded.
    """
    folder = folder.expanduser().absolute()
    if not folder.is_dir():
        raise CheckpointError(f"There is no folder {folder}. Expected the weights there: {source}")
    choices = [(item,) if isinstance(item, str) else tuple(item) for item in files]
    found = [next((folder / name for name in names if (folder / name).exists()), None) for names in choices]
    if missing := [" or ".join(names) for names, path in zip(choices, found, strict=True) if path is None]:
        raise CheckpointError(f"{folder} lacks {', '.join(missing)}. {source}")
    return [path for path in found if path is not None]


def fingerprint(files: Sequence[Path]) -> str:
    """The first 8 hexadecimal digits of a SHA-256 over the content of the files, in their order."""
    return hashlib.sha256("".join(sha256_file(path) for path in files).encode()).hexdigest()[:8]


@contextmanager
def reading(folder: Path) -> Iterator[None]:
    """Around the code that loads weights and uses them: whatever a library raises there becomes a CheckpointError that names the folder."""
    with library_errors(f"The weights in {folder} cannot be used"):
        yield
