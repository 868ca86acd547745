"""From a dataset's configuration block to its datasets, one a split."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from omegaconf import MISSING

from xraygpt.common.errors import ConfigError
from xraygpt.common.registry import registry, suggest
from xraygpt.common.schema import path_field
from xraygpt.processors import BaseProcessor, load_processor


@dataclass
class ProcessorConfigs:
    """A processor for training and one for evaluation, each `{name: registered name, …its arguments}`."""

    train: dict[str, Any] = field(default_factory=dict)
    eval: dict[str, Any] = field(default_factory=dict)


@dataclass
class DatasetConfig:
    """One block under `datasets:`, for datasets over a prepared folder."""

    type: str = "default"
    """Which of the builder's default files fills in what is not given."""
    storage: Any = path_field(
        default=MISSING, how_to_get="A prepared folder (image/ and filter_cap.json): see 'xraygpt prepare --help', or docs/data.md."
    )
    """The prepared folder, relative to the working directory."""
    vis_processor: ProcessorConfigs = field(default_factory=ProcessorConfigs)
    """Image processors."""
    text_processor: ProcessorConfigs = field(default_factory=ProcessorConfigs)
    """Text processors."""
    sample_ratio: float | None = None
    """Weight of this dataset when several are mixed in training; none: by size."""


class BaseDatasetBuilder:
    """Builds `{split: dataset}` from a configuration that follows `config_schema`.

    A subclass is registered under the name that `datasets:` uses, and says which dataset class and default files it has.
    """

    config_schema: ClassVar[type] = DatasetConfig
    dataset_cls: ClassVar[Any] = None
    DATASET_CONFIG_DICT: ClassVar[Mapping[str, str]] = {}
    """Type → default YAML, relative to the package or absolute. Without any, the schema's defaults are all there is."""

    def __init__(self, cfg: Any) -> None:
        self.config = cfg
        self.tolerates: Callable[[str], bool] = lambda split: False
        """Whether annotations of a split that cannot be used are left out (and kept as the dataset's `bad_annotations`) or an error."""

    @classmethod
    def default_config_path(cls, type: str = "default") -> str | None:
        """The default YAML of a dataset type; None if the builder has no default files."""
        if not cls.DATASET_CONFIG_DICT:
            return None
        if type not in cls.DATASET_CONFIG_DICT:
            raise ConfigError(f"{cls.__name__} has no type {type!r}.{suggest(type, cls.DATASET_CONFIG_DICT)}")
        return str(Path(registry.get_path("library_root")) / cls.DATASET_CONFIG_DICT[type])

    def build_datasets(self) -> dict[str, Any]:
        """`{split: dataset}`; "train" uses the train processors, every other split the eval ones."""
        raise NotImplementedError

    def build_processors(self, split: str) -> tuple[BaseProcessor, BaseProcessor]:
        """The image and text processor of a split."""
        which = "train" if split == "train" else "eval"
        return self._processor("vis_processor", which), self._processor("text_processor", which)

    def _processor(self, kind: str, which: str) -> BaseProcessor:
        cfg = dict(self.config[kind][which])
        if "name" not in cfg:
            raise ConfigError(f"{kind}.{which} needs a name.{suggest('', registry.list_processors())}")
        return load_processor(cfg.pop("name"), cfg)


registry.declare_base("builder", BaseDatasetBuilder)
