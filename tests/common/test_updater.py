"""From losses to updates: accumulation by tokens, clipping, and what happens to numbers that are not finite."""

import logging
import math
from typing import Any

import pytest
import torch
from torch import nn

from xraygpt.common.errors import TrainingError
from xraygpt.common.loss_watch import LossWatch
from xraygpt.common.optims import ConstantLRScheduler, build_adamw
from xraygpt.common.updater import NonFiniteError, Updater, UpdateStats, amp_dtype


def make_updater(**settings: Any) -> tuple[nn.Linear, Updater]:
    """A linear model of two weights at 1 and 1, and plain gradient descent with rate 0.1."""
    model = nn.Linear(2, 1, bias=False)
    nn.init.ones_(model.weight)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    lr_scheduler = ConstantLRScheduler(optimizer, max_epoch=1, iters_per_epoch=10, init_lr=0.1)
    settings = {"iters_per_epoch": 10} | settings
    return model, Updater(
        model=model, optimizer=optimizer, lr_scheduler=lr_scheduler, device=torch.device("cpu"), amp=True, **settings
    )  # fmt: skip


def update(updater: Updater, step: int) -> UpdateStats:
    updater.update(step)
    (stats,) = updater.settle()
    return stats


def mean_loss(model: nn.Linear, rows: list[list[float]]) -> torch.Tensor:
    """A mean over rows, as a model's loss is one over tokens."""
    return model(torch.tensor(rows)).square().mean()


ROWS = [[1.0, 2.0], [3.0, -1.0], [0.5, 0.5]]


def test_accumulated_batches_equal_one_batch() -> None:
    whole, at_once = make_updater()
    at_once.backward(mean_loss(whole, ROWS), 3, {})
    expected = update(at_once, 0)
    parts, piecewise = make_updater(accum_grad_iters=2)
    piecewise.backward(mean_loss(parts, ROWS[:1]), 1, {})
    piecewise.backward(mean_loss(parts, ROWS[1:]), 2, {})
    stats = update(piecewise, 0)
    assert torch.allclose(parts.weight, whole.weight, atol=1e-7)
    assert (stats.loss, stats.grad_norm) == pytest.approx((expected.loss, expected.grad_norm))
    assert stats.num_tokens == expected.num_tokens == 3


def test_the_update_is_that_of_the_mean_loss() -> None:
    model, updater = make_updater()
    updater.backward(mean_loss(model, [[1.0, 0.0]]), 7, {})  # gradient of w0² is 2, whatever the number of tokens
    stats = update(updater, 0)
    assert model.weight.tolist() == [[pytest.approx(0.8), 1.0]]
    assert (stats.loss, stats.num_tokens) == (1.0, 7)
    assert stats.grad_norm == pytest.approx(2.0)


def test_groups_end_with_the_epoch() -> None:
    _, updater = make_updater(accum_grad_iters=4, iters_per_epoch=10)
    assert [i for i in range(10) if updater.completes_group(i)] == [3, 7, 9]


def test_a_group_has_the_rate_of_its_first_iteration() -> None:
    _, updater = make_updater(accum_grad_iters=4)
    updater.lr_scheduler.decayed = lambda t: float(t)  # type: ignore[method-assign]
    assert [updater.schedule(0, i) for i in range(10)] == [0, 0, 0, 0, 4, 4, 4, 4, 8, 8]


def test_clipping_shortens_the_gradient_and_reports_its_length_before() -> None:
    model, updater = make_updater(max_grad_norm=0.5)
    updater.backward(mean_loss(model, [[1.0, 0.0]]), 1, {})
    assert update(updater, 0).grad_norm == pytest.approx(2.0)
    assert model.weight[0, 0].item() == pytest.approx(1 - 0.1 * 0.5, abs=1e-5)


def test_an_update_leaves_no_gradient_behind() -> None:
    model, updater = make_updater()
    updater.backward(mean_loss(model, ROWS), 3, {})
    update(updater, 0)
    assert model.weight.grad is None


@pytest.mark.parametrize("factor", [math.nan, math.inf])
def test_a_nonfinite_update_is_skipped_and_named(factor: float, caplog: pytest.LogCaptureFixture) -> None:
    model, updater = make_updater()
    with caplog.at_level(logging.WARNING):
        updater.backward(mean_loss(model, ROWS) * factor, 3, {"sample_id": ["film-1", "film-2"]})
        update(updater, 17)
    assert model.weight.tolist() == [[1.0, 1.0]]
    assert "Step 17: the loss is not finite" in caplog.text and "film-1, film-2" in caplog.text


def test_a_nonfinite_gradient_of_a_finite_loss(caplog: pytest.LogCaptureFixture) -> None:
    model, updater = make_updater()
    with caplog.at_level(logging.WARNING):
        updater.backward((model.weight - 1).abs().sum().sqrt(), 1, {"sample_id": ["film-1"]})  # the root's slope at 0 is infinite
        update(updater, 3)
    assert model.weight.tolist() == [[1.0, 1.0]]
    assert "Step 3: the gradient is not finite" in caplog.text


