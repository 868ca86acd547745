"""`python demo.py` as a user runs it: questions through a pipe."""

import importlib
import io
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

Demo = Callable[..., int]


@pytest.fixture
def demo(tmp_path: Path, tiny_config: Callable[..., dict[str, Any]], no_default_files: None, monkeypatch: pytest.MonkeyPatch) -> Demo:
    """Runs demo.py with arguments and typed lines; returns its exit code."""
    config = tiny_config()
    config["model"]["model_type"] = "tiny"
    OmegaConf.save(OmegaConf.create(config), tmp_path / "config.yaml")

    def run(*words: object, typed: str = "") -> int:
        monkeypatch.setattr(sys, "argv", ["demo.py", "--cfg-path", str(tmp_path / "config.yaml"), *map(str, words)])
        monkeypatch.setattr(sys, "stdin", io.StringIO(typed))
        return importlib.import_module("demo").main()

    return run


def test_piped_questions_are_answered(demo: Demo, tiny_storage: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image = tiny_storage / "image" / "x0.png"
    assert demo("--cli", "--image", image, "--device", "cpu", typed="What?\nSure?\n") == 0
    shown = capsys.readouterr().out
    assert shown.startswith("For research only")
    assert f"Image: {image}" in shown
    assert shown.count("> ") == 3
    assert all(len(answer) > 3 for answer in shown.split("> ")[1:3])


def test_what_the_user_can_mend_is_one_message(demo: Demo, capsys: pytest.CaptureFixture[str]) -> None:
    assert demo("--cli", "--image", "nowhere.png") == 1
    assert demo("--cli", "--options", "model.ckpt=nowhere.pth") == 1
    errors = capsys.readouterr().err
    assert errors.count("error: ") == 2
    assert "nowhere.png" in errors
    assert "model.ckpt: nowhere.pth is missing" in errors


def test_the_page_is_opened_for_this_machine_alone(
    demo: Demo, tiny_storage: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    launched: dict[str, Any] = {}

    def launch(self: Any, **options: Any) -> tuple[None, str, None]:
        launched.update(options)
        return None, "http://127.0.0.1:7999/", None

    monkeypatch.setattr("gradio.Blocks.launch", launch)
    monkeypatch.setattr("gradio.Blocks.block_thread", lambda self: None)
    monkeypatch.setattr("signal.signal", lambda *_: None)
    assert demo("--port", 7999, "--auth", "reader:secret", "--device", "cpu", "--image", tiny_storage / "image" / "x0.png") == 0
    assert (launched["server_name"], launched["server_port"], launched["share"]) == ("127.0.0.1", 7999, False)
    assert launched["auth"] == ("reader", "secret")
    assert "http://127.0.0.1:7999/" in capsys.readouterr().out


@pytest.mark.parametrize(("words", "message"), [(["--share"], "give --auth"), (["--auth", "reader"], "USER:PASSWORD")])
def test_careless_options_are_refused(demo: Demo, capsys: pytest.CaptureFixture[str], words: list[str], message: str) -> None:
    with pytest.raises(SystemExit):
        demo(*words)
    assert message in capsys.readouterr().err


def test_without_a_model_it_says_how_to_make_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["demo.py"])
    assert importlib.import_module("demo").main() == 1
    assert "make quickstart" in capsys.readouterr().err


def test_the_terminal_does_not_wait_for_the_page(repo_root: Path) -> None:
    script = "import sys, demo; sys.exit('gradio' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], cwd=repo_root, check=False).returncode == 0
