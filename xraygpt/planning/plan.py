"""A whole plan: memory, FLOPs, seconds and hours of a run, what each switch would change, and what happens with more GPUs."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

from xraygpt.planning.flops import step_flops
from xraygpt.planning.hardware import Assumptions, Gpu
from xraygpt.planning.memory import largest_batch, step_memory, total_memory
from xraygpt.planning.roofline import StepTime, step_time
from xraygpt.planning.run import RunShape

PERMUTATION_SECONDS = 1e-8
"""Of one sample, when a rank puts the data of a pass in order; measured for a million of them."""
STOPS_AT = 0.05
"""A term is named when it takes this share of a step."""

FEW_UPDATES = 200
"""In a pass over the data."""


@dataclass(frozen=True, kw_only=True)
class Machine:
    """Where a run is to take place."""

    gpu: Gpu
    num_workers: int
    """Data workers of each GPU."""
    assumed: Assumptions

    @property
    def usable(self) -> float:
        """Bytes that a step may take."""
        return self.gpu.memory * (1 - self.assumed.reserved)

    def time(self, run: RunShape) -> StepTime:
        """The seconds of a step."""
        return step_time(run, self.gpu, self.assumed, num_workers=self.num_workers)


@dataclass(frozen=True, kw_only=True)
class Row:
    """A run with its costs: one line of a table.

    Attributes:
        memory: bytes at the peak of a step.
        largest_batch: most samples a step and GPU that fit; 0: not even one.
        step_seconds: with the configured batch.
        samples_per_second: of all GPUs, with the configured batch.
        best_samples_per_second: with the largest batch; 0 if none fits.
    """

    name: str
    memory: float
    largest_batch: int
    step_seconds: float
    samples_per_second: float
    best_samples_per_second: float


def row_of(name: str, run: RunShape, machine: Machine) -> Row:
    """The costs of a run."""
    batch = largest_batch(run, machine.usable)
    best = replace(run, batch_size=batch)
    return Row(
        name=name,
        memory=total_memory(run),
        largest_batch=batch,
        step_seconds=machine.time(run).total,
        samples_per_second=samples_per_second(run, machine),
        best_samples_per_second=samples_per_second(best, machine) if batch else 0.0,
    )


def samples_per_second(run: RunShape, machine: Machine) -> float:
    """Of all GPUs together."""
    return run.batch_size * run.num_gpus / machine.time(run).total


def switches(run: RunShape) -> Iterator[tuple[str, RunShape]]:
    """The same run with one setting changed."""
    if not run.trained & {"vit", "qformer"}:
        yield f"feature cache {'off' if run.cached else 'on'}", replace(run, cached=not run.cached)
    if "llm" not in run.trained:
        for dtype in ("fp32", "bf16", "int8", "nf4"):
            if dtype != run.llm_dtype:
                yield f"frozen_dtype.llm={dtype}", replace(run, llm_dtype=dtype)
    if "vit" not in run.trained and not run.cached:
        yield "frozen_dtype.vit=int8", replace(run, vit_dtype="int8")
    is_on = "llm" in run.recompute
    yield f"grad_checkpoint.llm={not is_on}", replace(run, recompute=run.recompute ^ {"llm"})
    half = max(1, run.chunk_rows // 2)
    yield f"loss_chunk_rows={half}", replace(run, chunk_rows=half)
    yield f"accum_grad_iters={4 * run.accumulate}", replace(run, accumulate=4 * run.accumulate)


@dataclass(frozen=True, kw_only=True)
class RunHours:
    """How long the configured training takes.

    Attributes:
        steps: iterations of the whole run, on each GPU.
        samples: that it sees, on all GPUs.
        passes: over the data; None if its size is not known.
        hours: of training; validation, checkpoints and the filling of a cache come to it.
        hours_per_pass: None if the size of the data is not known.
    """

    steps: int
    samples: int
    passes: float | None
    hours: float
    hours_per_pass: float | None


def run_hours(run: RunShape, machine: Machine, *, max_epoch: int, iters_per_epoch: int | None, num_images: int | None) -> RunHours | None:
    """The hours of a run; None where an epoch is one pass over data of unknown size."""
    at_once = run.batch_size * run.num_gpus
    if iters_per_epoch is None:
        if num_images is None:
            return None
        iters_per_epoch = max(1, num_images // at_once)
    steps, seconds = max_epoch * iters_per_epoch, machine.time(run).total
    return RunHours(
        steps=steps,
        samples=steps * at_once,
        passes=steps * at_once / num_images if num_images else None,
        hours=steps * seconds / 3600,
        hours_per_pass=math.ceil(num_images / at_once) * seconds / 3600 if num_images else None,
    )


# Scaling ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Scale:
    """The run on another number of GPUs, with the same batch on each.

    Attributes:
        efficiency: samples a second and GPU, to those of one GPU.
        reading: bytes a second that all ranks read, of image files or of the feature cache.
        ordering: share of a pass in which each rank puts the data in order; None if their number is not known.
        limits: the terms that stop scaling here, in words.
    """

    num_gpus: int
    samples_per_second: float
    efficiency: float
    all_reduce_seconds: float
    global_batch: int
    steps_per_pass: float | None
    reading: float
    ordering: float | None
    limits: list[str]


def scales(run: RunShape, machine: Machine, *, num_images: int | None) -> list[Scale]:
    """Powers of eight up to the run's number of GPUs, and that number."""
    counts = sorted({1, run.num_gpus, *(8**k for k in range(1, 5) if 8**k < run.num_gpus)})
    one = samples_per_second(replace(run, num_gpus=1), machine)
    return [_scale(replace(run, num_gpus=count), machine, one, num_images) for count in counts]


