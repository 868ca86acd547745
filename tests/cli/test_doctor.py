"""`xraygpt doctor` on the configuration of a tiny run, whole and broken in one place at a time."""

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from tests.e2e.tiny_run import make_workspace
from xraygpt.cli.main import main
from xraygpt.diagnosis import run_inputs, run_needs

Levels = dict[str, tuple[str, str, str]]


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same findings on every machine."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.fixture
def cfg_path(tmp_path: Path) -> Path:
    """run.yaml of a fresh workspace, for a single process."""
    path = make_workspace(tmp_path)
    cfg = OmegaConf.load(path)
    cfg.run.distributed = False
    OmegaConf.save(cfg, path)
    return path


@pytest.fixture
def doctor(cfg_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, Levels]]:
    """Run the command; returns its exit code, and for each thing examined (level, found, advice)."""

    def run(*options: str) -> tuple[int, Levels]:
        code = main(["doctor", "--cfg-path", str(cfg_path), "--json", *(["--options", *options] if options else [])])
        findings = json.loads(capsys.readouterr().out)["findings"]
        worst: Levels = {}
        for finding in findings:
            if finding["what"] not in worst or finding["level"] != "OK":
                worst[finding["what"]] = (finding["level"], finding["found"], finding["advice"])
        return code, worst

    return run


