"""A run's features of frozen vision parts: found in the cache, or computed first, all ranks sharing; then no image need be looked at."""

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from xraygpt.common.config import Config, builder_name
from xraygpt.common.dist_utils import (
    all_gather_objects,
    decided_by_main,
    get_rank,
    get_world_size,
    is_main_process,
    resolve_device,
)
from xraygpt.common.errors import ConfigError, DataError
from xraygpt.common.registry import registry
from xraygpt.common.signals import StoppedEarly, UntilStopped, in_loading_process, stop_requested
from xraygpt.datasets.bad_samples import BadSample, cannot_be_used
from xraygpt.datasets.dataloaders import SKIP, in_turns
from xraygpt.datasets.feature_cache import FeatureCache
from xraygpt.datasets.image_features import FileChecksums, ImageFeatures, crop_seed
from xraygpt.models import MiniGPT4
from xraygpt.models.vision import VisionParts, describe_vision

logger = logging.getLogger(__name__)

IMAGES_AT_A_TIME = 16
DTYPES = {"fp16": "float16", "fp32": "float32"}


def open_cache(cfg: Config) -> tuple[FeatureCache, FileChecksums]:
    """The cache of the configuration's vision parts, and the checksums of files that it remembers.

    Raises:
        ConfigError: the model has none that could be kept.
    """
    settings = cfg.run_cfg.feature_cache
    if settings.views < 1 or settings.dtype not in DTYPES:
        raise ConfigError(
            f"run.feature_cache: views must be 1 or more, dtype fp16 or fp32; got views={settings.views}, dtype={settings.dtype!r}."
        )
    model_class = registry.get_model_class(cfg.model_cfg.arch)
    if not issubclass(model_class, MiniGPT4):
        raise ConfigError(f"run.feature_cache is for the vision parts of mini_gpt4; model.arch is {cfg.model_cfg.arch}.")
    path, device = Path(settings.path).expanduser(), resolve_device(cfg.run_cfg.device)

    def open_or_make() -> FeatureCache:
        checksums = FileChecksums(path / "files.json")
        model = OmegaConf.to_object(cfg.model_cfg)
        vision = describe_vision(model, device, lambda file: checksums.of([file])[0] or "")
        shape = [model.num_query_token, model.qformer.hidden_size]  # type: ignore[union-attr]
        cache = FeatureCache.open(path, {"vision": vision, "shape": shape, "dtype": DTYPES[settings.dtype]})
        checksums.save()
        return cache

    return decided_by_main(open_or_make), FileChecksums(path / "files.json")


@dataclass(frozen=True)
class _Job:
    """A row that is to be computed: of which sample of which dataset."""

    name: bytes
    dataset: Any
    index: int


class _Pixels(Dataset):
    """(name, processed image) of each job, or the bad sample that it is."""

    def __init__(self, jobs: Sequence[_Job]) -> None:
        self.jobs = jobs

    def __len__(self) -> int:
        return len(self.jobs)

    def __getitem__(self, place: int) -> tuple[bytes, torch.Tensor] | BadSample:
        job = self.jobs[place]
        try:
            return job.name, job.dataset.pixels(job.index, crop_seed(job.name))
        except DataError as error:
            sample_id, file = job.dataset.locate(job.index)
            return BadSample(sample_id, file, str(error))


def use_features(cfg: Config, used: Sequence[tuple[Any, bool]], *, only: Sequence[Sequence[int]] | None = None) -> str:
    """Let datasets give features in place of images; those that the cache has not are computed first, and kept.

    Args:
        used: (dataset, whether it is trained on); its `features` are set.
        only: of each dataset the samples that will be asked for; None: all.

    Returns:
        The key of the vision parts.

    Raises:
        DataError: an image cannot be used, and is not one that training may skip (`run.on_bad_sample`).
        StoppedEarly: the run was told to stop. What was computed is kept.
    """
    for dataset, _ in used:
        if not hasattr(dataset, "image_files"):
            raise ConfigError(f"run.feature_cache needs datasets of image files, as CaptionDataset is; {type(dataset).__name__} is none.")
    cache, checksums = open_cache(cfg)
    everything: list[Sequence[int] | None] = [None] * len(used)
    for (dataset, trained_on), chosen in zip(used, everything if only is None else only, strict=True):
        dataset.features = ImageFeatures(
            cache,
            _checksums_of(dataset, checksums, chosen),
            dataset.vis_processor,
            views=cfg.run_cfg.feature_cache.views if trained_on else 1,
            only=chosen,
        )
    if is_main_process():
        checksums.save()
    fill(cfg, cache, [dataset for dataset, _ in used])
    bad = [sample for dataset, trained_on in used for sample in _without_row(dataset) if not (trained_on and _skips(cfg))]
    if bad:
        raise cannot_be_used(bad, "Mend or remove them, or (for training) run.on_bad_sample=skip.")
    return cache.key


