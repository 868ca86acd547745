"""Checkpoints: whole or not at all, exact, and never code."""

import errno
import os
import pickle
from pathlib import Path
from typing import IO

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from xraygpt.common.checkpoint import (
    load_checkpoint,
    load_trainable_state,
    model_state,
    save_checkpoint,
    snapshot,
    trainable_state,
)
from xraygpt.common.errors import CheckpointError
from xraygpt.common.files import disk, sha256_file


def model() -> nn.Sequential:
    """A trained layer behind a frozen one."""
    made = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    made[0].requires_grad_(False)
    return made


def test_only_trainable_parameters_are_kept_and_come_back_exactly(tmp_path: Path) -> None:
    one, other = model(), model()
    save_checkpoint(tmp_path / "c.pth", {"model": trainable_state(one), "epoch": 3})
    checkpoint = load_checkpoint(tmp_path / "c.pth")
    assert checkpoint["epoch"] == 3 and checkpoint["model"].keys() == {"1.weight", "1.bias"}
    load_trainable_state(other, checkpoint["model"], "c.pth")
    same = {name: torch.equal(value, one.state_dict()[name]) for name, value in other.state_dict().items()}
    assert same == {"0.weight": False, "0.bias": False, "1.weight": True, "1.bias": True}


def test_a_failed_save_leaves_the_last_checkpoint(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "c.pth", {"epoch": 1})
    with pytest.raises((pickle.PicklingError, AttributeError)):
        save_checkpoint(tmp_path / "c.pth", {"epoch": lambda: 2})
    assert load_checkpoint(tmp_path / "c.pth") == {"epoch": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["c.pth"]


def test_every_difference_is_named() -> None:
    state = {"1.weight": torch.zeros(3, 2), "2.bias": torch.zeros(2)}
    with pytest.raises(CheckpointError) as error:
        load_trainable_state(model(), state, "c.pth")
    for part in ("3 differences", "missing 1.bias", "unexpected 2.bias", "1.weight is (3, 2), expected (2, 2)", "config.yaml"):
        assert part in str(error.value)


def test_safetensors(tmp_path: Path) -> None:
    save_file({"llama_proj.bias": torch.ones(2)}, tmp_path / "proj.safetensors")
    assert model_state(load_checkpoint(tmp_path / "proj.safetensors"), "p")["llama_proj.bias"].tolist() == [1.0, 1.0]


class Code:
    """Would write a file where it is unpickled."""

    def __reduce__(self) -> tuple:
        return os.mkdir, ("executed",)


def write_damaged(path: Path) -> None:
    save_checkpoint(path, {"model": trainable_state(model())})
    path.write_bytes(path.read_bytes()[:300])


@pytest.mark.parametrize(
    ("name", "write", "message"),
    [
        ("c.pth", lambda path: None, r"There is no checkpoint file .*c\.pth"),
        ("c.pth", lambda path: path.write_text("version https://git-lfs.github.com/spec/v1\noid x"), "git lfs pull"),
        ("c.pth", write_damaged, "cannot be read"),
        ("c.pth", lambda path: path.write_bytes(b""), "cannot be read"),
        ("c.safetensors", lambda path: path.write_bytes(b"abc"), "cannot be read"),
        ("c.pth", lambda path: torch.save(Code(), path), "could run code"),
        ("c.pth", lambda path: torch.save([1, 2], path), "holds a list"),
    ],
)
def test_files_that_are_refused(name: str, write: object, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / name)  # type: ignore[operator]
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(tmp_path / name)
    assert not (tmp_path / "executed").exists()


def test_a_save_says_what_was_meant_to_be_written(tmp_path: Path) -> None:
    written = save_checkpoint(tmp_path / "c.pth", {"model": trainable_state(model())})
    assert (written.bytes, written.sha256) == ((tmp_path / "c.pth").stat().st_size, sha256_file(tmp_path / "c.pth"))


def test_a_full_disk_is_named_as_such(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch's own writer would report it as a failed assertion."""

    def full(handle: IO[bytes], data: memoryview) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(disk, "write", full)
    with pytest.raises(OSError, match="No space left"):
        save_checkpoint(tmp_path / "c.pth", {"model": trainable_state(model())})


def test_a_snapshot_stays_as_it_was() -> None:
    weight = torch.zeros(2)
    taken = snapshot({"a": [weight, (weight, "text")], "b": None})
    weight += 1
    assert taken["a"][0].tolist() == taken["a"][1][0].tolist() == [0.0, 0.0]
    assert taken["a"][1][1] == "text" and taken["b"] is None and isinstance(taken["a"][1], tuple)
