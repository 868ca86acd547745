"""A saved state that no run wrote is refused in one line, before anything is compared or gone on with."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import AdamW

from tests.runners.test_resuming import facts, state
from xraygpt.common.errors import CheckpointError
from xraygpt.runners.resuming import compare
from xraygpt.runners.saved_state import check_optimizer, check_saved_state

PATH = Path("checkpoint_1.pth")


def test_what_a_run_saves_is_right() -> None:
    best = {"agg_metrics": -float("inf"), "loss": float("inf"), "epoch": -1}
    guard = {"skipped": 0, "spikes": 1, "bad_samples": 0, "skipped_in_a_row": 0, "losses": [2.5]}
    numbers = {"epoch": -1, "iteration": 3, "step": 3, "warmup_steps": 2.5, "meters": {"loss": [7.5, 3]}}
    check_saved_state(state() | numbers | {"best": best, "guard": guard, "scaler": None, "rng": [{}, {}]}, PATH)
    check_saved_state({"epoch": 0}, PATH)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epoch": "one"}, "'epoch' must be a whole number from -1, but is 'one'"),
        ({"epoch": -2}, "'epoch' must be a whole number"),
        ({"epoch": True}, "'epoch' must be a whole number"),
        ({"step": 2**60}, "'step' must be a whole number"),
        ({"iteration": 1.5}, "'iteration' must be a whole number"),
        ({"iters_per_epoch": 0}, "'iters_per_epoch' must be a whole number from 1"),
        ({"world_size": 2**40}, "'world_size' must be a number of ranks"),
        ({"warmup_steps": float("nan")}, "'warmup_steps' must be a number from 0, but is nan"),
        ({"warmup_steps": torch.ones(1)}, "'warmup_steps' must be a number from 0, but is of type Tensor"),
        ({"config": []}, "'config' must be sections of settings"),
        ({"config": {"run": 5}}, "'config' must be sections of settings"),
        ({"config": {"model": {5: 1}}}, "'config' must be sections of settings"),
        ({"config": {"run": {"batch_size_train": 0}}}, "'config' has run.batch_size_train=0"),
        ({"config": {"run": {"accum_grad_iters": "many"}}}, "'config' has run.accum_grad_iters='many'"),
        ({"config": {"run": {"batch_size_train": 2**20}}, "world_size": 2**20}, "1099511627776 samples went into an update"),
        ({"config": {"run": {"init_lr": torch.ones(2)}}}, "'config' must be sections of settings"),
        ({"data": {"mimic": 5}}, "'data' must be"),
        ({"data": {"mimic": {"annotations_sha256": torch.ones(2), "num_samples": {}}}}, "'data' must be"),
        ({"llm": {"name": torch.ones(2)}}, "'llm' must be"),
        ({"data": {"mimic": {"num_samples": {}}}}, "'data' must be"),
        ({"llm": "vicuna"}, "'llm' must be"),
        ({"libraries": {"torch": 2}}, "'libraries' must be"),
        ({"best": {"epoch": 1}}, "'best' must be"),
        ({"guard": {"skipped": 1}}, "'guard' must be"),
        ({"meters": {"loss": [1.0]}}, "'meters' must be"),
        ({"meters": {"loss": [float("inf"), 1]}}, "'meters' must be"),
        ({"scaler": {"scale": 1.0}}, "'scaler' must be"),
        ({"rng": [5]}, "'rng' must be"),
    ],
)
def test_entries_that_no_run_writes(change: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=r"checkpoint_1\.pth is damaged: ") as error:
        check_saved_state(state(**change), PATH)
    assert message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("config", [{"run": {}}, {"run": {}, "datasets": {}, "model": {}}, {}])
def test_sections_without_settings_can_be_compared(config: dict[str, Any]) -> None:
    assert compare(state(config=config), PATH, facts(), world_size=2, allow=("global_batch",)).scale == 1


# Optimizer ---------------------------------------------------------------------------------------------------------


def optimizer() -> AdamW:
    """After one update of two layers in two groups."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2))
    made = AdamW([{"params": [*layer.parameters()]} for layer in model], lr=0.1)
    model(torch.ones(1, 3)).sum().backward()
    made.step()
    return made


def changed(change: Any) -> Any:
    stored = optimizer().state_dict()
    change(stored)
    return stored


def moment(value: Any, key: str = "exp_avg") -> Any:
    return changed(lambda stored: stored["state"][2].update({key: value}))


def test_an_optimizers_own_state_is_right() -> None:
    check_optimizer(optimizer().state_dict(), optimizer(), PATH)
    check_optimizer(changed(lambda stored: stored["state"].clear()), optimizer(), PATH)


@pytest.mark.parametrize(
    ("stored", "message"),
    [
        (None, "'optimizer' must have 'state' and 'param_groups'"),
        ({"state": [], "param_groups": []}, "'optimizer' must have"),
        ({"state": {}, "param_groups": []}, "other parameters than this configuration trains"),
        ({"state": {}, "param_groups": [5, 5]}, "other parameters"),
        (changed(lambda stored: stored["param_groups"][1]["params"].pop()), "other parameters"),
        (changed(lambda stored: stored["param_groups"][1].update(params=[0, 1])), "does not say to which parameters"),
        (changed(lambda stored: stored["param_groups"][1].update(params=["a", "b"])), "does not say to which parameters"),
        (changed(lambda stored: stored["state"].update({9: {}})), "does not say to which parameters"),
        (changed(lambda stored: stored["param_groups"][0].update(lr="high")), "param_groups.0.lr is 'high', expected a value like 0.1"),
        (changed(lambda stored: stored["param_groups"][0].update(eps=float("nan"))), "param_groups.0.eps is nan"),
        (changed(lambda stored: stored["param_groups"][0].update(betas=(0.9,))), "param_groups.0.betas is of type tuple"),
        (changed(lambda stored: stored["param_groups"][0].update(amsgrad=[1])), "param_groups.0.amsgrad is of type list"),
        (changed(lambda stored: stored["state"].update({2: 5})), "state.2 is 5, expected values by name"),
        (changed(lambda stored: stored["state"][2].pop("step")), "state.2 lacks step"),
        (moment(torch.tensor([[1.0, torch.nan], [1.0, 1.0]])), "state.2.exp_avg holds NaN"),
        (moment(torch.ones(2, 2) * torch.inf), "state.2.exp_avg holds infinite values"),
        (moment(torch.ones(3, 2)), "state.2.exp_avg is (3, 2), expected (2, 2)"),
        (moment(torch.ones(2)), "state.2.exp_avg is (2,), expected (2, 2)"),
        (moment(torch.ones(2, 2, dtype=torch.int64)), "state.2.exp_avg is int64, expected float32"),
        (moment(torch.ones(2, 2, dtype=torch.complex64)), "state.2.exp_avg is complex64"),
        (moment(torch.ones(2, 2, device="meta")), "state.2.exp_avg has no numbers"),
        (moment([[1.0]]), "state.2.exp_avg is of type list, expected a number"),
        (moment(torch.nan, "step"), "state.2.step is nan, expected a number"),
    ],
)
def test_a_state_that_no_optimizer_can_go_on_with(stored: Any, message: str) -> None:
    with pytest.raises(CheckpointError, match=r"checkpoint_1\.pth") as error:
        check_optimizer(stored, optimizer(), PATH)
    assert message in str(error.value) and "\n" not in str(error.value)
