"""What a value of a configuration may refer to:

    ${run.output_dir}           another value or block, by its full name
    ${oc.env:NAME}              a variable of the environment that `may_be_read` allows
    ${oc.env:NAME,default}      the same, with a text for where it is not set

Everything else that OmegaConf could resolve is refused. Of the environment, only names are read that never hold a secret, because the
resolved configuration is stored in logs, config.yaml and checkpoints. References that multiply each other without bounds are refused too.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf

from xraygpt.common.errors import ConfigError

READABLE_VARIABLES = frozenset(
    [
        *("HOME", "USER", "LOGNAME", "PWD", "HOSTNAME", "TMPDIR", "TEMP", "TMP"),
        *("DATA", "DATA_DIR", "DATASETS", "PROJECT", "SCRATCH", "STORE", "WORK"),
        *("CUDA_VISIBLE_DEVICES", "LOCAL_RANK", "OMP_NUM_THREADS", "RANK", "WORLD_SIZE"),
        *("SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID", "SLURM_JOB_ID", "SLURM_JOB_NAME", "SLURM_SUBMIT_DIR", "SLURM_TMPDIR"),
        *("SLURM_CPUS_PER_TASK", "SLURM_LOCALID", "SLURM_NNODES", "SLURM_NODEID", "SLURM_NTASKS", "SLURM_PROCID"),
    ]
)
"""Variables that a configuration may read: folders, names and numbers that machines and clusters set. Letter case counts."""

_OWN_VARIABLE = re.compile(r"XRAYGPT_[A-Z0-9_]+")
"""Names for what users set themselves. Nobody else's secret has such a name."""
_SECRET = re.compile("AUTH|COOKIE|CREDENTIAL|DSN|KEY|PASS|PAT$|PRIVATE|PW|SECRET|TOKEN")
"""Own names that announce a secret, such as those which this program's own logins and tokens may have."""

MAX_RESOLVED = 1_000_000
"""Characters that all references of a configuration may come to, counted before they are resolved. The largest file of this project has
3,000 in all; a chain of 40 values that each name the one before twice would come to 10^12."""

_STEP = r"[^\W\d][\w-]*"  # of blocks, not of lists
_DOCUMENTED = re.compile(rf"\$\{{\s*(?:oc\.env:\s*(?P<variable>\w+)\s*(?:,[^{{}}$]*)?|(?P<key>{_STEP}(?:\.{_STEP})*))\s*\}}")
_PLAIN = (str, int, float, bool, type(None))


def check_interpolation(config: DictConfig, where: str) -> None:
    """Refuse a configuration that refers to more than is documented, before anything in it is resolved.

    Args:
        config: as it was read.
        where: its file, for the message.

    Raises:
        ConfigError: names the first value that is refused.
    """
    content: Any = OmegaConf.to_container(config, resolve=False)
    for name, value in _values(content):
        if not isinstance(value, _PLAIN):
            raise ConfigError(f"{where}: {name} is a {type(value).__name__}; expected text, a number, true, false or null.")
        if isinstance(value, str):
            check_text(value, f"{where}: {name}")
    if _cost(content, content, {}) > MAX_RESOLVED:
        raise ConfigError(f"{where}: the references ${{…}} come to more than {MAX_RESOLVED:,} characters, or name each other in a circle.")


def may_be_read(variable: str) -> bool:
    """Whether a configuration may refer to a variable of the environment."""
    own = _OWN_VARIABLE.fullmatch(variable) and not _SECRET.search(variable.removeprefix("XRAYGPT_"))
    return bool(own) or variable in READABLE_VARIABLES


def check_text(text: str, where: str) -> None:
    """The same for one text."""
    for variable in (found["variable"] for found in _DOCUMENTED.finditer(text)):
        if variable and not may_be_read(variable):
            raise ConfigError(
                f"{where}: the environment variable {variable} is not read: it may hold a secret, and what a configuration holds is "
                f"stored in logs and checkpoints. Expected one of {', '.join(sorted(READABLE_VARIABLES))}, or a name of your own that "
                "begins with XRAYGPT_ (capital letters, digits and _; none with KEY, TOKEN, PASS or the like in it): "
                "export XRAYGPT_NAME=… and write ${oc.env:XRAYGPT_NAME}."
            )
    if "${" in _DOCUMENTED.sub("", text):
        raise ConfigError(
            f"{where}: expected ${{section.key}}, ${{oc.env:NAME}} or ${{oc.env:NAME,default}}; no other expression is resolved, "
            f"nor one inside another. Got {text!r:.200}."
        )


def _values(content: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted name, value) of everything that is no container."""
    if isinstance(content, dict | list):
        for key, value in content.items() if isinstance(content, dict) else enumerate(content):
            yield from _values(value, f"{name}.{key}" if name else str(key))
    else:
        yield name, content


def _cost(content: Any, root: Mapping[Any, Any], known: dict[str, int]) -> int:
    """An upper bound of the characters that a value has once it is resolved."""
    total = 0
    for name, value in _values(content):
        total += len(name) + len(str(value)) + 1
        for found in _DOCUMENTED.finditer(value) if isinstance(value, str) else ():
            if key := found["key"]:
                if key not in known:
                    known[key] = MAX_RESOLVED + 1  # until it is known: what refers to itself has no end
                    known[key] = min(_cost(_look_up(root, key), root, known), MAX_RESOLVED + 1)
                total += known[key]
    return total


def _look_up(content: Any, key: str) -> Any:
    """The value at a dotted name, or the reference that stands on the way to it; None if there is nothing."""
    for step in key.split("."):
        if isinstance(content, str):
            return content
        content = content.get(step) if isinstance(content, dict) else None
    return content
