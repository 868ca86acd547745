"""Nothing is fetched: libraries that could ask the Hugging Face Hub for a file, or for code that they then run, are told not to.

The setting holds for the whole process and those that it starts, whatever the user's environment says.
"""

import os
import sys
from importlib.util import find_spec
from typing import Any, NoReturn

from xraygpt.common.errors import ConfigError

SETTINGS = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "USE_HUB_KERNELS": "0"}
"""Documented settings of huggingface_hub and transformers. The last one: models do not ask the package `kernels` for compiled code."""

_READS_KERNEL_SETTING = "transformers.integrations.hub_kernels"
_kernels_may_load = False


def force_offline() -> None:
    """Set `SETTINGS`, which the libraries read when they are imported. `require_offline` covers those that were imported before."""
    global _kernels_may_load
    if _READS_KERNEL_SETTING in sys.modules:
        _kernels_may_load |= os.environ.get("USE_HUB_KERNELS", "YES").upper() in ("1", "ON", "YES", "TRUE")
    os.environ.update(SETTINGS)


def require_offline() -> None:
    """Called before a library reads a model's folder: make sure of it also where the library was imported before this package.

    Raises:
        ConfigError: transformers was imported first, and may load kernels.
    """
    if _kernels_may_load and find_spec("kernels") is not None:
        raise ConfigError(
            "transformers was imported before xraygpt, and may fetch code through the package kernels, which is installed. "
            "Import xraygpt first, or set USE_HUB_KERNELS=0 before Python starts."
        )
    hub: Any = sys.modules.get("huggingface_hub")
    if hub is None or hub.is_offline_mode():
        return

    def refuse(request: Any) -> NoReturn:
        raise hub.errors.OfflineModeIsEnabled(f"{request.url} was asked for, but nothing is fetched in a process that uses xraygpt.")

    client = type(hub.get_session())
    hub.set_client_factory(lambda: client(event_hooks={"request": [refuse]}))
