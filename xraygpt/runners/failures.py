"""What a run leaves behind when it cannot go on: a dump of updates that are not finite, and the list of samples that cannot be used."""

import logging
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from xraygpt.common.checkpoint import save_checkpoint, trainable_state
from xraygpt.common.dist_utils import is_main_process, main_process
from xraygpt.common.errors import ConfigError, DataError
from xraygpt.common.logger import RunLog
from xraygpt.common.updater import NonFiniteError, Updater
from xraygpt.runners.run_state import library_versions

logger = logging.getLogger(__name__)

MIN_SEEN = 100
"""The share of bad samples is judged as if at least so many had been seen: one of the first three is not a third of the data."""


class TooManyBadSamplesError(DataError):
    """More samples than `run.max_bad_share` allows could not be used."""


@main_process
def write_dump(error: NonFiniteError, *, folder: Path, config: dict[str, Any], model: Any, updater: Updater) -> None:
    """Write `dump_step{N}.pth`, from which `xraygpt replay` computes the failing update again.

    It holds the trainable weights before the update (which was skipped), the configuration, and which samples with which seeds went into
    it: no image and no text. A disk that refuses is an error in the log; the run ends anyway.
    """
    path = folder / f"dump_step{error.step}.pth"
    dump = {
        "what": error.what,
        "step": error.step,
        "micro_batches": [asdict(batch) for batch in error.micro_batches],
        "model": trainable_state(model),
        "llm": model.identity(),
        "config": config,
        "scale": updater.scaler.get_scale(),
        "libraries": library_versions(),
    }
    try:
        save_checkpoint(path, dump)
    except OSError as refused:
        logger.error("The dump %s could not be written: %s", path, refused)
        return
    logger.error("To compute this update again, sample by sample: xraygpt replay %s", path)


class BadSampleList:
    """bad_samples.jsonl in the run's folder: {"sample_id", "file", "reason"} of each sample that could not be used, once; by rank 0.

    Args:
        folder: the run's.
        max_share: `run.max_bad_share`.
    """

    def __init__(self, folder: Path, *, max_share: float) -> None:
        if not 0 <= max_share <= 1:
            raise ConfigError(f"run.max_bad_share is {max_share}; a share lies between 0 and 1.")
        self.max_share = max_share
        self.log = RunLog(folder / "bad_samples.jsonl")
        self._listed = {(record.get("sample_id"), record.get("file")) for record in self.log.read()}

    def note_left_out(self, datasets: Sequence[Any]) -> None:
        """List the training annotations that the builders left out.

        Raises:
            TooManyBadSamplesError: on every rank, if they are more than the allowed share of all.
        """
        bad = [sample for dataset in datasets for sample in getattr(dataset, "bad_annotations", ())]
        self.note(bad, total=len(bad), seen=len(bad) + sum(map(len, datasets)))

    def note(self, bad: Iterable[Any], *, total: int, seen: int) -> None:
        """List the samples that could not be used in an update, or before the first.

        Args:
            bad: them.
            total: how often a sample could not be used so far, on all ranks.
            seen: training samples so far, on all ranks.

        Raises:
            TooManyBadSamplesError: on every rank, if that is more than the allowed share.
        """
        for sample in bad:
            if (sample.sample_id, sample.file) not in self._listed:
                self._listed.add((sample.sample_id, sample.file))
                self.log.write(asdict(sample))
                if is_main_process():
                    logger.warning("Left out: %s", sample)
        if total > self.max_share * max(seen, MIN_SEEN):
            raise TooManyBadSamplesError(
                f"{total} of {seen} training samples could not be used, more than run.max_bad_share={self.max_share:g} allows. "
                f"{self.log.path} lists them with the reasons; 'train.py --check --scan-data' finds all that are bad."
            )
