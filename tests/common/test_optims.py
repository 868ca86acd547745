"""Schedules as tables of numbers, and which parameters decay."""

import math
from typing import Any

import pytest
import torch
from torch import nn

from xraygpt.common.optims import build_adamw
from xraygpt.common.registry import registry


class Toy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.proj = nn.Linear(3, 2)
        self.ln_vision = nn.LayerNorm(3)
        self.query_tokens = nn.Parameter(torch.zeros(1, 4, 3))
        self.frozen = nn.Linear(3, 3).requires_grad_(False)


def schedule(name: str, **settings: Any) -> Any:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.0)
    sizes = {"max_epoch": 4, "iters_per_epoch": 10, "init_lr": 1.0} | settings
    return registry.get_lr_scheduler_class(name)(optimizer, **sizes)


@pytest.mark.parametrize(
    ("name", "settings", "rates"),
    [
        ("constant_lr", {}, {0: 1.0, 39: 1.0}),
        ("linear_warmup_cosine_lr", {}, {0: 1.0, 10: 0.5 * (1 + math.cos(math.pi / 4)), 20: 0.5, 40: 0.0}),
        ("linear_warmup_cosine_lr", {"min_lr": 0.2}, {0: 1.0, 20: 0.6, 40: 0.2}),
        # Warm-up over more than an epoch; afterwards the cosine stands where it would without warm-up.
        ("linear_warmup_cosine_lr", {"warmup_steps": 20, "warmup_start_lr": 0.2}, {0: 0.2, 5: 0.4, 15: 0.8, 20: 0.5}),
        ("linear_warmup_cosine_lr", {"warmup_steps": 20}, {0: 1.0, 19: 1.0, 20: 0.5}),
        ("linear_warmup_step_lr", {"decay_rate": 0.5}, {0: 1.0, 9: 1.0, 10: 0.5, 39: 0.125}),
        ("linear_warmup_step_lr", {"decay_rate": 0.5, "min_lr": 0.3}, {39: 0.3}),
        ("linear_warmup_step_lr", {"decay_rate": 0.5, "warmup_steps": 2, "warmup_start_lr": 0.0}, {0: 0.0, 1: 0.5, 2: 1.0, 10: 0.5}),
    ],
)
def test_rates(name: str, settings: dict[str, Any], rates: dict[int, float]) -> None:
    made = schedule(name, **settings)
    assert {t: made.lr_at(t) for t in rates} == pytest.approx(rates)


def test_step_sets_every_group() -> None:
    made = schedule("linear_warmup_cosine_lr")
    made.optimizer.add_param_group({"params": [nn.Parameter(torch.zeros(1))]})
    assert made.step(cur_epoch=2, cur_step=0) == 0.5
    assert [group["lr"] for group in made.optimizer.param_groups] == [0.5, 0.5]


def test_matrices_decay_and_vectors_do_not() -> None:
    model = Toy()
    optimizer = build_adamw(model, lr=1e-3, weight_decay=0.1, beta2=0.99)
    decay, plain = optimizer.param_groups
    assert (decay["weight_decay"], plain["weight_decay"], decay["betas"]) == (0.1, 0.0, (0.9, 0.99))
    assert {id(p) for p in decay["params"]} == {id(model.proj.weight), id(model.query_tokens)}
    assert {id(p) for p in plain["params"]} == {id(model.proj.bias), id(model.ln_vision.weight), id(model.ln_vision.bias)}


def test_an_empty_group_is_left_out() -> None:
    assert len(build_adamw(nn.Linear(2, 2, bias=False), lr=1e-3, weight_decay=0.1, beta2=0.99).param_groups) == 1
