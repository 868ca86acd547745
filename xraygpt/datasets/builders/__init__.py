"""Dataset builders, by the name that `datasets:` uses; importing this package registers them."""

from xraygpt.common.registry import registry
from xraygpt.datasets.builders.base_dataset_builder import BaseDatasetBuilder, DatasetConfig, ProcessorConfigs
from xraygpt.datasets.builders.image_text_pair_builder import (
    FolderBuilder,
    ImageTextPairBuilder,
    MIMICBuilder,
    OpenIBuilder,
    load_annotations,
)

__all__ = [
    "BaseDatasetBuilder",
    "DatasetConfig",
    "FolderBuilder",
    "ImageTextPairBuilder",
    "MIMICBuilder",
    "OpenIBuilder",
    "ProcessorConfigs",
    "dataset_zoo",
    "load_annotations",
]


def dataset_zoo() -> dict[str, list[str]]:
    """Registered dataset name → the types its default files cover."""
    return {name: list(registry.get_builder_class(name).DATASET_CONFIG_DICT) for name in registry.list_datasets()}
