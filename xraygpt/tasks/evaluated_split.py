"""What an evaluation by written reports knows besides the reports: the samples of the split, the training images, the model's identity."""

import copy
import hashlib
import itertools
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from xraygpt.common.config import Config
from xraygpt.common.dist_utils import all_gather_objects, get_rank, get_world_size
from xraygpt.common.errors import DataError
from xraygpt.common.files import sha256_file
from xraygpt.datasets.data_utils import prepare_sample
from xraygpt.datasets.dataloaders import build_eval_loader, evenly_spaced, in_turns, split_into_batches
from xraygpt.evaluation import Corpus
from xraygpt.tasks.feature_caching import use_features

Row = dict[str, Any]

MAX_LISTED = 10  # ids that a message lists


@dataclass(frozen=True)
class EvaluatedSplit:
    """The samples of a split, in the order of its datasets.

    Attributes:
        name: of the split.
        ids: image_id of each sample, all different.
        references: its report, as it stands in the annotation.
        studies: its study_id, else its image_id.
        datasets: they stand one after another.
    """

    name: str
    ids: tuple[str, ...]
    references: tuple[str, ...]
    studies: tuple[str, ...]
    datasets: tuple[Any, ...]

    @classmethod
    def of(cls, name: str, datasets: Sequence[Any]) -> "EvaluatedSplit":
        """The samples of datasets over prepared folders.

        Raises:
            DataError: an image_id occurs twice, so that a report could not be told from another.
        """
        annotations = [ann for dataset in datasets for ann in dataset.annotation]
        ids = tuple(ann["image_id"] for ann in annotations)
        repeated = [key for key, times in Counter(ids).items() if times > 1]
        if repeated:
            raise DataError(
                f"{len(repeated)} image_id values occur more than once in the split {name}: {', '.join(repeated[:MAX_LISTED])}. "
                "Each image must have a name of its own, across datasets too; evaluate the datasets one at a time, or rename images."
            )
        references = tuple(ann["caption"] for ann in annotations)
        studies = tuple(str(ann.get("study_id") or ann["image_id"]) for ann in annotations)
        return cls(name, ids, references, studies, tuple(datasets))

    def corpus(self, rows: Mapping[str, Row]) -> Corpus:
        """The samples that have a row {"report", "truncated"}, beside their references."""
        places = [place for place, key in enumerate(self.ids) if key in rows]
        return Corpus(
            ids=tuple(self.ids[place] for place in places),
            predictions=tuple(rows[self.ids[place]]["report"] for place in places),
            references=tuple((self.references[place],) for place in places),
            studies=tuple(self.studies[place] for place in places),
            truncated=tuple(rows[self.ids[place]]["truncated"] for place in places),
        )

    def images(self) -> dict[str, Path]:
        """The image file of each sample."""
        return {ann["image_id"]: dataset.image_path(ann["image_id"]) for dataset in self.datasets for ann in dataset.annotation}


@dataclass(frozen=True)
class TrainingImages:
    """Some training images as the model sees them: float32 features [M, D], and the report of each."""

    features: NDArray[np.float32]
    reports: list[str]


def encode_training_images(model: Any, training: Sequence[Any], split: EvaluatedSplit, *, count: int, cfg: Config) -> TrainingImages:
    """Encode `count` evenly spaced training images as the evaluated ones are: with their processor. All ranks share the work.

    Raises:
        DataError: a training image cannot be read.
    """
    views = [copy.copy(dataset) for dataset in training]
    for view in views:
        view.vis_processor = split.datasets[0].vis_processor
    reports = [ann["caption"] for view in views for ann in view.annotation]
    chosen = evenly_spaced(len(reports), count)
    run_cfg = cfg.run_cfg
    if run_cfg.feature_cache.path:
        starts = np.cumsum([0, *map(len, views)])
        only = [[place - start for place in chosen if start <= place < stop] for start, stop in itertools.pairwise(starts)]
        use_features(cfg, [(view, False) for view in views], only=only)
    batches = split_into_batches(chosen, run_cfg.batch_size_eval)
    cuda = model.device.type == "cuda"
    loader = build_eval_loader(views, batches=batches[get_rank() :: get_world_size()], num_workers=run_cfg.num_workers, pin_memory=cuda)
    try:
        own = [model.image_features(prepare_sample(samples, cuda_enabled=cuda)["image"]).cpu().numpy() for samples in loader]
    except DataError as error:
        raise DataError(
            f"{error}\nThis is a training image, for the nearest-training baseline: run.scoring.nearest_images=0 goes without."
        ) from error
    return TrainingImages(np.concatenate(in_turns(all_gather_objects(own))), [reports[place] for place in chosen])


def sha256_of(value: Any) -> str:
    """Hexadecimal SHA-256 of plain values, as JSON."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def model_provenance(cfg: Config, model: Any, run_folder: Path, which: str) -> dict[str, Any]:
    """Which model wrote the reports: configuration, checkpoint files, language model, device.

    Args:
        run_folder: the folder of the run.
        which: "best" or "last" after a training, with the checkpoint in its folder; "evaluate": the files that `model.ckpt` names.
    """
    ckpt = cfg.to_dict()["model"].get("ckpt") or []
    files = [path for path in ([ckpt] if isinstance(ckpt, str) else ckpt) if path]
    if which != "evaluate":
        last_epoch = cfg.run_cfg.max_epoch - 1
        files = [str(run_folder / f"checkpoint_{last_epoch if which == 'last' else which}.pth")]
    identity = model.identity() or {}
    if "embedding" in identity:
        identity["embedding"] = sha256_of(identity["embedding"])
    if "name" in identity:
        identity["name"] = _short(identity["name"])
    return {
        "config": Path(cfg.cfg_path).name,
        "model": cfg.model_cfg.arch,
        "checkpoints": [{"file": _short(path), "sha256": sha256_file(Path(path).expanduser())} for path in files],
        "language_model": identity,
        "device": torch.cuda.get_device_name(model.device) if model.device.type == "cuda" else model.device.type,
        "precision": model.precision,
    }


def _short(path: str) -> str:
    """The last two parts of a path: enough to know it, without the folders of its owner."""
    return "/".join(Path(path).parts[-2:])
