"""A configuration section against a dataclass."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from omegaconf import MISSING

from xraygpt.common.schema import check_section, missing_paths, name_field, names_field, path_field


@dataclass
class Inner:
    width: int = 4
    weights: Any = path_field(how_to_get="Train it.")


@dataclass
class Outer:
    name: str = MISSING
    rate: float = 0.5
    limit: int | None = None
    names: list[str] = field(default_factory=list)
    free: dict[str, Any] = field(default_factory=dict)
    inner: Inner = field(default_factory=Inner)
    required: Inner = MISSING
    paths: Any = path_field(how_to_get="Download it.")
    job: str = name_field()
    splits: list[str] = names_field("train")


BAD_NAMES = (
    *("..", ".", "a/b", "/a", "../a", "a\\b", "C:a", "a..b", ".hidden", "-option", "_a", "~", "é"),
    *("a b", "a\n", "a\nb", "\x1b[2J", "a\0", "a" * 101, True),
)
GOOD = {"name": "x", "required": {"width": 1}}


def test_defaults_are_filled_in() -> None:
    section, problems = check_section(Outer, GOOD, "run")
    assert problems == []
    assert (section.rate, section.limit, section.inner.width, section.required.width) == (0.5, None, 4, 1)


@pytest.mark.parametrize(
    ("given", "problems"),
    [
        ({}, []),
        ({"rate": 1, "limit": 3, "free": {"a": {"b": [1]}}, "paths": ["a", "b"]}, []),
        ({"rte": 1}, ["s.rte: there is no such key. Did you mean 'rate'?"]),
        ({"rate": "fast"}, ["s.rate: expected float, got 'fast'"]),
        ({"names": "one"}, ["s.names: expected list, got 'one'"]),
        ({"inner": {"with": 1}}, ["s.inner.with: there is no such key. Did you mean 'width'?"]),
        ({"inner": {"width": None}}, ["s.inner.width: expected int, got None"]),
        ({"inner": 3}, ["s.inner: expected a block of keys, got 3."]),
        ({"required": {"width": "x"}}, ["s.required.width: expected int, got 'x'"]),
        ({"paths": 3}, ["s.paths: expected a path, got 3."]),
        ({"job": "", "splits": ["val", "test.2"]}, []),
        ({"job": 20240101}, []),
        ({"job": "a" * 100}, []),
        *(({"job": name}, ["s.job: expected a name of at most 100 letters"]) for name in BAD_NAMES),
        *(({"splits": ["val", name]}, ["s.splits: expected a name of at most 100 letters"]) for name in ("", *BAD_NAMES)),
        ({"splits": "val/.."}, ["s.splits: expected a name"]),
        ({"a": 1, "b": 2}, ["s.a: there is no such key.", "s.b: there is no such key."]),
        ({"name": MISSING}, ["s.name: required, but not given."]),
    ],
)
def test_problems(given: dict[str, Any], problems: list[str]) -> None:
    found = check_section(Outer, GOOD | given, "s")[1]
    assert len(found) == len(problems)
    assert all(line.startswith(start) for line, start in zip(found, problems, strict=True))


def test_required_values_are_named() -> None:
    assert check_section(Outer, {}, "s")[1] == ["s.name: required, but not given.", "s.required: required, but not given."]


def test_missing_paths_are_named_wherever_they_stand(tmp_path: Path) -> None:
    (tmp_path / "there").touch()
    given = {"paths": [f"{tmp_path}/there", f"{tmp_path}/gone"], "inner": {"weights": f"{tmp_path}/w"}}
    lines = missing_paths(Outer, check_section(Outer, GOOD | given, "s")[0], "s")
    assert [line.split(" (")[0] for line in lines] == [f"s.inner.weights: {tmp_path}/w is missing", f"s.paths: {tmp_path}/gone is missing"]
    assert lines[0].endswith("Train it.") and lines[1].endswith("Download it.")