def test_too_many_in_a_row_stop_the_run() -> None:
    model, updater = make_updater(max_nonfinite_steps=2)
    updater.backward(mean_loss(model, ROWS) * math.nan, 3, {"sample_id": ["film-1"]})
    update(updater, 0)
    updater.backward(mean_loss(model, ROWS) * math.nan, 3, {"sample_id": ["film-2"]})
    update(updater, 1)
    with pytest.raises(TrainingError, match=r"Step 1: .* in 2 updates in a row \(last samples: film-2 \(rank 0\)\).*init_lr"):
        updater.require_progress()


def test_a_loss_that_is_not_finite_is_skipped_though_its_gradient_is() -> None:
    model, updater = make_updater()
    updater.backward(mean_loss(model, ROWS) + math.inf, 3, {})
    stats = update(updater, 0)
    assert stats.skipped and math.isfinite(stats.grad_norm)
    assert model.weight.tolist() == [[1.0, 1.0]]


def test_spikes_are_counted_and_applied(caplog: pytest.LogCaptureFixture) -> None:
    model, updater = make_updater(loss_watch=LossWatch(window=2, factor=2.0))
    for step in range(3):
        updater.backward(mean_loss(model, [[1.0 + 9.0 * (step == 2), 0.0]]), 1, {"sample_id": [f"film-{step}"]})
        assert not update(updater, step).skipped
    assert updater.counts == {"skipped": 0, "spikes": 1, "bad_samples": 0}
    assert "Step 2: the loss is" in caplog.text and "film-2 (rank 0)" in caplog.text


def test_counts_survive_a_resume() -> None:
    model, updater = make_updater()
    updater.backward(mean_loss(model, ROWS) * math.nan, 3, {"bad_samples": ["a", "b"]})
    assert update(updater, 0).bad_samples == ("a", "b")
    _, resumed = make_updater()
    resumed.load_state_dict(updater.state_dict())
    assert (resumed.counts, resumed.skipped_in_a_row) == ({"skipped": 1, "spikes": 0, "bad_samples": 2}, 1)


def test_a_good_update_resets_the_count() -> None:
    model, updater = make_updater(max_nonfinite_steps=2)
    for step, factor in enumerate([math.nan, 1.0, math.nan, 1.0]):
        updater.backward(mean_loss(model, ROWS) * factor, 3, {})
        update(updater, step)
    assert torch.isfinite(model.weight).all()


def test_state_has_the_familys_keys() -> None:
    model, updater = make_updater()
    updater.backward(mean_loss(model, ROWS), 3, {})
    update(updater, 0)
    state = updater.state_dict()
    assert state.keys() == {"optimizer", "scaler", "guard"} and state["scaler"] is None
    make_updater()[1].load_state_dict(state)


def test_the_cpu_computes_in_float32() -> None:
    assert amp_dtype(torch.device("cpu"), True) is None
    assert amp_dtype(torch.device("cuda"), False) is None


@pytest.mark.gpu
def test_half_precision_on_cuda() -> None:
    assert amp_dtype(torch.device("cuda"), True) in (torch.bfloat16, torch.float16)


# Numbers that are read late, as on CUDA ------------------------------------------------------------------------------


def make_late_updater(**settings: Any) -> tuple[nn.Linear, Updater]:
    """With AdamW, as the other cannot skip an update by itself."""
    model, updater = make_updater(**settings)
    updater.optimizer = build_adamw(model, lr=0.1, weight_decay=0.0, beta2=0.999)
    updater.lr_scheduler.optimizer = updater.optimizer
    updater.reads_late = settings.get("max_nonfinite_steps", 5) > 1
    return model, updater


LOSSES = [1.0, 2.0, math.nan, 3.0, math.inf, math.nan, 0.5, 4.0]


def trained(updater: Updater, model: nn.Linear, *, keep: int, needed: frozenset[int] = frozenset()) -> list[UpdateStats]:
    """What is told of an update for each of `LOSSES`."""
    told = []
    for step, factor in enumerate(LOSSES):
        updater.schedule(0, step)
        updater.backward(mean_loss(model, ROWS) * factor, 3, {"sample_id": [f"film-{step}"]})
        updater.update(step)
        last = step == len(LOSSES) - 1
        told += updater.settle(keep=0 if last or step in needed else keep)
    return told


def test_numbers_read_late_are_the_same() -> None:
    results = []
    for late in (True, False):
        model, updater = make_late_updater(max_grad_norm=1.0)
        updater.reads_late = late
        told = trained(updater, model, keep=1, needed=frozenset({1}))
        assert [stats.i for stats in told] == list(range(len(LOSSES)))
        assert [stats.skipped for stats in told] == [not math.isfinite(loss) for loss in LOSSES]
        state = updater.state_dict()
        steps = {int(entry["step"]) for entry in state["optimizer"]["state"].values()}
        assert steps == {5}  # those that were skipped do not count
        numbers = [(stats.loss, stats.grad_norm, stats.lr, stats.num_tokens) for stats in told if not stats.skipped]
        results.append((model.weight.detach().clone(), torch.tensor(numbers), updater.counts))
        assert updater.counts["skipped"] == 3
    torch.testing.assert_close(results[0], results[1])


