"""xraygpt: train and use chest-X-ray report models. `import xraygpt` loads no torch.

    from xraygpt import load_model
    model = load_model("output/quickstart/stage2/checkpoint_best.pth")     # or a YAML of eval_configs
    print(model.report("x.png"))
    chat = model.chat("x.png")
    print(chat.ask("Is there an effusion?"))

Nothing is fetched: the import sets the offline mode of huggingface_hub and transformers, and lets `import kernels` fail.

For research only: nothing that this package produces is a medical device or medical advice.
"""

import importlib
from pathlib import Path
from typing import Any

from xraygpt.common.offline import force_offline
from xraygpt.common.registry import registry

force_offline()

__version__ = "0.1.0"

registry.register_path("library_root", str(Path(__file__).parent), overwrite=True)
registry.register_path("repo_root", str(Path(__file__).parent.parent), overwrite=True)
registry.register("MAX_INT", 2**31 - 1)
registry.register("SPLIT_NAMES", ["train", "val", "test"])


def __getattr__(name: str) -> Any:
    """`load_model`, which is the first to need torch."""
    if name != "load_model":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    for module in ("xraygpt.datasets.builders", "xraygpt.runners"):  # they register what a configuration names, beside the models
        importlib.import_module(module)
    return importlib.import_module("xraygpt.serving.report_model").load_model
