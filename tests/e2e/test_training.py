"""A training on the CPU from beginning to end: what it does, and what it leaves behind."""

import json
import math
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

import train
from tests.e2e.tiny_run import arguments, kept_logging, make_prepared_folder, read_log, run_training, trace, weights
from xraygpt.common.config import Config
from xraygpt.common.errors import ConfigError, DataError
from xraygpt.common.registry import registry

# torchrun's error recorder wants a real stderr, which pytest has replaced.
pytestmark = pytest.mark.filterwarnings("ignore:Unable to enable fault handler")

ONE_STEP = ("run.max_epoch=1", "run.iters_per_epoch=1", "run.valid_splits=[]", "run.test_splits=[]")


def test_files_of_a_run(finished_run: Path) -> None:
    names = {path.relative_to(finished_run).as_posix() for path in finished_run.rglob("*") if path.is_file()}
    checkpoints = {"checkpoint_0.pth", "checkpoint_1.pth", "checkpoint_best.pth"}
    assert names == checkpoints | {"checkpoints.json", "config.yaml", "log.txt", "loss.png", "summary.json", "result/test_best.json"}


def test_the_loss_falls(finished_run: Path) -> None:
    losses = [loss for _, _, _, loss, _ in trace(finished_run)]
    assert len(losses) == 20
    assert sum(losses[-3:]) / 3 < losses[0] - 0.3


def test_log_has_one_json_object_a_line_with_full_numbers(finished_run: Path) -> None:
    config, *records = read_log(finished_run)
    assert config["config"]["run"]["max_epoch"] == 2
    steps = [record for record in records if "grad_norm" in record]
    assert [record["step"] for record in steps] == list(range(20))
    assert all(isinstance(value, (int, float)) and math.isfinite(value) for record in records for value in record.values())
    assert all(record["data_time"] > 0 and record["images_per_s"] > 0 and record["tokens_per_s"] > 0 for record in steps)


def test_an_epochs_line_has_the_averages(finished_run: Path) -> None:
    epochs = [record for record in read_log(finished_run) if "train_loss" in record]
    steps = trace(finished_run)
    for epoch, record in enumerate(epochs):
        of_epoch = [step for step in steps if step[1] == epoch]
        assert record["train_loss"] == pytest.approx(sum(step[3] for step in of_epoch) / 10, rel=1e-12)
        assert record["train_lr"] == pytest.approx(sum(step[2] for step in of_epoch) / 10, rel=1e-12)
        assert record["val_agg_metrics"] == -record["val_loss"]
    assert len(epochs) == 2


def test_checkpoint_has_the_familys_keys_and_plain_values(finished_run: Path) -> None:
    checkpoint = torch.load(finished_run / "checkpoint_1.pth", weights_only=True)
    assert {"model", "optimizer", "config", "scaler", "epoch"} <= checkpoint.keys()
    assert checkpoint["epoch"] == 1
    assert checkpoint["config"]["model"]["arch"] == "mini_gpt4"


def test_summary_tells_the_best_epoch_and_the_test(finished_run: Path) -> None:
    summary = json.loads((finished_run / "summary.json").read_text())
    val_losses = [record["val_loss"] for record in read_log(finished_run) if "val_loss" in record]
    assert summary["best"] == {"agg_metrics": -min(val_losses), "loss": min(val_losses), "epoch": val_losses.index(min(val_losses))}
    assert summary["test"]["test"] == json.loads((finished_run / "result" / "test_best.json").read_text())
    memory = summary["memory_mib"]
    assert memory["weights"].keys() == {"query_tokens", "visual_encoder", "ln_vision", "Qformer", "llama_model", "llama_proj"}
    assert memory["optimizer"] == pytest.approx(2 * memory["gradients"], abs=0.11) and memory["peak"] > sum(memory["weights"].values())


def test_the_loss_curve_is_an_image(finished_run: Path) -> None:
    assert (finished_run / "loss.png").read_bytes().startswith(b"\x89PNG")


def test_the_written_config_repeats_the_run(finished_run: Path) -> None:
    short = run_training(finished_run / "config.yaml", "run.job_id=again", "run.test_splits=[]")
    assert trace(short) == trace(finished_run)


def test_a_frozen_model_trains_the_projection_alone(cfg_path: Path) -> None:
    frozen = [f"model.freeze_{part}=true" for part in ("vit", "qformer", "llm")]
    folder = run_training(cfg_path, *ONE_STEP, *frozen)
    checkpoint = torch.load(folder / "checkpoint_0.pth", weights_only=True)
    assert checkpoint["model"].keys() == {"llama_proj.weight", "llama_proj.bias"}
    assert len(checkpoint["optimizer"]["state"]) == 2


def test_everything_frozen_is_refused(cfg_path: Path) -> None:
    with pytest.raises(ConfigError, match="nothing to train"):
        run_training(cfg_path, *(f"model.freeze_{part}=true" for part in ("vit", "qformer", "llm", "proj")))


def test_two_runs_in_one_process(cfg_path: Path) -> None:
    first = run_training(cfg_path, *ONE_STEP, "run.job_id=first")
    second = run_training(cfg_path, *ONE_STEP, "run.job_id=second")
    assert trace(first) == trace(second)
    assert registry.get_path("output_dir") == str(second)


