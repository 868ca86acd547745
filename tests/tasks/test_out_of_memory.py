"""Running out of memory says what was in it and what to lower."""

import pytest
import torch

from xraygpt.common.errors import TrainingError
from xraygpt.tasks.out_of_memory import IN_TRAINING, is_out_of_memory, sizes_named

SAMPLES = {"image": torch.zeros(3, 3, 28, 28), "caption": ["short", "a secret finding"]}


def cpu_error() -> RuntimeError:
    """What torch really says when the machine has no memory left."""
    with pytest.raises(RuntimeError) as error:
        torch.empty(2**60, dtype=torch.uint8)
    return error.value


@pytest.mark.parametrize("make", [cpu_error, lambda: torch.OutOfMemoryError("CUDA out of memory."), MemoryError])
def test_sizes_and_advice(make) -> None:
    model = torch.nn.Linear(4, 2)
    model.bias.requires_grad_(False)
    with pytest.raises(TrainingError) as error, sizes_named(model, SAMPLES, IN_TRAINING):
        raise make()
    said = str(error.value)
    assert "3 images of 3 x 28 x 28, the longest text of 16 characters, 8 trainable of 10 parameters" in said
    assert "1. run.batch_size_train" in said and "MiB" in said
    assert "secret" not in said


def test_any_other_error_is_itself() -> None:
    with pytest.raises(RuntimeError, match="shape"), sizes_named(torch.nn.Linear(1, 1), SAMPLES, IN_TRAINING):
        raise RuntimeError("shape mismatch")
    assert not is_out_of_memory(ValueError("x"))
