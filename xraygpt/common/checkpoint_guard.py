"""What a weights file may cost: decided from its structure before torch builds anything of it, and from its values before they are used.

A file of some kilobytes can name sizes of gigabytes, or a list that holds one list many times, and that one another: whatever copies,
compares or prints it never ends. Every place that takes weights comes through here.
"""

import io
import zipfile
from pathlib import Path
from typing import Any, Literal

from xraygpt.common.errors import CheckpointError, first_line
from xraygpt.common.pickle_outline import MAX_PICKLE_BYTES, RefusedPickleError, Storage, outline

MAX_HEADER_BYTES = 8 << 20
"""Of a safetensors file: the names, types and shapes, about 100 bytes a tensor."""
MAX_VALUES = 1_000_000
"""In a whole file, where a value that is referred to twice counts twice. The random states are the most, about 1,300 a rank. A small file
may have as many as bytes, and `MAX_SETTINGS` more."""
MAX_CHARACTERS = 64 << 20
MAX_SETTINGS = 10_000
"""In each of `SETTINGS`, as in a YAML file."""
MAX_SETTINGS_CHARACTERS = 1 << 20
MAX_DEPTH = 50
"""Of values within values."""
MAX_SHARING = 8
"""The tensors of a file may be this many times as large as the file: tied weights are stored once."""

SETTINGS = ("config", "data", "llm", "libraries", "best", "meters")
"""Entries of a checkpoint that are compared, printed, and made into configurations."""

_LFS_MAGIC = b"version https://git-lfs"
_ZIP_MAGIC = b"PK\3\4"
_ZIP_END = b"PK\5\6"
_ZIP64_LOCATOR = b"PK\6\7"
_ZIP_END_BYTES, _ZIP64_LOCATOR_BYTES, _ZIP64_END_BYTES = 22, 20, 56
_OLD_FORMAT = 0x1950A86A20F9469CFC6C  # what torch's format before 1.6 begins with
_SLACK = 1 << 20


def check_weights_file(path: Path) -> Literal["safetensors", "zip", "old"]:
    """Refuse a `.pth`, `.bin` or `.safetensors` file that asks for more than it holds, or for more than tensors and plain values.

    Returns:
        Its format: torch.save's is a zip, or its older one.

    Raises:
        CheckpointError: why, in one line.
    """
    try:
        with open(path, "rb") as handle:
            start = handle.read(len(_LFS_MAGIC))
        if start == _LFS_MAGIC:
            raise CheckpointError(f"{path} is a git-LFS pointer of {path.stat().st_size} bytes, not the weights: run 'git lfs pull' there.")
        if path.suffix == ".safetensors":
            _check_safetensors(path)
            return "safetensors"
        if start.startswith(_ZIP_MAGIC):
            _check_zip(path)
            return "zip"
        _check_old_format(path)
        return "old"
    except CheckpointError:
        raise
    except RefusedPickleError as error:
        raise CheckpointError(f"{path} is refused: it {error}.") from error
    except Exception as error:  # damaged bytes make the readers fail in every way there is
        raise damaged(path, error) from error


def damaged(path: Path, error: Exception) -> CheckpointError:
    """The error for a file that a reader failed on."""
    return CheckpointError(f"{path} ({path.stat().st_size} bytes) cannot be read, it is damaged or incomplete: {first_line(error):.300}")


def _check_safetensors(path: Path) -> None:
    size = path.stat().st_size
    with open(path, "rb") as handle:
        header = int.from_bytes(handle.read(8), "little")
    if header > min(size - 8, MAX_HEADER_BYTES):
        raise CheckpointError(
            f"{path} ({size} bytes) cannot be read, it is damaged or incomplete: it says that its list of tensors has {header} bytes "
            f"(at most {MAX_HEADER_BYTES} are accepted)."
        )


def _check_zip(path: Path) -> None:
    """torch.save writes a zip without compression, and each of its parts once; what expands could fill the memory."""
    size = path.stat().st_size
    _require_one_directory(path, size)
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        unpacked = sum(member.file_size for member in members)
        if unpacked > size:
            raise CheckpointError(f"{path} ({size} bytes) is refused: it unpacks to {unpacked} bytes, which no checkpoint does.")
        by_name = {member.filename.lower(): member for member in members}  # torch does not tell upper from lower case
        if len(by_name) != len(members):
            raise CheckpointError(f"{path} is refused: two of its parts have the same name.")
        folder = members[0].filename.split("/")[0].lower()
        instructions = by_name.get(f"{folder}/data.pkl")
        if instructions is None or f"{folder}/constants.pkl" in by_name:
            raise CheckpointError(f"{path} is refused: it is TorchScript or another zip, not a file of torch.save.")
        if instructions.file_size > MAX_PICKLE_BYTES:
            raise RefusedPickleError(f"has {instructions.file_size} bytes of instructions; weights have at most {MAX_PICKLE_BYTES}")
        _, storages = outline(io.BytesIO(archive.read(instructions)))
    require_held(storages, {name: member.file_size for name, member in by_name.items()}, f"{folder}/data")


