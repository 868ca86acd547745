"""What machines can do at most, from their makers' data sheets, and what the plan assumes of the rest."""

import time
from dataclasses import dataclass

import torch

TERA, GIGA = 1e12, 1e9


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """One accelerator.

    Attributes:
        half_flops: dense products of matrices in bf16 with float32 sums, operations a second.
        fp32_flops: the same in float32, without TF32.
        memory: bytes.
        bandwidth: of its memory, bytes a second.
        link: to the others in its machine, bytes a second and direction.
    """

    name: str
    half_flops: float
    fp32_flops: float
    memory: float
    bandwidth: float
    link: float


GPUS = {
    gpu.name: gpu
    for gpu in (
        Gpu(name="h100", half_flops=989 * TERA, fp32_flops=67 * TERA, memory=80 * GIGA, bandwidth=3350 * GIGA, link=450 * GIGA),
        Gpu(name="h200", half_flops=989 * TERA, fp32_flops=67 * TERA, memory=141 * GIGA, bandwidth=4800 * GIGA, link=450 * GIGA),
        Gpu(name="a100-80", half_flops=312 * TERA, fp32_flops=19.5 * TERA, memory=80 * GIGA, bandwidth=2039 * GIGA, link=300 * GIGA),
        Gpu(name="a100-40", half_flops=312 * TERA, fp32_flops=19.5 * TERA, memory=40 * GIGA, bandwidth=1555 * GIGA, link=300 * GIGA),
        Gpu(name="l40s", half_flops=362 * TERA, fp32_flops=91.6 * TERA, memory=48 * GIGA, bandwidth=864 * GIGA, link=32 * GIGA),
        Gpu(name="rtx4090", half_flops=165 * TERA, fp32_flops=82.6 * TERA, memory=24 * GIGA, bandwidth=1008 * GIGA, link=32 * GIGA),
        Gpu(name="rtx3090", half_flops=71 * TERA, fp32_flops=35.6 * TERA, memory=24 * GIGA, bandwidth=936 * GIGA, link=32 * GIGA),
    )
}
"""SXM versions of H100, H200 and A100; PCIe 4.0 x 16 where there is no NVLink."""


@dataclass(frozen=True, kw_only=True)
class Assumptions:
    """What no data sheet says. Each is printed with a plan."""

    compute_efficiency: float = 0.5
    """Share of the peak that large products of matrices reach in a training step."""
    quantised_efficiency: float = 0.5
    """Of a product whose weight is int8 or nf4, to one in half precision: the weight is unpacked first."""
    bandwidth_efficiency: float = 0.75
    kernel_seconds: float = 5e-6
    """From one kernel's launch to the next: below it no kernel is faster. An eager step of a small model takes this long for each."""
    gpus_per_machine: int = 8
    network: float = 50e9
    """Between machines, bytes a second of each GPU: 400 Gbit/s."""
    link_latency: float = 10e-6
    """Of one message inside a machine, seconds."""
    network_latency: float = 25e-6
    """Of one message between machines."""
    reserved: float = 0.08
    """Share of the memory that is not the step's: CUDA's context, fragmentation."""
    image_seconds: float = 0.02
    """One data worker's time for a film of 2,500 x 2,000 pixels, as JPEG: reading, decoding, resizing."""
    image_bytes: float = 1.0e6
    """Of such a file."""
    feature_seconds: float = 0.0002
    """One data worker's time for a row of the feature cache."""


def measured_cpu(memory: float) -> Gpu:
    """This machine's processor, as torch uses it with its present number of threads: measured in a second.

    Args:
        memory: bytes that may be used.
    """
    size = 1024
    a, b = torch.randn(size, size), torch.randn(size, size)
    large = torch.zeros(64 * 2**20 // 4)
    product = _best_seconds(lambda: a @ b)
    copy = _best_seconds(large.clone)
    flops = 2 * size**3 / product
    return Gpu(name="cpu", half_flops=flops, fp32_flops=flops, memory=memory, bandwidth=2 * large.nbytes / copy, link=10 * GIGA)


def _best_seconds(work: object, repeats: int = 5) -> float:
    best = float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        work()  # type: ignore[operator]
        best = min(best, time.perf_counter() - start)
    return best
