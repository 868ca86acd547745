"""Kills a run again and again, starts it again each time, and looks for any difference from the run that was left alone."""

import json
import random
import signal
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from tests.e2e.tiny_run import read_log, trace
from tests.reliability.warm_parent import WarmParent
from xraygpt.common.checkpoint_folder import INDEX_NAME, CheckpointFolder
from xraygpt.common.files import sha256_file

MAX_KILLS_IN_A_ROW = 5
"""Then the run is left alone, so that its end can be looked at; the next run takes the next kills."""

MEETING = 0.4
"""Several ranks: the share of a run in which no clock kills. One that dies before they have met is waited for as long as
run.dist_timeout_minutes says, unless it is torchrun that starts them."""

OF_THE_FOLDER = ("config",)
"""What of a checkpoint is not compared: the configuration has the name of the run's folder."""


class KillTest:
    """Runs of one configuration, which saves after every step, on one rank or on several.

    Args:
        options: the configuration's, as in `--options`.
        seed: decides the moments of the kills, as far as a clock can be decided.
    """

    def __init__(self, parent: WarmParent, cfg_path: Path, *options: str, num_ranks: int = 1, seed: int = 0) -> None:
        self.parent, self.cfg_path, self.options, self.num_ranks = parent, cfg_path, options, num_ranks
        self.random = random.Random(seed)
        self.counts: Counter[str] = Counter()
        started = time.monotonic()
        operations = cfg_path.parent / f"operations-{num_ranks}"
        self.whole = self._folder("whole")
        self._live("whole", [{"record": str(operations)}])
        self.seconds = time.monotonic() - started
        self.num_operations = len(operations.read_text().splitlines())

    def run(self, kills: int) -> list[str]:
        """Kill that many times; the differences that were found, of which there should be none. `counts` says what was done."""
        found: list[str] = []
        number = 0
        while self.counts["kills"] < kills:
            name = f"killed-{number}"
            in_a_row = min(MAX_KILLS_IN_A_ROW, kills - self.counts["kills"])
            while in_a_row and self._is_killed(name):
                in_a_row -= 1
            if not (self._folder(name) / "summary.json").exists():
                self._live(name)
            self.counts["runs compared"] += 1
            found += [f"{name}: {difference}" for difference in differences(self._folder(name), self.whole)]
            number += 1
        self.counts["differences"] += len(found)
        return found

    def differences_after_a_kill_at(self, file: str) -> list[str]:
        """Kill at the first operation on one file, then leave the run alone."""
        name = f"killed-at-{Path(file).stem}"
        pids = self._start(name, [{"at": 1, "only": file}])
        codes = [self.parent.wait(pid) for pid in pids]
        assert codes[0] == -signal.SIGKILL, f"{file} was not written: {codes}"
        self._live(name)
        return differences(self._folder(name), self.whole)

    def _folder(self, name: str) -> Path:
        return self.cfg_path.parent / "output" / f"ranks-{self.num_ranks}-{name}"

    def _start(self, name: str, hooks: Sequence[dict[str, Any]] = ()) -> list[int]:
        job_id = self._folder(name).name
        arguments = ("--options", *self.options, "run.save_every_iters=1", "run.resume_ckpt_path=auto", f"run.job_id={job_id}")
        if self.num_ranks == 1:
            return [self.parent.start(self.cfg_path, *arguments, hook=hooks[0] if hooks else None)]
        return self.parent.start_ranks(self.num_ranks, self.cfg_path, *arguments, hooks=hooks)

    def _live(self, name: str, hooks: Sequence[dict[str, Any]] = ()) -> None:
        """Start a life and let it come to its end."""
        pids = self._start(name, hooks)
        codes = [self.parent.wait(pid) for pid in pids]
        assert not any(codes), f"{name} ended with {codes}:\n{self.parent.said(pids[0])}"
        self._note_resume(pids[0])

    def _is_killed(self, name: str) -> bool:
        """Start a life and kill one of its ranks: in a write, or at a moment of the clock. False if it was done before that."""
        record = self.cfg_path.parent / f"operations-{self.num_ranks}-{self.counts['lives']}"
        self.counts["lives"] += 1
        if self.random.random() < 0.5:
            at = self.random.randint(1, self.num_operations // 2)
            pids, victim = self._start(name, [{"record": str(record), "at": at}]), 0
        else:
            pids, victim = self._start(name, [{"record": str(record)}]), self.random.randrange(self.num_ranks)
            self.parent.kill_after(pids[victim], self.random.uniform(0 if self.num_ranks == 1 else MEETING, 1) * self.seconds)
        codes = [self.parent.wait(pid) for pid in pids]
        killed = codes[victim] == -signal.SIGKILL
        others = [code for rank, code in enumerate(codes) if rank != victim]
        assert killed or not any(codes), f"{name} was not killed, and ended with {codes}:\n{self.parent.said(pids[0])}"
        assert not killed or all(others) or (self._folder(name) / "summary.json").exists(), f"A rank went on alone: {codes}"
        self._note_resume(pids[0])
        self.counts["kills"] += killed
        self.counts["kills inside a save"] += killed and _ends_inside_a_save(record)
        return killed

    def _note_resume(self, pid: int) -> None:
        self.counts["resumes"] += "Resumed from" in self.parent.said(pid)


def _ends_inside_a_save(record: Path) -> bool:
    """Whether the operations end between the first of a save and its last: the fsync of the folder that has got a new index."""
    inside = listed = False
    for line in record.read_text().splitlines() if record.exists() else []:
        _, operation, name = json.loads(line)
        if "checkpoint" in name:
            inside, listed = True, (operation, name) == ("rename", INDEX_NAME)
        elif operation == "fsync" and listed:
            inside = listed = False
    return inside


def differences(folder: Path, whole: Path) -> list[str]:
    """Where a run's log, checkpoints and numbers are not, bit for bit, those of another one; and what should not be there."""
    found = []
    if trace(folder) != trace(whole):
        found.append("the losses of the steps")
    epochs = [[record for record in read_log(run) if "train_loss" in record] for run in (folder, whole)]
    if epochs[0] != epochs[1]:
        found.append("the averages of the epochs")
    files = [{path.name for path in run.glob("checkpoint_*.pth")} for run in (folder, whole)]
    if odd := {name for name in files[0] ^ files[1] if "step" not in name}:  # those inside epochs depend on where a run stopped
        found.append(f"only one of the two has {', '.join(sorted(odd))}")
    for name in sorted(files[0] & files[1]):
        one, other = (torch.load(run / name, weights_only=True) for run in (folder, whole))
        found += [f"{name}: {where}" for where in _unequal(one, other) if where.split("/")[1] not in OF_THE_FOLDER]
    if (folder / "result" / "test_best.json").read_bytes() != (whole / "result" / "test_best.json").read_bytes():
        found.append("the numbers of the test")
    found += [f"left behind: {path.name}" for path in folder.rglob(".*.tmp")]
    return found + unsound(folder)


def unsound(folder: Path) -> list[str]:
    """Entries of checkpoints.json that their files do not agree with."""
    entries = CheckpointFolder(folder).entries()
    if not entries:
        return ["checkpoints.json lists nothing"]
    return [f"{entry.file}: its checksum" for entry in entries if sha256_file(folder / entry.file) != entry.sha256]


def _unequal(one: Any, other: Any, where: str = "") -> list[str]:
    """Paths of the leaves of two nested containers that are not the same."""
    if isinstance(one, dict) and isinstance(other, dict):
        keys = {key: key for key in [*one, *other]}
        return [path for key in keys for path in _unequal(one.get(key), other.get(key), f"{where}/{key}")]
    if isinstance(one, list | tuple) and isinstance(other, list | tuple) and len(one) == len(other):
        return [path for i, pair in enumerate(zip(one, other, strict=True)) for path in _unequal(*pair, f"{where}/{i}")]
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return [] if one.dtype == other.dtype and torch.equal(one, other) else [where]
    return [] if one == other else [where]
