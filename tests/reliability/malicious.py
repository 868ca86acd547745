"""Files that would create a folder if what they hold were executed."""

import io
import os
import pickle
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

MARK = "executed"
"""The folder, in the working directory, that tells of an execution."""


class Payload:
    """Creates the mark where it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.makedirs, (MARK, 0o777, True)


class _ScriptedCode(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


def _torch_file(path: Path) -> None:
    torch.save({"model": {"llama_proj.bias": torch.zeros(2)}, "epoch": Payload()}, path)


def _whole_model(path: Path) -> None:
    torch.save(Payload(), path)


def _old_torch_file(path: Path) -> None:
    torch.save({"model": Payload()}, path, _use_new_zipfile_serialization=False)


def _bare_pickle(path: Path) -> None:
    path.write_bytes(pickle.dumps({"model": Payload()}, protocol=2))


def _new_pickle(path: Path) -> None:
    path.write_bytes(pickle.dumps({"model": Payload()}, protocol=5))


def _tar_of_pickles(path: Path) -> None:
    """The layout of torch 0.1."""
    with tarfile.open(path, "w") as tar:
        for name in ("sys_info", "pickle", "tensors", "storages"):
            content = pickle.dumps(Payload(), protocol=2)
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


def _torch_script(path: Path) -> None:
    torch.jit.save(torch.jit.script(_ScriptedCode()), str(path))


WRITERS: dict[str, Callable[[Path], None]] = {
    "torch file": _torch_file,
    "whole model": _whole_model,
    "old torch file": _old_torch_file,
    "bare pickle": _bare_pickle,
    "new pickle": _new_pickle,
    "tar of pickles": _tar_of_pickles,
    "TorchScript": _torch_script,
}
"""Kind → writes such a file."""
