"""Every write of a save goes wrong once, in every way: afterwards a good checkpoint loads, and the next save succeeds.

First the folder of checkpoints alone, then whole runs.
"""

import json
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.tiny_run import make_workspace
from tests.reliability.file_operations import FAULTS, Operations, watched
from tests.reliability.killing import differences, unsound
from tests.reliability.saved_states import newest, state
from tests.reliability.warm_parent import WarmParent
from xraygpt.common.checkpoint_folder import INDEX_NAME, CheckpointFolder

KINDS = [fault for fault in FAULTS if not fault.startswith("SIG")]
SAVES = {"inside an epoch": ("step{}", False), "of an epoch": ("{}", False), "of the best epoch": ("{}", True)}


def saved_before(folder: Path, name: str, best: bool) -> CheckpointFolder:
    """A folder with two checkpoints of a kind, of which a third one's save replaces or removes one."""
    folder.mkdir()
    checkpoints = CheckpointFolder(folder, keep_step_checkpoints=2)
    checkpoints.begin(None)
    for step in (1, 2):
        checkpoints.save(name.format(step), state(step), best=best)
    return checkpoints


def left_over(folder: Path) -> list[str]:
    """Files with a temporary name."""
    return [path.name for path in folder.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize("save", SAVES)
def test_every_write_of_a_save(save: str, tmp_path: Path, soak: bool, record_property: Callable[[str, object], None]) -> None:
    name, best = SAVES[save]
    if save == "of an epoch" and not soak:
        pytest.skip("the long form; it is a part of the save of the best epoch")
    template = tmp_path / "template"
    saved_before(template, name, best)
    counts: Counter[str] = Counter()
    seen = fails_once(template, name, best=best, at=0, fault="EIO", counts=counts)
    for number, (operation, _) in enumerate(seen, start=1):
        for kind in KINDS:
            if operation in FAULTS[kind]:
                fails_once(template, name, best=best, at=number, fault=kind, counts=counts)
    record_property("operations", len(seen))
    for what in ("faults injected", "faults noticed", "good checkpoints lost"):
        record_property(what, counts[what])
    assert {operation for operation, _ in seen} >= {"open", "write", "fsync", "rename"} | ({"link"} if best else set())
    assert counts["faults injected"] == sum(operation in FAULTS[kind] for operation, _ in seen for kind in KINDS)
    assert counts["good checkpoints lost"] == 0


def fails_once(template: Path, name: str, *, best: bool, at: int, fault: str, counts: Counter[str]) -> list[tuple[str, str]]:
    """A third save in a copy of `template`, with a fault in its `at`-th operation (0: none); its operations."""
    folder = template.with_name(f"{at}-{fault}")
    shutil.copytree(template, folder)
    checkpoints = CheckpointFolder(folder, keep_step_checkpoints=2)
    checkpoints.begin(folder / f"checkpoint_{name.format(2)}.pth")
    noticed = False
    with watched(at=at, fault=fault) as operations:
        try:
            checkpoints.save(name.format(3), state(3), best=best)
        except OSError:
            noticed = True
    # A write that takes half and says so is gone on with. A folder that refuses links gets a copy. All else is an error.
    assert noticed == (at > 0 and fault != "short"), f"{fault} in operation {at}, {operations.seen[at - 1]}"
    step = newest(folder)
    counts["faults injected"] += operations.injected
    counts["faults noticed"] += noticed
    counts["good checkpoints lost"] += step < 2 or (step < 3 and not noticed)
    assert left_over(folder) == []
    checkpoints.save(name.format(3), state(3), best=best)  # it is tried again
    assert newest(folder) == 3
    assert unsound(folder) == []
    shutil.rmtree(folder)
    return operations.seen


@pytest.mark.parametrize("fault", ["ENOSPC", "EIO"])
def test_a_disk_that_stays_broken(fault: str, tmp_path: Path) -> None:
    checkpoints = saved_before(tmp_path / "run", "step{}", False)
    with watched(at=1, fault=fault, times=10_000):
        for step in (3, 4, 5):
            with pytest.raises(OSError, match="injected"):
                checkpoints.save(f"step{step}", state(step))
            assert newest(tmp_path / "run") == 2
    checkpoints.save("step6", state(6))
    assert newest(tmp_path / "run") == 6
    assert sorted(path.name for path in (tmp_path / "run").glob("*.pth")) == ["checkpoint_step2.pth", "checkpoint_step6.pth"]


# Whole runs ----------------------------------------------------------------------------------------------------------

AFTER_A_STEP = ("--options", "run.save_every_iters=3", "run.save_retry_minutes=0.05")


WRITES_BETWEEN_FAULTS = 300


@pytest.fixture(scope="module")
def whole(parent: WarmParent, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run on a good disk; the operations of its saves are in `operations` beside run.yaml."""
    cfg_path = make_workspace(tmp_path_factory.mktemp("faults"))
    hook = {"record": str(cfg_path.with_name("operations")), "only": "checkpoint"}
    pid = parent.start(cfg_path, *AFTER_A_STEP, "run.job_id=whole", hook=hook)
    assert parent.wait(pid) == 0, parent.said(pid)
    return cfg_path.parent / "output" / "whole"


def test_a_run_goes_on(whole: Path, parent: WarmParent, soak: bool, record_property: Callable[[str, object], None]) -> None:
    """One operation of a save fails, and the run is what it would have been.

    In the long form: each operation of the first two saves but for the writes, of which there are thousands, and some of these.
    """
    operations = [json.loads(line)[1:] for line in (whole.parent.parent / "operations").read_text().splitlines()]
    second_index = [number for number, seen in enumerate(operations, start=1) if seen == ["rename", INDEX_NAME]][1]
    every = WRITES_BETWEEN_FAULTS
    numbers = [number for number in range(1, second_index + 1) if operations[number - 1][0] != "write" or number % every == 0]
    cases = [(number, fault) for number in numbers for fault in KINDS if operations[number - 1][0] in FAULTS[fault]]
    if not soak:
        cases = [(second_index // 2 + 3, fault) for fault in KINDS]  # in the tensors of the second save
    for number, fault in cases:
        folder = whole.with_name(f"{number}-{fault}")
        hook = {"at": number, "fault": fault, "only": "checkpoint"}
        pid = parent.start(whole.parent.parent / "run.yaml", *AFTER_A_STEP, f"run.job_id={folder.name}", hook=hook)
        assert parent.wait(pid) == 0, parent.said(pid)
        assert ("[ERROR]" in parent.said(pid)) == (fault != "short"), f"{fault} in operation {number}"
        assert differences(folder, whole) == [], f"{fault} in operation {number}"
        shutil.rmtree(folder)
    record_property("runs with a fault in a save", len(cases))
    record_property("different results", 0)


@pytest.mark.parametrize("fault", ["ENOSPC", "EIO"])
def test_a_run_on_a_disk_that_stays_broken(fault: str, whole: Path, parent: WarmParent) -> None:
    """It goes on to its end, tries for save_retry_minutes, ends with 1, and goes on from its last good checkpoint on a good disk."""
    folder, cfg_path = whole.with_name(fault), whole.parent.parent / "run.yaml"
    hook = {"at": len((whole.parent.parent / "operations").read_text().splitlines()) // 2, "times": 10**6, "fault": fault}
    pid = parent.start(cfg_path, *AFTER_A_STEP, f"run.job_id={fault}", hook=hook)
    assert parent.wait(pid) == 1
    assert "could not be written" in parent.said(pid) and "save_retry_minutes" in parent.said(pid)
    assert not (folder / "summary.json").exists()
    assert CheckpointFolder(folder).newest_good() is not None
    pid = parent.start(cfg_path, "--resume", "auto", *AFTER_A_STEP, f"run.job_id={fault}")
    assert parent.wait(pid) == 0, parent.said(pid)
    assert differences(folder, whole) == []


def test_a_fault_of_the_watcher_is_seen(tmp_path: Path) -> None:
    """Nothing above would mean anything if the faults did not reach the package."""
    operations = Operations(at=1, fault="ENOSPC")
    operations.install()
    try:
        with pytest.raises(OSError, match="injected into open"):
            CheckpointFolder(tmp_path).save("step1", state(1))
    finally:
        operations.remove()
    assert list(tmp_path.iterdir()) == []
