"""`xraygpt plan`: memory, FLOPs, seconds and hours of a training run, worked out without a weight being read."""

import argparse
import os
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import xraygpt.datasets.builders
import xraygpt.runners  # noqa: F401  both register the classes that a configuration names
from xraygpt.common.config import Config, add_config_arguments
from xraygpt.common.errors import ConfigError
from xraygpt.common.printable import json_text, printable_line
from xraygpt.planning.hardware import GPUS, Assumptions, measured_cpu
from xraygpt.planning.memory import cache_bytes, keys_and_values_bytes
from xraygpt.planning.plan import Machine, Plan, make_plan
from xraygpt.planning.run import PUBLISHED_SIZES, shape_of
from xraygpt.planning.texts import AssumedTokens, texts_of, training_captions

GIB = 2**30
CPU_MEMORY_SHARE = 0.8


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `xraygpt plan`."""
    add_config_arguments(parser)
    parser.add_argument("--gpu", choices=[*GPUS, "cpu"], default="h100", help="what it is to run on; cpu: this machine, measured")
    parser.add_argument("--num-gpus", type=int, default=1, metavar="N", help="one rank on each (default: %(default)s)")
    parser.add_argument("--llm-size", choices=PUBLISHED_SIZES, help="a language model whose folder is not here")
    parser.add_argument("--tokens", type=int, metavar="N", help="of a caption and its end symbol (default: counted, else 110)")
    parser.add_argument("--samples", type=int, metavar="N", help="training samples (default: counted in the data)")
    parser.add_argument("--workers", type=int, metavar="N", help="data workers of each GPU (default: run.num_workers)")
    parser.add_argument("--json", action="store_true", help="print everything as JSON")


def run(args: argparse.Namespace) -> int:
    """Print the plan."""
    if args.num_gpus < 1:
        raise ConfigError(f"--num-gpus must be at least 1, not {args.num_gpus}.")
    cfg = Config(args, needs=())
    captions = training_captions(cfg)
    texts = texts_of(cfg, captions, AssumedTokens(), given=args.tokens)
    shape = shape_of(cfg, texts=texts, on_cuda=args.gpu != "cpu", num_gpus=args.num_gpus, llm_size=args.llm_size)
    gpu = measured_cpu(CPU_MEMORY_SHARE * total_memory_of_machine()) if args.gpu == "cpu" else GPUS[args.gpu]
    machine = Machine(gpu=gpu, num_workers=args.workers or cfg.run_cfg.num_workers, assumed=Assumptions())
    plan = make_plan(
        shape,
        machine,
        max_epoch=cfg.run_cfg.max_epoch,
        iters_per_epoch=cfg.run_cfg.iters_per_epoch,
        num_images=args.samples or (len(captions) if captions else None),
    )
    if args.json:
        print(json_text(as_json(plan), indent=1))
    else:
        print("\n".join(lines_of(plan, printable_line(args.cfg_path))))
    return 0


def total_memory_of_machine() -> int:
    """Bytes of this machine's memory."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def as_json(plan: Plan) -> dict[str, Any]:
    """The plan in plain containers, with what its numbers are sums of."""
    run = asdict(plan.run) | {"trained": sorted(plan.run.trained), "recompute": sorted(plan.run.recompute)}
    plain = asdict(plan) | {"run": run}
    plain["parameters"] = plan.run.size.parameter_counts()
    plain["time"] |= {"gpu": plan.time.gpu, "total": plan.time.total, "bound_by": plan.time.bound_by}
    return plain


# As text ------------------------------------------------------------------------------------------------------------


def lines_of(plan: Plan, name: str) -> Iterator[str]:
    """The plan as it is printed."""
    run, machine = plan.run, plan.machine
    measured = "as measured here" if machine.gpu.name == "cpu" else "predicted"
    yield f"{name} on {run.num_gpus} x {machine.gpu.name} ({measured}; every number below is worked out, none is a run's)"
    texts = run.texts
    yield f"A row: {texts.prompt:.0f} tokens of the prompt + {run.size.num_query_token} of the image + {texts.answer:.0f} of the caption"
    yield f"  {texts.source}; {run.beginning} of them are computed once a run"
    yield from _parameters(plan)
    yield from _memory(plan)
    yield from _step(plan)
    yield from _hours(plan)
    yield from _switches(plan)
    yield from _scales(plan)
    yield from _assumptions(machine.assumed)


