"""`python demo.py` as a user runs it: questions through a pipe."""

import importlib
import io
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from omegaconf import OmegaConf

from tests.serving.made_page import USERS, Reader, visited

Demo = Callable[..., int]
Visiting = Callable[..., Any]


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


@pytest.fixture
def visiting(demo: Demo, tiny_storage: Path, monkeypatch: pytest.MonkeyPatch) -> Visiting:
    """A function that opens the page with options, visits it, ends it, and returns what the visit did."""

    def run(visit: Callable[[str], Any], *options: object) -> Any:
        seen: list[Any] = []
        monkeypatch.setattr("xraygpt.serving.api_server.ApiServer", visited(visit, seen))
        assert demo("--port", 0, "--device", "cpu", "--image", tiny_storage / "image" / "x0.png", *options) == 0
        return seen[0]

    return run


def test_the_page_writes_about_an_image_and_answers_this_machines_names_alone(
    visiting: Visiting, capsys: pytest.CaptureFixture[str]
) -> None:
    def visit(address: str) -> list[int]:
        assert f"The page: {address}" in capsys.readouterr().out
        reader = Reader(address)
        assert "data:image/png" in str(reader.open())
        hosts = ["localhost", "evil.example", "reports.example"]
        return [reader.get("/", headers={"Host": host}).status_code for host in hosts]

    assert visiting(visit) == [200, 421, 421]
    assert visiting(visit, "--public-name", "reports.example") == [200, 421, 200]


def test_a_password_from_a_file_or_the_environment_opens_the_page(
    visiting: Visiting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def visit(address: str) -> list[int]:
        with httpx.Client(base_url=address) as client:
            wrong = client.post("/login", data={"username": "anna", "password": "guess"})
        return [wrong.status_code, httpx.get(f"{address}/config").status_code, Reader(address, "anna").page.status_code]

    (tmp_path / "auth").write_text("\n".join(f"{user}:{password}" for user, password in USERS.items()))
    (tmp_path / "auth").chmod(0o644)
    assert visiting(visit, "--auth", tmp_path / "auth") == [401, 401, 200]
    assert "chmod 600" in caplog.text
    caplog.clear()
    (tmp_path / "auth").chmod(0o600)
    assert visiting(visit, "--auth", tmp_path / "auth") == [401, 401, 200]
    monkeypatch.setenv("XRAYGPT_AUTH", f"anna:{USERS['anna']}")
    assert visiting(visit) == [401, 401, 200]
    assert "XRAYGPT_AUTH" not in os.environ
    assert "chmod" not in caplog.text


def test_a_password_on_the_command_line_is_refused_and_not_repeated(demo: Demo, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        demo("--auth", "reader:secret")
    error = capsys.readouterr().err
    assert "put USER:PASSWORD into a file" in error
    assert "secret" not in error


def test_a_port_that_is_taken(demo: Demo, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert demo("--port", port, "--device", "cpu") == 1
    assert f"Nothing can listen at 127.0.0.1, port {port}" in capsys.readouterr().err


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
