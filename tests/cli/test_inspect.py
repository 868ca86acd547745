"""`xraygpt inspect`: what it says of good files, and how it ends on bad ones."""

import json
import pickle
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import save_file

from xraygpt.cli.main import main
from xraygpt.common.checkpoint_folder import CheckpointFolder
from xraygpt.common.printable import printable_line
from xraygpt.diagnosis import weights_file

CONFIG = {"run": {"init_lr": 1e-4}, "model": {"arch": "mini_gpt4"}}
LLM = {"name": "weights/vicuna-7b", "tokenizer": "ab" * 32, "vocab_size": 32000, "hidden_size": 12, "embedding": [0.5] * 256}


def state(step: int, **changed: Any) -> dict[str, Any]:
    """What a run saves: a projection of 8 to 12 and 4 query tokens, after one update."""
    parameters = {"llama_proj.weight": torch.ones(12, 8), "llama_proj.bias": torch.ones(12), "query_tokens": torch.ones(1, 4, 8)}
    moments = {i: {name: torch.ones_like(p) for name in ("exp_avg", "exp_avg_sq")} for i, p in enumerate(parameters.values())}
    return {
        "model": parameters,
        "optimizer": {"state": moments, "param_groups": [{"lr": 1e-4, "params": [0, 1, 2]}]},
        "config": CONFIG,
        "scaler": None,
        "epoch": step // 10 - 1,
        "iteration": step % 10,
        "step": step,
        "best": {"agg_metrics": -1.25, "loss": 1.25, "epoch": 0},
        "llm": LLM,
        "version": "0.1.0",
        "rng": [{"python": [3, [1, 2]], "torch": torch.zeros(16, dtype=torch.uint8), "cuda": []}] * 2,
        "world_size": 2,
        "data": {"mimic": {"annotations_sha256": "cd" * 32, "num_samples": {"train": 22, "val": 5}}},
        "libraries": {"torch": "2.15.0"},
        **changed,
    }


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A run's folder with the checkpoints of steps 10, 14 and 20, of which the first is the best."""
    run = CheckpointFolder(tmp_path)
    run.begin(None)
    run.save("0", state(10), best=True)
    run.save("step14", state(14))
    run.save("1", state(20))
    (tmp_path / "log.txt").write_text('{"config": {}}\n{"step": 13, "loss": 1.5}\n\n')
    return tmp_path


