"""What a folder holds: a run's checkpoints, which of them a resumed run takes, and how far the run is; or a language model."""

from pathlib import Path
from typing import Any

from torch import Tensor

from xraygpt.common.checkpoint import load_checkpoint
from xraygpt.common.checkpoint_folder import CheckpointFolder, Entry, damage_of
from xraygpt.common.errors import CheckpointError
from xraygpt.common.files import read_small_json
from xraygpt.common.model_folder import CONFIG, read_json
from xraygpt.diagnosis.weights_file import describe_file, describe_parts

_LAST_BYTES = 1 << 16  # enough of log.txt for its last line


def describe_folder(folder: Path) -> dict[str, Any]:
    """A run's folder, or a language model's.

    Raises:
        CheckpointError: it is neither, or its weights cannot be read.
    """
    if any(folder.glob("checkpoint_*.pth")) or (folder / "log.txt").is_file():
        return _describe_run(folder)
    if (folder / "config.json").is_file():
        return _describe_language_model(folder)
    raise CheckpointError(
        f"{folder.absolute()} is neither a run's folder (checkpoint_*.pth, log.txt) nor a language model's (config.json with weights)."
    )


def _describe_run(folder: Path) -> dict[str, Any]:
    checkpoints = CheckpointFolder(folder)
    listed = {entry.file: entry for entry in checkpoints.entries() or []}
    rows = [_unlisted(path) for path in checkpoints.unlisted(listed)] + [_listed(folder, entry) for entry in listed.values()]
    try:
        newest = checkpoints.newest_good()
        resume, problem = newest.name if newest else None, ""
    except CheckpointError as error:
        resume, problem = None, str(error)
    summary = folder / "summary.json"
    return {
        "folder": str(folder),
        "kind": "run",
        "checkpoints": rows,
        "resume_takes": resume,
        "resume_problem": problem,
        "complete": summary.is_file(),
        "summary": _read_summary(summary) if summary.is_file() else None,
        "last_log_line": _last_line(folder / "log.txt"),
    }


def _listed(folder: Path, entry: Entry) -> dict[str, Any]:
    """A checkpoint that checkpoints.json names, its content compared with the checksum there."""
    path = folder / entry.file
    state = "missing"
    if path.is_file():
        state = f"damaged: {damage}" if (damage := damage_of(path, entry)) else "good"
    return {
        "file": entry.file,
        "step": entry.step,
        "epoch": entry.epoch,
        "iteration": entry.iteration,
        "bytes": entry.bytes,
        "state": state,
    }


def _unlisted(path: Path) -> dict[str, Any]:
    """A checkpoint without a checksum: it is good if it can be read."""
    row = {"file": path.name, "step": None, "epoch": None, "iteration": None, "bytes": path.stat().st_size}
    try:
        described = describe_file(path)
    except CheckpointError as error:
        return row | {"state": f"damaged: {error}"}
    problems = described["problems"]
    state = f"readable, but {problems[0]}" if problems else "readable, not in checkpoints.json"
    return row | {key: described.get(key) for key in ("step", "epoch", "iteration")} | {"state": state}


def _read_summary(path: Path) -> Any:
    try:
        return read_small_json(path)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} is damaged, it is no JSON: {error}") from error


def _last_line(path: Path) -> str | None:
    """The last line that is not empty; None if there is no such file."""
    if not path.is_file():
        return None
    with open(path, "rb") as handle:
        handle.seek(max(0, path.stat().st_size - _LAST_BYTES))
        lines = handle.read().decode(errors="replace").split("\n")
    return next((line for line in reversed(lines) if line.strip()), "")


def _describe_language_model(folder: Path) -> dict[str, Any]:
    """A folder as transformers saves it: all its weight files together."""
    files = sorted([*folder.glob("*.safetensors"), *folder.glob("pytorch_model*.bin")])
    parameters: dict[str, Tensor] = {}
    for file in files:
        parameters |= {name: value for name, value in load_checkpoint(file, mmap=True).items() if isinstance(value, Tensor)}
    return {
        "folder": str(folder),
        "kind": "language model" if files else "language model without weights (for model.llm_from_scratch)",
        "files": [file.name for file in files],
        "bytes": sum(file.stat().st_size for file in files),
        "parts": describe_parts(parameters),
        "config": read_json(folder / CONFIG),
    }
