"""The global registry: the names in a YAML file → the classes that do the work.

It imports nothing of this package, so every package can import it. Importing a package (`xraygpt.models`) is what
registers its classes. A name is looked up with `registry.get_model_class("mini_gpt4")`; a miss is an error that lists the
choices and suggests the nearest.
"""

import difflib
from collections.abc import Callable
from typing import Any

from xraygpt.common.errors import RegistryError

KINDS = ("builder", "task", "processor", "model", "lr_scheduler", "runner")


class Registry:
    """Six tables of classes, one of paths, and a small nested store for run state.

    Every `register_*` method is a class decorator that returns the class unchanged:

        @registry.register_model("mini_gpt4")
        class MiniGPT4(BaseModel): ...
    """

    def __init__(self) -> None:
        self.mapping: dict[str, dict[str, Any]] = {f"{kind}_name_mapping": {} for kind in KINDS}
        self.mapping |= {"state": {}, "paths": {}}
        self._bases: dict[str, type] = {}

    # Registering -----------------------------------------------------------------------------------------------

    def declare_base(self, kind: str, base: type) -> None:
        """From now on a class registered as `kind` must derive from `base`. Called where the base class is defined."""
        self._bases[kind] = base

    def _register(self, kind: str, name: str) -> Callable[[type], type]:
        def wrap(cls: type) -> type:
            """Put the class under its name, if it may have it."""
            base = self._bases.get(kind)
            if base is not None and not issubclass(cls, base):
                raise RegistryError(f"The {kind} {name!r} must derive from {base.__name__}; {_where(cls)} does not.")
            table = self.mapping[f"{kind}_name_mapping"]
            if name in table and _where(table[name]) != _where(cls):
                raise RegistryError(
                    f"Two classes want the {kind} name {name!r}: {_where(table[name])} has it, {_where(cls)} asks for it. "
                    "Rename one of them."
                )
            table[name] = cls
            return cls

        return wrap

    def register_builder(self, name: str) -> Callable[[type], type]:
        """Register a dataset builder under the name that `datasets:` in the YAML uses."""
        return self._register("builder", name)

    def register_task(self, name: str) -> Callable[[type], type]:
        """Register a task under the name that `run.task` uses."""
        return self._register("task", name)

    def register_processor(self, name: str) -> Callable[[type], type]:
        """Register an image or text processor under the name that `vis_processor`/`text_processor` use."""
        return self._register("processor", name)

    def register_model(self, name: str) -> Callable[[type], type]:
        """Register a model under the name that `model.arch` uses."""
        return self._register("model", name)

    def register_lr_scheduler(self, name: str) -> Callable[[type], type]:
        """Register a learning-rate schedule under the name that `run.lr_sched` uses."""
        return self._register("lr_scheduler", name)

    def register_runner(self, name: str) -> Callable[[type], type]:
        """Register a runner under the name that `run.runner` uses."""
        return self._register("runner", name)

    def register_path(self, name: str, path: str, *, overwrite: bool = False) -> None:
        """Keep a path under a name. A name that is taken is an error unless `overwrite` (each run sets `output_dir` anew)."""
        if not isinstance(path, str):
            raise RegistryError(f"The path {name!r} must be a string, not {type(path).__name__}.")
        if name in self.mapping["paths"] and not overwrite:
            raise RegistryError(f"The path {name!r} is already {self.mapping['paths'][name]!r}; pass overwrite=True to change it.")
        self.mapping["paths"][name] = path

    def register(self, name: str, value: Any) -> None:
        """Keep run state under a dotted name: `register("a.b", 1)` is read back by `get("a.b")` or as a part of `get("a")`."""
        *parents, last = name.split(".")
        node = self.mapping["state"]
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = value

    def unregister(self, name: str) -> Any:
        """Forget a top-level piece of run state and return it (None if there was none)."""
        return self.mapping["state"].pop(name, None)

    # Looking up ------------------------------------------------------------------------------------------------

    def _get_class(self, kind: str, name: str) -> Any:
        table = self.mapping[f"{kind}_name_mapping"]
        if not isinstance(name, str) or name not in table:
            raise RegistryError(f"No {kind} is registered as {name!r}.{suggest(str(name), table)}")
        return table[name]

    def get_builder_class(self, name: str) -> Any:
        """The dataset builder class registered as `name`."""
        return self._get_class("builder", name)

    def get_task_class(self, name: str) -> Any:
        """The task class registered as `name`."""
        return self._get_class("task", name)

    def get_processor_class(self, name: str) -> Any:
        """The processor class registered as `name`."""
        return self._get_class("processor", name)

    def get_model_class(self, name: str) -> Any:
        """The model class registered as `name`."""
        return self._get_class("model", name)

    def get_lr_scheduler_class(self, name: str) -> Any:
        """The learning-rate schedule class registered as `name`."""
        return self._get_class("lr_scheduler", name)

    def get_runner_class(self, name: str) -> Any:
        """The runner class registered as `name`."""
        return self._get_class("runner", name)

    def get_path(self, name: str) -> str:
        """The path kept under `name`."""
        if name not in self.mapping["paths"]:
            raise RegistryError(f"No path is registered as {name!r}.{suggest(name, self.mapping['paths'])}")
        return self.mapping["paths"][name]

    def get(self, name: str, default: Any = None) -> Any:
        """Run state under a dotted name, or `default`."""
        node = self.mapping["state"]
        for part in name.split("."):
            if not isinstance(node, dict) or part not in node:
                return default
            node = node[part]
        return node

    # Listing ---------------------------------------------------------------------------------------------------

    def _list(self, kind: str) -> list[str]:
        return sorted(self.mapping[f"{kind}_name_mapping"])

    def list_datasets(self) -> list[str]:
        """Names of all dataset builders."""
        return self._list("builder")

    def list_tasks(self) -> list[str]:
        """Names of all tasks."""
        return self._list("task")

    def list_processors(self) -> list[str]:
        """Names of all processors."""
        return self._list("processor")

    def list_models(self) -> list[str]:
        """Names of all models."""
        return self._list("model")

    def list_lr_schedulers(self) -> list[str]:
        """Names of all learning-rate schedules."""
        return self._list("lr_scheduler")

    def list_runners(self) -> list[str]:
        """Names of all runners."""
        return self._list("runner")


def suggest(name: str, choices: Any) -> str:
    """' Did you mean 'x'? Choices: …' for an error message, from the names in `choices`."""
    names = sorted(choices)
    nearest = difflib.get_close_matches(name, names, n=1)
    hint = f" Did you mean {nearest[0]!r}?" if nearest else ""
    return f"{hint} Choices: {', '.join(names) if names else '(none registered)'}."


def _where(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


registry = Registry()
