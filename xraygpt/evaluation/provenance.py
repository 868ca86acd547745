"""Where numbers come from: library versions, commit of the code, machine."""

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from xraygpt import __version__

LIBRARIES = (
    "bert-score", "nltk", "numpy", "pillow", "radgraph", "rapidfuzz", "sacrebleu", "scipy", "timm", "tokenizers",
    "torch", "torchvision", "transformers",
)  # fmt: skip


def environment() -> dict[str, Any]:
    """Versions, commit and hardware; the same for two runs on one machine. Names neither the machine nor its user."""
    return {
        "xraygpt": __version__,
        "git_commit": git_commit(Path(__file__)),
        "python": platform.python_version(),
        "libraries": {name: found for name in LIBRARIES if (found := _version(name))},
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": _cpu_name(),
        "num_cpus": os.cpu_count(),
    }


def git_commit(file: Path) -> str | None:
    """The commit of the checkout that tracks `file`, with "-dirty" where tracked files differ from it; None if none does."""
    folder = file.parent
    try:
        _git(folder, "ls-files", "--error-unmatch", file.name)  # an installed copy may lie in somebody else's checkout
        commit = _git(folder, "rev-parse", "HEAD").strip()
        return f"{commit}-dirty" if _git(folder, "status", "--porcelain", "--untracked-files=no").strip() else commit
    except (OSError, subprocess.SubprocessError):
        return None


def _git(folder: Path, *arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=True, timeout=30).stdout


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _cpu_name() -> str:
    """The model name of the processor, as Linux states it, else what Python knows."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.processor() or "unknown")
