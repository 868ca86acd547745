"""`xraygpt generate` from a configuration and images to a reports file."""

import argparse
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from xraygpt.cli import generate
from xraygpt.common.errors import DataError
from xraygpt.evaluation import load_reports

pytestmark = pytest.mark.usefixtures("no_default_files")


@pytest.fixture
def run(tmp_path: Path, tiny_config: Callable[..., dict[str, Any]]) -> Callable[..., tuple[int, list[dict[str, Any]]]]:
    """Runs the command on images; returns its exit code and the lines of its output."""
    config = tiny_config()
    config["model"]["model_type"] = "tiny"
    OmegaConf.save(OmegaConf.create(config), tmp_path / "config.yaml")

    def run(*words: object) -> tuple[int, list[dict[str, Any]]]:
        parser = argparse.ArgumentParser()
        generate.add_arguments(parser)
        required = ["--cfg-path", tmp_path / "config.yaml", "--out", tmp_path / "out" / "reports.jsonl", "--images"]
        code = generate.run(parser.parse_args([str(word) for word in (*required, *words)]))
        return code, [json.loads(line) for line in (tmp_path / "out" / "reports.jsonl").read_text(encoding="utf-8").splitlines()]

    return run


Run = Callable[..., tuple[int, list[dict[str, Any]]]]


def test_a_split_of_a_prepared_folder(run: Run, tiny_storage: Path, tmp_path: Path) -> None:
    code, rows = run(tiny_storage, "--split", "test")
    assert (code, [row["id"] for row in rows]) == (0, ["x6", "x7"])
    assert rows[0]["image"] == (tiny_storage / "image" / "x6.png").as_posix()
    assert rows[0]["prompt"] == "###Patient: <Img><ImageHere></Img> Describe this chest X-ray. ###Doctor: "
    assert rows[0]["decoding"]["max_new_tokens"] == 8
    assert rows[0]["model"]["arch"] == "mini_gpt4"
    assert "research only" in rows[0]["notice"]
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
    assert set(rows[0]) == {"id", "image", "error"}
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
