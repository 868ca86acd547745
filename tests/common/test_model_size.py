"""A model that is built to be counted takes no memory, and a count that is too high ends it."""

from pathlib import Path
from threading import Thread

import pytest
import torch
from torch import nn

from xraygpt.common import model_size
from xraygpt.common.errors import CheckpointError
from xraygpt.common.model_size import ALWAYS_ALLOWED, counted, numbers_in


def test_numbers_are_counted_without_storage() -> None:
    with counted(1001 * 1000, Path("config.json"), "the most."):
        linear = nn.Linear(1000, 1000)
    assert linear.weight.is_meta
    assert not nn.Linear(2, 2).weight.is_meta


@pytest.mark.parametrize("part", [lambda: nn.Linear(10**6, 10**6), lambda: nn.BatchNorm1d(10**7)])
def test_too_many_numbers_are_refused(part: type[nn.Module]) -> None:
    with (
        pytest.raises(CheckpointError, match=r"config\.json is refused: .* more than 1,000 numbers, the most\."),
        counted(1000, Path("config.json"), "the most."),
    ):
        part()


def test_too_many_modules_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_size, "MAX_MODULES", 20)
    with pytest.raises(CheckpointError, match="more than 20 modules"), counted(10**9, Path("config.json"), "the most."):
        nn.ModuleList(nn.Identity() for _ in range(100))


def test_other_threads_are_not_counted() -> None:
    with counted(10, Path("config.json"), "the most."):
        made: list[nn.Module] = []
        other = Thread(target=lambda: made.append(nn.Linear(100, 100)))
        other.start()
        other.join()
    assert made
    assert torch.isfinite(made[0](torch.ones(100))).all()


def test_files_of_weights_allow_two_numbers_a_byte(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x" * 100)
    assert numbers_in([tmp_path / "a", tmp_path / "a"]) == ALWAYS_ALLOWED + 400
