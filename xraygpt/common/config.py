"""One configuration from three places: defaults of the named model and datasets < the YAML file < `--options`.

The result is checked against the dataclass schemas of the run, the model and the datasets before any weight is read; all
problems are reported in one error.
"""

import argparse
import importlib
import io
import logging
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from xraygpt.common.errors import ConfigError, RegistryError, first_line
from xraygpt.common.interpolation import check_interpolation, check_text
from xraygpt.common.registry import registry, suggest
from xraygpt.common.run_config import RunConfig
from xraygpt.common.schema import check_section, missing_paths

SECTIONS = ("run", "model", "datasets")

MAX_YAML_BYTES = 1 << 20
"""A larger file is no configuration; they have some thousand."""
MAX_YAML_NODES = 10_000
"""Values after the anchors (&) are put in at their aliases (*), which a few lines can multiply to billions."""
MAX_YAML_DEPTH = 50
"""Blocks within blocks. The loader calls itself for each, and 100,000 of them end the process."""

# Besides their own errors both libraries raise others: for a value that is not of its tag, a file of one number, blocks without end.
_UNREADABLE = (AttributeError, LookupError, OSError, RecursionError, TypeError, ValueError, yaml.YAMLError, OmegaConfBaseException)
_UNMERGEABLE = (OmegaConfBaseException, TypeError)
"""TypeError: a list in the place of a block."""


def add_config_arguments(parser: argparse.ArgumentParser, *, cfg_path: str | None = None) -> None:
    """Add `--cfg-path`, `--options` and `--import`, which `Config` reads. With `cfg_path` the first is optional."""
    parser.add_argument("--cfg-path", required=cfg_path is None, default=cfg_path, help="YAML configuration file")
    parser.add_argument(
        "--options",
        nargs="+",
        default=[],
        metavar="KEY=VALUE",
        help="override values of the YAML: run.max_epoch=2 model.image_size=448 (or: run.max_epoch 2 …)",
    )
    parser.add_argument(
        "--import", dest="imports", action="append", default=[], metavar="MODULE", help="Python module that registers your own classes"
    )


