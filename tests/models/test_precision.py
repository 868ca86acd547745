"""How frozen parts are stored, and how far their numbers move."""

from importlib.util import find_spec
from typing import Any

import pytest
import torch

from tests.models.conftest import ModelFactory
from xraygpt.common.errors import ConfigError
from xraygpt.models import precision
from xraygpt.models.precision import check_frozen_dtype, compute_dtype

Samples = dict[str, Any]
CPU = torch.device("cpu")
FROZEN = {"freeze_vit": True, "freeze_qformer": True, "freeze_llm": True}
needs_bitsandbytes = pytest.mark.skipif(find_spec("bitsandbytes") is None, reason="needs the extra quant")


def large_enough(model: Any) -> Any:
    """Weights that make outputs differ from one image to the next."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.2, generator=generator)
    return model


def loss_and_gradient(model: Any, samples: Samples) -> tuple[float, torch.Tensor]:
    model.train()
    loss = model(samples)["loss"]
    loss.backward()
    return loss.item(), model.llama_proj.weight.grad


@pytest.mark.parametrize(
    ("frozen_dtype", "loss_tolerance", "gradient_tolerance"),
    [
        ({"vit": "bf16"}, 1e-3, 0.05),
        ({"llm": "bf16"}, 1e-3, 0.06),
        ({"vit": "bf16", "llm": "bf16"}, 1e-3, 0.08),
        ({"vit": "fp16", "llm": "fp16"}, 1e-3, 0.02),
        pytest.param({"llm": "int8"}, 3e-3, 0.12, marks=needs_bitsandbytes),
        pytest.param({"vit": "int8"}, 3e-3, 0.06, marks=needs_bitsandbytes),
    ],
)
def test_the_loss_stays(
    make_model: ModelFactory, samples: Samples, frozen_dtype: dict[str, str], loss_tolerance: float, gradient_tolerance: float
) -> None:
    """In training, on the CPU: the loss and the projection's gradient, relative to float32."""
    expected, gradient = loss_and_gradient(large_enough(make_model(**FROZEN)).place(CPU), samples)
    model = large_enough(make_model(**FROZEN, frozen_dtype=frozen_dtype)).place(CPU)
    loss, own_gradient = loss_and_gradient(model, samples)
    assert own_gradient.dtype is model.llama_proj.weight.dtype is torch.float32
    assert loss == pytest.approx(expected, rel=loss_tolerance)
    assert (own_gradient - gradient).norm() < gradient_tolerance * gradient.norm()
    assert len(model.eval().write_reports(samples["image"], max_new_tokens=4)) == 4


@needs_bitsandbytes
def test_nf4_computes_with_what_its_numbers_stand_for(make_model: ModelFactory, samples: Samples) -> None:
    """Four bits move the loss of this small model too far to say more: so, beside a model that holds those sixteenths in float32."""
    from bitsandbytes.functional import dequantize_4bit

    parts = {"vit": "nf4", "llm": "nf4"}
    model, plain = large_enough(make_model(**FROZEN, frozen_dtype=parts)).place(CPU), large_enough(make_model(**FROZEN)).place(CPU)
    replaced = 0
    for name, module in model.named_modules():
        if hasattr(module, "quant_state"):
            plain.get_submodule(name).weight.data = dequantize_4bit(module.weight.data, module.weight.quant_state).float()
            replaced += 1
    assert replaced == 2 * 4 + 2 * 7  # of each ViT block, and of each layer of the language model
    model.write_reports(samples["image"], max_new_tokens=2)  # without gradients first
    loss, gradient = loss_and_gradient(model, samples)
    expected, expected_gradient = loss_and_gradient(plain, samples)
    assert loss == pytest.approx(expected, rel=1e-4)
    assert (gradient - expected_gradient).norm() < 1e-3 * expected_gradient.norm()


# Where and how -----------------------------------------------------------------------------------------------------


