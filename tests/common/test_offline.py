"""Importing this package makes the process offline, whatever the environment says and whatever was imported before."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

WITHOUT = {"HF_HUB_OFFLINE": "0", "TRANSFORMERS_OFFLINE": "0", "HF_ENDPOINT": "http://127.0.0.1:9"}
"""An environment that asks for the Hub, at an address where nobody answers."""

ASK = """
import sys
connections = []
sys.addaudithook(lambda event, _: connections.append(event) if event in ("socket.connect", "socket.getaddrinfo") else None)
from huggingface_hub import HfApi
try:
    HfApi().model_info("org/model")
except Exception as error:
    print(type(error).__name__, len(connections))
"""


def run(code: str, *paths: Path) -> str:
    """What a fresh process prints."""
    path = os.pathsep.join(map(str, [*paths, *sys.path]))
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, env={**os.environ, **WITHOUT, "PYTHONPATH": path}
    )
    assert run.returncode == 0, run.stderr
    return run.stdout.strip()


def test_the_environment_does_not_count() -> None:
    assert run(f"import xraygpt\n{ASK}") == "OfflineModeIsEnabled 0"
    assert run("import os, xraygpt\nprint(os.environ['HF_HUB_OFFLINE'], os.environ['TRANSFORMERS_OFFLINE'])") == "1 1"  # for its children


def test_nor_does_the_order_of_imports() -> None:
    before = "import huggingface_hub\nassert not huggingface_hub.is_offline_mode()\nfrom xraygpt.common.offline import require_offline\n"
    assert run(f"{before}require_offline()\n{ASK}") == "OfflineModeIsEnabled 0"
    name, connections = run(f"{before}{ASK}").split()  # without it a connection is tried, and seen
    assert name != "OfflineModeIsEnabled"
    assert int(connections) > 0


@pytest.fixture
def kernels(tmp_path: Path) -> Path:
    """A folder with a package of that name."""
    (tmp_path / "kernels.py").write_text("")
    return tmp_path


def test_kernels_cannot_be_imported(kernels: Path) -> None:
    code = "import xraygpt\ntry:\n    import kernels\nexcept ImportError:\n    print('refused')"
    assert run(code, kernels) == "refused"


def test_kernels_that_were_imported_before_are_an_error(kernels: Path) -> None:
    code = (
        "import kernels, xraygpt\nfrom xraygpt.common.offline import require_offline\n"
        "try:\n    require_offline()\nexcept xraygpt.common.errors.ConfigError as error:\n    print(error)"
    )
    assert "Import xraygpt before transformers" in run(code, kernels)