@pytest.fixture
def inspect(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    """Run the command; returns its exit code, and what it printed on both streams."""

    def run(*words: object) -> tuple[int, str]:
        code = main(["inspect", *map(str, words)])
        streams = capsys.readouterr()
        return code, streams.out + streams.err

    return run


# Good files ------------------------------------------------------------------------------------------------------


def test_a_training_checkpoint(folder: Path, inspect: Any) -> None:
    code, out = inspect(folder / "checkpoint_step14.pth")
    assert code == 0
    for line in (
        "(as checkpoints.json says)",
        "stands at      step 14: epoch 0 is finished, and 4 iterations of epoch 1",
        "best           epoch 0 (agg_metrics -1.2500, loss 1.2500)",
        "llama_proj                  2              108     432 B  float32           12×8 (1), 12 (1)",
        "all                         3              140     560 B",
        "optimizer      Adam or AdamW (exp_avg, exp_avg_sq) of 3 parameters, 1.12 kB",
        "language model weights/vicuna-7b (vocabulary 32000, width 12, tokenizer abababababab…, embedding sample of 256 values)",
        "data           mimic: train 22, val 5 (annotations cdcdcdcdcdcd…)",
        "ranks          2, with the random state of 2 (python, torch)",
        "libraries      torch 2.15.0",
    ):
        assert line in out
    assert "projection alone" not in out


def test_json_and_config(folder: Path, inspect: Any) -> None:
    described = json.loads(inspect(folder / "checkpoint_1.pth", "--json")[1])
    assert (described["kind"], described["step"], described["listed"]) == ("training checkpoint", 20, True)
    assert described["parts"]["query_tokens"]["shapes"] == [{"shape": [1, 4, 8], "tensors": 1}]
    assert yaml.safe_load(inspect(folder / "checkpoint_1.pth", "--config")[1]) == CONFIG


@pytest.mark.parametrize(
    ("width", "count", "plain", "trained"), [(4096, "3,149,824", "12.6 MB", "37.8 MB"), (5120, "3,937,280", "15.7 MB", "47.2 MB")]
)
def test_a_published_projection_is_whole(tmp_path: Path, inspect: Any, width: int, count: str, plain: str, trained: str) -> None:
    parameters = {
        "llama_proj.weight": torch.zeros(width, 768),
        "llama_proj.bias": torch.zeros(width),
        "Qformer.bert.embeddings.position_ids": torch.arange(512)[None],
        "llama_model.model.layers.0.self_attn.rotary_emb.inv_freq": torch.zeros(64),
    }
    torch.save({"model": parameters}, tmp_path / "published.pth")
    code, out = inspect(tmp_path / "published.pth")
    assert code == 0
    assert f"the projection alone, {count} parameters from width 768 to {width}, and it is whole" in out
    assert f"{plain}, or {trained} with AdamW's state, is the right size" in out
    assert "kind           projection without a training state, " in out
    assert "no checkpoints.json names it" in out


def test_a_language_model_file_and_folder(tmp_path: Path, inspect: Any) -> None:
    tensors = {"model.embed_tokens.weight": torch.zeros(10, 4, dtype=torch.float16), "lm_head.weight": torch.zeros(10, 4)}
    save_file(tensors, tmp_path / "model.safetensors")
    code, out = inspect(tmp_path / "model.safetensors")
    assert code == 0
    assert "kind           language model, " in out
    assert "float16           10×4 (1)" in out
    (tmp_path / "config.json").write_text(json.dumps({"vocab_size": 10, "hidden_size": 4}))
    code, out = inspect(tmp_path)
    assert code == 0
    assert "config.json    vocab_size 10, hidden_size 4" in out
    assert "all                         2               80     240 B" in out


def test_numbers_stay_on_the_disk(folder: Path, inspect: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    real = torch.load
    monkeypatch.setattr(torch, "load", lambda *args, **kwargs: calls.append(kwargs) or real(*args, **kwargs))
    inspect(folder / "checkpoint_1.pth")
    assert [(call["mmap"], call["weights_only"]) for call in calls] == [(True, True)]


def test_the_old_format_of_torch_is_read_too(tmp_path: Path, inspect: Any) -> None:
    torch.save({"model": {"llama_proj.weight": torch.zeros(3, 2)}}, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    code, out = inspect(tmp_path / "old.pth")
    assert code == 0
    assert "3×2 (1)" in out


# A run's folder --------------------------------------------------------------------------------------------------


def test_a_run_that_goes_on(folder: Path, inspect: Any) -> None:
    code, out = inspect(folder)
    assert code == 0
    rows = [line.split() for line in out.splitlines() if line.startswith("checkpoint_")]
    assert [row[:4] + row[5:] for row in rows] == [
        ["checkpoint_best.pth", "10", "0", "0", "good"],
        ["checkpoint_0.pth", "10", "0", "0", "good"],
        ["checkpoint_step14.pth", "14", "0", "4", "good"],
        ["checkpoint_1.pth", "20", "1", "0", "good"],
    ]
    assert "--resume auto  checkpoint_1.pth\n" in out
    assert "complete       no: there is no summary.json yet\n" in out
    assert 'log.txt ends   {"step": 13, "loss": 1.5}\n' in out


def test_a_damaged_checkpoint_is_passed_over(folder: Path, inspect: Any) -> None:
    data = (folder / "checkpoint_1.pth").read_bytes()
    (folder / "checkpoint_1.pth").write_bytes(data[:-100])
    (folder / "checkpoint_0.pth").unlink()
    (folder / "checkpoint_9.pth").write_bytes(b"no checkpoint")
    (folder / "summary.json").write_text("{}")
    code, out = inspect(folder)
    assert code == 0
    assert f"damaged: {len(data) - 100:,} bytes, {len(data):,} were written" in out
    assert "checkpoint_0.pth                10      0          0" in out
    assert out.count("missing") == 1
    assert "checkpoint_9.pth                 ?      ?          ?" in out
    assert "--resume auto  checkpoint_step14.pth\n" in out
    assert "complete       yes (summary.json)\n" in out


def test_a_run_without_a_good_checkpoint(folder: Path, inspect: Any) -> None:
    for path in folder.glob("*.pth"):
        path.write_bytes(b"")
    code, out = inspect(folder)
    assert code == 1
    assert "--resume auto  None of the 4 checkpoints" in out


def test_a_run_before_its_first_checkpoint(tmp_path: Path, inspect: Any) -> None:
    (tmp_path / "log.txt").write_text("")
    code, out = inspect(tmp_path)
    assert code == 0
    assert "nothing: the run starts from the beginning" in out


def test_without_an_index_the_files_are_read(folder: Path, inspect: Any) -> None:
    (folder / "checkpoints.json").unlink()
    rows = json.loads(inspect(folder, "--json")[1])["checkpoints"]
    assert {(row["file"], row["step"], row["state"]) for row in rows} == {
        (file, step, "readable, not in checkpoints.json")
        for file, step in (("checkpoint_best.pth", 10), ("checkpoint_0.pth", 10), ("checkpoint_step14.pth", 14), ("checkpoint_1.pth", 20))
    }


def test_a_file_that_was_changed_later(folder: Path, inspect: Any) -> None:
    path = folder / "checkpoint_1.pth"
    torch.save(state(20, world_size=1), path)
    code, out = inspect(path)
    assert code == 1
    assert "NOT what checkpoints.json says" in out


def test_weights_that_are_not_finite(folder: Path, inspect: Any) -> None:
    """Said of a file, and of a checkpoint in a folder that is not listed."""
    (folder / "checkpoints.json").unlink()
    odd = state(20)
    odd["model"]["llama_proj.bias"][3] = torch.nan
    torch.save(odd, folder / "checkpoint_1.pth")
    code, out = inspect(folder / "checkpoint_1.pth")
    assert code == 1
    assert "CANNOT BE USED llama_proj.bias holds NaN" in out
    assert json.loads(inspect(folder / "checkpoint_1.pth", "--json")[1])["problems"] == ["llama_proj.bias holds NaN"]
    rows = json.loads(inspect(folder, "--json")[1])["checkpoints"]
    assert {row["file"]: row["state"] for row in rows}["checkpoint_1.pth"] == "readable, but llama_proj.bias holds NaN"


@pytest.mark.parametrize("content", ["[" * 100_000, "5", "[]", "{", '{"a": ' * 100_000])
def test_json_beside_weights_that_is_none(tmp_path: Path, inspect: Any, content: str) -> None:
    (tmp_path / "config.json").write_text(content)
    code, out = inspect(tmp_path)
    assert code == 1
    assert out.startswith("error: ") and "config.json" in out and out.count("\n") == 1


# Bad files -------------------------------------------------------------------------------------------------------


def test_nothing_is_executed(tmp_path: Path, inspect: Any) -> None:
    class Payload:
        def __reduce__(self) -> Any:
            return Path.touch, (tmp_path / "was-run",)

    torch.save({"model": {"llama_proj.weight": torch.zeros(2)}, "config": Payload()}, tmp_path / "zip.pth")
    (tmp_path / "plain.pth").write_bytes(pickle.dumps(Payload(), protocol=2))
    for name in ("zip.pth", "plain.pth"):
        code, out = inspect(tmp_path / name)
        assert code == 1
        assert "error: " in out
        assert "is refused" in out
    assert not (tmp_path / "was-run").exists()


def endless() -> list[Any]:
    values: list[Any] = []
    values.append(values)
    return values


def many() -> list[Any]:
    values: list[Any] = [0] * 10
    for _ in range(12):
        values = [values] * 10
    return values


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], "holds a list"),
        ({}, "holds no parameters"),
        ({"model": 5}, "got int"),
        ({"model": {}}, "got dict"),
        ({"model": {"llama_proj.weight": 5}}, "expected tensors by name"),
        ({"state_dict": {"a": torch.zeros(1)}}, "the keys 'state_dict'"),
        (state(10, epoch="one"), "'epoch' must be of type int, but is str"),
        (state(10, llm=[1]), "'llm' must be of type dict, but is list"),
        (state(10, config={"run": endless()}), "more than 50 values within each other"),
        (state(10, config={"run": many()}), "refers to the same ones again and again"),
    ],
)
def test_content_that_no_checkpoint_has(tmp_path: Path, inspect: Any, content: Any, message: str) -> None:
    torch.save(content, tmp_path / "c.pth")
    code, out = inspect(tmp_path / "c.pth")
    assert code == 1
    assert out.startswith(f"error: {tmp_path / 'c.pth'}")
    assert message in out


