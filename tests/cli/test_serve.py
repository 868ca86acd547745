"""`xraygpt serve`: what it refuses to start, and what it serves."""

import argparse
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from omegaconf import OmegaConf

from tests.serving.made_api import user
from tests.serving.made_page import visited
from xraygpt.cli import serve
from xraygpt.common.errors import ConfigError, DataError
from xraygpt.serving.api_server import is_loopback, listen
from xraygpt.serving.safety import RESEARCH_NOTICE

pytestmark = pytest.mark.usefixtures("no_default_files")

TOKEN = "a-token-of-a-good-length"
Visit = Callable[[httpx.Client], Any]
Run = Callable[..., Any]


@pytest.fixture
def config(tmp_path: Path, tiny_config: Callable[..., dict[str, Any]]) -> Path:
    values = tiny_config()
    values["model"]["model_type"] = "tiny"
    OmegaConf.save(OmegaConf.create(values), tmp_path / "tiny.yaml")
    return tmp_path / "tiny.yaml"


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    (tmp_path / "tokens").write_text(f"{TOKEN}\nanother-token-of-a-good-length\n")
    return tmp_path / "tokens"


@pytest.fixture
def serving(config: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    """A function that runs the command with options, visits the server once it is up, stops it, and returns what the visit did."""
    handler = signal.getsignal(signal.SIGTERM)

    def run(visit: Visit, *options: object) -> Any:
        seen: list[Any] = []

        def visit_as_client(address: str) -> Any:
            with httpx.Client(base_url=address, timeout=20) as client:
                return visit(client)

        monkeypatch.setattr(serve, "ApiServer", visited(visit_as_client, seen))
        assert serve.run(parse("--cfg-path", config, "--port", 0, *options)) == 0
        return seen[0]

    yield run
    signal.signal(signal.SIGTERM, handler)


def parse(*words: object) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    serve.add_arguments(parser)
    return parser.parse_args([str(word) for word in words])


def ask(client: httpx.Client, image: bytes, model: str = "tiny", **headers: str) -> httpx.Response:
    return client.post("/v1/chat/completions", json={"model": model, "messages": [user("", image)]}, headers=headers)


def test_api_and_page_stand_side_by_side(serving: Run, tiny_storage: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image = (tiny_storage / "image" / "x0.png").read_bytes()
    answer, page, page_config = serving(lambda client: (ask(client, image), client.get("/"), client.get("/config")))
    assert answer.json()["choices"][0]["message"]["content"]
    assert answer.json()["xraygpt"]["decoding"]["max_new_tokens"] == 8
    assert "XrayGPT" in page.text
    assert page_config.status_code == 200
    shown = capsys.readouterr().out
    assert RESEARCH_NOTICE in shown
    assert "model tiny" in shown
    assert ":0/" not in shown  # the port that was free


def test_a_token_opens_api_and_page(serving: Run, tiny_storage: Path, token_file: Path) -> None:
    image = (tiny_storage / "image" / "x0.png").read_bytes()

    def visit(client: httpx.Client) -> list[int]:
        assert RESEARCH_NOTICE in client.get("/", follow_redirects=True).text  # on the page that asks for the token
        answers = [ask(client, image), ask(client, image, Authorization=f"Bearer {TOKEN}"), client.get("/config")]
        answers.append(client.post("/login", data={"username": "xraygpt", "password": "guess"}))
        answers.append(client.post("/login", data={"username": "xraygpt", "password": TOKEN}))
        answers.append(client.get("/config"))
        answers.append(client.get("/metrics"))  # the login is for the page
        return [answer.status_code for answer in answers]

    assert serving(visit, "--api-token-file", token_file) == [401, 200, 401, 401, 303, 200, 401]


@pytest.mark.parametrize("with_tokens", [False, True])
def test_names_and_sites(serving: Run, token_file: Path, with_tokens: bool) -> None:
    def visit(client: httpx.Client) -> list[int]:
        answers = [client.get(path, headers={"Host": "evil.example"}) for path in ("/", "/healthz", "/v1/models")]
        answers += [client.get(path, headers={"Host": "reports.example.org"}) for path in ("/login", "/", "/healthz")]
        answers += [client.post("/login", data={}, headers={"Origin": "https://evil.example"})]
        return [answer.status_code for answer in answers]

    options = ["--api-token-file", token_file] if with_tokens else []
    own = [200, 303, 200] if with_tokens else [401, 200, 200]
    assert serving(visit, "--public-name", "reports.example.org", *options) == [421, 421, 421, *own, 403]


def test_options(serving: Run, tiny_storage: Path) -> None:
    image = (tiny_storage / "image" / "x0.png").read_bytes()
    options = ["--no-page", "--strict", "--max-pixels", 100_000, "--model-name", "mine", "--host", "localhost"]
    refused, page = serving(lambda client: (ask(client, image, model="mine"), client.get("/")), *options)
    assert refused.json()["error"]["code"] == "image_refused"
    assert page.status_code == 404
    small = serving(lambda client: ask(client, image), "--no-page", "--max-pixels", 100)
    assert "at most 100" in small.json()["error"]["message"]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (["--host", "0.0.0.0"], ConfigError, "--api-token-file FILE"),
        (["--host", "::"], ConfigError, "--insecure"),
        (["--host", "example.org"], ConfigError, "other machines"),
        (["--max-queue", "0"], ConfigError, "--max-queue must be above 0"),
        (["--max-seconds", "-1"], ConfigError, "--max-seconds must be above 0"),
        (["--api-token-file", "{folder}/nowhere"], DataError, "cannot be read"),
        (["--api-token-file", "{folder}/empty"], DataError, "one token a line"),
        (["--api-token-file", "{folder}/short"], DataError, "at least 16 characters"),
        (["--host", "0.0.0.0", "--insecure"], ConfigError, "nowhere.yaml"),
        (["--host", "0.0.0.0", "--api-token-file", "{folder}/tokens"], ConfigError, "nowhere.yaml"),
    ],
)
def test_what_is_not_safe_does_not_start(
    tmp_path: Path, token_file: Path, options: list[str], error: type[Exception], message: str
) -> None:
    (tmp_path / "empty").write_text("\n")
    (tmp_path / "short").write_text(f"{TOKEN}\nshort\n")
    with pytest.raises(error, match=message):
        serve.run(parse("--cfg-path", "nowhere.yaml", *(option.format(folder=tmp_path) for option in options)))