class Config:
    """The resolved configuration of a run.

    Args:
        args: has `cfg_path`, and may have `options` (both forms of `--options`) and `imports` (module names).
        needs: sections whose files and folders must exist. Writing a report needs the model's, not the data.

    Raises:
        ConfigError: lists every unknown key, wrong type, missing value and missing path.
    """

    def __init__(self, args: argparse.Namespace, *, needs: Iterable[str] = SECTIONS) -> None:
        self.cfg_path = str(args.cfg_path)
        given = self._given(getattr(args, "options", None) or [])
        modules = dict.fromkeys([*(_select(given, "run.imports") or []), *getattr(args, "imports", [])])
        for module in modules:
            import_user_module(module)
        if modules:
            OmegaConf.update(given, "run.imports", list(modules), force_add=True)
        self.config = self._build(given, set(needs))
        registry.register("configuration", self)

    def _given(self, options: Sequence[str]) -> DictConfig:
        """The file with the options over it; what decides about modules and schemas is there or well-formed."""
        try:
            given: Any = OmegaConf.merge(load_yaml(self.cfg_path), parse_options(options))
        except _UNMERGEABLE as error:
            raise ConfigError(f"--options do not fit {self.cfg_path}: {first_line(error)}") from error
        check_interpolation(given, self.cfg_path)
        self._raise([f"{name}: expected {kind}, got {value!r:.200}." for name, kind, value in _misshapen(given)])
        return given

    def _raise(self, problems: list[str]) -> None:
        if problems:
            lines = "\n".join(f"  {number}. {problem}" for number, problem in enumerate(dict.fromkeys(problems), start=1))
            raise ConfigError(f"{self.cfg_path} cannot be used as it is:\n{lines}")

    def _build(self, given: DictConfig, needs: set[str]) -> DictConfig:
        problems = [f"{key!s}: there is no such section.{suggest(str(key), SECTIONS)}" for key in given if key not in SECTIONS]
        sections: dict[str, Any] = {}
        for where, schema_and_defaults in self._schemas(given, problems).items():
            schema, defaults = schema_and_defaults
            section, found = check_section(schema, self._resolved(defaults, given, where, problems), where)
            problems += found
            if where.split(".")[0] in needs and not found:
                problems += self._missing(schema, section, where)
            OmegaConf.update(built := OmegaConf.create(sections), where, section, force_add=True)
            sections = dict(built)
        self._raise(problems)
        return OmegaConf.create(sections)

    def _schemas(self, given: DictConfig, problems: list[str]) -> dict[str, tuple[type, DictConfig]]:
        """Dotted section name → (schema, defaults). What is named decides: `model.arch`, each dataset's name and `type`."""
        empty = OmegaConf.create()
        schemas: dict[str, tuple[type, DictConfig]] = {}
        try:
            runner = registry.get_runner_class(_select(given, "run.runner") or "runner_base")
            schemas["run"] = (getattr(runner, "config_schema", RunConfig), empty)
        except RegistryError as error:
            problems.append(f"run.runner: {error}")
        try:
            arch = _select(given, "model.arch")
            if arch is None:
                problems.append(f"model.arch: required, but not given.{suggest('', registry.list_models())}")
            else:
                model_class = registry.get_model_class(arch)
                path = model_class.default_config_path(_select(given, "model.model_type"))
                schemas["model"] = (model_class.config_schema, load_yaml(path) if path else empty)
        except (RegistryError, ConfigError) as error:
            problems.append(f"model: {error}")
        for name in map(str, _select(given, "datasets") or ()):
            dataset = _select(given, f"datasets.{name}")
            try:
                builder = registry.get_builder_class(builder_name(name, dataset))
                path = builder.default_config_path((dataset or {}).get("type") or "default")
                schemas[f"datasets.{name}"] = (builder.config_schema, _dataset_defaults(path, name) if path else empty)
            except (RegistryError, ConfigError) as error:
                problems.append(f"datasets.{name}: {error}")
            except OmegaConfBaseException as error:  # its type refers to what there is not
                problems.append(f"datasets.{name}: {first_line(error)}")
        return schemas

    def _resolved(self, defaults: DictConfig, given: DictConfig, where: str, problems: list[str]) -> dict[str, Any]:
        """The merged section as plain containers; interpolations may point anywhere in the whole configuration."""
        try:
            merged = OmegaConf.merge(defaults, given)
            section = OmegaConf.select(merged, where, throw_on_resolution_failure=False)
        except _UNMERGEABLE as error:
            problems.append(f"{where}: {first_line(error)}")
            return {}
        if section is None:
            return {}
        if not isinstance(section, DictConfig):
            problems.append(f"{where}: expected a block of keys, got {section!r}.")
            return {}
        try:
            return OmegaConf.to_container(section, resolve=True)  # type: ignore[return-value]
        except OmegaConfBaseException as error:
            problems.append(f"{where}: {first_line(error)}")
            return {}

    @staticmethod
    def _missing(schema: type, section: DictConfig, where: str) -> list[str]:
        if where == "run" and section.get("resume_ckpt_path") == "auto":
            section = OmegaConf.merge(section, {"resume_ckpt_path": None})  # type: ignore[assignment]
        return missing_paths(schema, section, where)

    def get_config(self) -> DictConfig:
        """The whole configuration."""
        return self.config

    @property
    def run_cfg(self) -> DictConfig:
        """The `run` section (see `RunConfig`)."""
        return self.config.run

    @property
    def datasets_cfg(self) -> DictConfig:
        """The `datasets` section: dataset name → its builder's configuration."""
        return self.config.get("datasets", OmegaConf.create())

    @property
    def model_cfg(self) -> DictConfig:
        """The `model` section (the model class's `config_schema`)."""
        return self.config.model

    def to_dict(self) -> dict[str, Any]:
        """Plain containers, for a checkpoint or a log."""
        return OmegaConf.to_container(self.config, resolve=True)  # type: ignore[return-value]

    def to_yaml(self) -> str:
        """The resolved configuration as YAML text; training from it repeats the run."""
        return OmegaConf.to_yaml(self.config, resolve=True)

    def pretty_print(self) -> None:
        """Log the resolved configuration."""
        logging.getLogger(__name__).info("Configuration of this run:\n%s", self.to_yaml())


def _select(given: DictConfig, name: str) -> Any:
    """The value at a dotted name; None where there is none, or where it cannot be resolved, which is told with its section."""
    try:
        return OmegaConf.select(given, name, throw_on_resolution_failure=False)
    except OmegaConfBaseException:
        return None


def _misshapen(given: DictConfig) -> Iterator[tuple[str, str, Any]]:
    """(name, what was expected, value) of what modules and schemas are chosen by and is of another kind."""
    for section in SECTIONS:
        if not isinstance(block := _select(given, section), DictConfig | None):
            yield section, "a block of keys", block
    names = ["run.runner", "model.arch", "model.model_type"]
    datasets = _select(given, "datasets")
    for name in map(str, datasets if isinstance(datasets, DictConfig) else ()):
        if not re.fullmatch(r"[^\W\d][\w-]*", name):
            yield "datasets", "names of letters, digits, _ and -", name
        elif not isinstance(block := _select(given, f"datasets.{name}"), DictConfig | None):
            yield f"datasets.{name}", "a block of keys", block
        else:
            names.append(f"datasets.{name}.type")
    yield from ((name, "a name", value) for name in names if not isinstance(value := _select(given, name), str | None))
    imports = _select(given, "run.imports")
    if not (imports is None or (isinstance(imports, ListConfig) and all(isinstance(module, str) for module in imports))):
        yield "run.imports", "a list of module names", imports