def test_a_run_is_not_written_over(cfg_path: Path) -> None:
    folder = run_training(cfg_path, *ONE_STEP)
    before = (folder / "log.txt").read_bytes()
    with pytest.raises(ConfigError, match="already holds a run"):
        run_training(cfg_path, *ONE_STEP)
    assert (folder / "log.txt").read_bytes() == before


def test_another_seed_is_another_run(finished_run: Path, cfg_path: Path) -> None:
    folder = run_training(cfg_path, *ONE_STEP, "run.seed=43")
    assert trace(folder)[0][3] != trace(finished_run)[0][3]


def test_nothing_is_written_inside_the_package(cfg_path: Path, repo_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def snapshot() -> dict[Path, Any]:
        files = (path for path in (repo_root / "xraygpt").rglob("*") if "__pycache__" not in path.parts)
        return {path: path.stat().st_mtime_ns for path in files if path.is_file()}

    elsewhere = cfg_path.parent / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    before = snapshot()
    run_training(cfg_path, "run.max_epoch=1", "run.iters_per_epoch=2", "run.tensorboard=true", "run.output_dir=runs")
    assert snapshot() == before
    assert [path.name for path in elsewhere.iterdir()] == ["runs"]
    events = list((elsewhere / "runs" / "run" / "tensorboard").iterdir())
    assert events and not [path for path in events if path.stat().st_mode & 0o077]


def test_several_datasets_in_one_run(cfg_path: Path, tmp_path: Path) -> None:
    make_prepared_folder(tmp_path / "more")
    block = {"type": "folder", "storage": str(tmp_path / "more"), "sample_ratio": 1}
    cfg = OmegaConf.load(cfg_path)
    block["vis_processor"] = cfg.datasets.mimic.vis_processor
    OmegaConf.save(OmegaConf.merge(cfg, {"datasets": {"my_data": block, "mimic": {"sample_ratio": 3}}}), cfg_path)
    assert len(trace(run_training(cfg_path, "run.max_epoch=1", "run.iters_per_epoch=3"))) == 3


def test_a_folder_whose_splits_share_a_subject_does_not_train(cfg_path: Path) -> None:
    path = Path(OmegaConf.load(cfg_path).datasets.mimic.storage) / "filter_cap.json"
    rows = json.loads(path.read_text())["annotations"]
    path.write_text(json.dumps({"annotations": [row | {"subject_id": "p1"} for row in rows]}))
    with pytest.raises(DataError, match="subject p1: test, train, val"):
        run_training(cfg_path)


# Evaluation ------------------------------------------------------------------------------------------------------


def test_evaluation_alone_gives_the_numbers_of_the_run(finished_run: Path) -> None:
    options = ["run.evaluate=true", "run.job_id=evaluated", f"model.ckpt={finished_run}/checkpoint_best.pth"]
    folder = run_training(finished_run / "config.yaml", *options)
    assert sorted(path.name for path in folder.rglob("*.*")) == ["test_evaluate.json"]
    expected = json.loads((finished_run / "result" / "test_best.json").read_text())
    assert json.loads((folder / "result" / "test_evaluate.json").read_text()) == pytest.approx(expected, rel=1e-6)


# The command line ------------------------------------------------------------------------------------------------


def run_command(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int | None:
    """`python train.py …` in this process; returns the exit code."""
    monkeypatch.setattr(sys, "argv", ["train.py", *map(str, arguments)])
    with kept_logging():
        return train.main()


def test_check_prints_the_configuration_and_the_counts(
    cfg_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(monkeypatch, "--cfg-path", cfg_path, "--check", "--options", "model.freeze_vit=true") == 0
    shown = capsys.readouterr().out
    rows = {line.split()[0]: line.split()[1:] for line in shown.splitlines() if line and not line.startswith(" ")}
    assert shown.startswith("run:\n  task: image_text_pretrain\n")
    assert rows["visual_encoder"][1] == "0"
    assert rows["llama_proj"] == ["1,056", "1,056"]
    assert rows["all"][0] != rows["all"][1]
    assert not (cfg_path.parent / "output").exists()


def test_what_the_user_can_mend_is_one_message_and_exit_code_1(
    cfg_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(monkeypatch, "--cfg-path", cfg_path, "--options", "run.max_epochs=3") == 1
    shown = capsys.readouterr().err
    assert "run.max_epochs: there is no such key. Did you mean 'max_epoch'?" in shown
    assert "Traceback" not in shown


def test_any_other_failure_keeps_its_traceback(cfg_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(train.tasks, "setup_task", lambda cfg: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run_command(monkeypatch, "--cfg-path", cfg_path)
    assert "rank 0 failed." in capsys.readouterr().err


def test_missing_weights_are_listed_all_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    model = {"arch": "mini_gpt4", "model_type": "pretrain_vicuna"}
    OmegaConf.save({"model": model, "datasets": {"openi": {}}, "run": {"task": "image_text_pretrain"}}, "y.yaml")
    with pytest.raises(ConfigError) as error:
        Config(arguments(Path("y.yaml")))
    keys = ("model.vit_weights", "model.q_former_model", "model.llama_model", "model.prompt_path", "datasets.openi.storage")
    assert all(f"{key}: " in str(error.value) for key in keys)
    assert str(tmp_path / "weights" / "eva_vit_g.pth") in str(error.value)


def test_weights_hold_every_trained_parameter(finished_run: Path) -> None:
    parts = {name.split(".")[0] for name in weights(finished_run, "1")}
    assert parts == {"visual_encoder", "ln_vision", "Qformer", "query_tokens", "llama_proj", "llama_model"}
