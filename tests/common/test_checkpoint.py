"""Checkpoints: whole or not at all, exact, and never code."""

import os
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from xraygpt.common.checkpoint import (
    load_checkpoint,
    load_trainable_state,
    model_state,
    newest_checkpoint,
    save_checkpoint,
    trainable_state,
)
from xraygpt.common.errors import CheckpointError


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
    assert model_state(load_checkpoint(tmp_path / "proj.safetensors"))["llama_proj.bias"].tolist() == [1.0, 1.0]


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
        ("c.pth", lambda path: torch.save(Code(), path), "it could run code"),
        ("c.pth", lambda path: torch.save([1, 2], path), "holds a list"),
    ],
)
def test_files_that_are_refused(name: str, write: object, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / name)  # type: ignore[operator]
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(tmp_path / name)
    assert not (tmp_path / "executed").exists()


def test_the_newest_checkpoint_is_the_one_written_last(tmp_path: Path) -> None:
    assert newest_checkpoint(tmp_path / "none") is None
    for second, name in enumerate(["0", "1", "last", "best"]):
        path = tmp_path / f"checkpoint_{name}.pth"
        path.touch()
        os.utime(path, (second, 1 - second if name == "best" else second))
    newest = newest_checkpoint(tmp_path)
    assert newest is not None and newest.name == "checkpoint_last.pth"
