"""What may differ between a checkpoint and the run that continues from it."""

import copy
import dataclasses
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from xraygpt.common.checkpoint_folder import CheckpointFolder
from xraygpt.common.errors import CheckpointError
from xraygpt.common.run_config import RunConfig
from xraygpt.runners import resuming
from xraygpt.runners.resuming import HARMLESS, Continuation, compare, find_checkpoint
from xraygpt.runners.run_state import RunFacts

PATH = Path("checkpoint_step15.pth")
DATA = {"mimic": {"annotations_sha256": "0123456789abcdef", "num_samples": {"train": 80, "val": 5}}}


def config(*options: str) -> dict[str, Any]:
    """A resolved configuration."""
    run = OmegaConf.structured(RunConfig(task="x", batch_size_train=4, iters_per_epoch=10, warmup_steps=5))
    whole = OmegaConf.create({"run": run, "model": {"llama_model": "a", "max_txt_len": 32}, "datasets": {"mimic": {"storage": "d"}}})
    return OmegaConf.to_container(OmegaConf.merge(whole, OmegaConf.from_dotlist(list(options))))  # type: ignore[return-value]


def facts(*options: str, llm_differences: list[str] | None = None, **changes: Any) -> RunFacts:
    """What the run is that wants to continue."""
    made = RunFacts(config=config(*options), data=DATA, llm={"name": "a"}, llm_differences=lambda stored: llm_differences or [])
    return dataclasses.replace(made, **changes)


def state(*options: str, world_size: int = 2, **changes: Any) -> dict[str, Any]:
    """What the checkpoint says: two ranks with four samples each, ten iterations an epoch."""
    made = {"config": config(*options), "data": copy.deepcopy(DATA), "llm": {"name": "a"}, "world_size": world_size}
    return made | {"iters_per_epoch": 10, "warmup_steps": 5, "libraries": None} | changes


def go_on(then: dict[str, Any], now: RunFacts, *allow: str, world_size: int = 2) -> Continuation:
    return compare(then, PATH, now, world_size=world_size, allow=allow)


def test_the_same_run_continues() -> None:
    assert go_on(state(), facts()) == Continuation(10, 5)


def test_every_name_that_does_not_matter_is_a_setting() -> None:
    assert {field.name for field in dataclasses.fields(RunConfig)} >= HARMLESS


@pytest.mark.parametrize(
    "option",
    [
        *("run.num_workers=7", "run.log_freq=1", "run.save_every_iters=3", "run.output_dir=other", "run.job_id=other"),
        *("run.progress_bar=false", "run.scoring.resamples=3", "run.test_splits=[test]", "datasets.mimic.storage=moved"),
        "model.llama_model=moved",
    ],
)
def test_what_cannot_change_the_result_does_not_matter(option: str) -> None:
    assert go_on(state(), facts(option)) == Continuation(10, 5)


def test_all_changes_are_refused_in_one_error_with_what_accepts_them() -> None:
    other_data = {"mimic": {"annotations_sha256": "fedcba9876543210", "num_samples": {"train": 81, "val": 5}}}
    now = facts("run.init_lr=0.5", "run.max_epoch=9", "model.max_txt_len=64", data=other_data, llm_differences=["vocab_size 9 there"])
    with pytest.raises(CheckpointError) as error:
        go_on(state(), now)
    for part in (
        "5 settings are not what they were",
        "init_lr: 0.0001 then, 0.5 now",
        "max_epoch: 1 then, 9 now",
        "model.max_txt_len: 32 then, 64 now",
        "data: mimic (0123456789ab, train 80 val 5) then, mimic (fedcba987654, train 81 val 5) now",
        "llm: a then, vocab_size 9 there now",
    ):
        assert part in str(error.value)
    (allow,) = [line.rpartition("--resume-allow ")[2] for line in str(error.value).splitlines() if "--resume-allow" in line]
    assert go_on(state(), now, *allow.split(",")) == Continuation(10, 5)


def test_one_allowed_change_does_not_allow_another(caplog: pytest.LogCaptureFixture) -> None:
    now = facts("run.init_lr=0.5", "run.seed=1")
    with pytest.raises(CheckpointError, match=r"(?s)1 settings.*seed: 42 then, 1 now.*--resume-allow seed,init_lr"):
        go_on(state(), now, "init_lr")
    go_on(state(), now, "run.init_lr", "seed")
    assert "Resuming with a change that was allowed: init_lr: 0.0001 then, 0.5 now." in caplog.text


def test_an_old_checkpoint_says_what_cannot_be_checked(caplog: pytest.LogCaptureFixture) -> None:
    old = {"model": {}, "optimizer": {}, "epoch": 0, "config": config()}
    assert go_on(old, facts()) == Continuation()
    assert "does not say its data, llm, world_size, iters_per_epoch: whether these changed is not checked" in caplog.text


