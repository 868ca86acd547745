"""Evaluation by written reports, whole: the same bytes whether it was interrupted, on one rank or two; and validation in training."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.tiny_run import (
    NUM_TEST,
    NUM_TRAIN,
    NUM_VAL,
    kept_logging,
    make_workspace,
    read_log,
    run_training,
    same_weights,
    trace,
    weights,
)
from xraygpt.cli.main import main
from xraygpt.common.files import sha256_file
from xraygpt.models import MiniGPT4

FILES = {"predictions.jsonl", "references.jsonl", "baselines.jsonl", "scorecard.json", "scorecard.md", "report.html"}
# The training images make the longest split of the tiny folder: 22 images, 11 batches.
OPTIONS = ("run.task=report_generation", "run.test_splits=[train]", "run.train_splits=[val]", "run.scoring.resamples=20")
OPTIONS += ("run.generation.max_new_tokens=12", "run.batch_size_eval=2")
BOTH_SPLITS = "run.test_splits=[train,test]"


def command(checkpoint_of: Path, *options: str) -> list[str]:
    """`evaluate …` with the best checkpoint of a run."""
    all_options = [*OPTIONS, f"model.ckpt={checkpoint_of}/checkpoint_best.pth", *options]
    return ["evaluate", "--cfg-path", str(checkpoint_of / "config.yaml"), "--options", *all_options]


def evaluate(checkpoint_of: Path, *options: str, split: str = "train") -> Path:
    """Evaluate in this process; returns the folder of the split."""
    with kept_logging():
        assert main(command(checkpoint_of, *options)) == 0
    job = next(option.removeprefix("run.job_id=") for option in options if option.startswith("run.job_id="))
    return checkpoint_of.parent / job / split


def read_card(folder: Path) -> dict[str, Any]:
    """The scorecard, without how long it took."""
    card = json.loads((folder / "scorecard.json").read_text(encoding="utf-8"))
    assert card["provenance"].pop("seconds_per_report") > 0
    assert card["provenance"].pop("run") == folder.parent.name
    return card


def assert_same_result(one: Path, other: Path) -> None:
    for name in ("predictions.jsonl", "references.jsonl", "baselines.jsonl"):
        assert (one / name).read_bytes() == (other / name).read_bytes(), name
    assert read_card(one) == read_card(other)


def journal_rows(folder: Path) -> int:
    """Finished samples that the journals of an evaluation hold."""
    return sum(path.read_bytes().count(b"\n") - 1 for path in folder.glob(".predictions.rank*.jsonl"))


def interrupt_after(num_batches: int, patch: pytest.MonkeyPatch) -> None:
    """Let the next evaluation end with Ctrl-C when it has written this many batches."""
    generate, calls = MiniGPT4.generate_reports, iter(range(num_batches))

    def interrupted(self: MiniGPT4, *args: Any, **settings: Any) -> Any:
        if next(calls, None) is None:
            raise KeyboardInterrupt
        return generate(self, *args, **settings)

    patch.setattr(MiniGPT4, "generate_reports", interrupted)


def evaluate_interrupted(checkpoint_of: Path, num_batches: int, *options: str) -> None:
    """`evaluate`, interrupted."""
    with pytest.MonkeyPatch.context() as patch, kept_logging():
        interrupt_after(num_batches, patch)
        assert main(command(checkpoint_of, *options)) == 130


@pytest.fixture(scope="module")
def trained(finished_run: Path) -> Path:
    """The run whose best checkpoint is evaluated."""
    return finished_run


@pytest.fixture(scope="module")
def whole(trained: Path) -> Path:
    """The result of an evaluation that was not interrupted; the test split's lies beside it."""
    return evaluate(trained, "run.job_id=whole", BOTH_SPLITS)


def test_files_of_an_evaluation(whole: Path) -> None:
    assert {path.name for path in whole.iterdir()} == FILES
    rows = [json.loads(line) for line in (whole / "predictions.jsonl").read_text().splitlines()]
    assert [row["id"] for row in rows] == [f"film-{i}" for i in range(NUM_TRAIN)]
    assert len({row["report"] for row in rows}) > 1
    numbers = json.loads((whole.parent / "result" / "train_evaluate.json").read_text())
    assert numbers["finding_f1_macro"] == numbers["agg_metrics"]


def test_a_scorecard_names_its_model(whole: Path, trained: Path) -> None:
    provenance = read_card(whole)["provenance"]
    assert provenance["checkpoints"] == [{"file": "run/checkpoint_best.pth", "sha256": sha256_file(trained / "checkpoint_best.pth")}]
    assert provenance["prompt"] == "###Patient: <Img><ImageHere></Img> Report. ###Doctor: "
    assert re.fullmatch("[0-9a-f]{64}", provenance["language_model"]["embedding"])
    assert provenance["decoding"]["max_new_tokens"] == 12


def test_a_second_evaluation_gives_the_same_bytes(trained: Path, whole: Path) -> None:
    assert_same_result(evaluate(trained, "run.job_id=second"), whole)


