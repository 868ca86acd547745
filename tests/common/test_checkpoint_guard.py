"""A small file cannot cost much. The limits are lowered where a real case would be large."""

import json
import subprocess
import sys
import zipfile
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from xraygpt.common import checkpoint_guard
from xraygpt.common.checkpoint import load_checkpoint
from xraygpt.common.checkpoint_guard import check_weights_file, require_held
from xraygpt.common.errors import CheckpointError
from xraygpt.common.pickle_outline import RefusedPickleError, Storage

WEIGHTS = {"model": {"llama_proj.weight": torch.arange(12.0).reshape(3, 4)}}


def doubled(value: Any, depth: int) -> Any:
    """A list of one list twice, and so on: `depth` small lists that stand for 2 ** depth values."""
    for _ in range(depth):
        value = [value, value]
    return value


def saved(path: Path, value: Any, **options: Any) -> Path:
    torch.save(value, path, **options)
    return path


# Values that share their parts ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("old_format", [False, True])
@pytest.mark.parametrize("entry", ["config", "optimizer", "rng", "model", "scaler"])
def test_values_that_share_their_parts_are_counted_as_they_would_be_copied(
    entry: str, old_format: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint_guard, "MAX_VALUES", 1000)
    options = {"_use_new_zipfile_serialization": not old_format}
    load_checkpoint(saved(tmp_path / "c.pth", {**WEIGHTS, entry: {"a": doubled(1, 7)}}, **options))
    with pytest.raises(CheckpointError, match=r"c\.pth is refused: .*refers to the same ones again and again"):
        load_checkpoint(saved(tmp_path / "c.pth", {**WEIGHTS, entry: {"a": doubled(1, 12)}}, **options))


