"""What a value of a configuration may refer to:

    ${run.output_dir}           another value or block, by its full name
    ${oc.env:NAME}              a variable of the environment
    ${oc.env:NAME,default}      the same, with a text for where it is not set

Everything else that OmegaConf could resolve is refused. So are variables that look like secrets, because the resolved configuration
is stored in logs, config.yaml and checkpoints; and references that multiply each other without bounds.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf

from xraygpt.common.errors import ConfigError

SECRET_NAME = re.compile(r"KEY|TOKEN|SECRET|PASSW|PASSPHRASE|_PASS$|_PWD$|_PAT$|CREDENTIAL|AUTH(?!OR)", re.IGNORECASE)
"""Variables whose names match are not read. A name says little about what is behind it, so this errs on the safe side."""

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


def check_text(text: str, where: str) -> None:
    """The same for one text."""
    for variable in (found["variable"] for found in _DOCUMENTED.finditer(text)):
        if variable and SECRET_NAME.search(variable):
            raise ConfigError(
                f"{where}: the variable {variable} looks like a secret, and what a configuration holds is stored in logs and checkpoints. "
                "Give the variable another name if it is none."
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
