"""Images with one text each: `{"annotations": [{"image_id", "caption", …}]}` beside a folder of images."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from xraygpt.common.errors import DataError
from xraygpt.common.seed import stateless_seed
from xraygpt.datasets.annotation_table import AnnotationTable
from xraygpt.datasets.data_utils import Draw
from xraygpt.datasets.datasets.base_dataset import BaseDataset
from xraygpt.datasets.image_features import ImageFeatures
from xraygpt.processors.image_io import open_image


class CaptionDataset(BaseDataset):
    """Items are documented in `xraygpt.datasets.data_utils`.

    An image is `{image_id}{suffix}` in the image folder, with the first of `suffixes` that exists.
    """

    suffixes: ClassVar[tuple[str, ...]] = (".jpg", ".png", ".jpeg", ".dcm")

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.features: ImageFeatures | None = None
        """What stands in a feature cache in place of images."""
        numbers: dict[str, int] = {}
        self.image_numbers: Sequence[int] | NDArray[np.int32] = (
            self.annotation.numbers
            if isinstance(self.annotation, AnnotationTable)
            else [numbers.setdefault(ann["image_id"], len(numbers)) for ann in self.annotation]
        )
        """Of each sample the dense number of its image."""

    def __getitem__(self, key: int | Draw) -> dict[str, Any]:
        """The sample at an index (evaluation), or of a `Draw` of the training order, whose seed fixes the crop and the prompt."""
        index, seed = (key.index, key.seed) if isinstance(key, Draw) else (key, stateless_seed(0, key))
        ann = self.annotation[index]
        return {
            "image": self.pixels(index, seed) if self.features is None else self.features.read(index, seed),
            "caption": self.text(index),
            "image_id": int(self.image_numbers[index]),
            "sample_id": ann["image_id"],
            "prompt_seed": seed,
        }

    def pixels(self, index: int, seed: int) -> torch.Tensor:
        """The processed image of a sample, float32 [3, S, S]; the seed fixes its crop."""
        path = self.image_path(self.annotation[index]["image_id"])
        image = open_image(path, min_side=getattr(self.vis_processor, "min_image_side", None))
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)  # torch.manual_seed would also reach for every GPU, for each sample
            return self.vis_processor(image)

    def image_files(self) -> list[Path | None]:
        """The image file of each sample; None where there is none."""
        return [self._existing(ann["image_id"]) for ann in self.annotation]

    def text(self, index: int) -> str:
        """The target text of a sample, without its image."""
        return self.text_processor(self.annotation[index]["caption"])

    def text_length(self, index: int) -> int:
        """Characters of the text of a sample, as it stands in the annotation."""
        return len(self.annotation[index]["caption"])

    def locate(self, index: int) -> tuple[str, str]:
        """The id and the image file of a sample; where there is no file, the one that was looked for first."""
        image_id = self.annotation[index]["image_id"]
        return image_id, str(self._existing(image_id) or self.vis_root / f"{image_id}{self.suffixes[0]}")

    def image_path(self, image_id: str) -> Any:
        """Where the image of `image_id` lies.

        Raises:
            DataError: there is none under any suffix.
        """
        path = self._existing(image_id)
        if path is None:
            raise DataError(f"There is no image {image_id!r} in {self.vis_root} (tried {', '.join(self.suffixes)}).")
        return path

    def _existing(self, image_id: str) -> Path | None:
        paths = (self.vis_root / f"{image_id}{suffix}" for suffix in self.suffixes)
        return next((path for path in paths if path.exists()), None)
