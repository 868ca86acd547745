"""`xraygpt generate` from a configuration and images to a reports file."""

import argparse
import csv
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from tests.e2e.tiny_run import kept_logging
from xraygpt.cli import generate
from xraygpt.common.errors import DataError
from xraygpt.evaluation import load_reports
from xraygpt.processors import input_gate
from xraygpt.serving import RESEARCH_NOTICE, ReportPipeline, report_batches

pytestmark = pytest.mark.usefixtures("no_default_files")


@pytest.fixture
def config_path(tmp_path: Path, tiny_config: Callable[..., dict[str, Any]]) -> Path:
    config = tiny_config()
    config["model"]["model_type"] = "tiny"
    OmegaConf.save(OmegaConf.create(config), tmp_path / "config.yaml")
    return tmp_path / "config.yaml"


@pytest.fixture
def write(config_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Runs the command on images; returns its exit code. The input gate, which would doubt the toy images, is content."""
    monkeypatch.setattr(report_batches, "check_image", lambda image: [])

    def write(*words: object, out: Path = tmp_path / "out" / "reports.jsonl") -> int:
        parser = argparse.ArgumentParser()
        generate.add_arguments(parser)
        with kept_logging():
            return generate.run(parser.parse_args([str(word) for word in ("--cfg-path", config_path, "--out", out, "--images", *words)]))

    return write


@pytest.fixture
def run(write: Callable[..., int], tmp_path: Path) -> Callable[..., tuple[int, list[dict[str, Any]]]]:
    """`write` to JSON lines; returns its exit code and the lines of its output."""

    def run(*words: object) -> tuple[int, list[dict[str, Any]]]:
        code = write(*words)
        return code, [json.loads(line) for line in (tmp_path / "out" / "reports.jsonl").read_text(encoding="utf-8").splitlines()]

    return run


Run = Callable[..., tuple[int, list[dict[str, Any]]]]
Write = Callable[..., int]


def test_a_split_of_a_prepared_folder(run: Run, tiny_storage: Path, tmp_path: Path) -> None:
    code, rows = run(tiny_storage, "--split", "test")
    assert (code, [row["id"] for row in rows]) == (0, ["x6", "x7"])
    assert rows[0]["image"] == (tiny_storage / "image" / "x6.png").as_posix()
    assert rows[0]["prompt"] == "###Patient: <Img><ImageHere></Img> Describe this chest X-ray. ###Doctor: "
    assert rows[0]["decoding"]["max_new_tokens"] == 8
    assert rows[0]["model"]["arch"] == "mini_gpt4"
    assert rows[0]["notice"] == RESEARCH_NOTICE
    assert (rows[0]["truncated"], rows[0]["repeated"], rows[0]["concerns"]) == (True, False, [])
    assert "truncated" in rows[0]["flags"]
    assert load_reports(tmp_path / "out" / "reports.jsonl") == {row["id"]: row["report"] for row in rows}


def test_batch_size_does_not_change_reports(run: Run, tiny_storage: Path) -> None:
    _, threes = run(tiny_storage, "--batch-size", 3)
    _, ones = run(tiny_storage, "--batch-size", 1, "--overwrite")
    assert [(row["id"], row["report"]) for row in threes] == [(f"x{i}", ones[i]["report"]) for i in range(8)]


def test_unreadable_images_are_listed_and_not_fatal(
    run: Run, tiny_storage: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "films"
    (folder / "ward").mkdir(parents=True)
    for name in ("b.png", "ward/c.png"):
        shutil.copy(tiny_storage / "image" / "x0.png", folder / name)
    (folder / "a.png").write_bytes(b"no image")
    (folder / "notes.txt").write_text("no image")
    code, rows = run(folder)
    assert (code, [row["id"] for row in rows]) == (0, ["a", "b", "ward/c"])
    assert set(rows[0]) == {"id", "image", "error", "concerns", "notice"}
    assert rows[1]["report"] == rows[2]["report"]
    assert "1 of 3 images could not be used" in capsys.readouterr().out

    code, rows = run(folder / "a.png", "--overwrite")
    assert (code, len(rows)) == (1, 1)


def test_missing_files_of_annotations_are_listed(run: Run, tiny_storage: Path, tmp_path: Path) -> None:
    folder = tmp_path / "part"
    shutil.copytree(tiny_storage / "image", folder / "image")
    shutil.copy(tiny_storage / "filter_cap.json", folder)
    (folder / "image" / "x6.png").unlink()
    code, rows = run(folder, "--split", "test")
    assert code == 0
    assert "x6" in rows[0]["error"]
    assert "report" in rows[1]


def test_identifiers_are_unique(tiny_storage: Path, tmp_path: Path) -> None:
    for name in ("one/a.png", "one/a.jpg", "two/a.png", "two/b.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(tiny_storage / "image" / "x0.png", tmp_path / name)
    images = generate.find_images([tmp_path / "one", tmp_path / "two", tmp_path / "two"], split=None)
    one, two = tmp_path.as_posix() + "/one", tmp_path.as_posix() + "/two"
    assert [image_id for image_id, _ in images] == [f"{one}/a.jpg", f"{one}/a.png", f"{two}/a.png", "b"]


def test_an_output_that_exists_is_refused_before_anything_is_loaded(run: Run, tiny_storage: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "reports.jsonl").write_text("{}\n")
    with pytest.raises(DataError, match="--overwrite"):
        run("nowhere")
    assert len(run(tiny_storage, "--split", "val", "--overwrite")[1]) == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere"], "does not exist"),
        (["{folder}"], "no images"),
        (["{folder}", "--split", "test"], "no splits"),
        (["{folder}", "--batch-size", "0"], "at least 1"),
    ],
)
def test_unusable_arguments_are_refused(run: Run, tmp_path: Path, words: list[str], message: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=message):
        run(*(word.format(folder=tmp_path / "empty") for word in words))
    assert not (tmp_path / "out").exists()


def test_formats(write: Write, tiny_storage: Path, tmp_path: Path) -> None:
    for name, words in (("a.csv", ()), ("a.txt", ()), ("a", ("--format", "jsonl"))):
        assert write(tiny_storage, "--split", "val", *words, out=tmp_path / name) == 0
    reports = load_reports(tmp_path / "a.csv")
    assert list(reports) == ["x4", "x5"]
    rows = list(csv.DictReader((tmp_path / "a.csv").read_text().splitlines(keepends=True)))
    assert json.loads(rows[0]["decoding"])["max_new_tokens"] == 8
    assert [json.loads(line)["report"] for line in (tmp_path / "a").read_text().splitlines()] == list(reports.values())
    assert all(report in (tmp_path / "a.txt").read_text() for report in reports.values())
    with pytest.raises(DataError, match="which format"):
        write(tiny_storage, out=tmp_path / "a.doc")


def test_strict_refuses_what_is_otherwise_noted(
    run: Run, tiny_storage: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(report_batches, "check_image", input_gate.check_image)
    code, rows = run(tiny_storage, "--split", "val")
    assert code == 0
    assert [[concern["kind"] for concern in row["concerns"]] for row in rows] == [["too_small"]] * 2
    assert "too_small 2" in capsys.readouterr().out
    code, rows = run(tiny_storage, "--split", "val", "--strict", "--overwrite")
    assert code == 1
    assert all("refused by the input gate" in row["error"] and row["concerns"] for row in rows)


# Names of files that others chose ---------------------------------------------------------------------------------

ODD_NAMES = [b"=1+1.png", b"M\xfcller.png", b"a\n== forged (x)\x1b[2J.png", "b\u202egnp.png".encode(), b"plain.png", b"w\n\x1b[31m.dcm"]
"""The last one is damaged. The second one is not UTF-8."""
ODD_IDS = ["=1+1", "a\n== forged (x)\x1b[2J", "b\u202egnp", r"M\xfcller", "plain", "w\n\x1b[31m"]
UNSAFE = {"\x1b", "\u202e", "\r", "\udcfc"}


@pytest.fixture
def odd_films(tiny_storage: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "films"
    folder.mkdir()
    for number, name in enumerate(ODD_NAMES):
        content = (tiny_storage / "image" / f"x{number}.png").read_bytes() if number < len(ODD_NAMES) - 1 else b"no image"
        try:
            Path(os.fsdecode(os.path.join(os.fsencode(folder), name))).write_bytes(content)
        except OSError:
            pytest.skip("this file system takes no such names")
    return folder


def test_no_name_ends_the_run_or_commands_the_terminal(
    write: Write, odd_films: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a.jsonl", "a.csv", "a.txt"):
        assert write(odd_films, out=tmp_path / name) == 0
    shown = "".join(capsys.readouterr())
    assert not UNSAFE & set(shown)
    assert "\n== forged" not in shown and r"w\n\x1b[31m.dcm" in shown
    rows = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text(encoding="utf-8").splitlines()]
    assert sorted(row["id"] for row in rows) == sorted(ODD_IDS)
    assert {Path(row["image"]).name for row in rows if row["id"].startswith("M")} == {r"M\xfcller.png"}
    assert not UNSAFE & set((tmp_path / "a.jsonl").read_text(encoding="utf-8"))
    text = (tmp_path / "a.txt").read_text(encoding="utf-8")
    assert sum(line.startswith("== ") for line in text.split("\n")) == len(ODD_IDS)
    assert not UNSAFE & set(text)


def test_what_is_written_as_csv_is_scored_as_it_was(write: Write, odd_films: Path, tmp_path: Path) -> None:
    (odd_films / "w\n\x1b[31m.dcm").unlink()
    for name in ("a.jsonl", "a.csv"):
        write(odd_films, out=tmp_path / name)
    assert load_reports(tmp_path / "a.csv") == load_reports(tmp_path / "a.jsonl")
    with open(tmp_path / "a.csv", newline="", encoding="utf-8") as handle:
        cells = [cell for row in csv.reader(handle) for cell in row]
    assert "'=1+1" in cells
    assert not [cell for cell in cells if cell[:1] in set("=+-@\t\r")]


def test_an_interrupted_run_continues_with_any_name(run: Run, odd_films: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        interrupt_after(2, patch)
        with pytest.raises(KeyboardInterrupt):
            run(odd_films, "--batch-size", 2)
    with pytest.MonkeyPatch.context() as patch:
        interrupt_after(1, patch)
        rows = run(odd_films, "--batch-size", 2)[1]
    assert rows == run(odd_films, "--batch-size", 2, "--overwrite")[1]
    assert len(rows) == len(ODD_IDS)


# Interrupted -----------------------------------------------------------------------------------------------------


def interrupt_after(num_batches: int, patch: pytest.MonkeyPatch) -> None:
    """Let the next run end with Ctrl-C when it has written this many batches."""
    write_reports_from, calls = ReportPipeline.write_reports_from, iter(range(num_batches))

    def interrupted(self: ReportPipeline, *args: Any, **settings: Any) -> Any:
        if next(calls, None) is None:
            raise KeyboardInterrupt
        return write_reports_from(self, *args, **settings)

    patch.setattr(ReportPipeline, "write_reports_from", interrupted)


def test_an_interrupted_run_continues(run: Run, tiny_storage: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = (tiny_storage, "--batch-size", 2)
    with pytest.MonkeyPatch.context() as patch:
        interrupt_after(3, patch)
        with pytest.raises(KeyboardInterrupt):
            run(*words)
    assert "the same command continues" in capsys.readouterr().out
    assert [path.name for path in (tmp_path / "out").iterdir()] == [".reports.jsonl.unfinished"]
    with pytest.MonkeyPatch.context() as patch:
        interrupt_after(2, patch)  # the two images that are left, and not one more
        _, continued = run(tiny_storage, "--batch-size", 1)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["reports.jsonl"]
    assert continued == run(*words, "--overwrite")[1]


def test_an_image_that_was_replaced_meanwhile_is_written_about_anew(run: Run, tiny_storage: Path, tmp_path: Path) -> None:
    folder = tmp_path / "films"
    folder.mkdir()
    for name in ("a", "b", "c"):
        shutil.copy(tiny_storage / "image" / "x0.png", folder / f"{name}.png")
    (folder / "a.png").write_bytes(b"no image")
    with pytest.MonkeyPatch.context() as patch:
        interrupt_after(2, patch)
        with pytest.raises(KeyboardInterrupt):
            run(folder, "--batch-size", 1)
    shutil.copy(tiny_storage / "image" / "x1.png", folder / "a.png")
    with pytest.MonkeyPatch.context() as patch:
        interrupt_after(2, patch)  # a and c
        rows = run(folder, "--batch-size", 1)[1]
    assert ["report" in row for row in rows] == [True] * 3


def test_reports_of_other_settings_are_not_mixed_in(run: Run, tiny_storage: Path, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        interrupt_after(2, patch)
        with pytest.raises(KeyboardInterrupt):
            run(tiny_storage, "--batch-size", 2, "--options", "run.generation.max_new_tokens=3")
    expected = run(tiny_storage, "--batch-size", 2)[1]
    assert {row["decoding"]["max_new_tokens"] for row in expected} == {8}
    (kept,) = (tmp_path / "out" / ".reports.jsonl.unfinished").iterdir()
    assert kept.name == "unfinished-1.jsonl"
    assert run(tiny_storage, "--batch-size", 2, "--overwrite")[1] == expected


@pytest.mark.slow
def test_two_ranks_write_the_same_file(run: Run, config_path: Path, tiny_storage: Path, tmp_path: Path, repo_root: Path) -> None:
    words = ["--cfg-path", config_path, "--images", tiny_storage, "--batch-size", 3, "--out", tmp_path / "two.jsonl"]
    script = tmp_path / "ranks.py"
    script.write_text(RANKS)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", script]
    done = subprocess.run([*map(str, [*launcher, *words])], capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(repo_root)})
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in (tmp_path / "two.jsonl").read_text().splitlines()]
    assert [row["id"] for row in rows] == [f"x{i}" for i in range(8)]
    without_concerns = [{**row, "concerns": []} for row in rows]  # the input gate is not silenced in the other processes
    assert without_concerns == run(tiny_storage, "--batch-size", 3)[1]


RANKS = """
import sys
from xraygpt.cli.main import main
from xraygpt.datasets.builders import MIMICBuilder
from xraygpt.models import MiniGPT4

MiniGPT4.PRETRAINED_MODEL_CONFIG_DICT, MIMICBuilder.DATASET_CONFIG_DICT = {}, {}
sys.exit(main(["generate", *sys.argv[1:]]))
"""