@pytest.mark.parametrize(
    ("host", "loopback"),
    [("127.0.0.1", True), ("127.8.8.8", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("10.0.0.1", False), ("", False)],
)
def test_which_addresses_stay_on_this_machine(host: str, loopback: bool) -> None:
    assert is_loopback(host) == loopback


def test_answers_do_not_wait_for_acknowledgements() -> None:
    with listen("127.0.0.1", [0]) as listening, socket.create_connection(listening.getsockname()):
        accepted, _ = listening.accept()
        with accepted:
            assert accepted.proto == socket.IPPROTO_TCP  # by which asyncio knows that TCP_NODELAY is to be set


@pytest.mark.slow
def test_sigterm_ends_it_and_leaves_no_file(config: Path, tmp_path: Path) -> None:
    (tmp_path / "temporary").mkdir()
    without = "from xraygpt.models import MiniGPT4; MiniGPT4.PRETRAINED_MODEL_CONFIG_DICT = {}"
    command = f"from xraygpt.cli.main import main; main(['serve', '--cfg-path', {str(config)!r}, '--port', '0'])"
    environment = os.environ | {"TMPDIR": str(tmp_path / "temporary"), "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(
        [sys.executable, "-c", f"{without}; {command}"],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        env=environment,
    )
    assert process.stderr is not None
    with process.stderr:
        assert any("Application startup complete" in line for line in process.stderr)
        process.send_signal(signal.SIGTERM)
        rest = process.stderr.read()
    assert process.wait(20) == 0, rest
    assert [path for path in (tmp_path / "temporary").rglob("*") if path.is_file() or path.name.startswith(("xraygpt-", "gradio"))] == []
