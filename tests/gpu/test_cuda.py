"""What only a GPU shows: half precision of frozen parts, mixed-precision training, generation, peak memory. Skipped without CUDA."""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

pytestmark = pytest.mark.gpu


def test_frozen_parts_are_stored_in_half_precision_and_the_loss_stays(tiny_model: Callable[[], Any]) -> None:
    import torch

    model = tiny_model().eval()
    samples = {"image": torch.randn(2, 3, 28, 28), "caption": ["The lungs are clear.", "The heart is enlarged."]}
    expected = float(model(samples)["loss"])
    model.freeze_parts(vit=True, qformer=True, llm=True, proj=False)
    model.place(torch.device("cuda"))
    assert model.llama_model.dtype in (torch.bfloat16, torch.float16)
    assert model.llama_proj.weight.dtype is torch.float32
    loss = model({**samples, "image": samples["image"].cuda()})["loss"]
    loss.backward()
    assert float(loss) == pytest.approx(expected, abs=0.05)
    assert torch.isfinite(model.llama_proj.weight.grad).all()


def test_generation_of_a_batch_equals_single_ones(tiny_model: Callable[[], Any]) -> None:
    import torch

    model = tiny_model().eval().place(torch.device("cuda"))
    images = torch.randn(4, 3, 28, 28, device="cuda")
    single = [model.write_reports(image[None], max_new_tokens=8)[0] for image in images]
    assert model.write_reports(images, max_new_tokens=8) == single


@pytest.mark.parametrize("frozen", [True, False])
def test_training_with_mixed_precision(tiny_config: Callable[..., dict[str, Any]], tmp_path: Path, frozen: bool) -> None:
    import train

    config = tiny_config(device="cuda", amp=True, output_dir=str(tmp_path), job_id="gpu", max_epoch=1, iters_per_epoch=4, log_freq=1)
    config["model"] |= {"freeze_vit": frozen, "freeze_qformer": frozen, "freeze_llm": frozen}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(config))
    train.train(argparse.Namespace(cfg_path=str(tmp_path / "run.yaml"), options=[], imports=[], check=False))
    records = [json.loads(line) for line in (tmp_path / "gpu" / "log.txt").read_text().splitlines()]
    steps = [record for record in records if "loss" in record]
    assert len(steps) == 4
    assert all(record["max_mem_mib"] > 0 for record in steps)
