"""`xraygpt data show` from a folder to the terminal and a page."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from xraygpt.cli.main import main
from xraygpt.common.files import write_json

CAPTIONS = ["Heart size is normal. No edema.", "Small left pleural effusion.", "The heart is enlarged.", "Possible edema, no effusion."]


def write_folder(path: Path, rows: list[dict[str, Any]]) -> Path:
    rng = np.random.default_rng(0)
    (path / "image").mkdir(parents=True)
    for row in rows:
        Image.fromarray(rng.integers(0, 256, (16, 16), dtype=np.uint8)).save(path / "image" / f"{row['image_id']}.png")
    write_json(path / "filter_cap.json", {"annotations": rows})
    write_json(path / "manifest.json", {"dataset": "toy"})
    return path


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of three training images and one test image; the working directory is the one above."""
    monkeypatch.chdir(tmp_path)
    rows = [
        {"image_id": f"i{i}", "caption": caption, "study_id": f"s{i}", "subject_id": f"p{i}", "split": "test" if i == 3 else "train"}
        for i, caption in enumerate(CAPTIONS)
    ]
    return write_folder(tmp_path / "toy", [row | {"view": "frontal"} for row in rows])


def show(folder: Path, *options: object) -> int:
    return main(["data", "show", str(folder), *map(str, options)])


def shown_ids(page: Path) -> list[str]:
    return re.findall(r"<h3>(.+?)</h3>", page.read_text(encoding="utf-8"))


def test_prints_the_numbers_and_writes_the_page(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert show(folder) == 0
    out = capsys.readouterr().out
    for pattern in (
        r"^studies +4$",
        r"^views +4 frontal$",
        r"^distinct texts +4 \(100\.0%\)$",
        r"^train +3 +3$",
        r"^test +1 +1$",
        r"^words of a text: min 4, median 4, p95 6, max 6$",
        r"^ +4 +\d  █{40}$",
        r"^cardiomegaly +1 \( 25\.0%\) +0 \(  0\.0%\) +1 \( 25\.0%\)$",
        r"^edema +0 \(  0\.0%\) +1 \( 25\.0%\) +1 \( 25\.0%\)$",
        r"nothing was found$",
    ):
        assert re.search(pattern, out, flags=re.MULTILINE), pattern
    page = folder.parent / "output" / "data" / "toy.html"
    assert sorted(shown_ids(page)) == ["i0", "i1", "i2", "i3"]
    assert "<dd>toy</dd>" in page.read_text(encoding="utf-8")


def test_the_images_depend_on_the_seed(folder: Path) -> None:
    drawn = []
    for seed in (0, 0, 1, 2, 3):
        assert show(folder, "--images", 2, "--seed", seed, "--page", "page.html") == 0
        drawn.append(shown_ids(Path("page.html")))
    assert drawn[0] == drawn[1]
    assert len(drawn[0]) == 2
    assert any(ids != drawn[0] for ids in drawn)


def test_one_split_is_counted_and_shown(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert show(folder, "--split", "test", "--page", "page.html") == 0
    assert re.search(r"^images +1$", capsys.readouterr().out, flags=re.MULTILINE)
    assert shown_ids(Path("page.html")) == ["i3"]


def test_no_page(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert show(folder, "--no-page") == 0
    assert "Written" not in capsys.readouterr().out
    assert not (folder.parent / "output").exists()


@pytest.mark.parametrize("split", [(), ("--split", "train")])
def test_leakage_is_exit_code_1_whichever_split_is_shown(split: tuple[str, ...], folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = json.loads((folder / "filter_cap.json").read_text(encoding="utf-8"))
    content["annotations"][3]["subject_id"] = "p0"
    write_json(folder / "filter_cap.json", content)
    assert show(folder, *split) == 1
    out = capsys.readouterr().out
    assert re.search(r"^ERROR +1 subjects in more than one split: leakage\n +p0 \(test, train\)$", out, flags=re.MULTILINE)


def test_warnings_are_no_failure_and_show_no_text(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "image" / "i1.png").unlink()
    content = json.loads((folder / "filter_cap.json").read_text(encoding="utf-8"))
    content["annotations"][0]["caption"] = "Secret XXXX"
    write_json(folder / "filter_cap.json", content)
    assert show(folder) == 0
    captured = capsys.readouterr()
    assert captured.out.count("\nwarning ") == 3
    assert "Secret" not in captured.out + captured.err


def test_the_originals_layout_and_images_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    original = write_folder(tmp_path / "original", [{"image_id": f"i{i}", "caption": caption} for i, caption in enumerate(CAPTIONS)])
    alone = write_folder(tmp_path / "alone", [{"image_id": f"i{i}"} for i in range(3)])
    assert show(original, "--page", tmp_path / "a.html") == show(alone, "--page", tmp_path / "b.html") == 0
    out = capsys.readouterr().out
    assert "4 annotations without a split: they are for training" in out
    assert "none: for generation only" in out
    assert len(shown_ids(tmp_path / "b.html")) == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--images", "-1"), "--images must be 0 or more, got -1"),
        (("--split", "tests"), "'tests'; there are: test, train"),
        (("--page", "."), "--page . is a folder"),
    ],
)
def test_wrong_options_are_explained(options: tuple[str, ...], message: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert show(folder, *options) == 1
    assert message in capsys.readouterr().err


def test_real_data(test_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Open-i, prepared: nothing leaks, and normal reports repeat."""
    folder, page = tmp_path / "openi", tmp_path / "page.html"
    assert main(["prepare", "openi", "--source", str(test_data / "openi_kaggle_sample"), "--out", str(folder)]) == 0
    assert show(folder, "--page", page) == 0
    assert "ERROR" not in capsys.readouterr().out
    text = page.read_text(encoding="utf-8")
    assert text.count("data:image/jpeg") == 24
    assert "<dd>sources.csv</dd>" in text


def test_names_neither_command_the_terminal_nor_forge_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    odd = "i\x1b[2J\nerror 9 forged\u202e"
    rows = [{"image_id": odd, "caption": "Clear.", "study_id": odd, "subject_id": odd, "split": split} for split in ("train", odd)]
    write_json(tmp_path / odd / "filter_cap.json", {"annotations": rows})
    (tmp_path / odd / "image").mkdir()
    assert show(tmp_path / odd, "--page", tmp_path / f"{odd}.html") == 1
    page = (tmp_path / f"{odd}.html").read_text(encoding="utf-8")
    shown = "".join(capsys.readouterr())
    assert r"i\x1b[2J\nerror 9 forged\u202e" in shown
    assert not {"\x1b", "\u202e"} & set(shown + page)
    assert "\nerror 9" not in shown