def _parameters(plan: Plan) -> Iterator[str]:
    counts = plan.run.size.parameter_counts()
    yield f"\nParameters: {sum(counts.values()):,}, trained: {', '.join(sorted(plan.run.trained)) or 'none'}"
    yield "  " + ", ".join(f"{part} {count:,}" for part, count in counts.items())


def _memory(plan: Plan) -> Iterator[str]:
    run, total = plan.run, sum(plan.memory.values())
    there = plan.machine.usable
    yield f"\nMemory of a step with {run.batch_size} samples, GiB"
    yield from (f"  {part:<20} {value / GIB:>8.2f}" for part, value in plan.memory.items())
    fits = "fits" if total <= there else "does NOT fit"
    yield f"  {'all':<20} {total / GIB:>8.2f}   {fits} in {there / GIB:.1f}; largest batch: {plan.rows[0].largest_batch}"
    tokens = run.texts.prompt + run.texts.longest + run.size.num_query_token
    yield f"  writing 8 reports keeps {keys_and_values_bytes(run, rows=8, tokens=tokens) / GIB:.2f} of keys and values"
    if plan.num_images:
        size = cache_bytes(run, num_images=plan.num_images)
        yield f"  feature cache on disk: {size / GIB:.2f} a view, for {plan.num_images:,} images"


def _step(plan: Plan) -> Iterator[str]:
    time = plan.time
    yield f"\nA step on each GPU {'':<8} TFLOP forward, backward       ms"
    for part, seconds in time.parts.items():
        forward, backward = plan.flops.get(part, (0.0, 0.0))
        yield f"  {part:<20} {forward / 1e12:>14.4f} {backward / 1e12:>9.4f} {seconds * 1e3:>9.2f}"
    yield f"  {'all-reduce':<20} {'':>14} {'':>9} {time.all_reduce * 1e3:>9.2f}"
    yield f"  {'all':<20} {'':>14} {'':>9} {time.total * 1e3:>9.2f}   bound by {time.bound_by}"
    yield f"  (launching kernels takes {time.launches * 1e3:.1f} ms, the data workers {time.data * 1e3:.1f} ms)"


def _hours(plan: Plan) -> Iterator[str]:
    if plan.hours is None:
        yield "\nThe run: an epoch is one pass over data that are not here; give --samples."
        return
    hours = plan.hours
    passes = f", {hours.passes:.1f} passes over the data, {hours.hours_per_pass:.2f} h each" if hours.passes is not None else ""
    yield f"\nThe run: {hours.steps:,} steps, {hours.samples:,} samples{passes}: {hours.hours:.2f} hours"


def _switches(plan: Plan) -> Iterator[str]:
    yield f"\n{'One setting changed':<28} {'GiB':>7} {'largest batch':>14} {'ms a step':>10} {'samples/s':>10} {'with largest batch':>19}"
    for row in plan.rows:
        best = f"{row.best_samples_per_second:>19.1f}" if row.largest_batch else f"{'does not fit':>19}"
        yield (
            f"  {row.name:<26} {row.memory / GIB:>7.1f} {row.largest_batch:>14} {row.step_seconds * 1e3:>10.1f} "
            f"{row.samples_per_second:>10.1f} {best}"
        )


def _scales(plan: Plan) -> Iterator[str]:
    titles = (f"{'GPUs':>6}", f"{'samples/s':>11}", f"{'efficiency':>11}", f"{'all-reduce ms':>14}", f"{'global batch':>13}")
    yield "\n" + " ".join((*titles, f"{'updates a pass':>15}", f"{'reading GB/s':>13}", f"{'ordering':>9}"))
    for scale in plan.scales:
        updates = f"{scale.steps_per_pass:>15.0f}" if scale.steps_per_pass is not None else f"{'?':>15}"
        ordering = f"{scale.ordering:>9.2%}" if scale.ordering is not None else f"{'?':>9}"
        yield (
            f"{scale.num_gpus:>6} {scale.samples_per_second:>11.1f} {scale.efficiency:>11.1%} {scale.all_reduce_seconds * 1e3:>14.2f} "
            f"{scale.global_batch:>13,} {updates} {scale.reading / 1e9:>13.2f} {ordering}"
        )
    yield from (f"  {scale.num_gpus} GPUs stop scaling at {limit}" for scale in plan.scales for limit in scale.limits)


def _assumptions(assumed: Assumptions) -> Iterator[str]:
    yield "\nAssumed: " + ", ".join(f"{name} {value:g}" for name, value in asdict(assumed).items())
