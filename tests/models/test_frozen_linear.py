"""oneDNN's products are MKL's, and only where they may be."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.models.conftest import ModelFactory
from xraygpt.models import frozen_linear
from xraygpt.models.frozen_linear import MIN_ROWS, FrozenLinear, onednn_is_faster, use_onednn

FROZEN = {"freeze_vit": True, "freeze_qformer": True, "freeze_llm": True}


@pytest.fixture
def products(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """Grows by the shape of x each time that oneDNN multiplies."""
    if not torch.backends.mkldnn.is_available():
        pytest.skip("this torch has no oneDNN")
    shapes: list[tuple[int, ...]] = []
    multiply = frozen_linear._multiply
    monkeypatch.setattr(frozen_linear, "_multiply", lambda x, weight, bias: shapes.append(tuple(x.shape)) or multiply(x, weight, bias))
    return shapes


def layer(*, bias: bool = True) -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(48, 32, bias=bias).requires_grad_(False)


@pytest.mark.parametrize("bias", [True, False])
def test_values_and_gradients(bias: bool, products: list[tuple[int, ...]]) -> None:
    plain = layer(bias=bias)
    ours = copy.deepcopy(plain)
    use_onednn(ours)
    x = torch.randn(3, MIN_ROWS, 48)
    results = []
    for each in (plain, ours):
        leaf = x.clone().requires_grad_()
        out = each(leaf)
        out.square().sum().backward()
        results.append((out.detach(), leaf.grad))
    torch.testing.assert_close(results[0], results[1], rtol=1e-5, atol=1e-5)
    assert products == [(3, MIN_ROWS, 48), (3, MIN_ROWS, 32)]
    assert ours.state_dict().keys() == plain.state_dict().keys()


def test_a_gradient_that_is_not_contiguous(products: list[tuple[int, ...]]) -> None:
    ours = layer()
    use_onednn(ours)
    leaf = torch.randn(MIN_ROWS, 48, requires_grad=True)
    weights = torch.randn(32, MIN_ROWS)
    (ours(leaf).t() * weights).sum().backward()
    torch.testing.assert_close(leaf.grad, weights.t() @ ours.weight, rtol=1e-5, atol=1e-5)
    assert len(products) == 2


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this torch has no oneDNN")
def test_compiled_it_is_the_same() -> None:
    ours = layer()
    use_onednn(ours)
    x = torch.randn(MIN_ROWS, 48)
    results = []
    for call in (ours, torch.compile(ours, dynamic=True, fullgraph=True)):
        leaf = x.clone().requires_grad_()
        out = call(leaf)
        (out * torch.linspace(0, 1, 32)).sum().backward()
        results.append((out.detach(), leaf.grad))
    torch.testing.assert_close(results[1], results[0])


@pytest.mark.parametrize("why", ["few rows", "trained", "half"])
def test_torchs_own_where_it_must_be(why: str, products: list[tuple[int, ...]]) -> None:
    ours: Any = layer()
    use_onednn(ours)
    x = torch.randn(MIN_ROWS - (why == "few rows"), 48)
    if why == "trained":
        ours.requires_grad_(True)
    if why == "half":
        ours, x = ours.bfloat16(), x.bfloat16()
    assert type(ours) is FrozenLinear and torch.equal(ours(x), nn.functional.linear(x, ours.weight, ours.bias))
    assert products == []


def test_a_trained_layer_gets_its_gradient() -> None:
    ours = layer().requires_grad_(True)
    use_onednn(ours)
    ours(torch.randn(MIN_ROWS, 48)).sum().backward()
    assert ours.weight.grad is not None and ours.bias.grad is not None


def test_the_models_step(make_model: ModelFactory, samples: dict[str, Any], products: list[tuple[int, ...]], monkeypatch: Any) -> None:
    """Loss and gradient of a whole step, ViT and language model on oneDNN against torch's own."""
    samples = {**samples, "image": samples["image"].repeat(4, 1, 1, 1)[:4]}
    results = []
    for with_onednn in (True, False):
        monkeypatch.setattr("xraygpt.models.precision.onednn_is_faster", lambda with_onednn=with_onednn: with_onednn)
        model = make_model(**FROZEN).place(torch.device("cpu")).train()
        model(samples)["loss"].backward()
        results.append((model.llama_proj.weight.grad, model.llama_proj.bias.grad))
        if with_onednn:
            assert products
            products.clear()
    assert products == []
    torch.testing.assert_close(results[0], results[1], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("vendor, faster", [("AuthenticAMD", True), ("GenuineIntel", False), (None, False)])
def test_taken_where_it_is_faster(vendor: str | None, faster: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """On AMD's processors; MKL is made for Intel's."""
    if vendor:
        (tmp_path / "cpuinfo").write_text(f"processor\t: 0\nvendor_id\t: {vendor}\n", encoding="utf-8")
    monkeypatch.setattr(frozen_linear, "Path", lambda name: tmp_path / Path(name).name)
    assert onednn_is_faster.__wrapped__() is faster
