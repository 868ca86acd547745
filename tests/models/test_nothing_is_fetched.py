"""Whatever a language model's folder asks for: no connection is opened, and no package that could fetch code is called.

Stand-ins for the packages kernels and peft write down each call. A control shows that transformers alone calls them.
"""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from xraygpt.models.language_model import load_language_model, load_tokenizer

ROOT = Path(__file__).resolve().parents[2]

STAND_IN = """
import os
__version__ = {version!r}
def __getattr__(name):
    if name.startswith("__"):
        raise AttributeError(name)
    def called(*args, **kwargs):
        with open(os.environ["CALLS"], "a") as file:
            file.write(f"{name} {{name}} {{args}}\\n")
        raise RuntimeError("the stand-in was called")
    return called
"""

CHILD = """
import json, sys
connections, imported = [], []
def watch(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.sendto"):
        connections.append(f"{event} {arguments[1:]}")
    if event == "import" and str(arguments[0]).split(".")[-1] == "own_code":
        imported.append(arguments[0])
sys.addaudithook(watch)
"""
OURS = """
import torch
from xraygpt.common.errors import XrayGPTError
from xraygpt.models.language_model import load_language_model, load_tokenizer
outcomes = {}
for folder in sys.argv[1:]:
    for load in (load_tokenizer, load_language_model, lambda folder: load_language_model(folder, from_scratch=True)):
        try:
            loaded = load(folder)
            if isinstance(loaded, torch.nn.Module):
                with torch.inference_mode():
                    loaded(torch.arange(1, 9)[None])
            outcome = "loaded"
        except XrayGPTError:
            outcome = "refused"
        outcomes.setdefault(folder.rsplit("/", 1)[-1], []).append(outcome)
print(json.dumps([outcomes, connections, imported]))
"""
THEIRS = """
from transformers import AutoModelForCausalLM
for folder in sys.argv[1:]:
    try:
        AutoModelForCausalLM.from_pretrained(folder)
    except Exception:
        pass
print(json.dumps([{}, connections, imported]))
"""

LOADED, REFUSED = ["loaded"] * 3, ["refused"] * 3
FOLDERS: dict[str, tuple[dict[str, Any], list[str]]] = {
    "kernel": ({"_attn_implementation": "org/kernel"}, LOADED),
    "kernel_of_old_files": ({"attn_implementation": "org/kernel@main:attention"}, LOADED),
    "kernel_in_pages": ({"_attn_implementation": "paged|org/kernel"}, LOADED),
    "flash_attention": ({"_attn_implementation": "flash_attention_2"}, LOADED),
    "experts": ({"_experts_implementation": "org/kernel"}, LOADED),
    "kernel_by_another_name": ({"attribute_map": {"_attn_implementation_internal": "x"}, "x": "org/kernel"}, REFUSED),
    "kernel_by_dictionary": ({"__dict__": {"_attn_implementation_internal": "org/kernel"}}, REFUSED),
    "kernels_for_layers": ({"use_kernels": True}, REFUSED),
    "quantisation": ({"quantization_config": {"quant_method": "mxfp4"}}, REFUSED),
    "quantisation_fp8": ({"quantization_config": {"quant_method": "fp8"}}, REFUSED),
    "own_code": ({"auto_map": {"AutoConfig": "own_code.Config", "AutoModelForCausalLM": "own_code.Model"}}, LOADED),
    "code_elsewhere": ({"auto_map": {"AutoModelForCausalLM": "org/model--own_code.Model"}}, LOADED),
    "adapter": ({}, REFUSED),
}


@pytest.fixture
def folders(tiny_llm: Path, tmp_path: Path) -> list[Path]:
    """A folder for each of `FOLDERS`."""
    model, tokenizer = load_language_model(tiny_llm, from_scratch=True), load_tokenizer(tiny_llm)
    made = []
    for name, (changes, _) in FOLDERS.items():
        folder = tmp_path / name
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        (folder / "config.json").write_text(json.dumps(json.loads((folder / "config.json").read_text()) | changes))
        (folder / "own_code.py").write_text("raise SystemExit('code of the folder was run')")
        made.append(folder)
    (tmp_path / "adapter" / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "base_model_name_or_path": "org/base"}))
    return made


@pytest.fixture
def stand_ins(tmp_path: Path) -> Path:
    """A folder of packages, of versions that transformers accepts."""
    for name, version in {"kernels": "0.18.2", "peft": "99.0"}.items():
        (tmp_path / "packages" / name).mkdir(parents=True)
        (tmp_path / "packages" / name / "__init__.py").write_text(STAND_IN.format(name=name, version=version))
        metadata = tmp_path / "packages" / f"{name}-{version}.dist-info" / "METADATA"
        metadata.parent.mkdir()
        metadata.write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    return tmp_path / "packages"


def in_a_child(code: str, folders: list[Path], stand_ins: Path, **environment: str) -> tuple[Any, ...]:
    """Outcomes by folder, connections, imported modules of folders, and the calls of stand-ins."""
    calls = stand_ins / "calls"
    calls.write_text("")
    wanted: Mapping[str, str] = {
        "HF_HUB_OFFLINE": "0",
        "TRANSFORMERS_OFFLINE": "0",
        "HF_ENDPOINT": "http://127.0.0.1:9",  # nobody answers there
        "CALLS": str(calls),
        "PYTHONPATH": os.pathsep.join([str(stand_ins), str(ROOT)]),
        **environment,
    }
    run = subprocess.run(
        [sys.executable, "-c", CHILD + code, *map(str, folders)], capture_output=True, text=True, check=False, env={**os.environ, **wanted}
    )
    assert run.returncode == 0, run.stderr
    return *json.loads(run.stdout.splitlines()[-1]), calls.read_text()


def test_nothing_is_fetched_and_no_code_is_run(folders: list[Path], stand_ins: Path) -> None:
    outcomes, connections, imported, calls = in_a_child(OURS, folders, stand_ins)
    assert connections == []
    assert imported == []
    assert calls == ""
    assert outcomes == {name: [*expected] for name, (_, expected) in FOLDERS.items()}


def test_bitsandbytes_fetches_nothing(stand_ins: Path) -> None:
    """On some CPUs it asks for a kernel when it is imported."""
    pytest.importorskip("bitsandbytes")
    code = "import xraygpt, bitsandbytes\nprint(json.dumps([{}, connections, imported]))"
    assert in_a_child(code, [], stand_ins) == ({}, [], [], "")


def test_the_stand_ins_would_tell(folders: list[Path], stand_ins: Path) -> None:
    """transformers alone calls the package kernels for such a folder."""
    kernel = [folder for folder in folders if folder.name == "kernel"]
    without_hub_decorators = {"USE_HUB_KERNELS": "0"}
    *_, calls = in_a_child(THEIRS, kernel, stand_ins, **without_hub_decorators)
    assert "get_kernel ('org/kernel',)" in calls