def _require_one_directory(path: Path, size: int) -> None:
    """The list of an archive's parts stands at its end, where every reader finds the same one."""
    with open(path, "rb") as handle:
        handle.seek(max(0, size - _ZIP_END_BYTES - _ZIP64_LOCATOR_BYTES))
        tail = handle.read()
    locator, end = tail[:-_ZIP_END_BYTES], tail[-_ZIP_END_BYTES:]
    if end[:4] != _ZIP_END or end[-2:] != b"\0\0":
        raise ValueError("the list of its parts is not at its end")
    expected = size - _ZIP_END_BYTES - _ZIP64_LOCATOR_BYTES - _ZIP64_END_BYTES
    if locator[:4] == _ZIP64_LOCATOR and int.from_bytes(locator[8:16], "little") != expected:
        raise ValueError("the list of its parts is not where it says")


def require_held(storages: dict[str, Storage], part_bytes: dict[str, int], folder: str) -> None:
    """Refuse storages that are larger than the parts of the archive that hold them.

    Args:
        storages: of `outline`.
        part_bytes: the size of each part by its name in lower case.
        folder: where the storages are.
    """
    for key, storage in storages.items():
        held = part_bytes.get(f"{folder}/{key.lower()}")
        if held is None or held < storage.num_bytes:
            raise RefusedPickleError(f"has a storage {key!r:.60} of {storage.num_bytes} bytes, of which the file holds {held or 0}")


def _check_old_format(path: Path) -> None:
    """Five pickles, of which the fourth has the tensors and the last the keys of the storages, then the storages one after another."""
    size = path.stat().st_size
    with open(path, "rb") as handle:
        stream = io.BytesIO(handle.read(MAX_PICKLE_BYTES))
    if outline(stream)[0] != _OLD_FORMAT:
        raise ValueError("it is neither a zip nor of torch's older format")
    for _ in ("version", "machine"):
        outline(stream)
    _, storages = outline(stream)
    keys, _ = outline(stream)
    if not isinstance(keys, list) or sorted(keys) != sorted(storages):
        raise RefusedPickleError("does not list its storages")
    needed = stream.tell() + sum(8 + storage.num_bytes for storage in storages.values())
    if needed > size:
        raise RefusedPickleError(f"has {size} bytes, but names storages for which it would need {needed}")


def check_values(loaded: Any, path: Path) -> None:
    """Refuse values that would grow when they are copied, compared or printed, because they refer to the same parts again and again.

    Raises:
        CheckpointError: there are more than `MAX_VALUES`, more than `MAX_SETTINGS` in an entry that is a setting, values within values
            without end, or tensors that come to many times the file's size.
    """
    size = path.stat().st_size
    num_bytes = _measure(loaded, f"{path}", values=min(MAX_VALUES, size + MAX_SETTINGS), characters=MAX_CHARACTERS)
    if num_bytes > MAX_SHARING * size + _SLACK:
        raise CheckpointError(f"{path} ({size} bytes) is refused: it refers to the same tensors again and again, {num_bytes} bytes in all.")
    for name in SETTINGS if isinstance(loaded, dict) else ():
        _measure(loaded.get(name), f"{path}: {name!r}", values=MAX_SETTINGS, characters=MAX_SETTINGS_CHARACTERS)


def _measure(value: Any, where: str, *, values: int, characters: int) -> int:
    """The bytes of all tensors. Each value counts as often as it is referred to; counting stops at the limits."""
    num_bytes = 0
    waiting = [(value, 0)]
    while waiting:
        value, depth = waiting.pop()
        if isinstance(value, str):
            characters -= len(value)
        elif isinstance(value, dict | list | tuple):
            values -= len(value)
            if depth >= MAX_DEPTH:
                raise CheckpointError(f"{where} is refused: it has more than {MAX_DEPTH} values within each other.")
            if values >= 0:
                waiting.extend((item, depth + 1) for item in (value.values() if isinstance(value, dict) else value))
                characters -= sum(len(key) for key in value if isinstance(key, str)) if isinstance(value, dict) else 0
        else:
            num_bytes += getattr(value, "nbytes", 0)
        if values < 0 or characters < 0:
            raise CheckpointError(
                f"{where} is refused: it holds more values or text than a checkpoint has, or refers to the same ones again and again."
            )
    return num_bytes
