"""The checkpoints of one run: which there are, which is the newest good one, and which have had their time.

`checkpoint_{epoch}.pth` is each epoch's, `checkpoint_best.pth` the best of them, `checkpoint_step{N}.pth` lies inside an epoch.
`checkpoints.json` lists them from the oldest to the newest, with the checksum of what was meant to be written.
"""

import errno
import logging
import shutil
import zipfile
from collections.abc import Container
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from xraygpt.common.checkpoint import Written, load_checkpoint, save_checkpoint
from xraygpt.common.errors import CheckpointError, ConfigError
from xraygpt.common.files import atomic_file, disk, read_small_json, sha256_file, sync_folder, temporary_name, write_json

logger = logging.getLogger(__name__)

INDEX_NAME = "checkpoints.json"
BEST_NAME = "checkpoint_best.pth"

_CANNOT_LINK = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EXDEV, errno.EINVAL}


@dataclass(frozen=True)
class Entry:
    """One line of checkpoints.json. `step` counts iterations since the run began, `iteration` those of the unfinished epoch."""

    file: str
    step: int
    epoch: int
    """The last epoch that is finished; -1 in the first one."""
    iteration: int
    bytes: int
    sha256: str

    @classmethod
    def checked(cls, row: Any) -> "Entry":
        """The entry that a JSON value is.

        Raises:
            ValueError: it is none, or names no checkpoint of this folder.
        """
        kinds: dict[str, Any] = {field.name: field.type for field in fields(cls)}
        if not isinstance(row, dict) or row.keys() != kinds.keys() or any(not isinstance(row[name], kinds[name]) for name in kinds):
            raise ValueError(f"an entry must have {', '.join(kinds)}")
        if Path(row["file"]).name != row["file"] or not row["file"].startswith("checkpoint_"):
            raise ValueError(f"{row['file']!r:.60} is not the name of a checkpoint")
        return cls(**row)