def load_yaml(path: str | Path) -> DictConfig:
    """Load one YAML file whose top level is a block of keys; nothing in it is executed.

    Raises:
        ConfigError: names the file, and the line of what is wrong: no YAML, a tag of another type than YAML's own, aliases that multiply
            without bounds, or a reference that `interpolation` does not document.
    """
    try:
        with open(Path(path).expanduser(), "rb") as handle:
            content = handle.read(MAX_YAML_BYTES + 1)
    except FileNotFoundError:
        raise ConfigError(f"There is no configuration file {path} (looked for {Path(path).absolute()}).") from None
    except (OSError, ValueError) as error:  # ValueError: a null character in the path
        raise ConfigError(f"{path} cannot be read: {error}") from error
    if len(content) > MAX_YAML_BYTES:
        raise ConfigError(f"{path} is larger than {MAX_YAML_BYTES} bytes, so it is no configuration.")
    try:
        text = content.decode()
        _require_shallow(text)
        loaded = OmegaConf.load(io.StringIO(text), max_yaml_expanded_nodes=MAX_YAML_NODES)
    except _UNREADABLE as error:
        raise ConfigError(f"{path} cannot be read as YAML: {error}") from error
    if not isinstance(loaded, DictConfig):
        raise ConfigError(f"{path} must hold a block of keys (run:, model:, datasets:), not a list.")
    check_interpolation(loaded, str(path))
    return loaded


def builder_name(name: str, dataset: Any) -> str:
    """Which builder a block under `datasets:` wants: the one registered as its `type` (`type: folder`), else as its own name.

    Args:
        name: the block's name.
        dataset: its content, which may lack a type.

    Raises:
        ConfigError: neither is a builder.
    """
    dataset_type, builders = str((dataset or {}).get("type") or "default"), registry.list_datasets()
    if dataset_type in builders:
        return dataset_type
    if name not in builders:
        raise ConfigError(
            f"No builder is registered as {name!r}.{suggest(name, builders)} Any other name is for a prepared folder with type: folder."
        )
    return name


def _dataset_defaults(path: str, name: str) -> DictConfig:
    """A builder's default file, whose one block gets the name that the configuration gives it."""
    (block,) = load_yaml(path).datasets.values()
    return OmegaConf.create({"datasets": {name: block}})


def parse_options(options: Sequence[str]) -> DictConfig:
    """`["run.max_epoch=2", …]` or `["run.max_epoch", "2", …]` as a nested configuration."""
    if not options:
        return OmegaConf.create()
    if "=" in options[0]:
        wrong = [option for option in options if "=" not in option]
        if wrong:
            raise ConfigError(f"--options: expected key=value, got {' '.join(wrong)}.")
        pairs = list(options)
    else:
        if len(options) % 2:
            raise ConfigError(f"--options: {options[-1]} has no value. Write key=value …, or key value ….")
        pairs = [f"{key}={value}" for key, value in zip(options[::2], options[1::2], strict=True)]
    for pair in pairs:
        check_text(pair, "--options")
    try:
        for pair in pairs:
            _require_shallow(pair.partition("=")[2])
        return OmegaConf.from_dotlist(pairs)
    except _UNREADABLE as error:
        raise ConfigError(f"--options: {' '.join(pairs)} cannot be read: {error}") from error


def _require_shallow(text: str) -> None:
    """Refuse YAML with more blocks within blocks than `MAX_YAML_DEPTH`.

    Raises:
        YAMLError: it has more, or is no YAML.
    """
    depth = 0
    for event in yaml.parse(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_YAML_DEPTH:
            raise yaml.YAMLError(f"more than {MAX_YAML_DEPTH} blocks within each other")


def import_user_module(module: str) -> None:
    """Import a module that registers a user's own classes; ConfigError if it cannot be found."""
    if not all(part.isidentifier() for part in module.split(".")):
        raise ConfigError(f"--import {module!r:.200}: expected the name of a module, such as my_package.my_module.")
    try:
        importlib.import_module(module)
    except ImportError as error:
        raise ConfigError(f"--import {module}: {error}. Is its folder on PYTHONPATH?") from error