def test_an_update_is_told_of_when_the_next_is_on_its_way() -> None:
    model, updater = make_late_updater()
    told = []
    for step in range(4):
        updater.backward(mean_loss(model, ROWS), 3, {})
        updater.update(step)
        told.append([(stats.i, stats.latest) for stats in updater.settle(keep=1 if step != 2 else 0)])
    assert told == [[], [(0, False)], [(1, False), (2, True)], []]
    with pytest.raises(RuntimeError, match="1 updates are not settled"):
        updater.state_dict()
    assert [stats.latest for stats in updater.settle()] == [True]


def test_what_is_asked_for_is_said_with_the_latest_update() -> None:
    """What is saved then belongs to the parameters as they are."""
    asked = iter([(False, False), (True, False), (False, True)])
    model, updater = make_late_updater(wishes=lambda: next(asked))
    for step in range(3):
        updater.backward(mean_loss(model, ROWS), 3, {"bad_samples": ["film-1"] if step == 1 else []})
        updater.update(step)
        told = updater.settle(keep=1)
    (of_asking, latest) = told
    assert (of_asking.i, of_asking.stop, of_asking.bad_samples, of_asking.latest) == (1, False, (), False)
    assert (latest.i, latest.stop, latest.save, latest.bad_samples, latest.latest) == (2, True, True, ("film-1",), True)
    assert updater.counts["bad_samples"] == 1


def test_the_last_of_too_many_skipped_updates_is_the_latest() -> None:
    """Its dump holds the parameters that it began with."""
    model, updater = make_late_updater(max_nonfinite_steps=3)
    told: list[UpdateStats] = []
    for step in range(9):
        before = model.weight.detach().clone()
        updater.backward(mean_loss(model, ROWS) * (math.nan if step >= 4 else 1.0), 3, {"sample_id": [f"film-{step}"]})
        updater.update(step)
        told += updater.settle(keep=1)
        if updater._failure is not None:
            break
    with pytest.raises(NonFiniteError) as failure:
        updater.require_progress()
    assert failure.value.step == told[-1].i == 6 and told[-1].latest
    assert torch.equal(model.weight, before)
    assert [batch.sample_ids for batch in failure.value.micro_batches] == [["film-6"]]


@pytest.mark.gpu
def test_no_update_waits_for_the_gpu() -> None:
    device = torch.device("cuda")
    model = nn.Linear(2, 1, bias=False).to(device)
    optimizer = build_adamw(model, lr=0.1, weight_decay=0.0, beta2=0.999)
    schedule = ConstantLRScheduler(optimizer, max_epoch=1, iters_per_epoch=10, init_lr=0.1)
    updater = Updater(model=model, optimizer=optimizer, lr_scheduler=schedule, device=device, amp=True, iters_per_epoch=10)
    if not updater.reads_late:
        pytest.skip("this GPU trains under a loss scaler")
    rows = torch.tensor(ROWS, device=device)
    told: list[UpdateStats] = []
    try:
        for step in range(6):
            if step == 2:  # until then libraries are loaded and the optimizer's state is made
                torch.cuda.set_sync_debug_mode("error")
            updater.schedule(0, step)
            updater.backward(model(rows).square().mean() * (1.0 if step != 5 else float("nan")), 3, {})
            updater.update(step)
            told += updater.settle(keep=1)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    told += updater.settle()
    assert [stats.i for stats in told] == list(range(6))
    assert [stats.skipped for stats in told] == [False] * 5 + [True]
    assert int(optimizer.state[model.weight]["step"]) == 5
    assert bool(model.weight.isfinite().all())


def test_an_optimizer_that_is_not_fused_is_waited_for() -> None:
    """It cannot skip an update by itself, and neither may the last update before giving up be late."""
    model = nn.Linear(2, 1)
    for fused, limit, expected in [(True, 5, True), (False, 5, False), (True, 1, False)]:
        optimizer = torch.optim.AdamW(model.parameters(), fused=fused)
        schedule = ConstantLRScheduler(optimizer, max_epoch=1, iters_per_epoch=1, init_lr=0.1)
        settings: dict[str, Any] = {"iters_per_epoch": 1, "amp": False, "max_nonfinite_steps": limit}
        updater = Updater(model=model, optimizer=optimizer, lr_scheduler=schedule, device=torch.device("cuda"), **settings)
        assert updater.reads_late is expected


def test_a_state_of_another_kind_of_optimizer_goes_on_as_this_one() -> None:
    model, updater = make_late_updater()
    plain = torch.optim.AdamW([{"params": [model.weight]}], lr=0.1, fused=False)
    mean_loss(model, ROWS).backward()
    plain.step()
    updater.load_state_dict({"optimizer": plain.state_dict()})
    assert updater.optimizer.param_groups[0]["fused"] is True
    assert int(updater.optimizer.state[model.weight]["step"]) == 1
