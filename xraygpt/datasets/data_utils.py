"""What travels from a dataset to the model.

A batch (default collate of the items of `CaptionDataset`), B samples:

    image        float32 [B, 3, S, S]   processed image; with a feature cache what was read in it, float16 or float32 [B, Q, D_q]
    caption      list of B str          processed target text
    image_id     int64 [B]              dense number of the image within its dataset
    sample_id    list of B str          the annotation's image_id, for messages and result files
    prompt_seed  int64 [B]              decides which of the model's prompts this sample gets

A batch of the training loader has two more:

    draw         int64 [B, 3]           dataset, index and seed of each sample, which are its `Draw`
    bad_samples  list of BadSample      what could not be used and was replaced in this batch, see `xraygpt.datasets.dataloaders`
"""

from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True, slots=True)
class Draw:
    """One sample of the training order: which dataset, which of its samples, and the seed of its crop and prompt."""

    dataset: int
    index: int
    seed: int


def move_to_cuda(sample: Any) -> Any:
    """The same nested containers with every tensor on the current CUDA device, copied without blocking."""
    if torch.is_tensor(sample):
        return sample.cuda(non_blocking=True)
    if isinstance(sample, dict):
        return {key: move_to_cuda(value) for key, value in sample.items()}
    if isinstance(sample, (list, tuple)):
        return type(sample)(move_to_cuda(value) for value in sample)
    return sample


def prepare_sample(samples: dict[str, Any], cuda_enabled: bool = True) -> dict[str, Any]:
    """A batch, on the current CUDA device if `cuda_enabled`."""
    return move_to_cuda(samples) if cuda_enabled else samples
