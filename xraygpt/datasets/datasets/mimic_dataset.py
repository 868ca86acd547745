"""MIMIC-CXR summaries: JPEG images named by their DICOM id."""

from xraygpt.datasets.datasets.caption_datasets import CaptionDataset


class MIMICDataset(CaptionDataset):
    """One frontal radiograph and the summary of its report."""

    suffixes = (".jpg", ".png", ".jpeg", ".dcm")
