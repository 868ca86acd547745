"""Datasets: index or draw → one item of the batch that `xraygpt.datasets.data_utils` documents."""

from xraygpt.datasets.datasets.base_dataset import BaseDataset
from xraygpt.datasets.datasets.caption_datasets import CaptionDataset
from xraygpt.datasets.datasets.mimic_dataset import MIMICDataset
from xraygpt.datasets.datasets.openi_dataset import OpenIDataset

__all__ = ["BaseDataset", "CaptionDataset", "MIMICDataset", "OpenIDataset"]
