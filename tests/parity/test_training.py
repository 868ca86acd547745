"""Parameter updates and learning rates of the original, and where ours differ on purpose."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.parity.reference import assert_close, recorded_batch
from xraygpt.common import optims
from xraygpt.common.optims import LinearWarmupCosineLRScheduler, LinearWarmupStepLRScheduler, LRScheduler, build_adamw
from xraygpt.common.updater import Updater, UpdateStats
from xraygpt.models import MiniGPT4

LR_TABLES = ["openi_shipped", "mimic_shipped", "small", "nowarmup", "step_decay05"]
SHORT_WARMUP_TABLES = {"warmup_spans_epochs_BUG": 15, "step_warmup_longer_than_epoch_BUG": 20}
"""Table → iterations of warm-up, more than an epoch's 10."""


def parameters(config: dict[str, Any]) -> dict[str, Any]:
    """A recorded configuration as arguments of our schedules."""
    names = {"init_lr", "min_lr", "max_epoch", "iters_per_epoch", "warmup_steps", "warmup_start_lr", "decay_rate"}
    return {name: value for name, value in config.items() if name in names}


def updater_for(model: MiniGPT4, schedule: dict[str, Any], weight_decay: float = 0.0, accum_grad_iters: int = 1) -> Updater:
    optimizer = build_adamw(model, lr=schedule["init_lr"], weight_decay=weight_decay, beta2=0.999)
    return Updater(
        model=model,
        optimizer=optimizer,
        lr_scheduler=LinearWarmupCosineLRScheduler(optimizer, **schedule),
        device=torch.device("cpu"),
        amp=False,
        iters_per_epoch=schedule["iters_per_epoch"],
        accum_grad_iters=accum_grad_iters,
    )


def add_gradient(updater: Updater, model: MiniGPT4, image: Tensor, answers: list[list[int]], samples: list[int]) -> None:
    loss = model.loss_of(recorded_batch(model, answers, samples), model.encode_img(image[samples]))
    updater.backward(loss, sum(len(answers[i]) for i in samples), {"sample_id": list(map(str, samples))})


def assert_moved_alike(ours: Tensor, theirs: Tensor, moved: float) -> None:
    """AdamW moves a parameter by about the rate: within 1 % of the rates so far, which the absolute tolerance would hide."""
    torch.testing.assert_close(ours.detach(), theirs, atol=0.01 * moved, rtol=0)


def test_five_updates(model_to_train: MiniGPT4, reference: Path, inputs: dict[str, Any], recorded_answers: list[list[int]]) -> None:
    recorded = torch.load(reference / "adamw.pt")
    config = recorded["config"]
    updater = updater_for(
        model_to_train, parameters({**config, "warmup_start_lr": config["warmup_lr"]}), weight_decay=config["weight_decay"]
    )
    groups = [(len(group["params"]), group["weight_decay"]) for group in updater.optimizer.param_groups]
    assert groups == [tuple(group) for group in recorded["groups"]]
    assert updater.optimizer.defaults["betas"] == tuple(recorded["betas"])
    assert updater.optimizer.defaults["eps"] == recorded["eps"]
    weight, bias, moved = model_to_train.llama_proj.weight, model_to_train.llama_proj.bias, 0.0
    for i, step in enumerate(recorded["steps"]):
        assert updater.schedule(0, i) == pytest.approx(step["lr"], rel=1e-12)
        moved += step["lr"]
        add_gradient(updater, model_to_train, inputs["image"], recorded_answers, [0, 1, 2])
        updater.update(i)
        (stats,) = updater.settle()
        assert_close(torch.tensor(stats.loss), torch.tensor(step["loss"]))
        assert_moved_alike(bias, step["bias"], moved)
        if step["weight"] is not None:
            assert_moved_alike(weight, step["weight"], moved)
        with torch.no_grad():
            sums = [float(weight.double().sum()), float(weight.double().abs().sum())]
        assert sums == pytest.approx([step["weight_sum"], step["weight_abs_sum"]], abs=1e-3)  # of 32,768 weights


ONE_STEP = {"init_lr": 0.0, "max_epoch": 1, "iters_per_epoch": 2}


def accumulated(model: MiniGPT4, image: Tensor, answers: list[list[int]], *micro_batches: list[int]) -> UpdateStats:
    """One update from some micro-batches; the rate is 0, so that the model stays."""
    updater = updater_for(model, ONE_STEP, accum_grad_iters=len(micro_batches))
    for samples in micro_batches:
        add_gradient(updater, model, image, answers, samples)
    updater.update(0)
    return updater.settle()[-1]


def test_accumulated_gradient_is_that_of_one_large_batch(
    model_to_train: MiniGPT4, inputs: dict[str, Any], recorded_answers: list[list[int]]
) -> None:
    """Samples of 48 and 117 tokens; the mean over tokens is not the mean of the samples' means."""
    together = accumulated(model_to_train, inputs["image"], recorded_answers, [0, 1])
    apart = accumulated(model_to_train, inputs["image"], recorded_answers, [0], [1])
    assert apart.num_tokens == together.num_tokens == 165
    assert apart.loss == pytest.approx(together.loss, rel=1e-5)
    assert apart.grad_norm == pytest.approx(together.grad_norm, rel=1e-5)