def _scale(run: RunShape, machine: Machine, of_one: float, num_images: int | None) -> Scale:
    time, rate = machine.time(run), samples_per_second(run, machine)
    stored = 2 * run.size.num_query_token * run.size.qformer.hidden_size if run.cached else machine.assumed.image_bytes
    scale = Scale(
        num_gpus=run.num_gpus,
        samples_per_second=rate,
        efficiency=rate / (of_one * run.num_gpus),
        all_reduce_seconds=time.all_reduce,
        global_batch=(at_once := run.batch_size * run.num_gpus * run.accumulate),
        steps_per_pass=num_images / at_once if num_images else None,
        reading=rate * stored,
        ordering=PERMUTATION_SECONDS * rate if num_images else None,
        limits=[],
    )
    return replace(scale, limits=list(_limits(scale, time, machine.assumed)))


def _limits(scale: Scale, time: StepTime, assumed: Assumptions) -> Iterator[str]:
    if time.all_reduce > STOPS_AT * time.total:
        yield f"all-reduce: {time.all_reduce / time.total:.0%} of a step, most of it latency, which grows with the machines"
    if time.data >= time.gpu:
        yield "data workers: the GPUs wait for images; more workers, smaller files or the feature cache"
    if scale.reading > assumed.network:
        yield f"file reading: {scale.reading / 1e9:.0f} GB/s from one store; copy the data to each machine or use the feature cache"
    if scale.steps_per_pass is not None and scale.steps_per_pass < FEW_UPDATES:
        yield (
            f"global batch: {scale.global_batch:,} samples, {scale.steps_per_pass:.0f} updates a pass; the learning rate must be found anew"
        )
    if scale.ordering is not None and scale.ordering > STOPS_AT:
        yield f"data order: each rank orders all samples of a pass, {scale.ordering:.0%} of its time"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """All that `xraygpt plan` says."""

    run: RunShape
    machine: Machine
    memory: dict[str, float]
    flops: dict[str, tuple[float, float]]
    """Part → (forward, backward with what is computed again)."""
    time: StepTime
    rows: list[Row]
    hours: RunHours | None
    scales: list[Scale]
    num_images: int | None


def make_plan(run: RunShape, machine: Machine, *, max_epoch: int, iters_per_epoch: int | None, num_images: int | None) -> Plan:
    """Put a plan together."""
    return Plan(
        run=run,
        machine=machine,
        memory=step_memory(run),
        flops={part: (each.forward, each.backward + each.recomputed) for part, each in step_flops(run).items()},
        time=machine.time(run),
        rows=[row_of("as configured", run, machine), *(row_of(name, changed, machine) for name, changed in switches(run))],
        hours=run_hours(run, machine, max_epoch=max_epoch, iters_per_epoch=iters_per_epoch, num_images=num_images),
        scales=scales(run, machine, num_images=num_images),
        num_images=num_images,
    )
