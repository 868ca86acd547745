"""What holds reports, images, names or weights can be read by the user who made it, and by nobody else on the machine."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.datasets.preparation.made_source import write_noise
from tests.e2e.tiny_run import kept_logging, make_workspace, run_training
from xraygpt import load_model
from xraygpt.cli.main import main
from xraygpt.serving import ReportPipeline

pytestmark = pytest.mark.skipif(os.name == "nt", reason="Windows has no such modes")

REPORTS = ("run.task=report_generation", "run.max_epoch=1", "run.iters_per_epoch=2", "run.generation.max_new_tokens=4")
FROZEN = ("model.freeze_vit=True", "model.freeze_qformer=True", "model.freeze_llm=True")


@contextmanager
def usual_umask() -> Iterator[None]:
    """The mask of most systems, with which files are made that everybody can read."""
    before = os.umask(0o022)
    try:
        yield
    finally:
        os.umask(before)


@pytest.fixture(autouse=True)
def usual() -> Iterator[None]:
    """Each test has it."""
    with usual_umask():
        yield


def open_to_others(*folders: Path) -> list[str]:
    """What a group or everybody may do anything with, in folders and below them; each must hold something."""
    paths = [path for folder in folders for path in (folder, *folder.rglob("*"))]
    assert len(paths) > len(folders)
    return [str(path) for path in paths if path.lstat().st_mode & 0o077]


def command(*words: object) -> None:
    with kept_logging():
        assert main([str(word) for word in words]) == 0


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny run with saves inside its epoch, and with reports at its validation and its test."""
    with usual_umask():
        workspace = make_workspace(tmp_path_factory.mktemp("workspace"))
        return run_training(workspace, *REPORTS, "run.save_every_iters=1", "run.on_bad_sample=skip", "run.scoring.resamples=20")


def data_of(trained: Path) -> Path:
    """The prepared folder of a run, which the test made with modes that are open to others."""
    return trained.parent.parent / "data"


@pytest.fixture
def ask(trained: Path) -> tuple[object, ...]:
    """The options with which a command asks the trained model."""
    options = ("--options", *REPORTS, f"model.ckpt={trained / 'checkpoint_best.pth'}")
    return ("--cfg-path", trained / "config.yaml", *options)


def test_training_and_its_evaluation(trained: Path) -> None:
    names = {path.name for path in trained.rglob("*")}
    assert {"log.txt", "config.yaml", "checkpoint_0.pth", "checkpoint_best.pth", "val_0.jsonl", "loss.png"} <= names
    assert {"predictions.jsonl", "references.jsonl", "scorecard.md", "report.html"} <= names
    assert open_to_others(trained.parent) == []


def test_evaluate_with_known_images_and_features(ask: tuple[object, ...], tmp_path: Path) -> None:
    out, cache = tmp_path / "new" / "out", tmp_path / "new" / "cache"
    own = (f"run.output_dir={out}", "run.job_id=job", "run.scoring.resamples=20", f"run.scoring.export={out}/export")
    command("evaluate", *ask, *FROZEN, *own, f"run.feature_cache.path={cache}")
    assert list(out.rglob("index.csv")) and list(cache.rglob("*.rows"))
    assert open_to_others(out.parent) == []


def test_generate_before_it_is_finished_and_after(
    ask: tuple[object, ...], trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "new" / "folder"
    for name in ("a.jsonl", "a.csv", "a.txt"):
        command("generate", *ask, "--images", data_of(trained), "--split", "test", "--out", out / name)
    assert open_to_others(tmp_path / "new") == []

    def interrupted(*args: object, **settings: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(ReportPipeline, "write_reports_from", interrupted)
    with kept_logging():
        assert main([*map(str, ("generate", *ask, "--images", data_of(trained), "--out", out / "b.csv"))]) == 130
    assert [path.name for path in out.glob(".*")] == [".b.csv.unfinished"]
    assert open_to_others(tmp_path / "new") == []


def test_score_and_label(trained: Path, tmp_path: Path) -> None:
    reports, out = trained / "test" / "predictions.jsonl", tmp_path / "new" / "scores"
    references = trained / "test" / "references.jsonl"
    command("score", reports, "--references", references, "--out", out, "--resamples", 20, "--export", out / "export")
    command("score", reports, reports, "--references", references, "--out", out / "two", "--resamples", 20)
    command("label", "--reports", reports, "--out", tmp_path / "new" / "labels" / "a.csv")
    assert open_to_others(tmp_path / "new") == []


def test_prepared_folders(tmp_path: Path) -> None:
    for number in (1, 2):
        write_noise(tmp_path / "films" / "ward" / f"{number}.png", seed=number, size=(90, 80))
    (tmp_path / "films" / "t.csv").write_text("file,report\nward/1.png,Normal heart.\nward/2.png,Clear lungs.\nward/3.png,Gone.\n")
    table = ("prepare", "table", "--source", tmp_path / "films" / "t.csv", "--image-column", "file", "--report-column", "report")
    command(*table, "--workers", 2, "--resize", 64, "--out", tmp_path / "new" / "small")
    command("data", "show", tmp_path / "new" / "small", "--page", tmp_path / "new" / "page" / "a.html")
    command("phantom", "--num-studies", 20, "--image-size", 64, "--workers", 1, "--out", tmp_path / "new" / "phantom")
    command("tokenizer", "--storage", tmp_path / "new" / "small", "--prompts", prompts(tmp_path), "--out", tmp_path / "new" / "llm")
    assert open_to_others(tmp_path / "new") == []

    command(*table, "--workers", 1, "--out", tmp_path / "linked")
    linked = tmp_path / "linked" / "image" / "ward" / "1.png"
    original = (tmp_path / "films" / "ward" / "1.png").stat()
    assert (linked.stat().st_ino, original.st_mode & 0o777) == (original.st_ino, 0o644)  # the user's own file is left as it is
    assert sorted(open_to_others(tmp_path / "linked")) == [str(linked), str(linked.with_name("2.png"))]  # nobody else enters the folder


def prompts(folder: Path) -> Path:
    path = folder / "prompts.txt"
    path.write_text("<Img><ImageHere></Img> Report.\n")
    return path


@pytest.mark.parametrize("ending", ["md", "json"])
def test_a_saved_conversation(trained: Path, tmp_path: Path, ending: str) -> None:
    chat = load_model(trained / "checkpoint_best.pth", device="cpu").chat(data_of(trained) / "image" / "film-0.png")
    chat.ask("What is seen?")
    chat.save(tmp_path / "new" / f"chat.{ending}")
    assert open_to_others(tmp_path / "new") == []


def test_what_a_user_has_opened_stays_open_and_what_is_written_again_is_private(trained: Path, tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir(mode=0o755)
    reports = trained / "test" / "predictions.jsonl"
    command("label", "--reports", reports, "--out", shared / "labels.csv")
    (shared / "labels.csv").chmod(0o644)
    command("label", "--reports", reports, "--out", shared / "labels.csv")
    assert (shared.stat().st_mode & 0o777, (shared / "labels.csv").stat().st_mode & 0o777) == (0o755, 0o600)
    assert json.loads(reports.read_text().splitlines()[0])["report"] is not None
