"""Memory that does not suffice: what was in it, and what to lower."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from xraygpt.common.errors import TrainingError
from xraygpt.common.memory import MIB, peak_bytes

_CPU_MESSAGES = ("not enough memory", "can't allocate memory", "Cannot allocate memory")

IN_TRAINING = (
    "Lower in this order: 1. run.batch_size_train, and raise run.accum_grad_iters by the same factor: the result stays the same. "
    "2. model.max_txt_len: the longest texts are cut. 3. The images' size (model.image_size and image_size of the processors). "
    "4. What is trained: model.freeze_llm, freeze_vit and freeze_qformer=true. "
    "5. At a price: model.grad_checkpoint.llm=true, model.frozen_dtype.llm=bf16, int8 or nf4. On CUDA, run.amp=true saves too."
)
IN_EVALUATION = (
    "Lower in this order: 1. run.batch_size_eval. 2. run.generation.num_beams. 3. run.generation.max_new_tokens. "
    "4. The images' size (model.image_size and image_size of the processors). "
    "5. How frozen parts are stored: model.frozen_dtype.llm=bf16, int8 or nf4."
)


@contextmanager
def sizes_named(model: nn.Module, samples: dict[str, Any], advice: str) -> Iterator[None]:
    """Turn running out of memory into an error that says what was in memory and what to lower.

    Args:
        model: what computes in the block.
        samples: the batch that it computes.
        advice: `IN_TRAINING` or `IN_EVALUATION`.

    Raises:
        TrainingError: the device or the machine has no memory left.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise TrainingError(f"Out of memory, with {_sizes(model, samples)}. {advice}") from error


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that a device, or the machine itself, has no memory left."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or any(message in str(error) for message in _CPU_MESSAGES)


def _sizes(model: nn.Module, samples: dict[str, Any]) -> str:
    images, texts = samples.get("image"), samples.get("caption") or [""]
    of_batch = "a batch without images" if images is None else f"{len(images)} images of {' x '.join(map(str, images.shape[1:]))}"
    trainable = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    total = sum(parameter.numel() for parameter in model.parameters())
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    return (
        f"{of_batch}, the longest text of {max(map(len, texts)):,} characters, {trainable:,} trainable of {total:,} parameters, "
        f"and a peak of {peak_bytes(device) / MIB:,.0f} MiB so far"
    )
