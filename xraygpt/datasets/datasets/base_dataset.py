"""A dataset over a prepared folder: annotations in memory, images on disk."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch.utils.data import Dataset


class BaseDataset(Dataset):
    """Holds processors, the image folder and the annotations of one split.

    Args:
        vis_processor: image → float32 tensor [3, S, S].
        text_processor: str → str.
        vis_root: folder of the images.
        annotations: one dictionary a sample; extra keys are kept.
        sample_ratio: weight of this dataset when several are mixed; None: by size.
    """

    def __init__(
        self,
        *,
        vis_processor: Callable[[Any], Any],
        text_processor: Callable[[str], str],
        vis_root: str | Path,
        annotations: Sequence[dict[str, Any]],
        sample_ratio: float | None = None,
    ) -> None:
        self.vis_processor, self.text_processor = vis_processor, text_processor
        self.vis_root = Path(vis_root)
        self.annotation = [{**ann, "instance_id": str(index)} for index, ann in enumerate(annotations)]
        self.sample_ratio = sample_ratio

    def __len__(self) -> int:
        return len(self.annotation)
