"""Weights that no model can use: every place that takes them ends in one line that names the file, and the parameter where there is one."""

import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.models.test_weights import Model, VisionHalf, vit
from xraygpt.cli.main import main
from xraygpt.common.checkpoint import load_trainable_state
from xraygpt.common.errors import CheckpointError
from xraygpt.models.weights import load_into, load_qformer_weights, load_vit_weights, saved_identity_differences


def with_value(value: float) -> Callable[[Tensor], Tensor]:
    def change(tensor: Tensor) -> Tensor:
        changed = tensor.clone()
        changed.view(-1)[-1] = value
        return changed

    return change


def quantised(tensor: Tensor) -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's, that they will go
        return torch.quantize_per_tensor(tensor, 0.1, 0, torch.qint8)


VALUES: dict[str, tuple[Callable[[Tensor], Any], str]] = {
    "NaN": (with_value(torch.nan), "{name} holds NaN"),
    "infinite": (with_value(-torch.inf), "{name} holds infinite values"),
    "NaN in half precision": (lambda tensor: with_value(torch.nan)(tensor.bfloat16()), "{name} holds NaN"),
    "too large": (lambda tensor: with_value(1e300)(tensor.double()), r"{name} holds 1e\+300, more than"),
    "complex": (lambda tensor: tensor.to(torch.complex64), "{name} is complex64"),
    "whole numbers": (lambda tensor: tensor.to(torch.int32), "{name} is int32|pos_embed is torch.int32"),
    "a type of eight bits": (lambda tensor: tensor.to(torch.float8_e4m3fn), "{name} is float8_e4m3fn|weights are not stored in"),
    "meta": (lambda tensor: tensor.to("meta"), "{name} has no numbers|a tensor without numbers"),
    "sparse": (lambda tensor: tensor.to_sparse(), "{name} is a sparse tensor|a sparse tensor"),
    "quantised": (quantised, "{name} is a quantised tensor|a quantised tensor"),
    "nested": (lambda tensor: torch.nested.nested_tensor([tensor]), "{name} is a nested tensor|a nested tensor"),
    "empty": (lambda tensor: tensor.flatten()[:0], r"{name} is \(0,\)"),
    "a number": (lambda _: 5, "expected tensors by name"),
    "a list": (lambda tensor: [tensor], "expected tensors by name"),
    "nothing": (lambda _: None, "expected tensors by name"),
}


def into(state: Any, _: Path) -> nn.Module:
    load_into(model := Model(), state, "c.pth")
    return model


def trained(state: Any, _: Path) -> nn.Module:
    load_trainable_state(model := Model(), state, "c.pth")
    return model


def as_vit(state: Any, path: Path) -> nn.Module:
    torch.save(state, path)
    load_vit_weights(model := vit(), path)
    return model


def as_qformer(state: Any, path: Path) -> nn.Module:
    torch.save({"model": state}, path)
    half = VisionHalf()
    load_qformer_weights(half.Qformer, half.ln_vision, half.query_tokens, path)
    return half


PLACES: dict[str, tuple[Callable[[Any, Path], nn.Module], Callable[[], dict[str, Any]], str]] = {
    "load_into": (into, lambda: dict(Model().state_dict()), "llama_proj.weight"),
    "load_trainable_state": (trained, lambda: dict(Model().state_dict()), "llama_proj.weight"),
    "load_vit_weights": (as_vit, lambda: dict(vit().state_dict()), "blocks.1.attn.proj.weight"),
    "load_vit_weights, positions": (as_vit, lambda: dict(vit().state_dict()), "pos_embed"),
    "load_vit_weights, patches": (as_vit, lambda: dict(vit().state_dict()), "patch_embed.proj.weight"),
    "load_qformer_weights": (as_qformer, lambda: VisionHalf().lavis_state(), "query_tokens"),
    "load_qformer_weights, norm": (as_qformer, lambda: VisionHalf().lavis_state(), "ln_vision.weight"),
}
"""Where weights are loaded → the function, a state that fits, and a name in it."""


@pytest.mark.parametrize("kind", VALUES)
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.filterwarnings("ignore")  # torch's, about nested and sparse tensors
def test_odd_values(place: str, kind: str, tmp_path: Path) -> None:
    load, make_state, name = PLACES[place]
    odd, message = VALUES[kind]
    state = make_state()
    load(dict(state), tmp_path / "c.pth")
    state[name] = odd(state[name])
    with pytest.raises(CheckpointError) as error:
        load(state, tmp_path / "c.pth")
    text = str(error.value)
    assert "c.pth" in text and "\n" not in text
    shape = rf"|{re.escape(name)} is .*{re.escape(str(tuple(getattr(state[name], 'shape', ()))))}" if kind == "empty" else ""
    assert re.search(message.format(name=f"{re.escape(name.removeprefix('ln_vision.'))}") + shape, text), text


