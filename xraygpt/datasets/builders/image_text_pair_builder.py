"""Builders of datasets of images with one text each, over one prepared folder."""

import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from xraygpt.common.errors import DataError
from xraygpt.common.files import ANNOTATIONS_NAME
from xraygpt.common.printable import well_formed
from xraygpt.common.registry import registry
from xraygpt.datasets.annotation_table import AnnotationIndex, index_of, read_tables
from xraygpt.datasets.bad_samples import BadSample
from xraygpt.datasets.builders.base_dataset_builder import BaseDatasetBuilder
from xraygpt.datasets.datasets import CaptionDataset, MIMICDataset, OpenIDataset
from xraygpt.datasets.preparation.splits import leakage, require_no_leakage


class ImageTextPairBuilder(BaseDatasetBuilder):
    """Reads `storage/filter_cap.json`, whose images lie in `storage/image/`.

    An annotation's "split" says where it belongs; without one (the original's layout) it is for training.
    """

    dataset_cls: ClassVar[type[CaptionDataset]] = CaptionDataset

    def build_datasets(self) -> dict[str, Any]:
        """`{split: dataset}` for the splits that the folder has.

        Raises:
            DataError: the folder is not a prepared one, or a subject or study stands in two of its splits.
        """
        storage = Path(self.config.storage).expanduser()
        bad: dict[str, list[BadSample]] = {}
        by_split = self._annotations_by_split(storage, bad)
        datasets = {}
        for split, of_split in by_split.items():
            vis_processor, text_processor = self.build_processors(split)
            datasets[split] = self.dataset_cls(
                vis_processor=vis_processor,
                text_processor=text_processor,
                vis_root=storage / "image",
                annotations=of_split,
                sample_ratio=self.config.sample_ratio if split == "train" else None,
            )
            datasets[split].bad_annotations = bad.get(split, [])
        return datasets

    def _annotations_by_split(self, storage: Path, bad: dict[str, list[BadSample]]) -> dict[str, Sequence[dict[str, Any]]]:
        path = storage / ANNOTATIONS_NAME
        index = index_of(path, lambda: _index(path, str(storage))) if path.is_file() else None
        if index is not None and index.spans.size:
            tables = read_tables(path, index, bad=bad, tolerates=self.tolerates)
            return {**{split: [] for split in bad}, **tables}
        annotations = load_annotations(path, tolerates=self.tolerates, bad=bad)  # says what is wrong
        require_no_leakage(annotations, str(storage))
        by_split: dict[str, list[dict[str, Any]]] = {split: [] for split in bad}
        for ann in annotations:
            by_split.setdefault(ann.get("split", "train"), []).append(ann)
        return dict(by_split)


def _index(path: Path, where: str) -> AnnotationIndex | None:
    try:
        return AnnotationIndex.of(path, partial(_problem_of, required=("image_id", "caption")), partial(leakage, where=where))
    except (OSError, ValueError):  # an empty file cannot be mapped
        return None


@registry.register_builder("mimic")
class MIMICBuilder(ImageTextPairBuilder):
    """MIMIC-CXR."""

    dataset_cls = MIMICDataset
    DATASET_CONFIG_DICT: ClassVar = {
        "default": "configs/datasets/mimic/defaults.yaml",
        "phantom": "configs/datasets/mimic/phantom.yaml",
    }


@registry.register_builder("openi")
class OpenIBuilder(ImageTextPairBuilder):
    """Open-i, the Indiana University chest radiographs."""

    dataset_cls = OpenIDataset
    DATASET_CONFIG_DICT: ClassVar = {
        "default": "configs/datasets/openi/defaults.yaml",
        "phantom": "configs/datasets/openi/phantom.yaml",
    }


@registry.register_builder("folder")
class FolderBuilder(ImageTextPairBuilder):
    """Any prepared folder, under any name: `my_data: {type: folder, storage: data/my_data}`."""

    DATASET_CONFIG_DICT: ClassVar = {"folder": "configs/datasets/folder/defaults.yaml"}


def load_annotations(
    path: Path,
    *,
    captions_required: bool = True,
    tolerates: Callable[[str], bool] = lambda split: False,
    bad: dict[str, list[BadSample]] | None = None,
) -> list[dict[str, Any]]:
    """The annotations of a prepared folder, checked.

    Args:
        path: its `filter_cap.json`.
        captions_required: off for images without texts, which a model may describe but not learn from; captions are then not checked.
        tolerates: whether annotations of a split that cannot be used are left out, rather than an error.
        bad: gets those that were left out, by split; one that names none is for training, as everywhere.

    Raises:
        DataError: the file is missing or not JSON, or an annotation lacks a text "image_id" or "caption", or names a path outside.
    """
    required = ("image_id", "caption") if captions_required else ("image_id",)
    try:
        annotations = json.loads(path.read_text(encoding="utf-8"))["annotations"]
    except FileNotFoundError:
        raise DataError(f"There is no {path.name} in {path.parent.absolute()}: it is not a prepared folder. See docs/data.md.") from None
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError(f'{path} must be JSON of the form {{"annotations": [...]}}: {error!r}') from error
    if not isinstance(annotations, list):
        raise DataError(f'{path}: "annotations" must be a list, not {type(annotations).__name__}.')
    if captions_required and annotations and not any(isinstance(ann, dict) and "caption" in ann for ann in annotations):
        raise DataError(f"{path}: images without texts. Such a folder is for xraygpt generate; training and scoring need texts.")
    good, refused = [], []
    for i, ann in enumerate(annotations):
        problem = _problem_of(ann, required)
        split = str(ann.get("split", "train")) if isinstance(ann, dict) else "train"
        if not problem:
            good.append(ann)
        elif bad is not None and tolerates(split):
            bad.setdefault(split, []).append(BadSample(f"annotation {i}", str(path), problem))
        else:
            refused.append(f"annotation {i}: {problem}")
    if refused:
        raise DataError(f"{path}: {len(refused)} of {len(annotations)} annotations cannot be used:\n  " + "\n  ".join(refused[:10]))
    return good


def _problem_of(ann: Any, required: tuple[str, ...]) -> str:
    if not isinstance(ann, dict):
        return f"expected an object, got {_in_words(ann)}"
    for key in required:
        value = ann.get(key)
        if not isinstance(value, str) or not value or value.isspace():
            return f'"{key}" must be a non-empty text, got {_in_words(value)}'
        if not value.isascii() and well_formed(value) != value:
            return f'"{key}" holds half of a surrogate pair, which no text has'
    if not isinstance(ann.get("split", "train"), str):
        return f'"split" must be a text, got {_in_words(ann["split"])}'
    return '"image_id" leaves the image folder' if _leaves(ann["image_id"]) else ""


def _leaves(image_id: str) -> bool:
    """Whether a path names something outside the folder that it is relative to."""
    if ".." not in image_id and image_id[0] not in "/\\" and ":" not in image_id:
        return False  # nothing else can; making a Path for each would take half the time of a first start over a million
    path = Path(image_id)
    return path.is_absolute() or ".." in path.parts


def _in_words(value: Any) -> str:
    """What a value is, without what it says: it may be a report, and messages go to the log."""
    return "an empty one" if isinstance(value, str) and not value.strip() else "nothing" if value is None else f"a {type(value).__name__}"
