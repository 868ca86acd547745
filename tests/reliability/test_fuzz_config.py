"""Any configuration file and any options end in a configuration or in a ConfigError that lists what is wrong."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from tests.e2e.tiny_run import arguments, make_workspace
from tests.reliability.fuzzing import attempt, changed, damaged, fuzz, json_values
from xraygpt.common.config import Config, load_yaml, parse_options

VALID = [path.read_bytes() for folder in ("train_configs", "eval_configs") for path in sorted(Path(folder).glob("*.yaml"))]
ODD_YAML = [
    b"run: &a {job_id: *a}",
    b"a: !!int abc",
    b"a: !!timestamp 2001-99-99",
    b"a: " + b"9" * 5000,
    b"a: " + b"[" * 900 + b"]" * 900,
    b"a: " + b"{a: " * 100_000,
    b"? [1, 2]\n: 3",
    b"3",
    b"true",
    b"a: !!bool x",
    b"a: !!timestamp x",
    b"a: !!float x",
    b"model: {arch: mini_gpt4, model_type: quickstart, vit: [1], qformer: 3}",
    b"datasets: {mimic: {vis_processor: [1], storage: {a: 1}}}",
    b"<<: [1, 2]",
    b"run: ${run}",
    b"run: {a: '${.b}', b: '${..run}'}",
    b"model: {arch: '${model.arch}'}",
    b"datasets: {mimic: '${datasets}'}",
    b"datasets: [mimic]",
    b"datasets: {1: {type: folder}}",
    b"run: {imports: ['', '..x', 'a b', 3]}",
    b"run: {imports: xraygpt}",
    b"datasets: {x: {type: '${A}'}}",
    b"datasets: {mimic: {type: null}}",
    b"run: {runner: '${A}'}",
    b"run: {runner: {a: 1}}",
    b"\xff\xfer\0u\0n\0",
]
KEYS = [
    "run.max_epoch",
    "run.imports",
    "run",
    "model",
    "model.ckpt",
    "model.vit.depth",
    "datasets.mimic",
    "datasets.x.type",
    "a",
    "",
    ".",
    "a..b",
]
VALUES = st.one_of(
    st.text(max_size=30),
    st.sampled_from(["[", "{a: 1", "${run.x}", "${oc.env:HOME}", "${oc.decode:1}", "!!python/name:os.system", "*a", "9" * 5000]),
)


@pytest.fixture(scope="module")
def configured(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    """Makes a `Config` of a file's content and options, beside the files that the tiny run needs."""
    run = make_workspace(tmp_path_factory.mktemp("config"))
    path = run.with_name("fuzzed.yaml")

    def configure(content: bytes | None, *options: str) -> Any:
        path.write_bytes(run.read_bytes() if content is None else content)
        return attempt(lambda: Config(arguments(path, *options)))

    return configure


@fuzz(0.5)
@given(content=st.one_of(damaged([*VALID, *ODD_YAML]), st.binary(max_size=200)))
def test_bytes(content: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzzed.yaml"
    path.write_bytes(content)
    attempt(lambda: load_yaml(path))


@pytest.mark.parametrize("content", ODD_YAML)
def test_odd_files(content: bytes, configured: Callable[..., Any]) -> None:
    assert configured(content) is None


@fuzz(0.3)
@given(data=st.data())
def test_values(data: st.DataObject, configured: Callable[..., Any]) -> None:
    valid = yaml.safe_load(data.draw(st.sampled_from(VALID)))
    configured(yaml.safe_dump(data.draw(changed(valid, json_values()))).encode(errors="surrogatepass"))


@fuzz(0.5)
@given(pairs=st.lists(st.tuples(st.sampled_from(KEYS), VALUES), min_size=1, max_size=4))
def test_options_of_a_run(pairs: list[tuple[str, str]], configured: Callable[..., Any]) -> None:
    configured(None, *(f"{key}={value}" for key, value in pairs))


@fuzz()
@given(options=st.lists(st.one_of(st.text(max_size=30), st.builds("=".join, st.tuples(st.sampled_from(KEYS), VALUES))), max_size=5))
def test_options(options: list[str]) -> None:
    attempt(lambda: parse_options(options))