@pytest.mark.parametrize("state", [{}, [], 5, "text", {5: torch.ones(1)}, {(1, 2): torch.ones(1)}, {"a": {"b": torch.ones(1)}}, {"a.b": 1}])
@pytest.mark.parametrize("place", PLACES)
def test_odd_states(place: str, state: Any, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"c\.pth") as error:
        PLACES[place][0](state, tmp_path / "c.pth")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("place", "one", "other"),
    [
        ("load_into", "Qformer.layernorm.bias", "Qformer.bert.embeddings.LayerNorm.bias"),
        ("load_vit_weights", "cls_token", "visual_encoder.cls_token"),
        ("load_vit_weights", "blocks.0.mlp.fc1.weight", "blocks.0.mlp.w12.weight"),
        ("load_qformer_weights", "Qformer.bert.embeddings.LayerNorm.bias", "Qformer.bert.layernorm.bias"),
    ],
)
def test_two_names_of_one_parameter(place: str, one: str, other: str, tmp_path: Path) -> None:
    load, make_state, _ = PLACES[place]
    state = make_state()
    with pytest.raises(CheckpointError, match="twice"):
        load({**state, other: state[one]}, tmp_path / "c.pth")


def test_a_model_is_as_before_when_weights_are_refused() -> None:
    model = Model()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    state = dict(Model().state_dict())
    state["llama_proj.bias"] = with_value(torch.nan)(state["llama_proj.bias"])
    for load in (load_into, load_trainable_state):
        with pytest.raises(CheckpointError, match=r"llama_proj\.bias holds NaN"):
            load(model, state, "c.pth")
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize("tensor", [torch.ones(2), torch.ones(2, dtype=torch.complex64), torch.full((2,), torch.nan)])
def test_a_name_breaks_no_line(tensor: Tensor) -> None:
    """A message goes to terminals and logs, and the names in it are the file's."""
    state = {**Model().state_dict(), "a\n\x1b[2Jb" * 100: tensor}
    for load in (into, trained):
        with pytest.raises(CheckpointError, match=r"unexpected|complex64") as error:
            load(state, Path())
        assert str(error.value).isprintable() and len(str(error.value)) < 600


IDENTITY = {"name": "a", "tokenizer": "ab", "vocab_size": 3, "hidden_size": 2, "embedding": [0.5] * 6}


@pytest.mark.parametrize(
    "stored", [5, {"name": "a"}, *(IDENTITY | {"embedding": odd} for odd in ([1.0, 2.0], "text", [[1.0], [2.0, 3.0]], [2**70], None))]
)
def test_an_identity_that_is_none(stored: Any) -> None:
    assert saved_identity_differences(IDENTITY, IDENTITY, "c.pth", compare_embedding=True) == []
    with pytest.raises(CheckpointError, match=r"c\.pth does not say which language model it belongs to") as error:
        saved_identity_differences(stored, IDENTITY, "c.pth", compare_embedding=True)
    assert "\n" not in str(error.value)


def test_only_what_is_used_must_be_finite(tmp_path: Path) -> None:
    """The published ViT has a head that no model of ours uses, and is not read."""
    state = vit().state_dict() | {"head.weight": torch.full((10, 16), torch.nan)}
    as_vit(state, tmp_path / "c.pth")


@pytest.mark.parametrize(
    "extra",
    [
        {"model": torch.ones(1)},
        {"visual.trunk.pos_embed": torch.ones(1, 5, 16), "visual.trunk.patch_embed.proj.weight": torch.ones(1, 1, 40, 40)},
        {"conv1.weight": torch.ones(1)},
        {"visual.conv1.weight": torch.ones(1)},
        {"storage_tokens": torch.ones(1)},
        {"mask_token": torch.ones(1)},
    ],
)
def test_names_of_other_vision_transformers_are_left_out(extra: dict[str, Tensor], tmp_path: Path) -> None:
    """timm reads a state that has one of them as another model's."""
    published = vit()
    state = {f"visual_encoder.{key}": value for key, value in {**published.state_dict(), **extra}.items()}
    loaded = as_vit(state, tmp_path / "c.pth")
    assert all(torch.equal(value, published.state_dict()[key]) for key, value in loaded.state_dict().items())


def test_patches_of_another_size_are_not_resized(tmp_path: Path) -> None:
    state = vit().state_dict() | {"patch_embed.proj.weight": torch.ones(16, 3, 16, 16)}
    with pytest.raises(CheckpointError, match=r"patch_embed.proj.weight is \(16, 3, 16, 16\), expected \(16, 3, 14, 14\)"):
        as_vit(state, tmp_path / "c.pth")


@pytest.mark.parametrize("kind", VALUES)
@pytest.mark.filterwarnings("ignore")
def test_inspect_says_it(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    odd, message = VALUES[kind]
    path = tmp_path / "c.pth"
    torch.save({"model": {"llama_proj.weight": odd(torch.ones(4, 3)), "llama_proj.bias": torch.ones(4)}}, path)
    code = main(["inspect", str(path)])
    streams = capsys.readouterr()
    if kind in ("too large", "whole numbers", "empty"):  # no model is known that these should fit
        assert code == 0
    else:
        assert code == 1
        assert re.search(message.format(name="llama_proj.weight"), streams.out + streams.err)
