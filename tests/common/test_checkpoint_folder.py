"""Which checkpoint a run continues from, whatever became of the files."""

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from xraygpt.common import files
from xraygpt.common.checkpoint import load_checkpoint
from xraygpt.common.checkpoint_folder import INDEX_NAME, CheckpointFolder
from xraygpt.common.errors import CheckpointError, ConfigError
from xraygpt.common.files import Disk


def state(step: int, *, per_epoch: int = 10) -> dict[str, Any]:
    """Enough of a checkpoint of a run after `step` iterations."""
    return {"model": {"w": torch.full((2000,), float(step))}, "epoch": step // per_epoch - 1, "iteration": step % per_epoch, "step": step}


@pytest.fixture
def folder(tmp_path: Path) -> CheckpointFolder:
    """A run's folder with the checkpoints of 5, 8, 10 (epoch 0, the best) and 15 iterations."""
    folder = CheckpointFolder(tmp_path, keep_step_checkpoints=3)
    folder.begin(None)
    for name, step in [("step5", 5), ("step8", 8), ("0", 10), ("step15", 15)]:
        folder.save(name, state(step), best=name == "0")
    return folder


def newest(folder: CheckpointFolder) -> str:
    """The name of the newest good checkpoint."""
    path = folder.newest_good()
    assert path is not None
    return path.name


def damage(path: Path) -> None:
    """Change one bit in the middle, as a bad disk does."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_the_index_lists_from_the_oldest_to_the_newest(folder: CheckpointFolder) -> None:
    rows = json.loads((folder.path / INDEX_NAME).read_text())
    listed = [(row["file"], row["step"], row["epoch"], row["iteration"]) for row in rows]
    assert listed == [
        ("checkpoint_step5.pth", 5, -1, 5),
        ("checkpoint_step8.pth", 8, -1, 8),
        ("checkpoint_best.pth", 10, 0, 0),
        ("checkpoint_0.pth", 10, 0, 0),
        ("checkpoint_step15.pth", 15, 0, 5),
    ]
    assert all((folder.path / row["file"]).stat().st_size == row["bytes"] for row in rows)
    assert all(files.sha256_file(folder.path / row["file"]) == row["sha256"] for row in rows)


def test_an_empty_folder_has_none(tmp_path: Path) -> None:
    assert CheckpointFolder(tmp_path).newest_good() is None
    assert CheckpointFolder(tmp_path / "not there").newest_good() is None


def test_a_damaged_checkpoint_is_passed_over_and_named(folder: CheckpointFolder, caplog: pytest.LogCaptureFixture) -> None:
    assert newest(folder) == "checkpoint_step15.pth"
    damage(folder.path / "checkpoint_step15.pth")
    assert newest(folder) == "checkpoint_0.pth"
    assert "checkpoint_step15.pth is damaged: the checksum" in caplog.text
    (folder.path / "checkpoint_0.pth").write_bytes(b"")
    (folder.path / "checkpoint_best.pth").unlink()
    assert newest(folder) == "checkpoint_step8.pth"
    assert "is damaged: 0 bytes" in caplog.text and "checkpoint_best.pth cannot be read" in caplog.text


def test_when_all_are_damaged_nothing_is_started_anew(folder: CheckpointFolder) -> None:
    for path in folder.path.glob("*.pth"):
        path.write_bytes(b"x")
    with pytest.raises(CheckpointError, match=r"(?s)None of the 5 checkpoints.*--resume PATH.*checkpoint_step5"):
        folder.newest_good()


@pytest.mark.parametrize(
    "content", [None, "", "[", "{}x", "[1]", '[{"file": "checkpoint_0.pth"}]', '{"a": 1}', "null", "[" * 100_000, "outside", "wrong type"]
)
def test_without_a_usable_index_the_files_count(content: str | None, folder: CheckpointFolder) -> None:
    index = folder.path / INDEX_NAME
    rows = json.loads(index.read_text())
    index.unlink()
    if content is not None:
        edited = {"outside": {"file": "../checkpoint_0.pth"}, "wrong type": {"bytes": "many"}}.get(content)
        index.write_text(json.dumps([rows[0] | edited]) if edited else content)
    for second, name in enumerate(["0", "step5", "step15", "step8", "best"]):
        os.utime(folder.path / f"checkpoint_{name}.pth", (second, second))
    os.utime(folder.path / "checkpoint_step8.pth", (99, 99))
    assert newest(folder) == "checkpoint_step8.pth"
    damage(folder.path / "checkpoint_step8.pth")
    assert newest(folder) != "checkpoint_step8.pth"


def test_only_the_last_checkpoints_inside_epochs_stay(folder: CheckpointFolder) -> None:
    folder.save("step18", state(18))
    folder.save("1", state(20))
    folder.save("step25", state(25))
    names = {path.name for path in folder.path.glob("*.pth")}
    assert names == {f"checkpoint_{name}.pth" for name in ("0", "1", "best", "step15", "step18", "step25")}
    assert {row["file"] for row in json.loads((folder.path / INDEX_NAME).read_text())} == names


def test_at_least_one_must_stay(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"keep_step_checkpoints is 0"):
        CheckpointFolder(tmp_path, keep_step_checkpoints=0)


def test_going_back_forgets_what_came_later(folder: CheckpointFolder) -> None:
    """A run that was told to continue from an earlier checkpoint, and is killed before it saves, does not find the abandoned ones."""
    again = CheckpointFolder(folder.path)
    again.begin(folder.path / "checkpoint_step8.pth")
    assert newest(again) == "checkpoint_step8.pth"
    again.save("step9", state(9))
    assert newest(again) == "checkpoint_step9.pth"


def test_what_a_killed_process_left_half_written_is_removed(folder: CheckpointFolder) -> None:
    (folder.path / ".checkpoint_1.pth.123.tmp").write_bytes(b"half")
    CheckpointFolder(folder.path).begin(folder.path / "checkpoint_step15.pth")
    assert not list(folder.path.glob(".*"))
    assert newest(folder) == "checkpoint_step15.pth"


# The best epoch ----------------------------------------------------------------------------------------------------


def test_the_best_shares_its_bytes_with_its_epoch(folder: CheckpointFolder) -> None:
    assert (folder.path / "checkpoint_best.pth").samefile(folder.path / "checkpoint_0.pth")
    folder.save("1", state(20), best=True)
    assert load_checkpoint(folder.path / "checkpoint_0.pth")["step"] == 10
    assert load_checkpoint(folder.path / "checkpoint_best.pth")["step"] == 20


def test_a_folder_without_hard_links_gets_a_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class NoLinks(Disk):
        def link(self, source: Path, target: Path) -> None:
            raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    monkeypatch.setattr(files.disk, "link", NoLinks().link)
    folder = CheckpointFolder(tmp_path)
    folder.save("0", state(10), best=True)
    best, epoch = tmp_path / "checkpoint_best.pth", tmp_path / "checkpoint_0.pth"
    assert not best.samefile(epoch) and best.read_bytes() == epoch.read_bytes()
    assert {path.name for path in tmp_path.iterdir()} == {best.name, epoch.name, INDEX_NAME}


def test_a_resumed_run_has_its_best_epoch_under_that_name(folder: CheckpointFolder) -> None:
    folder.save("1", state(20), best=True)
    assert folder.holds_best(1)
    assert folder.holds_best(0)  # gone back to before epoch 1
    assert load_checkpoint(folder.path / "checkpoint_best.pth")["epoch"] == 0
    (folder.path / "checkpoint_1.pth").unlink()
    assert not folder.holds_best(1) and not folder.holds_best(-1)


# A disk that refuses -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("operation", ["open", "write", "fsync", "rename", "link"])
@pytest.mark.parametrize("number", [0, 1, 2, 3, 4])
def test_a_save_that_fails_anywhere_costs_nothing(
    operation: str, number: int, folder: CheckpointFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = iter(range(1000))
    real = getattr(files.disk, operation)

    def failing(*args: Any) -> Any:
        if next(calls) == number:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(*args)

    with monkeypatch.context() as patch:
        patch.setattr(files.disk, operation, failing)
        reached = True
        try:
            folder.save("1", state(20), best=True)
            reached = next(calls) > number  # fewer operations of this kind than `number`
        except OSError as error:
            assert error.errno == errno.ENOSPC
    assert reached or operation in ("link", "open", "rename", "fsync")
    assert not list(folder.path.glob(".*"))
    assert load_checkpoint(CheckpointFolder(folder.path).newest_good() or "none")["step"] in (10, 15, 20)
    folder.save("1", state(20), best=True)
    assert newest(folder) == "checkpoint_1.pth"
    assert load_checkpoint(folder.path / "checkpoint_best.pth")["step"] == 20


def test_a_folder_that_is_gone_is_not_made_anew(tmp_path: Path) -> None:
    """Where a network folder was mounted, there is now an empty folder of the local disk's: nothing must be written there."""
    folder = CheckpointFolder(tmp_path / "run")
    with pytest.raises(OSError, match="the run's folder is gone"):
        folder.save("0", state(10))
    assert not (tmp_path / "run").exists()