def _skips(cfg: Config) -> bool:
    return cfg.run_cfg.on_bad_sample == SKIP


def _checksums_of(dataset: Any, checksums: FileChecksums, chosen: Sequence[int] | None) -> list[str | None]:
    """Of the image of each sample, or of each chosen one; the ranks share the reading."""
    files = dataset.image_files()
    if chosen is not None:
        wanted = set(chosen)
        files = [file if index in wanted else None for index, file in enumerate(files)]
    own = checksums.of(files[get_rank() :: get_world_size()])
    found = in_turns(all_gather_objects(own))
    learned = all_gather_objects(checksums.known) if get_world_size() > 1 else []
    for of_rank in learned:
        checksums.known |= of_rank
    return found


def _without_row(dataset: Any) -> Iterator[BadSample]:
    for index in (dataset.features.rows < 0).any(axis=1).nonzero()[0].tolist():
        if dataset.features.is_wanted[index]:
            sample_id, file = dataset.locate(index)
            yield BadSample(sample_id, file, "its image cannot be read")


def fill(cfg: Config, cache: FeatureCache, datasets: Sequence[Any]) -> None:
    """Compute the rows that the datasets' `features` lack, all ranks sharing."""
    jobs = list(_missing(datasets))
    if not jobs:
        logger.info("Feature cache %s: all of its rows are there; the vision parts are not loaded.", cache.folder)
        return
    decided_by_main(lambda: cache.require_room(len(jobs)))
    logger.info("Feature cache %s: %d rows are computed.", cache.folder, len(jobs))
    bad: list[BadSample] = []
    # The other ranks must hear of a stop first; and the run's random numbers are those of one whose cache was complete.
    with suppress(StoppedEarly), torch.random.fork_rng(devices=[]):
        bad = _compute(cfg, cache, jobs[get_rank() :: get_world_size()])
    if any(all_gather_objects(stop_requested())):
        raise StoppedEarly
    for sample in bad:
        logger.warning("Left out: %s", sample)
    cache.refresh()
    for dataset in datasets:
        dataset.features.look()


def _missing(datasets: Sequence[Any]) -> Iterator[_Job]:
    """A job for each row that is not there; several samples may have the same one."""
    seen: set[bytes] = set()
    for dataset in datasets:
        names = dataset.features.names
        for index, view in zip(*(dataset.features.rows < 0).nonzero(), strict=True):
            name = names[index, view].ljust(32, b"\0") if names[index, view] else b""
            if name and name not in seen:
                seen.add(name)
                yield _Job(name, dataset, int(index))


def _compute(cfg: Config, cache: FeatureCache, jobs: Sequence[_Job]) -> list[BadSample]:
    """Compute rows with the vision parts alone, and return the samples that cannot be used."""
    device = resolve_device(cfg.run_cfg.device)
    vision = VisionParts.from_config(OmegaConf.to_object(cfg.model_cfg)).place(device).eval()
    loader: DataLoader = DataLoader(
        _Pixels(jobs),
        batch_size=IMAGES_AT_A_TIME,
        num_workers=cfg.run_cfg.num_workers,
        collate_fn=list,
        pin_memory=device.type == "cuda",
        worker_init_fn=in_loading_process,
    )
    bad = []
    bar: Any = tqdm(total=len(jobs), desc="reading images", unit="view", disable=None if is_main_process() else True)
    with cache.writer() as writer, bar:
        for batch in UntilStopped(loader):
            good = [each for each in batch if not isinstance(each, BadSample)]
            bad += [each for each in batch if isinstance(each, BadSample)]
            if good:
                names, images = zip(*good, strict=True)
                writer.add(names, read_queries(vision, torch.stack(images)))
            bar.update(len(batch))
    return bad


@torch.no_grad()
def read_queries(vision: Any, images: torch.Tensor) -> Any:
    """float32 [B, 3, S, S] → numpy float32 [B, Q, D_q], what the query tokens read."""
    with vision.maybe_autocast():
        return vision.encode_queries(images.to(vision.device, non_blocking=True)).float().cpu().numpy()


def evaluation_processor(cfg: Config, dataset_name: str) -> Any:
    """The image processor with which a dataset is evaluated."""
    block = cfg.datasets_cfg[dataset_name]
    return registry.get_builder_class(builder_name(dataset_name, block))(block).build_processors("val")[0]


def used_datasets(cfg: Config, datasets: Mapping[str, Mapping[str, Any]]) -> Iterable[tuple[str, Any, bool]]:
    """(name, dataset, whether it is trained on) of each dataset that the run reads images of."""
    run = cfg.run_cfg
    trained = () if run.evaluate else run.train_splits
    evaluated = {*(() if run.evaluate else run.valid_splits), *run.test_splits}
    for name, splits in datasets.items():
        for split, dataset in splits.items():
            if split in trained or split in evaluated:
                yield name, dataset, split in trained
