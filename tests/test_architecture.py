"""The house rules that can be read off the source: who may import whom, and how large a room may be.

Each rule is a function from modules to a list of violations. It is run over the project, and once over a planted
violation, so that a rule that finds nothing is known to be able to find something.
"""

import ast
import graphlib
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60
MAX_LINES_WITHOUT_DOCSTRING = 8

# What a package may import besides itself: packages, or single modules of a package. `xraygpt` itself (its version and the
# registered paths) is open to all but `common`, on which it stands.
MAY_IMPORT: dict[str, set[str]] = {
    "xraygpt.common": set(),
    "xraygpt": {"xraygpt.common"},
    "xraygpt.processors": {"xraygpt", "xraygpt.common"},
    "xraygpt.conversation": {"xraygpt", "xraygpt.common"},
    "xraygpt.evaluation": {"xraygpt", "xraygpt.common"},
    "xraygpt.models": {"xraygpt", "xraygpt.common", "xraygpt.conversation.prompts"},
    "xraygpt.datasets": {"xraygpt", "xraygpt.common", "xraygpt.processors"},
    "xraygpt.serving": {
        "xraygpt",
        "xraygpt.common",
        "xraygpt.processors",
        "xraygpt.conversation",
        "xraygpt.evaluation",
        "xraygpt.models",
        "xraygpt.datasets.feature_cache",
        "xraygpt.datasets.image_features",
    },
    "xraygpt.tasks": {"xraygpt", "xraygpt.common", "xraygpt.datasets", "xraygpt.evaluation", "xraygpt.models"},
    # What a run costs is worked out from the sizes of models and the lengths of captions; nothing but the command line asks for it.
    "xraygpt.planning": {"xraygpt", "xraygpt.common", "xraygpt.conversation.prompts", "xraygpt.datasets", "xraygpt.models"},
    "xraygpt.runners": {"xraygpt", "xraygpt.common", "xraygpt.datasets.dataloaders", "xraygpt.datasets.data_utils", "xraygpt.tasks"},
    "xraygpt.diagnosis": {
        "xraygpt",
        "xraygpt.common",
        "xraygpt.conversation.prompts",
        "xraygpt.datasets",
        "xraygpt.models",
        "xraygpt.tasks",
        "xraygpt.runners",
    },
}
# The top floor may import everything below it, and nothing of its own floor.
BELOW = set(MAY_IMPORT)
TOP = {"xraygpt.cli", "train", "demo"}

COMMON_MAY_USE = {"numpy", "omegaconf", "safetensors", "torch", "tqdm", "yaml"}  # besides the standard library

Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Module:
    """One source file: its dotted name, its text and its syntax tree."""

    name: str
    text: str

    @property
    def tree(self) -> ast.Module:
        return ast.parse(self.text)

    @property
    def package(self) -> str:
        """`xraygpt.models` for `xraygpt.models.blip2`; `xraygpt` for `xraygpt`; `train` for `train`."""
        return ".".join(self.name.split(".")[:2])


def read_modules(*patterns: str) -> list[Module]:
    """The source files of the checkout that match the glob patterns."""
    paths = sorted({path for pattern in patterns for path in ROOT.glob(pattern)})
    return [Module(_dotted(path), path.read_text(encoding="utf-8")) for path in paths]


