"""Samples that cannot be used: what names them, and a scan that finds them all before a run starts."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch.utils.data import ConcatDataset, DataLoader, Dataset
from tqdm import tqdm

from xraygpt.common.errors import DataError
from xraygpt.datasets.data_utils import Draw

MAX_LISTED = 5
"""Bad samples that a message lists."""

SCANNED_AT_A_TIME = 32
"""Samples that a process of the scan reads between two reports of its progress."""


@dataclass(frozen=True)
class BadSample:
    """A sample that cannot be used. `reason` says what is wrong, and never holds a report or pixels."""

    sample_id: str
    file: str
    reason: str

    def __str__(self) -> str:
        return f"sample {self.sample_id} ({self.file}): {self.reason}"


def attempt(dataset: Any, key: int | Draw) -> Any:
    """The sample of a dataset at an index or draw, or the `BadSample` that it is."""
    try:
        return dataset[key]
    except DataError as error:
        index = key.index if isinstance(key, Draw) else key
        # Only subclasses of BaseDataset know their files.
        sample_id, file = dataset.locate(index) if hasattr(dataset, "locate") else (f"number {index}", type(dataset).__name__)
        return BadSample(sample_id, file, str(error))


class Attempts(Dataset):
    """A dataset whose bad samples are values, which can travel from a loading process as they are."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Any:
        return attempt(self.dataset, index)


def cannot_be_used(bad: Sequence[BadSample], advice: str) -> DataError:
    """The error that names the first `MAX_LISTED` bad samples, and what to do."""
    listed = "\n  ".join(map(str, bad[:MAX_LISTED]))
    return DataError(f"{len(bad)} of the next samples cannot be used:\n  {listed}\n{advice}")


def scan_data(datasets: Sequence[Any], *, num_workers: int) -> list[BadSample]:
    """Read every sample of the datasets, image and text, with a progress bar, and return all that are bad.

    Args:
        datasets: as their builders make them; what those left out (`bad_annotations`) is in the result too.
        num_workers: reading processes; 0: read in this one.
    """
    bad = [sample for dataset in datasets for sample in getattr(dataset, "bad_annotations", ())]
    whole: Dataset = ConcatDataset([Attempts(dataset) for dataset in datasets])
    loader = DataLoader(whole, batch_size=SCANNED_AT_A_TIME, num_workers=num_workers, collate_fn=_bad_among)
    with tqdm(total=len(whole), desc="reading every sample", unit="sample", disable=None) as bar:  # type: ignore[arg-type]
        for size, found in loader:
            bad += found
            bar.update(size)
    return bad


def _bad_among(samples: Sequence[Any]) -> tuple[int, list[BadSample]]:
    """How many samples there are, and the bad ones."""
    return len(samples), [sample for sample in samples if isinstance(sample, BadSample)]