def test_half_precision_of_the_vit_is_for_matrices_only(make_model: ModelFactory) -> None:
    model = make_model(**FROZEN, frozen_dtype={"vit": "bf16"}).place(CPU)
    dtypes = {name: parameter.dtype for name, parameter in model.visual_encoder.named_parameters()}
    assert dtypes["blocks.0.attn.qkv.weight"] is dtypes["patch_embed.proj.weight"] is torch.bfloat16
    assert dtypes["blocks.0.norm1.weight"] is dtypes["pos_embed"] is dtypes["cls_token"] is torch.float32
    others = (model.Qformer, model.ln_vision, model.llama_proj, model.llama_model)
    assert {parameter.dtype for part in others for parameter in part.parameters()} == {torch.float32}


def test_half_precision_of_the_language_model_is_for_every_weight_but_no_table(make_model: ModelFactory) -> None:
    """The table of rotations stays as exact as it was."""
    model = make_model(**FROZEN, frozen_dtype={"llm": "bf16"}).place(CPU)
    assert {parameter.dtype for parameter in model.llama_model.parameters()} == {torch.bfloat16}
    assert {buffer.dtype for buffer in model.llama_model.buffers()} == {torch.float32}


def test_by_default_everything_is_float32_on_the_cpu(make_model: ModelFactory) -> None:
    model = make_model(**FROZEN)
    model.llama_model.to(torch.bfloat16)
    model.visual_encoder.to(torch.float16)
    assert {parameter.dtype for parameter in model.place(CPU).parameters()} == {torch.float32}


def test_what_needs_no_conversion_is_not_copied(make_model: ModelFactory) -> None:
    model = make_model(**FROZEN)
    before = {name: parameter.data_ptr() for name, parameter in model.named_parameters()}
    model.place(CPU)
    assert {name: parameter.data_ptr() for name, parameter in model.named_parameters()} == before


def test_the_precision_is_said(make_model: ModelFactory) -> None:
    assert make_model(frozen_dtype={"llm": "fp32"}).place(CPU).precision == "float32"
    assert make_model(**FROZEN, frozen_dtype={"llm": "bf16"}).place(CPU).precision == "float32, bfloat16"
    assert make_model(**FROZEN, frozen_dtype={"vit": "fp16", "llm": "fp16"}).place(CPU).precision == "float16"


@needs_bitsandbytes
def test_the_last_layer_is_not_quantised(make_model: ModelFactory) -> None:
    model = make_model(**FROZEN, frozen_dtype={"llm": "int8"}).place(CPU)
    assert {parameter.dtype for parameter in model.llama_model.model.layers[0].mlp.parameters()} == {torch.int8}
    assert model.llama_model.lm_head.weight.dtype is torch.float32


@pytest.mark.parametrize(
    ("wanted", "frozen", "message"),
    [
        ("fp8", True, "model.frozen_dtype.vit: 'fp8' is not known"),
        ("bf16", False, r"model.frozen_dtype.vit is bf16, but the part is trained \(model.freeze_vit=False\)"),
        ("nf4", True, r"model.frozen_dtype.vit=nf4 needs bitsandbytes: make install-extras EXTRAS=quant"),
    ],
)
def test_what_cannot_be_had(monkeypatch: pytest.MonkeyPatch, wanted: str, frozen: bool, message: str) -> None:
    monkeypatch.setattr(precision, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=message):
        check_frozen_dtype(wanted, part="vit", frozen=frozen)


@pytest.mark.parametrize("part", ["vit", "llm"])
def test_a_trained_part_in_half_precision_is_refused_before_anything_is_built(make_model: ModelFactory, part: str) -> None:
    with pytest.raises(ConfigError, match=f"model.frozen_dtype.{part} is fp16"):
        make_model(frozen_dtype={part: "fp16"})


@pytest.mark.parametrize(("has_bf16", "half"), [(True, torch.bfloat16), (False, torch.float16)])
def test_auto_is_half_precision_on_cuda_only(monkeypatch: pytest.MonkeyPatch, has_bf16: bool, half: torch.dtype) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: has_bf16)
    assert compute_dtype("auto", torch.device("cuda")) is compute_dtype("int8", torch.device("cuda")) is half
    assert compute_dtype("auto", CPU) is compute_dtype("nf4", CPU) is torch.float32
    assert compute_dtype("bf16", CPU) is torch.bfloat16