def test_a_setting_that_only_one_knows_is_said(caplog: pytest.LogCaptureFixture) -> None:
    then = state()
    del then["config"]["run"]["beta2"]
    assert go_on(then, facts()) == Continuation(10, 5)
    assert "only one of the two knows it: run.beta2" in caplog.text


def test_other_libraries_are_said(caplog: pytest.LogCaptureFixture) -> None:
    go_on(state(libraries={"torch": "1.0", "python": "2.7"}), facts())
    assert "torch 1.0 → " in caplog.text and "python 2.7 → " in caplog.text


# Another number of ranks -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("world_size", "options", "scale", "iterations", "warmup"),
    [
        (1, ["run.batch_size_train=8"], 1, 10, 5),
        (4, ["run.batch_size_train=2"], 1, 10, 5),
        (1, ["run.accum_grad_iters=2"], 2, 20, 10),
        (1, ["run.accum_grad_iters=2", "run.iters_per_epoch=20", "run.warmup_steps=10"], 2, 20, 10),
        (4, ["run.batch_size_train=1", "run.accum_grad_iters=2"], 2, 20, 10),
    ],
)
def test_the_same_global_batch_continues(world_size: int, options: list[str], scale: int, iterations: int, warmup: int) -> None:
    assert go_on(state(), facts(*options), world_size=world_size) == Continuation(iterations, warmup, scale)  # type: ignore[arg-type]


def test_fewer_and_larger_iterations() -> None:
    then = state("run.accum_grad_iters=2", "run.batch_size_train=4", world_size=1)
    assert go_on(then, facts()) == Continuation(5, 2.5, resuming.Fraction(1, 2))


def test_an_epoch_must_stay_whole() -> None:
    then = state("run.accum_grad_iters=2", world_size=1, iters_per_epoch=5)
    with pytest.raises(
        CheckpointError, match=r"(?s)epoch of 5 iterations of 4 samples is no whole number of iterations of 8.*2 ranks.*2 acc"
    ):
        go_on(then, facts())


def test_another_global_batch_is_refused_with_what_would_fit() -> None:
    with pytest.raises(CheckpointError) as error:
        go_on(state(), facts(), world_size=4)
    for part in (
        "global_batch: 8 samples an update then, 16",
        "With 4 ranks",
        "batch_size_train=2 accum_grad_iters=1",
        "--resume-allow glo",
    ):
        assert part in str(error.value)
    with pytest.raises(CheckpointError, match=r"No batch size of 3 ranks gives 8 samples an update"):
        go_on(state(), facts(), world_size=3)
    assert go_on(state(), facts(), "global_batch", world_size=4) == Continuation(10, 5)


def test_a_changed_number_of_iterations_is_a_change() -> None:
    with pytest.raises(CheckpointError, match=r"iters_per_epoch: 10 then, 12 now"):
        go_on(state(), facts("run.iters_per_epoch=12"))
    assert go_on(state(), facts("run.iters_per_epoch=12"), "iters_per_epoch") == Continuation(None, 5)


# Which checkpoint --------------------------------------------------------------------------------------------------


def checkpoint(folder: Path, name: str, epoch: int) -> Path:
    """A checkpoint that can be continued from."""
    folder.mkdir(parents=True, exist_ok=True)
    position = {"epoch": epoch, "iteration": 0, "step": 10 * (epoch + 1)}
    CheckpointFolder(folder).save(name, {"model": {}, "optimizer": {}, **position, **state(world_size=1)})
    return folder / f"checkpoint_{name}.pth"


@pytest.mark.parametrize("variable", ["TORCHELASTIC_RESTART_COUNT", "SLURM_RESTART_COUNT"])
def test_a_run_that_is_started_again_continues_by_itself(variable: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    named, own = checkpoint(tmp_path / "other", "1", 1), CheckpointFolder(tmp_path / "own")

    def found(setting: str | None) -> str | None:
        resumed = find_checkpoint(own, setting, facts(), allow=())
        return resumed and resumed.path.parent.name  # type: ignore[return-value]

    monkeypatch.setenv(variable, "0")
    assert (found(None), found("auto"), found(str(named))) == (None, None, "other")
    monkeypatch.setenv(variable, "2")
    assert (found(None), found("auto"), found(str(named))) == (None, None, "other")
    checkpoint(own.path, "0", 0)
    assert (found(None), found("auto"), found(str(named))) == ("own", "own", "own")
    monkeypatch.setenv(variable, "")
    assert (found(None), found("auto"), found(str(named))) == (None, "own", "other")


def test_a_named_checkpoint_that_is_damaged_is_refused(tmp_path: Path) -> None:
    path = checkpoint(tmp_path, "0", 0)
    content = bytearray(path.read_bytes())
    content[200] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="checksum is not that of what was written"):
        find_checkpoint(CheckpointFolder(tmp_path / "new"), str(path), facts(), allow=())
