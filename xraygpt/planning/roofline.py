"""Seconds of a training step: for each part, the longer of computing and moving bytes (the roofline of Williams et al., 2009).

To their sum come the gradient's all-reduce, which nothing hides (the projection's gradient is the last that the backward pass makes), and,
where data workers or kernel launches cannot keep up, the time that the GPU waits for them.
"""

import math
from dataclasses import dataclass

from xraygpt.planning.flops import Flops, encoding_flops, step_flops
from xraygpt.planning.hardware import Assumptions, Gpu
from xraygpt.planning.memory import kept_bytes, trained_parameters, weight_memory
from xraygpt.planning.run import RunShape

_WEIGHTS = {
    "vit": "weights ViT",
    "qformer": "weights Q-Former",
    "proj": "weights projection",
    "llm": "weights LLM",
}
_KERNELS = {"vit": 14, "qformer": 22, "llm": 30}
"""Kernels of one layer, forward, in eager mode; the backward pass has about twice as many."""


@dataclass(frozen=True, kw_only=True)
class StepTime:
    """Seconds of one step (one micro-batch) on each GPU.

    Attributes:
        parts: part → seconds at the roofline.
        launches: seconds in which kernels can be launched; the step takes at least that long.
        all_reduce: of the trained parameters' gradient, spread over the accumulated steps.
        data: seconds in which the data workers make one batch; the step takes at least that long.
    """

    parts: dict[str, float]
    launches: float
    all_reduce: float
    data: float

    @property
    def gpu(self) -> float:
        """Without waiting for data."""
        return max(sum(self.parts.values()), self.launches) + self.all_reduce

    @property
    def total(self) -> float:
        """Of a step."""
        return max(self.gpu, self.data)

    @property
    def bound_by(self) -> str:
        """What decides how long the step takes."""
        if self.data > self.gpu:
            return "data workers"
        if self.launches > sum(self.parts.values()):
            return "kernel launches"
        return max(self.parts, key=lambda part: self.parts[part])


def step_time(run: RunShape, gpu: Gpu, assumed: Assumptions, *, num_workers: int) -> StepTime:
    """The seconds of a step."""
    flops, kept, weights = step_flops(run), kept_bytes(run), weight_memory(run)
    seconds = {}
    for part, of_part in flops.items():
        moved = weights.get(_WEIGHTS.get(part, ""), 0.0) * _casting(run, part) * passes(of_part) + 2 * kept.get(part, 0.0)
        computing = of_part.total / (gpu_flops(run, part, gpu) * assumed.compute_efficiency * _unpacking(run, part, assumed))
        seconds[part] = max(computing, moved / (gpu.bandwidth * assumed.bandwidth_efficiency))
    trained = trained_parameters(run)
    # AdamW reads and writes parameter, gradient and both moments, in float32.
    seconds["optimizer"] = 7 * 4 * trained / (gpu.bandwidth * assumed.bandwidth_efficiency) / run.accumulate
    each = assumed.feature_seconds if run.cached else assumed.image_seconds
    return StepTime(
        parts=seconds,
        launches=num_kernels(run) * assumed.kernel_seconds if gpu.name != "cpu" else 0.0,
        all_reduce=all_reduce_seconds(4.0 * trained, run.num_gpus, gpu, assumed) / run.accumulate,
        data=run.batch_size * each / max(1, num_workers),
    )


def _casting(run: RunShape, part: str) -> int:
    """2 where each pass makes a copy in half precision of weights that are stored in float32, and reads that."""
    return 2 if run.half and _stored(run, part) == "fp32" else 1


def _stored(run: RunShape, part: str) -> str:
    return {"vit": run.vit_dtype, "llm": run.llm_dtype, "logits": run.llm_dtype}.get(part, "fp32")


def passes(part: Flops) -> int:
    """How often a step reads a part's weights."""
    return 1 + (part.backward > 0) + (part.recomputed > 0)


def gpu_flops(run: RunShape, part: str, gpu: Gpu) -> float:
    """The peak for a part: half precision under autocast, or where it is stored in it."""
    return gpu.half_flops if run.half or _stored(run, part) in ("bf16", "fp16") else gpu.fp32_flops


def _unpacking(run: RunShape, part: str, assumed: Assumptions) -> float:
    is_quantised = part != "logits" and _stored(run, part) in ("int8", "nf4")
    return assumed.quantised_efficiency if is_quantised else 1.0


def num_kernels(run: RunShape) -> float:
    """Kernels that a step launches, about."""
    size, flops = run.size, step_flops(run)
    layers = {"vit": size.vit.depth, "qformer": size.qformer.num_hidden_layers, "llm": size.llm.num_layers}
    return sum(
        layers[part] * _KERNELS[part] * (1 + 2 * (flops[part].backward > 0) + (flops[part].recomputed > 0))
        for part in _KERNELS
        if part in flops
    )


def all_reduce_seconds(num_bytes: float, num_gpus: int, gpu: Gpu, assumed: Assumptions) -> float:
    """A ring in each machine and a tree between machines: bandwidth once, latency for each step of the longer way."""
    if num_gpus == 1:
        return 0.0
    inside, machines = min(num_gpus, assumed.gpus_per_machine), math.ceil(num_gpus / assumed.gpus_per_machine)
    seconds = 2 * (inside - 1) / inside * num_bytes / gpu.link + 2 * (inside - 1) * assumed.link_latency
    if machines > 1:
        # The GPUs of a machine send their shares side by side, each over its own network card.
        share = num_bytes / inside
        seconds += 2 * (machines - 1) / machines * share / assumed.network + 2 * math.ceil(math.log2(machines)) * assumed.network_latency
    return seconds


def cache_building_seconds(run: RunShape, gpu: Gpu, assumed: Assumptions, *, num_images: int, views: int, num_workers: int) -> float:
    """To fill the feature cache, all GPUs sharing."""
    computing = encoding_flops(run) / (gpu_flops(run, "vit", gpu) * assumed.compute_efficiency)
    return num_images * views * max(computing, assumed.image_seconds / max(1, num_workers)) / run.num_gpus
