"""The power fails after any operation of a save: what a save that had ended wrote is still there.

A killed process leaves what it wrote with the system; a machine that loses power keeps only what was made safe by fsync: of a file its
content, of a folder its names. Both extremes of what the system may have done by itself are tried.
"""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import pytest

from tests.reliability.saved_states import newest, state
from xraygpt.common.checkpoint_folder import CheckpointFolder
from xraygpt.common.files import Disk, disk

SAVES = [("step1", False), ("0", True), ("step2", False), ("step3", False), ("1", True), ("step4", False)]
"""(name, best) in turn: steps that have their time, epochs, and a best one that replaces the one before."""

Event = tuple[Any, ...]


class Recorder:
    """Performs the operations on a folder, and remembers them in their order."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.events = folder, []
        self._files: dict[int, int] = {}  # descriptor → number of the file
        for name in ("open", "write", "fsync", "rename", "link"):
            monkeypatch.setattr(disk, name, getattr(self, name))
        unlink = Path.unlink
        monkeypatch.setattr(Path, "unlink", lambda path, missing_ok=False: self.unlink(unlink, path, missing_ok))

    def open(self, path: Path, mode: str) -> IO[bytes]:
        """A new, empty file."""
        handle = Disk.open(disk, path, mode)
        self._files[handle.fileno()] = len(self.events)
        self.events.append(("open", path.name, len(self.events)))
        return handle

    def write(self, handle: IO[bytes], data: bytes | memoryview) -> int:
        """More of a file."""
        taken = Disk.write(disk, handle, data)
        self.events.append(("write", self._files[handle.fileno()], bytes(data)[:taken]))
        return taken

    def fsync(self, descriptor: int) -> None:
        """A file's content, or the folder's names."""
        Disk.fsync(disk, descriptor)
        is_folder = os.path.samestat(os.fstat(descriptor), self.folder.stat())
        self.events.append(("sync names",) if is_folder else ("sync", self._files[descriptor]))

    def rename(self, source: Path, target: Path) -> None:
        """Another name."""
        Disk.rename(disk, source, target)
        self.events.append(("rename", source.name, target.name))

    def link(self, source: Path, target: Path) -> None:
        """A second name."""
        Disk.link(disk, source, target)
        self.events.append(("link", source.name, target.name))

    def unlink(self, real: Callable[..., None], path: Path, missing_ok: bool) -> None:
        """A name less."""
        if path.exists():
            self.events.append(("unlink", path.name))
        real(path, missing_ok=missing_ok)


def surviving(events: list[Event], *, names_at_once: bool) -> dict[str, bytes]:
    """Name → content after a power failure; `names_at_once`: the system made every change of a name safe at once."""
    content: dict[int, bytes] = {}
    safe_content: dict[int, bytes] = {}
    names: dict[str, int] = {}
    safe_names: dict[str, int] = {}
    for event in events:
        match event:
            case ("open", name, file):
                content[file] = safe_content[file] = b""
                names[name] = file
            case ("write", file, data):
                content[file] += data
            case ("sync", file):
                safe_content[file] = content[file]
            case ("sync names",):
                safe_names = dict(names)
            case ("rename", source, target):
                names[target] = names.pop(source)
            case ("link", source, target):
                names[target] = names[source]
            case ("unlink", name):
                del names[name]
    return {name: safe_content[file] for name, file in (names if names_at_once else safe_names).items()}


@pytest.mark.parametrize("names_at_once", [False, True])
def test_after_any_operation(
    names_at_once: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, record_property: Callable[[str, object], None]
) -> None:
    folder, ended = tmp_path / "run", {0: 0}
    folder.mkdir()
    checkpoints = CheckpointFolder(folder, keep_step_checkpoints=2)
    with monkeypatch.context() as patch:
        recorder = Recorder(folder, patch)
        checkpoints.begin(None)
        for step, (name, best) in enumerate(SAVES, start=1):
            checkpoints.save(name, state(step), best=best)
            ended[len(recorder.events)] = step
    lost = 0
    for failed_after in range(len(recorder.events) + 1):
        left = tmp_path / "left"
        left.mkdir()
        for name, data in surviving(recorder.events[:failed_after], names_at_once=names_at_once).items():
            (left / name).write_bytes(data)
        lost += newest(left) < max(step for moment, step in ended.items() if moment <= failed_after)
        shutil.rmtree(left)
    record_property("power failures", len(recorder.events) + 1)
    record_property("finished saves lost", lost)
    assert ("unlink", "checkpoint_step1.pth") in recorder.events
    assert lost == 0


def test_without_fsync_it_would_be_lost() -> None:
    """The model of the disk is not so kind that nothing could go wrong on it."""
    events: list[Event] = [("open", ".a.tmp", 0), ("write", 0, b"x"), ("rename", ".a.tmp", "a")]
    assert surviving(events, names_at_once=False) == {}
    assert surviving(events, names_at_once=True) == {"a": b""}
    assert surviving([*events[:2], ("sync", 0), events[2], ("sync names",)], names_at_once=False) == {"a": b"x"}
