"""From losses to updates: accumulation by tokens, clipping, and what happens to numbers that are not finite."""

import logging
import math
from typing import Any

import pytest
import torch
from torch import nn

from xraygpt.common.errors import TrainingError
from xraygpt.common.loss_watch import LossWatch
from xraygpt.common.optims import ConstantLRScheduler
from xraygpt.common.updater import Updater, amp_dtype


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


def mean_loss(model: nn.Linear, rows: list[list[float]]) -> torch.Tensor:
    """A mean over rows, as a model's loss is one over tokens."""
    return model(torch.tensor(rows)).square().mean()


ROWS = [[1.0, 2.0], [3.0, -1.0], [0.5, 0.5]]


def test_accumulated_batches_equal_one_batch() -> None:
    whole, at_once = make_updater()
    at_once.backward(mean_loss(whole, ROWS), 3, {})
    expected = at_once.update(0)
    parts, piecewise = make_updater(accum_grad_iters=2)
    piecewise.backward(mean_loss(parts, ROWS[:1]), 1, {})
    piecewise.backward(mean_loss(parts, ROWS[1:]), 2, {})
    stats = piecewise.update(0)
    assert torch.allclose(parts.weight, whole.weight, atol=1e-7)
    assert (stats.loss, stats.grad_norm) == pytest.approx((expected.loss, expected.grad_norm))
    assert stats.num_tokens == expected.num_tokens == 3


def test_the_update_is_that_of_the_mean_loss() -> None:
    model, updater = make_updater()
    updater.backward(mean_loss(model, [[1.0, 0.0]]), 7, {})  # gradient of w0² is 2, whatever the number of tokens
    stats = updater.update(0)
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
    assert updater.update(0).grad_norm == pytest.approx(2.0)
    assert model.weight[0, 0].item() == pytest.approx(1 - 0.1 * 0.5, abs=1e-5)


def test_an_update_leaves_no_gradient_behind() -> None:
    model, updater = make_updater()
    updater.backward(mean_loss(model, ROWS), 3, {})
    updater.update(0)
    assert model.weight.grad is None


@pytest.mark.parametrize("factor", [math.nan, math.inf])
def test_a_nonfinite_update_is_skipped_and_named(factor: float, caplog: pytest.LogCaptureFixture) -> None:
    model, updater = make_updater()
    with caplog.at_level(logging.WARNING):
        updater.backward(mean_loss(model, ROWS) * factor, 3, {"sample_id": ["film-1", "film-2"]})
        updater.update(17)
    assert model.weight.tolist() == [[1.0, 1.0]]
    assert "Step 17: the loss is not finite" in caplog.text and "film-1, film-2" in caplog.text


def test_a_nonfinite_gradient_of_a_finite_loss(caplog: pytest.LogCaptureFixture) -> None:
    model, updater = make_updater()
    with caplog.at_level(logging.WARNING):
        updater.backward((model.weight - 1).abs().sum().sqrt(), 1, {"sample_id": ["film-1"]})  # the root's slope at 0 is infinite
        updater.update(3)
    assert model.weight.tolist() == [[1.0, 1.0]]
    assert "Step 3: the gradient is not finite" in caplog.text


def test_too_many_in_a_row_stop_the_run() -> None:
    model, updater = make_updater(max_nonfinite_steps=2)
    updater.backward(mean_loss(model, ROWS) * math.nan, 3, {"sample_id": ["film-1"]})
    updater.update(0)
    updater.backward(mean_loss(model, ROWS) * math.nan, 3, {"sample_id": ["film-2"]})
    updater.update(1)
    with pytest.raises(TrainingError, match=r"Step 1: .* in 2 updates in a row \(last samples: film-2 \(rank 0\)\).*init_lr"):
        updater.require_progress()


def test_a_loss_that_is_not_finite_is_skipped_though_its_gradient_is() -> None:
    model, updater = make_updater()
    updater.backward(mean_loss(model, ROWS) + math.inf, 3, {})
    stats = updater.update(0)
    assert stats.skipped and math.isfinite(stats.grad_norm)
    assert model.weight.tolist() == [[1.0, 1.0]]


def test_spikes_are_counted_and_applied(caplog: pytest.LogCaptureFixture) -> None:
    model, updater = make_updater(loss_watch=LossWatch(window=2, factor=2.0))
    for step in range(3):
        updater.backward(mean_loss(model, [[1.0 + 9.0 * (step == 2), 0.0]]), 1, {"sample_id": [f"film-{step}"]})
        assert not updater.update(step).skipped
    assert updater.counts == {"skipped": 0, "spikes": 1, "bad_samples": 0}
    assert "Step 2: the loss is" in caplog.text and "film-2 (rank 0)" in caplog.text


def test_counts_survive_a_resume() -> None:
    model, updater = make_updater()
    updater.backward(mean_loss(model, ROWS) * math.nan, 3, {"bad_samples": ["a", "b"]})
    assert updater.update(0).bad_samples == ("a", "b")
    _, resumed = make_updater()
    resumed.load_state_dict(updater.state_dict())
    assert (resumed.counts, resumed.skipped_in_a_row) == ({"skipped": 1, "spikes": 0, "bad_samples": 2}, 1)


def test_a_good_update_resets_the_count() -> None:
    model, updater = make_updater(max_nonfinite_steps=2)
    for step, factor in enumerate([math.nan, 1.0, math.nan, 1.0]):
        updater.backward(mean_loss(model, ROWS) * factor, 3, {})
        updater.update(step)
    assert torch.isfinite(model.weight).all()


def test_state_has_the_familys_keys() -> None:
    model, updater = make_updater()
    updater.backward(mean_loss(model, ROWS), 3, {})
    updater.update(0)
    state = updater.state_dict()
    assert state.keys() == {"optimizer", "scaler", "guard"} and state["scaler"] is None
    make_updater()[1].load_state_dict(state)


def test_the_cpu_computes_in_float32() -> None:
    assert amp_dtype(torch.device("cpu"), True) is None
    assert amp_dtype(torch.device("cuda"), False) is None


@pytest.mark.gpu
def test_half_precision_on_cuda() -> None:
    assert amp_dtype(torch.device("cuda"), True) in (torch.bfloat16, torch.float16)
