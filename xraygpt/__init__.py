"""xraygpt: train and use chest-X-ray report models. `import xraygpt` loads no torch.

For research only: nothing that this package produces is a medical device or medical advice.
"""

from pathlib import Path

from xraygpt.common.registry import registry

__version__ = "0.1.0"

registry.register_path("library_root", str(Path(__file__).parent), overwrite=True)
registry.register_path("repo_root", str(Path(__file__).parent.parent), overwrite=True)
registry.register("MAX_INT", 2**31 - 1)
registry.register("SPLIT_NAMES", ["train", "val", "test"])
