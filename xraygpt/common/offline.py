"""Nothing is fetched: libraries that could ask the Hugging Face Hub for a file, or for code that they then run, are told not to.

What is set here holds for the whole process and those that it starts, whatever the user's environment says.
"""

import os
import sys
from typing import Any, NoReturn

from xraygpt.common.errors import ConfigError

SETTINGS = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
"""Of huggingface_hub and transformers, which read them when they are imported."""


def force_offline() -> None:
    """Set `SETTINGS`, and let `import kernels` fail. `require_offline` covers what was imported before.

    The package kernels fetches compiled code from the Hub and runs it, when offline also from its cache. transformers and
    bitsandbytes ask for it, and do without where it is missing. None in `sys.modules` is Python's way to say that a module
    cannot be imported.
    """
    os.environ.update(SETTINGS)
    sys.modules.setdefault("kernels", None)  # type: ignore[arg-type]


def require_offline() -> None:
    """Called before a library reads a model's folder: make sure of it also where a library was imported before this package.

    Raises:
        ConfigError: the package kernels was imported first.
    """
    if sys.modules.get("kernels") is not None:
        raise ConfigError(
            "The package kernels was imported before xraygpt; transformers imports it. It fetches code and runs it, which is not "
            "allowed beside xraygpt. Import xraygpt before transformers."
        )
    hub: Any = sys.modules.get("huggingface_hub")
    if hub is None or hub.is_offline_mode():
        return

    def refuse(request: Any) -> NoReturn:
        raise hub.errors.OfflineModeIsEnabled(f"{request.url} was asked for, but nothing is fetched in a process that uses xraygpt.")

    client = type(hub.get_session())
    hub.set_client_factory(lambda: client(event_hooks={"request": [refuse]}))
