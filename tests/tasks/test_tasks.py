"""What tasks compute from a model's outputs; the loop itself is tested end to end."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from xraygpt.common.errors import ConfigError, RegistryError
from xraygpt.common.registry import registry
from xraygpt.common.run_config import GenerationConfig, RunConfig
from xraygpt.tasks import BaseTask, ImageTextPretrainTask, ReportGenerationTask, setup_task


def config(**run: Any) -> Any:
    """A configuration without datasets."""
    return SimpleNamespace(run_cfg=OmegaConf.structured(RunConfig(**run)), datasets_cfg={}, cfg_path="run.yaml")


class Writer(torch.nn.Module):
    """Stands for a model: a loss for batches, and a report that repeats its settings."""

    def forward(self, samples: dict[str, Any]) -> dict[str, Any]:
        return {"loss": torch.tensor(samples["loss"]), "num_tokens": samples["tokens"]}

    def write_reports(self, image: Any, prompt: str, **settings: Any) -> list[str]:
        return [f"Right pleural effusion. {prompt} {settings['num_beams']}", "The lungs are clear."][: len(image)]


def test_setup_task_takes_the_named_one() -> None:
    assert type(setup_task(config(task="image_text_pretrain"))) is ImageTextPretrainTask
    with pytest.raises(RegistryError, match="Did you mean 'report_generation'"):
        setup_task(config(task="report_generatoin"))


def test_a_run_needs_a_dataset() -> None:
    cfg = config(task="image_text_pretrain")
    with pytest.raises(ConfigError, match=r"run\.yaml: at least one dataset .*mimic, openi"):
        setup_task(cfg).build_datasets(cfg)


def test_a_loss_without_a_count_counts_once() -> None:
    task = BaseTask(config(task="image_text_pretrain"))
    loss, tokens = task.train_step(lambda samples: {"loss": torch.tensor(2.0)}, {})  # type: ignore[arg-type]
    assert (float(loss), tokens) == (2.0, 1)


def test_the_validation_loss_is_a_mean_over_tokens() -> None:
    task = ImageTextPretrainTask(config(task="image_text_pretrain"))
    batches = [{"loss": 1.0, "tokens": 30}, {"loss": 4.0, "tokens": 10}]
    results = [row for batch in batches for row in task.valid_step(Writer(), batch)]  # type: ignore[arg-type]
    assert task.after_evaluation(results, "val", 0) == {"agg_metrics": -1.75, "loss": 1.75}


def test_reports_are_written_and_scored(tmp_path: Path) -> None:
    registry.register_path("result_dir", str(tmp_path), overwrite=True)
    task = ReportGenerationTask(config(task="report_generation", generation=GenerationConfig(prompt="What is seen?", num_beams=3)))
    references = ["Right pleural effusion.", "Clear lungs."]
    effusion = {"finding": "pleural_effusion", "side": "right", "zone": ""}
    task.annotations = {
        "a": {"image_id": "a", "caption": references[0], "findings": [effusion]},
        "b": {"image_id": "b", "caption": references[1], "findings": []},
    }
    results = task.valid_step(Writer(), {"image": torch.zeros(2, 1), "sample_id": ["a", "b"], "caption": references})
    numbers = task.after_evaluation(results, "test", "best")
    assert results[0] == {"id": "a", "report": "Right pleural effusion. What is seen? 3", "reference": references[0]}
    assert [json.loads(line) for line in (tmp_path / "test_best.jsonl").read_text().splitlines()] == results
    assert numbers["agg_metrics"] == numbers["finding_f1_macro"] > 0
    assert numbers["finding_f1_micro"] == numbers["normal_abnormal_accuracy"] == 1.0


def test_a_task_that_cannot_evaluate_says_so() -> None:
    task = BaseTask(config(task="image_text_pretrain"))
    with pytest.raises(NotImplementedError, match="BaseTask does not say how to evaluate"):
        task.after_evaluation([], "val", 0)