def _dotted(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(tree: ast.AST, known: set[str]) -> Iterator[tuple[int, str]]:
    """Line and target of each import. `from a import b` targets the module `a.b` where that is one, else `a`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = "." * node.level + (node.module or "")
            for alias in node.names:
                yield node.lineno, f"{base}.{alias.name}" if f"{base}.{alias.name}" in known else base


def is_ours(target: str) -> bool:
    """True for a module of this project; a relative import is one."""
    return target.split(".")[0] in {"xraygpt", "train", "demo", ""}


def functions(module: Module) -> Iterator[Function]:
    """All functions and methods of a module, nested ones too."""
    return (node for node in ast.walk(module.tree) if isinstance(node, Function))


def public_functions(module: Module) -> Iterator[Function]:
    """Functions of the module and methods of its classes, without those whose name begins with an underscore."""
    bodies = [module.tree.body, *(node.body for node in ast.walk(module.tree) if isinstance(node, ast.ClassDef))]
    return (node for body in bodies for node in body if isinstance(node, Function) and not node.name.startswith("_"))


def length(function: Function) -> int:
    """Lines from `def` to the last statement."""
    return (function.end_lineno or function.lineno) - function.lineno + 1


# The rules ------------------------------------------------------------------------------------------------------


def upward_arrows(modules: list[Module]) -> list[str]:
    """Imports that the table of floors does not allow, and packages that it does not name."""
    known = {module.name for module in modules}
    found = []
    for module in modules:
        if module.package not in BELOW | TOP:
            found.append(f"{module.name}: the package {module.package} has no floor in MAY_IMPORT")
            continue
        allowed = BELOW if module.package in TOP else MAY_IMPORT[module.package] | {module.package}
        for line, target in imports(module.tree, known):
            package = ".".join(target.split(".")[:2])
            if is_ours(target) and package not in allowed and target not in allowed:
                found.append(f"{module.name}:{line} imports {target}")
    return found


def circles(modules: list[Module]) -> list[str]:
    """A circle of modules that import each other, if there is one."""
    known = {module.name for module in modules}
    graph = {module.name: {target for _, target in imports(module.tree, known) if target in known} for module in modules}
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        return [" → ".join(reversed(error.args[1]))]
    return []


def foreign_imports_of_common(modules: list[Module]) -> list[str]:
    """Third-party libraries that the ground floor may not use."""
    allowed = sys.stdlib_module_names | COMMON_MAY_USE
    return [
        f"{module.name}:{line} imports {target}"
        for module in modules
        if module.package == "xraygpt.common"
        for line, target in imports(module.tree, set())
        if not is_ours(target) and target.split(".")[0] not in allowed
    ]


def relative_and_star_imports(modules: list[Module]) -> list[str]:
    """`from .x import y` and `from x import *`."""
    return [
        f"{module.name}:{node.lineno}"
        for module in modules
        for node in ast.walk(module.tree)
        if isinstance(node, ast.ImportFrom) and (node.level > 0 or any(alias.name == "*" for alias in node.names))
    ]


def own_imports_in_functions(modules: list[Module]) -> list[str]:
    """Imports of this project inside a function: they hide a circle."""
    return [
        f"{module.name}:{line} {function.name} imports {target}"
        for module in modules
        for function in functions(module)
        for line, target in imports(function, set())
        if is_ours(target)
    ]


def prints(modules: list[Module]) -> list[str]:
    """Calls of `print` outside the command line."""
    return [
        f"{module.name}:{node.lineno}"
        for module in modules
        if module.package.startswith("xraygpt") and module.package != "xraygpt.cli"
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    ]


def long_files(modules: list[Module]) -> list[str]:
    """Files that are too long to be read in one go."""
    sizes = {module.name: module.text.count("\n") for module in modules}
    return [f"{name}: {lines} lines" for name, lines in sizes.items() if lines > MAX_FILE_LINES]


def long_functions(modules: list[Module]) -> list[str]:
    """Functions that cannot be seen whole."""
    return [
        f"{module.name}:{function.lineno} {function.name}: {length(function)} lines"
        for module in modules
        for function in functions(module)
        if length(function) > MAX_FUNCTION_LINES
    ]


def own_ways_to_write(modules: list[Module]) -> list[str]:
    """Files and folders that are made without the modes of `xraygpt.common.files`, and CSV written without `csv_table`."""
    return [
        f"{module.name}:{node.lineno}"
        for module in modules
        if module.name not in ("xraygpt.common.files", "xraygpt.common.printable")
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Call) and (_writes_csv_or_bypasses_modes(node.func) or _opens_for_writing(node))
    ]


def _writes_csv_or_bypasses_modes(function: ast.expr) -> bool:
    """A method of Path, or a function of os or csv; `write_text` by itself is that of `xraygpt.common.files`."""
    names = {"mkdir", "makedirs", "touch", "write_text", "write_bytes", "writer", "DictWriter", "to_csv"}
    if not isinstance(function, ast.Attribute) or function.attr not in names:
        return False
    return function.attr != "writer" or (isinstance(function.value, ast.Name) and function.value.id == "csv")


def _opens_for_writing(call: ast.Call) -> bool:
    """`open` that may make a file, and is not told how."""
    is_open = isinstance(call.func, ast.Name) and call.func.id == "open"
    modes = [*call.args[1:2], *(keyword.value for keyword in call.keywords if keyword.arg == "mode")]
    makes = any(isinstance(mode, ast.Constant) and set("wax") & set(str(mode.value)) for mode in modes)
    return is_open and makes and not any(keyword.arg == "opener" for keyword in call.keywords)


def undocumented_functions(modules: list[Module]) -> list[str]:
    """Public functions of the package that are longer than a few lines and have no docstring."""
    return [
        f"{module.name}:{function.lineno} {function.name}"
        for module in modules
        if module.package.startswith("xraygpt")
        for function in public_functions(module)
        if length(function) > MAX_LINES_WITHOUT_DOCSTRING and ast.get_docstring(function) is None
    ]


# The rules on the project, and on planted violations --------------------------------------------------------------

PACKAGE_RULES = [
    upward_arrows,
    circles,
    foreign_imports_of_common,
    relative_and_star_imports,
    own_imports_in_functions,
    prints,
    own_ways_to_write,
    undocumented_functions,
]


@pytest.mark.parametrize("rule", PACKAGE_RULES)
def test_package(rule: Callable[[list[Module]], list[str]]) -> None:
    assert rule(read_modules("xraygpt/**/*.py", "train.py", "demo.py")) == []


@pytest.mark.parametrize("rule", [long_files, long_functions])
def test_size(rule: Callable[[list[Module]], list[str]]) -> None:
    assert rule(read_modules("*.py", "xraygpt/**/*.py", "tests/**/*.py", "benchmarks/**/*.py")) == []


LONG_BODY = "    x = 1\n" * MAX_FUNCTION_LINES


@pytest.mark.parametrize(
    ("rule", "sources"),
    [
        (upward_arrows, {"xraygpt.common.a": "import xraygpt.models.b"}),
        (upward_arrows, {"xraygpt.models.a": "from xraygpt.conversation.chat import Chat"}),
        (upward_arrows, {"xraygpt.models.a": "from xraygpt import datasets", "xraygpt.datasets": ""}),
        (upward_arrows, {"xraygpt.runners.a": "from xraygpt.datasets.builders import load_dataset"}),
        (upward_arrows, {"xraygpt.common.a": "from xraygpt import __version__"}),
        (upward_arrows, {"xraygpt.cli.a": "from xraygpt.cli.b import run"}),
        (upward_arrows, {"demo": "import train"}),
        (upward_arrows, {"xraygpt.attic.a": ""}),
        (circles, {"xraygpt.models.a": "from xraygpt.models import b", "xraygpt.models.b": "import xraygpt.models.a"}),
        (foreign_imports_of_common, {"xraygpt.common.a": "from PIL import Image"}),
        (relative_and_star_imports, {"xraygpt.models.a": "from math import *"}),
        (relative_and_star_imports, {"xraygpt.models.a": "from . import b"}),
        (own_imports_in_functions, {"xraygpt.models.a": "def f():\n    from xraygpt.common import files"}),
        (prints, {"xraygpt.models.a": "print(1)"}),
        (own_ways_to_write, {"xraygpt.models.a": "Path('a').mkdir()"}),
        (own_ways_to_write, {"xraygpt.models.a": "(folder / 'a').write_text('x')"}),
        (own_ways_to_write, {"xraygpt.models.a": "open('a', 'ab')"}),
        (own_ways_to_write, {"xraygpt.models.a": "open('a', mode='x', encoding='utf-8')"}),
        (own_ways_to_write, {"xraygpt.models.a": "csv.writer(handle)"}),
        (long_files, {"xraygpt.models.a": "\n" * (MAX_FILE_LINES + 1)}),
        (long_functions, {"tests.a": f"def f():\n{LONG_BODY}"}),
        (undocumented_functions, {"xraygpt.models.a": f"def f():\n{LONG_BODY}"}),
    ],
)
def test_rule_finds_a_planted_violation(rule: Callable[[list[Module]], list[str]], sources: dict[str, str]) -> None:
    assert len(rule([Module(name, text) for name, text in sources.items()])) == 1


def test_allowed_imports_are_allowed() -> None:
    sources = {
        "xraygpt.models.a": "from xraygpt.conversation.prompts import Prompt\nfrom xraygpt.models import b",
        "xraygpt.models.b": "from xraygpt import __version__",
        "xraygpt.cli.a": "from xraygpt.tasks import setup_task",
        "train": "import xraygpt.runners",
    }
    assert upward_arrows([Module(name, text) for name, text in sources.items()]) == []


def test_importing_the_package_loads_no_torch() -> None:
    code = "import sys, xraygpt; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
