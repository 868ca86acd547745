"""Damaged weights end in tensors and plain values, or in a CheckpointError; never in anything that was executed."""

import zipfile
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save as save_safetensors

from tests.reliability.fuzzing import attempt, changed, damaged, fuzz, json_values
from xraygpt import load_model
from xraygpt.common.checkpoint import load_checkpoint
from xraygpt.common.errors import CheckpointError

TENSORS = {"llama_proj.weight": torch.arange(12.0).reshape(3, 4), "llama_proj.bias": torch.ones(3, dtype=torch.bfloat16)}
STATE = {
    "model": TENSORS,
    "optimizer": {"state": {0: {"step": torch.tensor(3.0), "exp_avg": torch.zeros(3, 4)}}, "param_groups": [{"lr": 1e-4, "params": [0]}]},
    "config": {
        "run": {"task": "image_text_pretrain", "imports": []},
        "model": {"arch": "mini_gpt4", "model_type": "quickstart", "ckpt": ""},
    },
    "epoch": 3,
    "best": {"loss": float("inf")},
    "llm": {"name": "x", "embedding": [0.1, 0.2], "tokenizer": "ab", "vocab_size": 3, "hidden_size": 4},
}


def torch_file(state: Any, **options: Any) -> bytes:
    """What torch.save writes."""
    stream = BytesIO()
    torch.save(state, stream, **options)
    return stream.getvalue()


FILES = {".pth": [torch_file(STATE), torch_file(STATE, _use_new_zipfile_serialization=False)], ".safetensors": [save_safetensors(TENSORS)]}


@fuzz(2)
@given(data=st.data())
@pytest.mark.parametrize("suffix", FILES)
@pytest.mark.filterwarnings("ignore")
def test_bytes(data: st.DataObject, suffix: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / f"weights{suffix}"
    path.write_bytes(data.draw(damaged(FILES[suffix])))
    loaded = attempt(lambda: load_checkpoint(path))
    assert loaded is None or isinstance(loaded, dict)


@fuzz(0.3)
@given(state=changed(STATE, json_values(st.just(torch.zeros(2)))))
def test_values_for_load_model(state: Any, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / "weights.pth"
    torch.save(state, path)
    attempt(lambda: load_model(path))


def test_a_file_that_expands_is_not_unpacked(tmp_path: Path) -> None:
    """torch writes its zip without compression; a few megabytes of it could otherwise fill the memory."""
    stream = BytesIO(torch_file({"model": {"llama_proj.weight": torch.zeros(4_000_000)}}))
    path = tmp_path / "bomb.pth"
    with zipfile.ZipFile(stream) as source, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as target:
        for name in source.namelist():
            target.writestr(name, source.read(name))
    assert path.stat().st_size < 100_000
    with pytest.raises(CheckpointError, match="it unpacks to 16000"):
        load_checkpoint(path)


def test_a_tensor_that_repeats_its_numbers_is_refused(tmp_path: Path) -> None:
    torch.save({"model": {"x": torch.zeros(1).expand(10**9, 10**9)}}, tmp_path / "bomb.pth")
    with pytest.raises(CheckpointError, match="repeats its numbers"):
        load_checkpoint(tmp_path / "bomb.pth")
