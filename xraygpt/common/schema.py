"""Check a configuration section against a documented dataclass, and report every problem at once.

A schema is a plain dataclass: its field names are the valid keys, its annotations the types, its defaults the values.
A field made with `path_field` names a file or folder that must exist before anything heavy is loaded.
"""

import dataclasses
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from xraygpt.common.errors import first_line
from xraygpt.common.registry import suggest

_PATH = "path"
_NAME = "name"
_PLAIN_NAME = re.compile(r"[A-Za-z0-9](?!.*\.\.)[A-Za-z0-9._-]{0,99}")


def path_field(*, how_to_get: str, default: Any = "") -> Any:
    """A field that holds one path, or a list of paths; empty means not used. `how_to_get` ends the error when it is missing."""
    return dataclasses.field(default=default, metadata={_PATH: how_to_get})


def name_field(*, default: str = "") -> Any:
    """A field that holds a name of which a file or folder is made; empty means not given."""
    return dataclasses.field(default=default, metadata={_NAME: True})


def names_field(*default: str) -> Any:
    """A field that holds a list of such names, none empty."""
    return dataclasses.field(default_factory=lambda: list(default), metadata={_NAME: True})


def is_plain_name(value: Any) -> bool:
    """Whether a text or number can be the name of a file or folder, without leading anywhere else and on any system."""
    return isinstance(value, str | int) and not isinstance(value, bool) and _PLAIN_NAME.fullmatch(str(value)) is not None


def check_section(schema: type, given: Mapping[str, Any], where: str) -> tuple[DictConfig, list[str]]:
    """Return the section with defaults filled in, and one line for each unknown key, wrong type or missing required value.

    Args:
        schema: a dataclass.
        given: the section as plain containers, interpolations resolved.
        where: the section's dotted name, for the messages ("run", "datasets.mimic").
    """
    section = OmegaConf.structured(schema)
    problems = list(_fill(section, schema, given, where))
    problems += [f"{where}.{key}: required, but not given." for key in sorted(OmegaConf.missing_keys(section))]
    return section, problems


def _fill(section: DictConfig, schema: type, given: Mapping[str, Any], where: str) -> Iterator[str]:
    fields: dict[str, Any] = {field.name: field for field in dataclasses.fields(schema)}
    for key, value in given.items():
        name = f"{where}.{key}"
        if key not in fields:
            yield f"{name}: there is no such key.{suggest(str(key), fields)}"
        elif value == MISSING:
            continue
        elif dataclasses.is_dataclass(fields[key].type):
            if isinstance(value, Mapping):
                if OmegaConf.is_missing(section, key):
                    section[key] = fields[key].type
                yield from _fill(section[key], fields[key].type, value, name)
            else:
                yield f"{name}: expected a block of keys, got {value!r}."
        elif _PATH in fields[key].metadata and not _is_path(value):
            yield f"{name}: expected a path, got {value!r}."
        elif _NAME in fields[key].metadata and not _are_names(value):
            yield (
                f"{name}: expected a name of at most 100 letters (A-Z, a-z), digits, '.', '_' and '-' that begins with a letter or digit "
                f"and has no '..', because files and folders are called so; got {value!r:.200}."
            )
        else:
            try:
                OmegaConf.update(section, key, value, merge=False)  # turns 1 into 1.0 where a float is declared
            except OmegaConfBaseException as error:
                expected = getattr(fields[key].type, "__name__", str(fields[key].type))
                yield f"{name}: expected {expected}, got {value!r} ({first_line(error)})."


def _is_path(value: Any) -> bool:
    paths = value if isinstance(value, list) else [value]
    return value is None or all(isinstance(path, str) for path in paths)


def _are_names(value: Any) -> bool:
    return all(map(is_plain_name, value)) if isinstance(value, list) else value == "" or is_plain_name(value)


def paths_of(schema: type, section: DictConfig, where: str) -> Iterator[tuple[str, str, str]]:
    """Dotted name, path and way to get it, of each path that the path fields of a section name."""
    for field in dataclasses.fields(schema):
        value: Any = None if OmegaConf.is_missing(section, field.name) else section[field.name]
        if dataclasses.is_dataclass(field.type) and value is not None:
            yield from paths_of(field.type, value, f"{where}.{field.name}")  # type: ignore[arg-type]
        elif _PATH in field.metadata and value:
            yield from ((f"{where}.{field.name}", path, field.metadata[_PATH]) for path in ([value] if isinstance(value, str) else value))


def missing_paths(schema: type, section: DictConfig, where: str) -> list[str]:
    """One line for each path field whose file or folder is not there: what, where it was looked for, how to get it."""
    return [
        f"{name}: {path} is missing (looked for {Path(path).expanduser().absolute()}). {how_to_get}"
        for name, path, how_to_get in paths_of(schema, section, where)
        if not Path(path).expanduser().exists()
    ]
