"""Open-i (Indiana University) summaries: PNG images named as in the official download."""

from xraygpt.datasets.datasets.caption_datasets import CaptionDataset


class OpenIDataset(CaptionDataset):
    """One radiograph and the summary of its study's report."""

    suffixes = (".png", ".jpg", ".jpeg", ".dcm")
