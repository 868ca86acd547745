"""A dataset over a prepared folder: annotations in memory, images on disk."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch.utils.data import Dataset

from xraygpt.datasets.annotation_table import AnnotationTable
from xraygpt.datasets.bad_samples import BadSample


class BaseDataset(Dataset):
    """Holds processors, the image folder and the annotations of one split.

    Args:
        vis_processor: image → float32 tensor [3, S, S].
        text_processor: str → str.
        vis_root: folder of the images.
        annotations: one dictionary a sample, or a table that makes them; extra keys are kept.
        sample_ratio: weight of this dataset when several are mixed; None: by size.

    Attributes:
        annotation: `annotations`, each with an "instance_id", its number.
        bad_annotations: what the builder left out of `annotations`, because it cannot be used.
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
        self.annotation: Sequence[dict[str, Any]] = annotations
        if not isinstance(annotations, AnnotationTable):
            self.annotation = [{**ann, "instance_id": str(index)} for index, ann in enumerate(annotations)]
        self.sample_ratio = sample_ratio
        self.bad_annotations: list[BadSample] = []

    def __len__(self) -> int:
        return len(self.annotation)

    def locate(self, index: int) -> tuple[str, str]:
        """The id and the file of a sample, for messages; neither needs to be readable."""
        ann = self.annotation[index]
        sample_id = str(ann.get("image_id", ann["instance_id"]))
        return sample_id, str(self.vis_root / sample_id)