def test_a_run_that_can_start(cfg_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(cfg_path.parent.rglob("*"))
    assert main(["doctor", "--cfg-path", str(cfg_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    looked_at = [line[6:].split("  ")[0] for line in lines if line.startswith("OK")]
    for what in ("Python", "torch", "configuration", "device cpu", "data mimic", "tokenizer", "language model", "prompts", "model", "disk"):
        assert what in looked_at
    assert "train 22, val 5, test 4; 12 samples opened" in "\n".join(lines)
    assert lines[-1] == f"{len(looked_at)} OK, 0 to look at (WARN), 0 failed (FAIL)"
    assert sorted(cfg_path.parent.rglob("*")) == before  # nothing is left behind, not even the output folder


def test_the_machine_alone(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--json"]) == 0
    found = {finding["what"]: finding["found"] for finding in json.loads(capsys.readouterr().out)["findings"]}
    assert list(found) == ["Python", "packages", "constraints", "torch", "device cpu", "all-reduce", "memory"]
    assert found["all-reduce"].startswith("2 processes of this machine over gloo: 4.19 MB summed in ")


def test_a_configuration_that_cannot_be_used_ends_nothing_else(doctor: Any) -> None:
    code, found = doctor("run.max_epohc=2")
    assert code == 1
    assert found["configuration"][0] == "FAIL"
    assert "run.max_epohc: there is no such key. Did you mean 'max_epoch'?" in found["configuration"][1]
    assert found["device cpu"][0] == found["memory"][0] == "OK"


def test_a_check_that_crashes_is_a_line(doctor: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_inputs, "load_prompts", lambda *args: 1 / 0)
    code, found = doctor()
    assert code == 1
    assert found["prompts"][:2] == ("FAIL", "the check itself failed: ZeroDivisionError: division by zero")
    assert found["model"][0] == found["output folder"][0] == "OK"


# One thing broken at a time --------------------------------------------------------------------------------------


def annotations_cut(root: Path) -> None:
    text = (root / "data" / "filter_cap.json").read_text()
    (root / "data" / "filter_cap.json").write_text(text[:100])


def image_cut(root: Path) -> None:
    data = (root / "data" / "image" / "film-0.png").read_bytes()
    (root / "data" / "image" / "film-0.png").write_bytes(data[:60])


def tokenizer_cut(root: Path) -> None:
    (root / "llm" / "tokenizer.json").write_text('{"version": "1.0", "mod')


def vocabulary_too_small(root: Path) -> None:
    config = json.loads((root / "llm" / "config.json").read_text())
    (root / "llm" / "config.json").write_text(json.dumps(config | {"vocab_size": 200}))


def prompt_without_image(root: Path) -> None:
    (root / "prompts.txt").write_text("Describe it.\n")


def shard_lost(root: Path) -> None:
    index = {"weight_map": {"model.norm.weight": "model-00001-of-00002.safetensors"}}
    (root / "llm" / "model.safetensors.index.json").write_text(json.dumps(index))


def lfs_pointer(root: Path) -> None:
    (root / "w.pth").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")


def running_pickle(root: Path) -> None:
    class Payload:
        def __reduce__(self) -> Any:
            return Path.touch, (root / "was-run",)

    (root / "w.pth").write_bytes(pickle.dumps({"model": Payload()}, protocol=2))


def job_taken(root: Path) -> None:
    (root / "output" / "run").mkdir(parents=True)
    (root / "output" / "run" / "log.txt").write_text("{}\n")


def output_is_a_file(root: Path) -> None:
    (root / "output").write_text("")


def nothing(root: Path) -> None:
    """The options alone are wrong."""


CKPT = "model.ckpt={root}/w.pth"


@pytest.mark.parametrize(
    ("damage", "option", "what", "level", "found"),
    [
        (annotations_cut, "", "data mimic", "FAIL", "must be JSON"),
        (image_cut, "", "data mimic", "FAIL", "1 of 12 samples cannot be used"),
        (image_cut, "run.on_bad_sample=skip", "data mimic", "WARN", "1 of 12 samples cannot be used"),
        (nothing, "run.test_splits=[nowhere]", "splits", "FAIL", "no dataset has nowhere; there are test, train, val"),
        (nothing, "datasets.mimic.storage=elsewhere", "data mimic", "FAIL", "no filter_cap.json in"),
        (nothing, CKPT, "model.ckpt", "FAIL", "w.pth is missing (looked for"),
        (lfs_pointer, CKPT, "model.ckpt", "FAIL", "git-LFS pointer"),
        (running_pickle, CKPT, "model.ckpt", "FAIL", "is refused"),
        (nothing, "run.resume_ckpt_path={root}/w.pth", "run.resume_ckpt_path", "FAIL", "is missing"),
        (nothing, "model.llama_model=elsewhere", "model.llama_model", "FAIL", "elsewhere is missing"),
        (nothing, "model.llm_from_scratch=False", "language model", "FAIL", "holds no weights"),
        (shard_lost, "model.llm_from_scratch=False", "language model", "FAIL", "model-00001-of-00002.safetensors"),
        (tokenizer_cut, "", "tokenizer", "FAIL", "holds no tokenizer that can be read"),
        (vocabulary_too_small, "", "tokenizer", "FAIL", "it has 300 tokens, the language model 200"),
        (prompt_without_image, "", "prompts", "FAIL", "expected exactly one <ImageHere>"),
        (nothing, "run.device=cuda", "device", "FAIL", "torch sees no CUDA device"),
        (nothing, "run.task=walk", "configuration", "FAIL", "run.task"),
        (job_taken, "", "job", "WARN", "already holds a run"),
        (output_is_a_file, "", "output folder", "FAIL", "cannot be written"),
    ],
)
def test_what_is_broken_has_its_line(
    doctor: Any, tmp_path: Path, damage: Callable[[Path], None], option: str, what: str, level: str, found: str
) -> None:
    damage(tmp_path)
    code, findings = doctor(*([option.format(root=tmp_path)] if option else []))
    assert code == (1 if level == "FAIL" else 0)
    assert findings[what][0] == level
    assert found in findings[what][1]
    assert not (tmp_path / "was-run").exists()
    assert "the check itself failed" not in str(findings)


def test_a_missing_file_says_how_to_get_it(doctor: Any) -> None:
    assert "docs/training.md" in doctor("model.ckpt=elsewhere.pth")[1]["model.ckpt"][2]


def test_too_little_disk_and_memory(doctor: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_needs, "available_memory", lambda: 1_000_000)
    monkeypatch.setattr(run_needs, "disk_usage", lambda path: type("Usage", (), {"free": 7_000_000}))
    code, found = doctor()
    # 102,880 trained parameters: 16 bytes each in memory, 12 in each of 2 + 2 + 1 checkpoints.
    assert code == 1
    assert found["memory"][:2] == ("FAIL", "1.65 MB needed by model and optimizer (activations on top), 1 MB free")
    assert found["disk"][:2] == ("WARN", "6.17 MB needed by 5 checkpoints of 1.23 MB, 7 MB free")


@pytest.mark.parametrize(("dtype", "bytes_each"), [("auto", 4), ("bf16", 2), ("int8", 1), ("nf4", 0.5625)])
def test_a_frozen_part_takes_what_it_is_stored_as(dtype: str, bytes_each: float) -> None:
    cfg: Any = SimpleNamespace(model_cfg={"frozen_dtype": {"llm": dtype}})
    counts = {"llama_model": (1000, 0), "Qformer": (10, 0), "llama_proj": (5, 5)}
    assert run_needs._bytes_of_model(cfg, counts, torch.device("cpu")) == int(1000 * bytes_each) + 10 * 4 + 5 * 16


def test_a_disk_that_refuses_to_write(doctor: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Any, path: Path, mode: str) -> Any:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("xraygpt.common.files.Disk.open", refuse)
    code, found = doctor()
    assert code == 1
    assert "Read-only file system" in found["output folder"][1]
