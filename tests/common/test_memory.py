"""Bytes of weights, gradients and optimizer state."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim import AdamW

from xraygpt.common.memory import memory_by_part, peak_bytes

CPU = torch.device("cpu")
MIB = 2**20


class Parts(nn.Module):
    """A frozen matrix of 2 MiB in half precision that two layers share, and a trained one of 1 MiB."""

    def __init__(self) -> None:
        super().__init__()
        self.frozen = nn.Embedding(1024, 1024, dtype=torch.bfloat16).requires_grad_(False)
        self.head = nn.Linear(1024, 1024, bias=False, dtype=torch.bfloat16).requires_grad_(False)
        self.head.weight = self.frozen.weight
        self.trained = nn.Linear(512, 512, bias=False)
        self.register_buffer("table", torch.zeros(MIB // 8))


def test_each_part_is_counted_once_in_its_type() -> None:
    model = Parts()
    optimizer = AdamW([model.trained.weight])
    before = memory_by_part(model, optimizer, CPU)
    assert before["weights"] == {"frozen": 2.0, "trained": 1.0, "table": 0.5}
    assert (before["gradients"], before["optimizer"]) == (1.0, 0.0)
    model.trained(torch.ones(1, 512)).sum().backward()
    optimizer.step()
    after = memory_by_part(model, optimizer, CPU)
    assert after["optimizer"] == 2.0  # two moments, and a step count of 4 bytes
    assert after["weights"] == before["weights"]


def test_the_peak_grows_with_what_is_held() -> None:
    held = np.ones(peak_bytes(CPU) + 32 * MIB, dtype=np.uint8)
    assert peak_bytes(CPU) > len(held)


@pytest.mark.gpu
def test_on_cuda_the_peak_is_that_of_the_tensors() -> None:
    device = torch.device("cuda")
    torch.cuda.reset_peak_memory_stats()
    before = peak_bytes(device)
    torch.zeros(8 * MIB, dtype=torch.uint8, device=device)
    assert peak_bytes(device) - before == pytest.approx(8 * MIB, abs=MIB)
