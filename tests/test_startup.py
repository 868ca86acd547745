"""What a command does not need it does not import. Import time is most of the time of a short command, so the modules are counted, not
the seconds (`benchmarks/startup.py` measures those).
"""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent

COMPILER = {"torch._dynamo", "torch._inductor", "sympy"}
"""torch's compiler, which torchvision, timm and transformers' models import: as long as torch itself."""
BUILDING = COMPILER | {"accelerate", "timm", "torchvision", "transformers.modeling_utils"}
"""What only a model that is built needs."""
LATER = {"gradio", "matplotlib", "pandas", "pydicom", "scipy", "sklearn", "tensorboard"}
"""What a page, a plot, a score or a DICOM file needs."""

SHOW = "\nprint(json.dumps(sorted(sys.modules)))"


def modules_after(code: str, *arguments: str) -> set[str]:
    """The modules of a fresh process after some code; `arguments` are its command line."""
    code = f"import json, sys\nsys.argv = {['train.py', *arguments]!r}\nsys.path.insert(0, {str(ROOT)!r})\n{code}{SHOW}"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return set(json.loads(run.stdout.splitlines()[-1]))


def test_the_list_of_commands_needs_neither_torch_nor_numpy() -> None:
    code = "from xraygpt.cli.main import main\ntry:\n    main(['--help'])\nexcept SystemExit:\n    pass"
    assert not modules_after(code) & {"numpy", "omegaconf", "torch", "transformers", "yaml"}


def test_reading_a_configuration_needs_no_library_of_a_model() -> None:
    loaded = modules_after("import demo, train, xraygpt.cli.evaluate, xraygpt.cli.generate, xraygpt.cli.plan, xraygpt.serving.report_model")
    assert "torch" in loaded
    assert not loaded & (BUILDING | LATER | {"transformers"})


def test_work_on_data_and_reports_needs_no_library_of_a_model() -> None:
    loaded = modules_after("import xraygpt.cli.data, xraygpt.cli.phantom, xraygpt.cli.prepare, xraygpt.cli.score")
    assert not loaded & (BUILDING | LATER | {"transformers"})


@pytest.fixture
def cfg_path(tmp_path: Path, tiny_config: Callable[..., dict[str, Any]]) -> str:
    """The tiny model's configuration, for a process that knows the project's own model types only."""
    config = tiny_config()
    config["model"]["model_type"] = "quickstart"
    path = tmp_path / "tiny.yaml"
    path.write_text(json.dumps(config), encoding="utf-8")
    return str(path)


def test_checking_a_configuration_builds_no_model(cfg_path: str) -> None:
    loaded = modules_after("import train\nassert train.main() == 0", "--cfg-path", cfg_path, "--check")
    assert not loaded & (BUILDING | LATER | {"transformers"})


def test_a_model_is_built_without_what_a_later_step_needs(cfg_path: str) -> None:
    code = (
        "import train\nfrom xraygpt.common.config import Config\n"
        "cfg = Config(train.parse_args())\ntask = train.tasks.setup_task(cfg)\ntask.build_datasets(cfg)\ntask.build_model(cfg)"
    )
    loaded = modules_after(code, "--cfg-path", cfg_path)
    assert "timm" in loaded  # the name that the other tests look for is the right one
    assert not loaded & (LATER - {"scipy"})  # transformers' losses import scipy
