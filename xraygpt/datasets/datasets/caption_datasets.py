"""Images with one text each: `{"annotations": [{"image_id", "caption", …}]}` beside a folder of images."""

from pathlib import Path
from typing import Any, ClassVar

import torch

from xraygpt.common.errors import DataError
from xraygpt.common.seed import stateless_seed
from xraygpt.datasets.data_utils import Draw
from xraygpt.datasets.datasets.base_dataset import BaseDataset
from xraygpt.processors.image_io import open_image


class CaptionDataset(BaseDataset):
    """Items are documented in `xraygpt.datasets.data_utils`.

    An image is `{image_id}{suffix}` in the image folder, with the first of `suffixes` that exists.
    """

    suffixes: ClassVar[tuple[str, ...]] = (".jpg", ".png", ".jpeg", ".dcm")

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.image_numbers: dict[str, int] = {}
        for ann in self.annotation:
            self.image_numbers.setdefault(ann["image_id"], len(self.image_numbers))

    def __getitem__(self, key: int | Draw) -> dict[str, Any]:
        """The sample at an index (evaluation), or of a `Draw` of the training order, whose seed fixes the crop and the prompt."""
        index, seed = (key.index, key.seed) if isinstance(key, Draw) else (key, stateless_seed(0, key))
        ann = self.annotation[index]
        image = open_image(self.image_path(ann["image_id"]), min_side=getattr(self.vis_processor, "min_image_side", None))
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)  # torch.manual_seed would also reach for every GPU, for each sample
            pixels = self.vis_processor(image)
        return {
            "image": pixels,
            "caption": self.text_processor(ann["caption"]),
            "image_id": self.image_numbers[ann["image_id"]],
            "sample_id": ann["image_id"],
            "prompt_seed": seed,
        }

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
