"""Damaged weights end in tensors and plain values, or in a CheckpointError; never in anything that was executed."""

import pickletools
import zipfile
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save as save_safetensors
from torch import nn
from torch.optim import AdamW

from tests.reliability.fuzzing import attempt, changed, damaged, fuzz, json_values
from xraygpt import load_model
from xraygpt.common.checkpoint import load_checkpoint
from xraygpt.common.checkpoint_folder import CheckpointFolder
from xraygpt.common.errors import CheckpointError
from xraygpt.common.seed import random_state
from xraygpt.common.updater import Updater
from xraygpt.runners.resuming import find_checkpoint
from xraygpt.runners.run_state import RunFacts, RunState

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


def run_state(facts: RunFacts) -> RunState:
    """A run of a model of one layer, after its first update."""
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    optimizer = AdamW(model.parameters(), lr=1e-3)
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    schedule = ConstantSchedule(optimizer)
    cpu = torch.device("cpu")
    updater = Updater(
        model=model,
        optimizer=optimizer,
        lr_scheduler=schedule,  # type: ignore[arg-type]
        device=cpu,
        amp=False,
        iters_per_epoch=10,
    )
    return RunState(model=model, updater=updater, facts=facts, iters_per_epoch=10, warmup_steps=0)


class ConstantSchedule:
    """The learning rate of the optimizer."""

    def __init__(self, optimizer: AdamW) -> None:
        self.optimizer = optimizer

    def step(self, **_: int) -> float:
        return self.optimizer.param_groups[0]["lr"]


_CONFIG = {
    "run": {"batch_size_train": 2, "accum_grad_iters": 1, "iters_per_epoch": 10, "warmup_steps": 0, "init_lr": 1e-3},
    "model": {"max_txt_len": 80},
    "datasets": {"mimic": {"storage": "data"}},
}
_DATA = {"mimic": {"annotations_sha256": "ab", "num_samples": {"train": 20}}}
RUN_STATE = {
    **run_state(RunFacts(config=_CONFIG, data=_DATA, llm=None, llm_differences=lambda _: [])).state_dict(),
    "rng": [random_state()],
    "world_size": 1,
}
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


with zipfile.ZipFile(BytesIO(FILES[".pth"][0])) as _archive:
    PARTS = [(name, _archive.read(name)) for name in _archive.namelist()]
PICKLE = next(content for name, content in PARTS if name.endswith("data.pkl"))
OPCODES = st.sampled_from([opcode.code.encode("latin-1") for opcode in pickletools.opcodes])


@fuzz(2)
@given(data=st.data())
@pytest.mark.filterwarnings("ignore")
def test_instructions(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    """The pickle inside a whole archive: other instructions, other numbers, other names of what was saved."""
    pickled = data.draw(damaged([PICKLE]))
    for _ in range(data.draw(st.integers(0, 4))):
        place = data.draw(st.integers(0, len(pickled)))
        pickled = pickled[:place] + data.draw(OPCODES) + data.draw(st.binary(max_size=4)) + pickled[place:]
    path = tmp_path_factory.getbasetemp() / "weights.pth"
    with zipfile.ZipFile(path, "w") as target:
        for name, content in PARTS:
            target.writestr(name, pickled if name.endswith("data.pkl") else content)
    loaded = attempt(lambda: load_checkpoint(path))
    assert loaded is None or isinstance(loaded, dict)


@fuzz(1)
@given(state=changed(RUN_STATE, json_values(st.just(torch.zeros(2)))))
def test_values_for_resuming(state: Any, tmp_path_factory: pytest.TempPathFactory) -> None:
    """A run that continues either stands where the checkpoint says, or says in an error of ours what is wrong with it."""
    path = tmp_path_factory.getbasetemp() / "checkpoint_0.pth"
    torch.save(state, path)

    def resume() -> None:
        facts = RunFacts(config=RUN_STATE["config"], data=RUN_STATE["data"], llm=None, llm_differences=lambda _: [])
        run = run_state(facts)
        found = find_checkpoint(CheckpointFolder(path.parent / "nowhere"), str(path), facts, allow=("global_batch", "data"))
        assert found is not None
        run.load_state_dict(found.state, path, scale=found.continuation.scale)
        run.updater.optimizer.step()
        assert all(bool(torch.isfinite(parameter).all()) for parameter in run.model.parameters())

    attempt(resume)


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
