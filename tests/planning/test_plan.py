"""Sizes that are published, bounds that must hold, and terms worked out by hand."""

from dataclasses import replace
from typing import Any

import pytest

from xraygpt.models.blip2 import QFormerSize, VitSize
from xraygpt.models.sizes import ModelSize
from xraygpt.planning.flops import step_flops, total_flops
from xraygpt.planning.hardware import GPUS, Assumptions, measured_cpu
from xraygpt.planning.memory import cache_bytes, kept_bytes, keys_and_values_bytes, largest_batch, step_memory, total_memory
from xraygpt.planning.plan import PERMUTATION_SECONDS, Machine, make_plan, row_of, run_hours, scales, switches
from xraygpt.planning.roofline import all_reduce_seconds, cache_building_seconds, step_time
from xraygpt.planning.run import PUBLISHED_SIZES, RunShape, assumed_texts

TEXTS = assumed_texts(prompt=42, answer=110, longest=160, beginning=10)
MACHINE = Machine(gpu=GPUS["h100"], num_workers=4, assumed=Assumptions())


def published(**values: Any) -> RunShape:
    """Stage 1 of the published configuration: a projection under frozen parts and a language model of 7 billion parameters."""
    size = ModelSize(image_size=224, vit=VitSize(), num_query_token=32, qformer=QFormerSize(), llm=PUBLISHED_SIZES["7b"])
    settings: dict[str, Any] = {
        "size": size, "trained": frozenset({"proj"}), "vit_dtype": "bf16", "llm_dtype": "bf16", "half": True, "cached": False,
        "recompute": frozenset(), "chunk_rows": 256, "batch_size": 3, "accumulate": 1, "num_gpus": 1, "texts": TEXTS,
    }  # fmt: skip
    return RunShape(**{**settings, **values})


def test_parameters_are_the_published_ones() -> None:
    counts = published().size.parameter_counts()
    assert counts["visual_encoder"] == 985_894_528
    assert counts["Qformer"] == 105_137_664
    assert counts["llama_model"] == 6_738_415_616
    assert PUBLISHED_SIZES["8b"].num_parameters == 8_030_261_248
    assert PUBLISHED_SIZES["13b"].num_parameters == 13_015_864_320


def test_the_forward_pass_costs_two_operations_a_weight_and_token() -> None:
    run = published()
    llm, tokens = run.size.llm, run.batch_size * run.row_tokens
    assert tokens == 3 * (42 + 110 + 32 - 10)
    flops = step_flops(run)
    matrices = 2 * tokens * llm.num_layers * llm.layer_matrices
    assert matrices < flops["llm"].forward < 1.05 * matrices  # what is more is attention
    assert flops["logits"].forward == 2 * 3 * 110 * 4096 * 32000
    assert flops["vit"].forward == pytest.approx(3 * 2 * 257 * 985e6, rel=0.06)
    assert flops["vit"].backward == flops["qformer"].backward == 0
    assert flops["llm"].backward < 1.05 * flops["llm"].forward  # no gradient of a frozen weight


def test_a_cache_takes_the_vision_parts_away() -> None:
    run = published()
    cached = replace(run, cached=True)
    assert set(step_flops(run)) - set(step_flops(cached)) == {"vit", "qformer"}
    assert set(step_memory(run)) - set(step_memory(cached)) == {"weights ViT", "weights Q-Former"}
    assert total_flops(run) - total_flops(cached) == step_flops(run)["vit"].total + step_flops(run)["qformer"].total
    assert cache_bytes(run, num_images=1) == 49152  # 48 KiB
    building = cache_building_seconds(run, GPUS["h100"], Assumptions(), num_images=1000, views=2, num_workers=64)
    assert building == pytest.approx(2000 * total_flops(replace(run, batch_size=1)) / 989e12 / 0.5, rel=0.99)


def test_the_largest_batch_fits_and_one_more_does_not() -> None:
    run, there = published(), 24e9
    batch = largest_batch(run, there)
    assert batch > 3
    assert total_memory(replace(run, batch_size=batch)) <= there < total_memory(replace(run, batch_size=batch + 1))
    assert largest_batch(run, 1e9) == 0
    assert row_of("", run, replace(MACHINE, gpu=replace(MACHINE.gpu, memory=1e9))).best_samples_per_second == 0


