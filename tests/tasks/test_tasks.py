"""What tasks compute from a model's outputs; the loop itself is tested end to end."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from xraygpt.common.errors import ConfigError, RegistryError
from xraygpt.common.run_config import RunConfig
from xraygpt.tasks import BaseTask, ImageTextPretrainTask, setup_task


def config(**run: Any) -> Any:
    """A configuration without datasets."""
    return SimpleNamespace(run_cfg=OmegaConf.structured(RunConfig(**run)), datasets_cfg={}, cfg_path="run.yaml")


class Losses(torch.nn.Module):
    """Stands for a model: the loss that a batch names."""

    def forward(self, samples: dict[str, Any]) -> dict[str, Any]:
        return {"loss": torch.tensor(samples["loss"]), "num_tokens": samples["tokens"]}


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
    results = [row for batch in batches for row in task.valid_step(Losses(), batch)]  # type: ignore[arg-type]
    assert task.after_evaluation(results, "val", 0) == {"agg_metrics": -1.75, "loss": 1.75}


def test_a_task_without_reports_refuses_metrics_of_reports() -> None:
    with pytest.raises(ConfigError, match=r"run\.metrics names rouge_l, .*run\.task=report_generation"):
        ImageTextPretrainTask(config(task="image_text_pretrain", metrics=["rouge_l"]))


def test_a_task_that_cannot_evaluate_says_so() -> None:
    task = BaseTask(config(task="image_text_pretrain"))
    with pytest.raises(NotImplementedError, match="BaseTask does not say how to evaluate"):
        task.after_evaluation([], "val", 0)
