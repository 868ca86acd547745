"""Weights are loaded once: built without storage, mapped from their files, and the same to the bit."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from tests.models.conftest import ModelFactory
from xraygpt.models.language_model import load_language_model, load_tokenizer

CPU = torch.device("cpu")
FROZEN = {"freeze_vit": True, "freeze_qformer": True, "freeze_llm": True}
Samples = dict[str, Any]
Values = dict[str, Any]


def blip2_state(model: Any) -> dict[str, Tensor]:
    """The Q-Former, `ln_vision` and queries under LAVIS' names."""
    state = {"query_tokens": model.query_tokens.data}
    state |= {f"ln_vision.{key}": value for key, value in model.ln_vision.state_dict().items()}
    for key, value in model.Qformer.state_dict().items():
        name = key.replace(".attention.attention.", ".attention.self.").replace(".crossattention.attention.", ".crossattention.self.")
        state[f"Qformer.bert.{'embeddings.LayerNorm.' + name[10:] if name.startswith('layernorm.') else name}"] = value
    return state


@pytest.fixture
def files(make_model: ModelFactory, tiny_llm: Path, tmp_path: Path) -> tuple[Any, Values]:
    """A model, and the configuration that loads its parts from files, each kind of file once."""
    model = make_model(seed=3)
    torch.save(model.visual_encoder.state_dict(), tmp_path / "eva.pth")
    save_file(blip2_state(model), tmp_path / "blip2.safetensors")
    model.llama_model.save_pretrained(tmp_path / "llm")
    load_tokenizer(tiny_llm).save_pretrained(tmp_path / "llm")
    projection = {f"llama_proj.{key}": value for key, value in model.llama_proj.state_dict().items()}
    torch.save({"model": projection}, tmp_path / "projection.pth")
    names = {"vit_weights": "eva.pth", "q_former_model": "blip2.safetensors", "llama_model": "llm", "ckpt": "projection.pth"}
    return model, {"llm_from_scratch": False, **{key: str(tmp_path / name) for key, name in names.items()}}


@pytest.fixture
def initialised(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by the size of each tensor that is drawn at random in place."""
    drawn: list[int] = []

    def recording(original: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def record(tensor: Tensor, *args: Any, **kwargs: Any) -> Tensor:
            if not tensor.is_meta:
                drawn.append(tensor.numel())
            return original(tensor, *args, **kwargs)

        return record

    for name in ("normal_", "uniform_"):
        monkeypatch.setattr(Tensor, name, recording(getattr(Tensor, name)))
    return drawn


def assert_same_weights(model: Any, other: Any) -> None:
    expected = other.state_dict()
    assert model.state_dict().keys() == expected.keys()
    different = [key for key, value in model.state_dict().items() if not torch.equal(value, expected[key])]
    assert different == []


@pytest.mark.parametrize("frozen", [True, False])
def test_parts_from_files_are_the_same_to_the_bit(
    make_model: ModelFactory, files: tuple[Any, Values], samples: Samples, frozen: bool
) -> None:
    published, values = files
    model = make_model(**(FROZEN if frozen else {}), **values).place(CPU)
    assert_same_weights(model, published)
    assert not any(tensor.is_meta for tensor in [*model.parameters(), *model.buffers()])
    assert model.eval()(samples)["loss"].item() == pytest.approx(published.eval()(samples)["loss"].item(), rel=1e-6)


def test_a_whole_checkpoint_fills_a_model_from_scratch(make_model: ModelFactory, tmp_path: Path, initialised: list[int]) -> None:
    """The second stage of the quickstart: nothing is drawn at random but the projection."""
    published = make_model(seed=3)
    assert max(initialised) > 32 * 64
    torch.save({"model": published.state_dict()}, tmp_path / "stage1.pth")
    initialised.clear()
    model = make_model(ckpt=str(tmp_path / "stage1.pth")).place(CPU)
    assert sum(initialised) <= 32 * 32 + 32
    assert_same_weights(model, published)


def test_what_a_file_fills_is_not_drawn_at_random(make_model: ModelFactory, files: tuple[Any, Values], initialised: list[int]) -> None:
    make_model(**FROZEN, **files[1])
    assert sum(initialised) <= 32 * 32 + 32


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_files_in_half_precision_are_float32_where_they_are_placed(make_model: ModelFactory, tmp_path: Path, dtype: torch.dtype) -> None:
    published = make_model(seed=3).to(dtype)
    torch.save({"model": published.state_dict()}, tmp_path / "half.pth")
    model = make_model(ckpt=str(tmp_path / "half.pth")).place(CPU)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert_same_weights(model, published.float())


def test_a_frozen_part_stays_mapped_to_its_file(make_model: ModelFactory, files: tuple[Any, Values], tmp_path: Path) -> None:
    """Private to the process: what is trained does not change the file."""
    model = make_model(**FROZEN, **files[1]).place(CPU)
    maps = Path("/proc/self/maps")
    if not maps.exists():
        pytest.skip("needs /proc")
    mapped = maps.read_text(encoding="utf-8")
    assert all(str(tmp_path / name) in mapped for name in ("eva.pth", "blip2.safetensors", "llm/model.safetensors", "projection.pth"))
    before = (tmp_path / "projection.pth").read_bytes()
    with torch.no_grad():
        model.llama_proj.weight += 1.0
    assert (tmp_path / "projection.pth").read_bytes() == before


def test_a_checkpoint_that_is_loaded_into_a_placed_model_takes_its_type(make_model: ModelFactory, tmp_path: Path) -> None:
    published = make_model(seed=3)
    torch.save({"model": published.state_dict()}, tmp_path / "all.pth")
    model = make_model(**FROZEN, frozen_dtype={"llm": "bf16"}).place(CPU)
    model.load_parts(str(tmp_path / "all.pth"), allow_other_llm=True)
    assert model.llama_model.dtype is torch.bfloat16
    assert torch.equal(model.llama_model.lm_head.weight, published.llama_model.lm_head.weight.bfloat16())


def test_tied_weights_stay_tied(make_model: ModelFactory, tiny_llm: Path, tmp_path: Path) -> None:
    load_tokenizer(tiny_llm).save_pretrained(tmp_path / "tied")
    llm = load_language_model(tiny_llm, from_scratch=True)
    llm.config.tie_word_embeddings = True
    llm.config.save_pretrained(tmp_path / "tied")
    published = make_model(seed=3, llama_model=str(tmp_path / "tied"))
    torch.save({"model": published.state_dict()}, tmp_path / "tied.pth")
    model = make_model(llama_model=str(tmp_path / "tied"), ckpt=str(tmp_path / "tied.pth")).place(CPU)
    assert model.llama_model.lm_head.weight is model.llama_model.model.embed_tokens.weight
    assert_same_weights(model, published)
