"""A file that someone else made is read, never run: weights, configurations, folders of language models."""

import json
import pickle
import sys
from argparse import Namespace
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import demo
import train
from tests.e2e.tiny_run import arguments, kept_logging, make_workspace, run_training
from tests.evaluation.model_score_weights import corpus, write_chexbert, write_encoder
from tests.evaluation.test_model_scores_radgraph import write_weights as write_radgraph
from tests.reliability.malicious import MARK, WRITERS, Payload
from xraygpt import load_model
from xraygpt.cli.main import main as xraygpt
from xraygpt.common import checkpoint_guard
from xraygpt.common.checkpoint import load_checkpoint
from xraygpt.common.config import Config
from xraygpt.common.errors import CheckpointError, ConfigError, XrayGPTError
from xraygpt.evaluation.model_scores import compute_model_scores
from xraygpt.models.language_model import load_language_model, load_tokenizer


@pytest.fixture
def nothing_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working directory that must not have the mark of a payload at the end; nobody at the terminal could agree to anything."""
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked whether code may run"))
    yield folder
    assert not (folder / MARK).exists(), "the payload was executed"


def test_the_payloads_do_run_where_pickles_are_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("torch file", "whole model", "old torch file", "bare pickle", "new pickle"):
        folder = tmp_path / name
        folder.mkdir()
        monkeypatch.chdir(folder)
        WRITERS[name](folder / "x.pth")
        if "pickle" in name:
            pickle.loads((folder / "x.pth").read_bytes())
        else:
            torch.load(folder / "x.pth", weights_only=False)
        assert (folder / MARK).is_dir()


# Weights -----------------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore")  # torch's own, about the odd kinds of files
@pytest.mark.parametrize("suffix", [".pth", ".safetensors", ".bin"])
@pytest.mark.parametrize("kind", WRITERS)
def test_no_weights_file_is_executed(nothing_runs: Path, kind: str, suffix: str) -> None:
    path = nothing_runs / f"weights{suffix}"
    WRITERS[kind](path)
    with pytest.raises(CheckpointError, match="weights"):
        load_checkpoint(path)


def resumed(cfg_path: Path, file: Path) -> None:
    train.train(arguments(cfg_path, f"run.resume_ckpt_path={file}"))


def started_from(key: str) -> Callable[[Path, Path], None]:
    return lambda cfg_path, file: train.train(arguments(cfg_path, f"{key}={file}"))


def evaluated(cfg_path: Path, file: Path) -> None:
    train.train(arguments(cfg_path, f"model.ckpt={file}", "run.evaluate=True"))


def talked_to(cfg_path: Path, file: Path) -> None:
    demo.load_pipeline(Namespace(cfg_path=str(cfg_path), options=[f"model.ckpt={file}"], imports=[], device="cpu"))


def loaded_in_python(_: Path, file: Path) -> None:
    load_model(file)


def named_in_python(cfg_path: Path, file: Path) -> None:
    load_model(cfg_path, options=[f"model.ckpt={file}"])


PLACES: dict[str, Callable[[Path, Path], None]] = {
    "resume": resumed,
    "model.ckpt": started_from("model.ckpt"),
    "model.vit_weights": started_from("model.vit_weights"),
    "model.q_former_model": started_from("model.q_former_model"),
    "evaluation": evaluated,
    "demo": talked_to,
    "load_model(file)": loaded_in_python,
    "load_model(yaml)": named_in_python,
}


@pytest.mark.parametrize("place", PLACES)
def test_no_place_that_names_weights_executes_them(nothing_runs: Path, place: str) -> None:
    cfg_path = make_workspace(nothing_runs)
    file = nothing_runs / "from_the_internet.pth"
    WRITERS["torch file"](file)
    with kept_logging(), pytest.raises(XrayGPTError, match=r"from_the_internet\.pth is refused"):
        PLACES[place](cfg_path, file)


COSTLY: dict[str, tuple[Any, str]] = {
    "an object of a size that it names": ({"epoch": bytearray(10)}, "could run code"),
    "parts that are shared": ({"config": {"run": {"a": [["x"] * 40] * 40}, "model": {"arch": "mini_gpt4"}}}, "again and again"),
    "a tensor without numbers": ({"model": {"llama_proj.bias": torch.zeros(2, device="meta")}}, "a tensor without numbers"),
}
"""Stand-ins of harmless size for what a few bytes can ask for → what is said."""


@pytest.mark.parametrize("kind", COSTLY)
@pytest.mark.parametrize("place", PLACES)
def test_no_place_that_names_weights_builds_what_costs_much(
    nothing_runs: Path, place: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint_guard, "MAX_SETTINGS", 1000)
    cfg_path = make_workspace(nothing_runs)
    file = nothing_runs / "from_the_internet.pth"
    change, message = COSTLY[kind]
    torch.save({"model": {"llama_proj.bias": torch.zeros(2)}, "optimizer": {}, "epoch": 0, **change}, file)
    with kept_logging(), pytest.raises(XrayGPTError, match=message) as refused:
        PLACES[place](cfg_path, file)
    assert "from_the_internet.pth" in str(refused.value)


@pytest.mark.parametrize("command", [["generate", "--images", "data", "--out", "x.jsonl"], ["evaluate"], ["serve", "--port", "0"]])
def test_no_command_executes_them(nothing_runs: Path, command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    cfg_path = make_workspace(nothing_runs)
    file = nothing_runs / "from_the_internet.pth"
    WRITERS["torch file"](file)
    with kept_logging():
        assert xraygpt([*command, "--cfg-path", str(cfg_path), "--options", f"model.ckpt={file}", "run.task=report_generation"]) == 1
    assert "from_the_internet.pth is refused" in capsys.readouterr().err


def test_a_checkpoint_does_not_choose_what_is_imported(nothing_runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (nothing_runs / "payload_module.py").write_text(f"import os\nos.makedirs({MARK!r})\n")
    monkeypatch.syspath_prepend(nothing_runs)
    torch.save({"model": {}, "config": {"run": {"imports": ["payload_module"]}, "model": {"arch": "mini_gpt4"}}}, "x.pth")
    with pytest.raises(ConfigError, match=r"asks for the modules \['payload_module'\]"):
        load_model("x.pth")
    assert "payload_module" not in sys.modules


def test_modules_that_the_user_names_are_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "named_module.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    torch.save({"model": {}, "config": {"run": {"imports": ["named_module"]}, "model": {"arch": "mini_gpt4"}}}, tmp_path / "x.pth")
    with pytest.raises(ConfigError, match="model_type"):  # what is missing besides
        load_model(tmp_path / "x.pth", options=["run.imports=[named_module]"])
    assert sys.modules.pop("named_module")


# Folders of language models and of scores --------------------------------------------------------------------------


def own_code(folder: Path) -> None:
    """Let the files of a folder ask for Python code beside them."""
    (folder / "own_code.py").write_text(f"import os\nos.makedirs({str(Path.cwd() / MARK)!r}, exist_ok=True)\nclass Own: pass\n")
    names = ("AutoConfig", "AutoModel", "AutoModelForCausalLM", "AutoTokenizer")
    for name in ("config.json", "tokenizer_config.json"):
        path = folder / name
        content = json.loads(path.read_text()) if path.exists() else {}
        content |= {"auto_map": {auto: ["own_code.Own", None] if auto == "AutoTokenizer" else "own_code.Own" for auto in names}}
        content |= {"model_type": "own", "architectures": ["Own"]} if name == "config.json" else {"tokenizer_class": "OwnTokenizer"}
        path.write_text(json.dumps(content))


def language_model(folder: Path) -> Path:
    """A folder with weights as pytorch_model.bin."""
    llm = make_workspace(folder).parent / "llm"
    model = load_language_model(llm, from_scratch=True)
    torch.save(model.state_dict(), llm / "pytorch_model.bin")
    return llm


def test_a_language_model_of_pickles_is_refused(nothing_runs: Path) -> None:
    folder = language_model(nothing_runs)
    load_language_model(folder)  # the same kind of file, without a payload
    torch.save({**torch.load(folder / "pytorch_model.bin", weights_only=True), "lm_head.weight": Payload()}, folder / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin is refused"):
        load_language_model(folder)


def test_safetensors_go_before_pickles(nothing_runs: Path) -> None:
    folder = language_model(nothing_runs)
    load_language_model(folder).save_pretrained(folder)
    WRITERS["torch file"](folder / "pytorch_model.bin")
    assert load_language_model(folder).config.hidden_size == 32


def test_a_language_model_brings_no_code(nothing_runs: Path) -> None:
    folder = language_model(nothing_runs)
    own_code(folder)
    for load in (load_language_model, load_tokenizer, lambda path: load_language_model(path, from_scratch=True)):
        with pytest.raises(CheckpointError):
            load(folder)


def spoil_weights(folder: Path) -> None:
    for name in ("chexbert.pth", "weights.th", "model.safetensors"):
        if (folder / name).exists():
            (folder / name).unlink()
            WRITERS["torch file"](folder / name.replace("model.safetensors", "pytorch_model.bin"))


@pytest.mark.parametrize("spoil", [spoil_weights, own_code])
@pytest.mark.parametrize(("name", "write"), [("chexbert", write_chexbert), ("bertscore", write_encoder), ("radgraph", write_radgraph)])
def test_the_weights_of_a_score_are_not_executed(
    nothing_runs: Path, name: str, write: Callable[[Path], Path], spoil: Callable[[Path], None]
) -> None:
    pytest.importorskip({"bertscore": "bert_score"}.get(name, name)) if name != "chexbert" else None
    folder = write(nothing_runs / "weights")
    spoil(folder / "encoder" if (name, spoil) == ("radgraph", own_code) else folder)
    metrics, skipped = compute_model_scores(corpus(["no effusion"], ["effusion"]), {name: folder})
    # CheXbert's classes are fixed, so that it has no use for the code.
    assert skipped.keys() == {name} or ((name, spoil) == ("chexbert", own_code) and metrics)


@pytest.mark.parametrize("damage", ["NaN", "an object of a size that it names"])
@pytest.mark.parametrize(
    ("name", "write", "file"), [("chexbert", write_chexbert, "chexbert.pth"), ("bertscore", write_encoder, "model.safetensors")]
)
def test_the_weights_of_a_score_are_checked(tmp_path: Path, name: str, write: Callable[[Path], Path], file: str, damage: str) -> None:
    pytest.importorskip("bert_score") if name == "bertscore" else None
    path = write(tmp_path / "weights") / file
    state = load_file(path) if path.suffix == ".safetensors" else torch.load(path, weights_only=True)
    tensors = state.get("model_state_dict", state)
    key = next(key for key in tensors if key.endswith("word_embeddings.weight"))
    if damage == "NaN":
        tensors[key][3, 0] = torch.nan
    else:
        state["epoch"], path = bytearray(10), path.with_name(path.name.replace("model.safetensors", "pytorch_model.bin"))
        (path.parent / "model.safetensors").unlink(missing_ok=True)
    save_file(state, path, metadata={"format": "pt"}) if path.suffix == ".safetensors" else torch.save(state, path)
    _, skipped = compute_model_scores(corpus(["no effusion"], ["effusion"]), {name: path.parent})
    assert ("word_embeddings.weight holds NaN" if damage == "NaN" else "could run code") in skipped[name]


# Configurations ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "tag",
    [
        "!!python/object/apply:os.makedirs [executed]",
        "!!python/object/new:os.makedirs [executed]",
        "!!python/object/apply:pathlib.PosixPath [x]",
        "!!python/name:os.system",
        "!!python/module:os",
        "!<tag:yaml.org,2002:python/object/apply:os.makedirs> [executed]",
        "!own {a: 1}",
        "!!binary aGVsbG8=",
    ],
)
def test_yaml_holds_values_alone(nothing_runs: Path, tag: str) -> None:
    Path("run.yaml").write_text(f"run:\n  job_id: {tag}\n")
    with pytest.raises(ConfigError, match=r"run\.yaml"):
        Config(Namespace(cfg_path="run.yaml"))


# Secrets -----------------------------------------------------------------------------------------------------------

SECRETS = {name: f"5ecret-of-{name.lower()}" for name in ("HF_TOKEN", "OPENAI_API_KEY", "AWS_SECRET_ACCESS_KEY", "MY_PASSWORD", "WANDB_X")}


def test_no_secret_of_the_environment_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    cfg_path = make_workspace(tmp_path)
    caplog.set_level("DEBUG")
    folder = run_training(cfg_path, "run.max_epoch=1", "run.iters_per_epoch=2", "run.save_every_iters=1")
    with kept_logging(), pytest.raises(XrayGPTError):  # nor when a run fails
        train.train(arguments(cfg_path, "run.job_id=failed", f"model.ckpt={folder / 'log.txt'}"))
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {".pth", ".txt", ".yaml", ".json"} <= {path.suffix for path in written}
    said = "".join(capfd.readouterr()) + caplog.text
    for value in SECRETS.values():
        assert value not in said
        assert not [path for path in written if value.encode() in path.read_bytes()]


@pytest.mark.parametrize("name", ["HF_TOKEN", "DATABASE_URL", "KUBECONFIG", "XRAYGPT_API_TOKEN"])
def test_a_secret_cannot_be_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "5ecret")
    cfg_path = make_workspace(tmp_path)
    with pytest.raises(ConfigError, match=f"variable {name} is not read") as refused:
        Config(arguments(cfg_path, f"run.job_id=${{oc.env:{name}}}"))
    assert "5ecret" not in str(refused.value)


@pytest.mark.parametrize("name", ["SCRATCH", "SLURM_JOB_ID", "XRAYGPT_RUN"])
def test_other_variables_can(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "value")
    assert Config(arguments(make_workspace(tmp_path), f"run.job_id=${{oc.env:{name}}}")).run_cfg.job_id == "value"