class CheckpointFolder:
    """Writes, finds and removes the checkpoints in a run's folder.

    Args:
        path: the run's folder.
        keep_step_checkpoints: this many of the newest checkpoint_step{N}.pth stay.
    """

    def __init__(self, path: str | Path, *, keep_step_checkpoints: int = 2) -> None:
        if keep_step_checkpoints < 1:
            raise ConfigError(f"run.keep_step_checkpoints is {keep_step_checkpoints}; at least 1 is needed to resume from.")
        self.path, self.keep_step_checkpoints = Path(path), keep_step_checkpoints
        self._entries: list[Entry] = []

    # Finding ---------------------------------------------------------------------------------------------------

    def entries(self) -> list[Entry] | None:
        """What checkpoints.json lists, from the oldest to the newest; None if there is no such file, or (said in the log) none to trust."""
        index = self.path / INDEX_NAME
        try:
            return [Entry.checked(row) for row in read_small_json(index)]
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError) as error:
            logger.warning("%s cannot be used (%s): the checkpoint files themselves are looked at.", index, error)
            return None

    def newest_good(self) -> Path | None:
        """The newest checkpoint whose checksum holds and that loads; None if there is no checkpoint at all.

        Raises:
            CheckpointError: there are checkpoints, and every one of them is damaged.
        """
        problems = []
        listed = {entry.file: entry for entry in self.entries() or []}
        for path in reversed([*self.unlisted(listed), *(self.path / file for file in listed)]):
            try:
                _verify(path, listed.get(path.name))
                load_checkpoint(path)
                return path
            except CheckpointError as error:
                logger.warning("%s is passed over, the checkpoint before it is tried. %s", path.name, error)
                problems.append(str(error))
        if problems:
            raise CheckpointError(
                f"None of the {len(problems)} checkpoints in {self.path} can be used. Move the folder away to start anew, or name a "
                "good one with --resume PATH:\n  " + "\n  ".join(problems)
            )
        return None

    def unlisted(self, listed: Container[str]) -> list[Path]:
        """The checkpoints whose names are not `listed`, from the oldest to the newest."""
        paths = [path for path in self.path.glob("checkpoint_*.pth") if path.name not in listed]
        return sorted(paths, key=lambda path: path.stat().st_mtime_ns)

    def verify(self, path: Path) -> None:
        """Compare a checkpoint of this folder with what was meant to be in it.

        Raises:
            CheckpointError: it is damaged, or cannot be read.
        """
        _verify(path, {entry.file: entry for entry in self.entries() or []}.get(path.name))

    # Writing ---------------------------------------------------------------------------------------------------

    def begin(self, resumed: Path | None) -> None:
        """Get ready to write: what a killed process left half-written is removed, and what came after `resumed` leaves the index.

        Args:
            resumed: the checkpoint that the run continues from, here or elsewhere.

        Raises:
            OSError: the folder cannot be written to.
        """
        for left_over in self.path.glob(".*.tmp"):
            left_over.unlink(missing_ok=True)
        listed = self.entries()
        self._entries = []
        names = [entry.file for entry in listed or []]
        if resumed is not None and resumed.absolute().parent == self.path.absolute() and resumed.name in names:
            self._entries = (listed or [])[: names.index(resumed.name) + 1]
        if self._entries != (listed or []):
            self._write_index()

    def save(self, name: str, state: dict[str, Any], *, best: bool = False) -> None:
        """Write checkpoint_{name}.pth, with `best` under the name checkpoint_best.pth too, then the index; remove what has had its time.

        Raises:
            OSError: a step failed. What was saved before is still there and still listed.
        """
        if not self.path.is_dir():
            raise OSError(errno.ENOENT, "the run's folder is gone", str(self.path))
        path = self.path / f"checkpoint_{name}.pth"
        written = save_checkpoint(path, state)
        if best:
            self._name_best(path)
            self._note(BEST_NAME, state, written)
        self._note(path.name, state, written)
        self._write_index()
        self._remove_old()

    def holds_best(self, epoch: int) -> bool:
        """Make sure that checkpoint_best.pth is the checkpoint of `epoch`, the best that a resumed run knows; False if that one is lost.

        It is not if the run was killed before it was named, or goes back behind a later best one.
        """
        if epoch < 0:
            return False
        for name in (BEST_NAME, f"checkpoint_{epoch}.pth"):
            try:
                found = load_checkpoint(self.path / name)["epoch"] == epoch
            except (CheckpointError, KeyError) as error:
                logger.warning("%s is not epoch %d, the best one: %s", self.path / name, epoch, error)
                continue
            if found and name != BEST_NAME:
                self._name_best(self.path / name)
                logger.warning("%s was not epoch %d, the best one, and is now.", self.path / BEST_NAME, epoch)
            if found:
                return True
        return False

    def _name_best(self, path: Path) -> None:
        """Give a checkpoint the second name checkpoint_best.pth. Neither is ever changed in place, so they can share their bytes."""
        best = self.path / BEST_NAME
        temporary = temporary_name(best)
        try:
            disk.link(path, temporary)
            disk.rename(temporary, best)
            sync_folder(self.path)
        except OSError as error:
            if error.errno not in _CANNOT_LINK:
                raise
            logger.info("This folder has no hard links: %s is a copy of %s.", BEST_NAME, path.name)
            with open(path, "rb") as source, atomic_file(best) as copy:
                shutil.copyfileobj(source, copy, 1 << 20)
        finally:
            temporary.unlink(missing_ok=True)

    def _note(self, file: str, state: dict[str, Any], written: Written) -> None:
        entry = Entry(file, state["step"], state["epoch"], state["iteration"], written.bytes, written.sha256)
        self._entries = [other for other in self._entries if other.file != file] + [entry]

    def _write_index(self) -> None:
        """List what there is; of the checkpoints inside epochs only those that stay."""
        inside = [entry.file for entry in self._entries if _step_of(entry.file) is not None]
        old = inside[: -self.keep_step_checkpoints]
        self._entries = [entry for entry in self._entries if entry.file not in old]
        write_json(self.path / INDEX_NAME, [asdict(entry) for entry in self._entries])

    def _remove_old(self) -> None:
        """Remove checkpoint_step{N}.pth that the index no longer lists, and that lie before where the run stands."""
        listed, newest = {entry.file for entry in self._entries}, self._entries[-1].step
        for path in self.path.glob("checkpoint_step*.pth"):
            step = _step_of(path.name)
            if path.name not in listed and step is not None and step < newest:
                try:
                    path.unlink(missing_ok=True)
                except OSError as error:
                    logger.warning("%s is no longer needed, but cannot be removed: %s", path, error)


def _step_of(file: str) -> int | None:
    """N of checkpoint_step{N}.pth."""
    digits = file.removeprefix("checkpoint_step").removesuffix(".pth")
    return int(digits) if file.startswith("checkpoint_step") and digits.isdigit() else None


def damage_of(path: Path, entry: Entry) -> str:
    """How a file differs from what was meant to be written, in words; "" if it does not. OSError: it cannot be read."""
    if (size := path.stat().st_size) != entry.bytes:
        return f"{size:,} bytes, {entry.bytes:,} were written"
    return "" if sha256_file(path) == entry.sha256 else "the checksum is not that of what was written"


def _verify(path: Path, entry: Entry | None) -> None:
    """Compare a file with its entry in the index, or, if it has none, with the checksums that it holds of its parts.

    Raises:
        CheckpointError: it is damaged, or cannot be read.
    """
    try:
        if entry is None:
            with zipfile.ZipFile(path) as archive:
                damage = "a checksum inside does not hold" if archive.testzip() else ""
        else:
            damage = damage_of(path, entry)
    except (OSError, zipfile.BadZipFile) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    if damage:
        raise CheckpointError(f"{path} is damaged: {damage}.")