def test_what_each_switch_is_for() -> None:
    run = published()
    of = dict(switches(run))
    memory = {name: total_memory(changed) for name, changed in of.items()}
    base = total_memory(run)
    assert memory["frozen_dtype.llm=nf4"] < memory["frozen_dtype.llm=int8"] < base < memory["frozen_dtype.llm=fp32"]
    assert memory["feature cache on"] < base
    assert memory["grad_checkpoint.llm=True"] < base
    assert total_flops(of["grad_checkpoint.llm=True"]) > total_flops(run)
    assert of["accum_grad_iters=4"].accumulate == 4
    assert kept_bytes(of["grad_checkpoint.llm=True"])["llm"] < 0.1 * kept_bytes(run)["llm"]
    trained = replace(run, trained=frozenset({"vit", "qformer", "proj", "llm"}))
    assert not any("cache" in name or "frozen" in name for name, _ in switches(trained))


def test_keys_and_values_of_llama_7b_are_half_a_mebibyte_a_token() -> None:
    assert keys_and_values_bytes(published(), rows=1, tokens=1) == 2**19


def test_a_step_waits_for_the_slowest() -> None:
    run = published()
    time = MACHINE.time(run)
    assert time.total == time.gpu == pytest.approx(sum(time.parts.values()))
    assert time.bound_by == "llm"
    slow = step_time(run, GPUS["h100"], Assumptions(image_seconds=1.0), num_workers=2)
    assert (slow.total, slow.bound_by) == (1.5, "data workers")
    many = step_time(run, GPUS["h100"], Assumptions(kernel_seconds=1e-3), num_workers=4)
    assert many.bound_by == "kernel launches"


def test_all_reduce() -> None:
    gpu, assumed = GPUS["h100"], Assumptions()
    assert all_reduce_seconds(1e9, 1, gpu, assumed) == 0
    assert all_reduce_seconds(1e9, 2, gpu, assumed) == pytest.approx(1e9 / 450e9 + 2 * 10e-6)
    one_machine, many = (all_reduce_seconds(1e9, count, gpu, assumed) for count in (8, 1024))
    assert many - one_machine == pytest.approx(2 * 127 / 128 * 1e9 / 8 / 50e9 + 2 * 7 * 25e-6)


def test_hours() -> None:
    run = published(num_gpus=8)
    hours = run_hours(run, MACHINE, max_epoch=4, iters_per_epoch=5000, num_images=240_000)
    assert hours is not None
    assert (hours.steps, hours.samples, hours.passes) == (20_000, 480_000, 2.0)
    assert hours.hours == pytest.approx(20_000 * MACHINE.time(run).total / 3600)
    assert hours.hours_per_pass == pytest.approx(hours.hours / 2)
    one_pass = run_hours(run, MACHINE, max_epoch=1, iters_per_epoch=None, num_images=240_000)
    assert one_pass is not None
    assert one_pass.steps == 10_000
    assert run_hours(run, MACHINE, max_epoch=1, iters_per_epoch=None, num_images=None) is None


def test_what_stops_scaling_at_1024_gpus() -> None:
    small_data = scales(published(num_gpus=1024), MACHINE, num_images=240_000)
    assert [scale.num_gpus for scale in small_data] == [1, 8, 64, 512, 1024]
    assert small_data[0].limits == []
    assert small_data[0].efficiency == 1
    assert [scale.efficiency for scale in small_data] == sorted((scale.efficiency for scale in small_data), reverse=True)
    named = " ".join(small_data[-1].limits)
    assert "global batch: 3,072 samples, 78 updates a pass" in named
    assert "file reading" in named
    assert "data order" not in named  # known, and small
    assert "data workers" not in named
    assert small_data[-1].ordering == pytest.approx(small_data[-1].samples_per_second * PERMUTATION_SECONDS)
    few_workers = scales(published(num_gpus=2), replace(MACHINE, num_workers=1), num_images=None)
    assert "data workers" in few_workers[-1].limits[0]


def test_a_plan_has_it_all() -> None:
    plan = make_plan(published(num_gpus=8), MACHINE, max_epoch=1, iters_per_epoch=10, num_images=None)
    assert plan.rows[0].name == "as configured"
    assert plan.memory["DDP buckets"] == plan.memory["gradients"] > 0
    assert plan.flops["llm"][1] > 0


def test_the_processor_is_measured() -> None:
    cpu = measured_cpu(1e9)
    assert cpu.fp32_flops > 1e8
    assert cpu.bandwidth > 1e8
