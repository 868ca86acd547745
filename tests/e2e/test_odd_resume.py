"""A checkpoint of a run that was changed by hand, or by anyone else, ends the run that is to continue from it in one line."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.e2e.tiny_run import make_workspace, run_training
from xraygpt.common.errors import CheckpointError


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """run.yaml of a workspace that has the checkpoints of two epochs."""
    cfg_path = make_workspace(tmp_path_factory.mktemp("odd"))
    run_training(cfg_path, "run.job_id=first")
    return cfg_path


def not_finite(state: dict[str, Any]) -> None:
    next(tensor for tensor in state["model"].values()).view(-1)[0] = torch.nan


def moment_not_finite(state: dict[str, Any]) -> None:
    state["optimizer"]["state"][1]["exp_avg_sq"].view(-1)[0] = torch.inf


def no_moment(state: dict[str, Any]) -> None:
    state["optimizer"]["state"][1].pop("step")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (not_finite, "holds NaN"),
        (moment_not_finite, r"state\.1\.exp_avg_sq holds infinite values"),
        (no_moment, r"state\.1 lacks step"),
        (lambda state: state.update(optimizer={"state": {}, "param_groups": []}), "other parameters than this configuration trains"),
        (lambda state: state.update(model=[1]), "holds no parameters"),
        (lambda state: state.update(rng=[{"python": 5}]), "'rng' has no random state of rank 0"),
        (lambda state: state.update(llm={"name": "x"}), "does not say which language model it belongs to"),
        (lambda state: state.update(epoch=None), "it has no epoch"),
        (lambda state: state.update(guard={}), "'guard' must be"),
    ],
)
def test_it_is_one_line(change: Callable[[dict[str, Any]], None], message: str, workspace: Path, tmp_path: Path) -> None:
    state = torch.load(workspace.parent / "output/first/checkpoint_0.pth", weights_only=True)
    change(state)
    torch.save(state, tmp_path / "changed.pth")
    with pytest.raises(CheckpointError, match=message) as error:
        run_training(workspace, f"run.resume_ckpt_path={tmp_path / 'changed.pth'}", f"run.output_dir={tmp_path}")
    assert "changed.pth" in str(error.value)