def test_an_interrupted_evaluation_continues(trained: Path, whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    evaluate_interrupted(trained, 7, "run.job_id=crashed")
    assert journal_rows(trained.parent / "crashed" / "train") == 14
    interrupt_after(4, monkeypatch)  # the four batches that are left, and not one more
    assert_same_result(evaluate(trained, "run.job_id=crashed"), whole)


KILL_AT_THE_THIRD_BATCH = """
import os, signal
from xraygpt.models import MiniGPT4

generate, calls = MiniGPT4.generate_reports, iter(range(2))

def killed(self, *args, **settings):
    if next(calls, None) is None:
        os.kill(os.getpid(), signal.SIGKILL)
    return generate(self, *args, **settings)

MiniGPT4.generate_reports = killed
"""


def test_a_killed_evaluation_continues(trained: Path, whole: Path, repo_root: Path, tmp_path: Path) -> None:
    (tmp_path / "killing_plugin.py").write_text(KILL_AT_THE_THIRD_BATCH)
    words = [sys.executable, "-m", "xraygpt.cli.main", *command(trained, "run.job_id=killed"), "--import", "killing_plugin"]
    done = subprocess.run(words, cwd=repo_root, capture_output=True, env=os.environ | {"PYTHONPATH": str(tmp_path)})
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert journal_rows(trained.parent / "killed" / "train") == 4
    assert_same_result(evaluate(trained, "run.job_id=killed"), whole)


def test_two_ranks_give_the_same_bytes_and_continue_what_one_began(trained: Path, whole: Path, repo_root: Path) -> None:
    """They find three batches of the training images, and nothing of the test images."""
    evaluate_interrupted(trained, 3, "run.job_id=ranks", BOTH_SPLITS)
    folder = trained.parent / "ranks" / "train"
    assert journal_rows(folder) == 6
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m", "xraygpt.cli.main"]
    words = [*launcher, *command(trained, "run.job_id=ranks", BOTH_SPLITS)]
    done = subprocess.run(words, cwd=repo_root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert_same_result(folder, whole)
    assert_same_result(folder.with_name("test"), whole.with_name("test"))


def test_sampled_reports_do_not_depend_on_where_it_was_interrupted(trained: Path) -> None:
    sampled = ("run.generation.do_sample=true", "run.generation.temperature=1.5")
    expected = evaluate(trained, "run.job_id=sampled", *sampled)
    evaluate_interrupted(trained, 5, "run.job_id=sampled-crash", *sampled)
    assert_same_result(evaluate(trained, "run.job_id=sampled-crash", *sampled), expected)


# In training -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def validated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of `finished_run`, with reports in validation and test."""
    options = ("run.task=report_generation", "run.metrics=[rouge_l,finding_f1]", "run.agg_metric=rouge_l")
    options += ("run.max_valid_reports=3", "run.generation.max_new_tokens=12", "run.scoring.resamples=20")
    return run_training(make_workspace(tmp_path_factory.mktemp("validated")), *options)


def test_validation_by_reports_does_not_change_the_training(validated: Path, finished_run: Path) -> None:
    assert trace(validated) == trace(finished_run)
    losses = [[record["val_loss"] for record in read_log(run) if "val_loss" in record] for run in (validated, finished_run)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)  # the batches of the validation are others


def test_an_epochs_line_has_the_metrics(validated: Path) -> None:
    epochs = [record for record in read_log(validated) if "val_loss" in record]
    assert len(epochs) == 2
    assert all(record["val_agg_metrics"] == record["val_rouge_l"] for record in epochs)
    assert all(0 <= record["val_finding_f1_macro"] <= 1 for record in epochs)
    for epoch in range(2):
        assert len((validated / "result" / f"val_{epoch}.jsonl").read_text().splitlines()) == 3


def test_the_chosen_metric_picks_the_best_checkpoint(validated: Path) -> None:
    numbers = [record["val_agg_metrics"] for record in read_log(validated) if "val_agg_metrics" in record]
    assert numbers[0] != numbers[1]
    best = numbers.index(max(numbers))
    stored = json.loads((validated / "summary.json").read_text())["best"]
    assert (stored["agg_metrics"], stored["epoch"]) == (numbers[best], best)
    assert same_weights(weights(validated, "best"), weights(validated, str(best)))


def test_the_final_test_has_its_scorecard(validated: Path) -> None:
    folder = validated / "test"
    assert {path.name for path in folder.iterdir()} == FILES
    provenance = read_card(folder)["provenance"]
    assert provenance["checkpoints"] == [{"file": "run/checkpoint_best.pth", "sha256": sha256_file(validated / "checkpoint_best.pth")}]
    assert provenance["which"] == "best"
    assert len((folder / "predictions.jsonl").read_text().splitlines()) == NUM_TEST


def test_train_py_evaluates_as_the_command_does(validated: Path) -> None:
    ckpt = f"model.ckpt={validated}/checkpoint_best.pth"
    folder = run_training(validated / "config.yaml", "run.evaluate=true", "run.test_splits=[val]", "run.job_id=by-train", ckpt)
    assert len((folder / "val" / "predictions.jsonl").read_text().splitlines()) == NUM_VAL