def test_the_original_adds_up_gradients(
    model_to_train: MiniGPT4, reference: Path, inputs: dict[str, Any], recorded_answers: list[list[int]]
) -> None:
    recorded = torch.load(reference / "accum.pt")["accum2_sum_grad_weight_norm"]
    for i in (0, 1):
        batch = recorded_batch(model_to_train, recorded_answers, [i])
        model_to_train.loss_of(batch, model_to_train.encode_img(inputs["image"][[i]])).backward()
    assert_close(model_to_train.llama_proj.weight.grad.norm(), recorded)


def test_with_equal_sizes_ours_is_half_the_originals_sum(
    model_to_train: MiniGPT4, inputs: dict[str, Any], recorded_answers: list[list[int]]
) -> None:
    answers = [answer[:48] for answer in recorded_answers]
    stats = accumulated(model_to_train, inputs["image"], answers, [0], [1])
    for i in (0, 1):
        model_to_train.loss_of(recorded_batch(model_to_train, answers, [i]), model_to_train.encode_img(inputs["image"][[i]])).backward()
    gradients: list[Any] = [parameter.grad for parameter in model_to_train.llama_proj.parameters()]
    assert stats.grad_norm == pytest.approx(float(nn.utils.get_total_norm(gradients)) / 2, rel=1e-5)


# Learning rates ----------------------------------------------------------------------------------------------------


def scheduler_of(table: dict[str, Any]) -> LRScheduler:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1)), nn.Parameter(torch.ones(1))])
    return getattr(optims, table["config"]["class"])(optimizer, **parameters(table["config"]))


@pytest.fixture(scope="module")
def lr_tables(reference: Path) -> dict[str, Any]:
    return json.loads((reference / "lr.json").read_text(encoding="utf-8"))


def test_every_table_is_looked_at(lr_tables: dict[str, Any]) -> None:
    assert lr_tables.keys() == {*LR_TABLES, *SHORT_WARMUP_TABLES}


@pytest.mark.parametrize("name", LR_TABLES)
def test_learning_rates(lr_tables: dict[str, Any], name: str) -> None:
    scheduler = scheduler_of(lr_tables[name])
    for _, epoch, i, lr in lr_tables[name]["rows"]:
        assert scheduler.step(cur_epoch=epoch, cur_step=i) == pytest.approx(lr, rel=1e-12)
        assert {group["lr"] for group in scheduler.optimizer.param_groups} == {scheduler.lr_at(epoch * scheduler.iters_per_epoch + i)}


@pytest.mark.parametrize(("name", "warmup_steps"), SHORT_WARMUP_TABLES.items())
def test_a_long_warmup_goes_on_in_the_next_epoch(lr_tables: dict[str, Any], name: str, warmup_steps: int) -> None:
    """The original's begins anew with the epoch, or ends with the first. Behind the warm-up, both agree."""
    scheduler = scheduler_of(lr_tables[name])
    rows = lr_tables[name]["rows"]
    ours = [scheduler.step(cur_epoch=epoch, cur_step=i) for _, epoch, i, _ in rows]
    assert ours[:warmup_steps] == pytest.approx([1e-5 + (1e-3 - 1e-5) * t / warmup_steps for t in range(warmup_steps)], rel=1e-12)
    assert ours[warmup_steps:] == pytest.approx([lr for *_, lr in rows[warmup_steps:]], rel=1e-12)
    assert ours[10] > rows[10][3]


STAGE_1 = {"init_lr": 1e-4, "min_lr": 8e-5, "warmup_start_lr": 1e-6, "warmup_steps": 500, "max_epoch": 4, "iters_per_epoch": 5000}
STAGE_2 = {"init_lr": 3e-5, "min_lr": 1e-5, "warmup_start_lr": 1e-6, "warmup_steps": 200, "max_epoch": 1, "iters_per_epoch": 2501}
PUBLISHED_RATES = [
    # schedule, {iteration: learning rate}
    (STAGE_1, {0: 1e-6, 250: 5.05e-5, 499: 9.9802e-5, 500: 9.996917e-5, 4999: 9.707218e-5, 5000: 9.707107e-5, 19999: 8e-5}),
    (STAGE_2, {0: 1e-6, 100: 1.55e-5, 199: 2.9855e-5, 200: 2.968608e-5, 2500: 1.000001e-5}),
]


def rates(scheduler_class: type[LRScheduler], schedule: dict[str, Any], iterations: Sequence[int]) -> list[float]:
    scheduler = scheduler_class(torch.optim.SGD([nn.Parameter(torch.zeros(1))]), **schedule)
    return [scheduler.step(*divmod(t, schedule["iters_per_epoch"])) for t in iterations]


@pytest.mark.parametrize(("schedule", "expected"), PUBLISHED_RATES, ids=["stage 1", "stage 2"])
def test_rates_of_the_two_stages(schedule: dict[str, Any], expected: dict[int, float]) -> None:
    ours = rates(LinearWarmupCosineLRScheduler, schedule, list(expected))
    assert ours == pytest.approx(list(expected.values()), rel=1e-6)


def test_step_schedule_stays_above_its_minimum() -> None:
    schedule = {"init_lr": 1e-3, "min_lr": 1e-4, "decay_rate": 0.1, "max_epoch": 4, "iters_per_epoch": 10}
    assert rates(LinearWarmupStepLRScheduler, schedule, [0, 9, 10, 20, 39]) == pytest.approx([1e-3, 1e-3, 1e-4, 1e-4, 1e-4])