@pytest.mark.parametrize("entry", checkpoint_guard.SETTINGS)
def test_settings_have_a_limit_of_their_own(entry: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They become configurations, lines of a log and JSON, where each value costs more than in a file."""
    monkeypatch.setattr(checkpoint_guard, "MAX_SETTINGS", 1000)
    with pytest.raises(CheckpointError, match=rf"c\.pth: '{entry}' is refused"):
        load_checkpoint(saved(tmp_path / "c.pth", {**WEIGHTS, entry: {"a": [0] * 1200}}))
    load_checkpoint(saved(tmp_path / "c.pth", {**WEIGHTS, "other": {"a": [0] * 1200}}))


def test_a_text_counts_as_often_as_it_stands_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint_guard, "MAX_SETTINGS_CHARACTERS", 10_000)
    text = "x" * 400
    for config in ({"a": [text] * 30}, {"a": [{text: 1} for _ in range(30)]}):
        with pytest.raises(CheckpointError, match="'config' is refused"):
            load_checkpoint(saved(tmp_path / "c.pth", {"config": config}))
    load_checkpoint(saved(tmp_path / "c.pth", {"config": {"a": [text] * 20}}))


def test_the_same_tensor_many_times_counts_as_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint_guard, "_SLACK", 0)
    tensor = torch.zeros(10_000)
    tied = {"model": {"embed.weight": tensor, "head.weight": tensor}}
    assert load_checkpoint(saved(tmp_path / "c.pth", tied)).keys() == {"model"}
    with pytest.raises(CheckpointError, match="the same tensors again and again, 800000 bytes in all"):
        load_checkpoint(saved(tmp_path / "c.pth", {"optimizer": {"state": [tensor] * 20}}))


def test_values_within_each_other_have_an_end(tmp_path: Path) -> None:
    nested: Any = 1
    for _ in range(60):
        nested = [nested]
    circle: list[Any] = []
    circle.append(circle)
    for value in (nested, circle):
        with pytest.raises(CheckpointError, match="more than 50 values within each other"):
            load_checkpoint(saved(tmp_path / "c.pth", {"model": {}, "best": {"a": value}}))


# Sizes that a file does not have ---------------------------------------------------------------------------------------


def test_a_storage_must_lie_in_the_file() -> None:
    parts = {"archive/data/0": 40, "archive/data.pkl": 100}
    require_held({"0": Storage(10, 4)}, parts, "archive/data")
    with pytest.raises(RefusedPickleError, match="a storage '0' of 44 bytes, of which the file holds 40"):
        require_held({"0": Storage(11, 4)}, parts, "archive/data")
    with pytest.raises(RefusedPickleError, match="a storage '1' of 4 bytes, of which the file holds 0"):
        require_held({"1": Storage(1, 4)}, parts, "archive/data")


def test_the_old_format_must_hold_its_storages(tmp_path: Path) -> None:
    path = saved(tmp_path / "old.pth", WEIGHTS, _use_new_zipfile_serialization=False)
    assert torch.equal(load_checkpoint(path)["model"]["llama_proj.weight"], WEIGHTS["model"]["llama_proj.weight"])
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(CheckpointError, match=r"old\.pth is refused: it has \d+ bytes, but names storages for which it would need"):
        load_checkpoint(path)


def rewritten(path: Path, change: Any) -> None:
    """Write a zip again with its parts, a list of (name, content), as `change` returns them."""
    with zipfile.ZipFile(BytesIO(path.read_bytes())) as source:
        parts = [(name, source.read(name)) for name in source.namelist()]
    with zipfile.ZipFile(path, "w") as target:
        for name, content in change(parts):
            target.writestr(name, content)


def test_an_archive_has_one_list_of_parts(tmp_path: Path) -> None:
    path = saved(tmp_path / "c.pth", WEIGHTS)
    rewritten(path, lambda parts: parts)
    assert load_checkpoint(path).keys() == {"model"}
    rewritten(path, lambda parts: [*parts, ("c/DATA.PKL", b"")])
    with pytest.raises(CheckpointError, match="two of its parts have the same name"):
        load_checkpoint(path)
    rewritten(path, lambda parts: [part for part in parts if not part[0].lower().endswith("data.pkl")])
    with pytest.raises(CheckpointError, match=r"not a file of torch\.save"):
        load_checkpoint(path)
    path = saved(tmp_path / "c.pth", WEIGHTS)
    path.write_bytes(path.read_bytes() + b"more")
    with pytest.raises(CheckpointError, match="the list of its parts is not at its end"):
        load_checkpoint(path)


def test_instructions_have_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(tmp_path / "c.pth", {**WEIGHTS, "names": [f"{i:099}" for i in range(200)]})
    load_checkpoint(path)
    monkeypatch.setattr(checkpoint_guard, "MAX_PICKLE_BYTES", 10_000)
    with pytest.raises(CheckpointError, match=r"bytes of instructions; weights have at most 10000"):
        load_checkpoint(path)


def test_a_list_of_safetensors_has_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "c.safetensors"
    save_file({f"a{i}": torch.zeros(1) for i in range(20)}, path)
    assert len(load_checkpoint(path)) == 20
    monkeypatch.setattr(checkpoint_guard, "MAX_HEADER_BYTES", 1000)
    with pytest.raises(CheckpointError, match=r"its list of tensors has \d+ bytes \(at most 1000"):
        load_checkpoint(path)
    header = json.dumps({}).encode()
    path.write_bytes((len(header) + 1).to_bytes(8, "little") + header)
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_checkpoint(path)


# Memory ----------------------------------------------------------------------------------------------------------------

_CHILD = """
import resource, sys
from pathlib import Path
from xraygpt.common import checkpoint_guard, pickle_outline
from xraygpt.common.checkpoint import load_checkpoint
from xraygpt.common.errors import CheckpointError

pickle_outline.MAX_INSTRUCTIONS, checkpoint_guard.MAX_VALUES = 20_000, 20_000
in_use = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (in_use + (64 << 20), resource.RLIM_INFINITY))
for path in sys.argv[1:]:
    try:
        load_checkpoint(path, mmap=True)
    except CheckpointError as error:
        print(error)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits of the address space are Linux's")
def test_refusing_takes_little_memory(tmp_path: Path) -> None:
    """64 MiB for files that would ask for more, and for one with so many values that they are not counted to the end."""
    many = saved(tmp_path / "many.pth", {"optimizer": [[] for _ in range(60_000)]})
    shared = saved(tmp_path / "shared.pth", {"config": {"a": doubled("x" * 1000, 15)}})
    run = subprocess.run([sys.executable, "-c", _CHILD, str(many), str(shared)], capture_output=True, text=True, check=True)
    assert "more than 20,000 instructions" in run.stdout.splitlines()[0]
    assert "again and again" in run.stdout.splitlines()[1]


def test_the_guard_needs_no_torch() -> None:
    """The scores' weights are checked before torch is imported."""
    code = "import sys, xraygpt.common.checkpoint_guard, xraygpt.common.tensor_checks\nassert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_check_weights_file_says_which_format_it_is(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(1)}, tmp_path / "c.safetensors")
    assert check_weights_file(saved(tmp_path / "new.pth", WEIGHTS)) == "zip"
    assert check_weights_file(saved(tmp_path / "old.pth", WEIGHTS, _use_new_zipfile_serialization=False)) == "old"
    assert check_weights_file(tmp_path / "c.safetensors") == "safetensors"