def test_strange_content_is_described_all_the_same(tmp_path: Path, inspect: Any) -> None:
    strange = {"data": {"mimic": 5}, "best": {1: torch.zeros(1)}, "rng": [7], "optimizer": {"state": [1]}, "llm": {"embedding": 3}}
    torch.save(state(10, **strange), tmp_path / "c.pth")
    for option in ([], ["--json"]):
        assert inspect(tmp_path / "c.pth", *option)[0] == 0


def test_damaged_bytes_end_in_an_error_of_ours(folder: Path, inspect: Any) -> None:
    data = (folder / "checkpoint_1.pth").read_bytes()
    rng = random.Random(0)
    for _ in range(60):
        damaged = bytearray(data[: rng.choice([len(data), rng.randrange(len(data))])])
        for _ in range(rng.choice([1, 30])):
            if damaged:
                damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        (folder / "x.pth").write_bytes(bytes(damaged))
        code, out = inspect(folder / "x.pth")
        assert code == 0 or out.startswith("error: ")


@pytest.mark.parametrize("name", ["nowhere.pth", "."])
def test_nothing_there(tmp_path: Path, inspect: Any, name: str) -> None:
    code, out = inspect(tmp_path / name)
    assert code == 1
    assert out.startswith("error: ")


def test_a_name_cannot_command_the_terminal(tmp_path: Path, inspect: Any) -> None:
    torch.save({"model": {"\x1b]0;owned\x07.weight": torch.zeros(2)}}, tmp_path / "c.pth")
    code, out = inspect(tmp_path / "c.pth")
    assert code == 0
    assert "\x1b" not in out
    assert printable_line("a×b\x1b[2J") == "a×b\\x1b[2J"


def test_kinds() -> None:
    names = {
        "llama_proj.weight": "weights of a report model",
        "Qformer.bert.encoder.layer.0.attention.self.query.weight": "BLIP-2 (Q-Former, query tokens, ln_vision)",
        "blocks.0.attn.qkv.weight": "vision transformer",
        "model.layers.0.mlp.up_proj.weight": "language model",
        "anything.weight": "weights",
    }
    for name, kind in names.items():
        assert weights_file.kind_of({name: torch.zeros(1)}) == kind
