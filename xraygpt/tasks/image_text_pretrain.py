"""Learn to write the text that belongs to an image; evaluated by the loss."""

from typing import Any

from xraygpt.common.config import Config
from xraygpt.common.errors import ConfigError
from xraygpt.common.registry import registry
from xraygpt.models import BaseModel
from xraygpt.tasks.base_task import BaseTask


@registry.register_task("image_text_pretrain")
class ImageTextPretrainTask(BaseTask):
    """Trains on, and is evaluated by, the mean cross-entropy over supervised tokens."""

    def __init__(self, cfg: Config) -> None:
        super().__init__(cfg)
        self.check_metrics()

    def check_metrics(self) -> None:
        """Raise ConfigError if the task cannot compute what `run.metrics` names."""
        if self.cfg.run_cfg.metrics:
            raise ConfigError(
                f"run.metrics names {', '.join(self.cfg.run_cfg.metrics)}, but the task {self.cfg.run_cfg.task} is evaluated by its loss "
                "and writes no reports. Set run.task=report_generation: it trains in the same way, and writes reports at each validation."
            )

    def valid_step(self, model: BaseModel, samples: dict[str, Any]) -> list[dict[str, Any]]:
        """The loss of a batch and the number of tokens it is a mean of."""
        output = model(samples)
        return [{"loss": float(output["loss"]), "num_tokens": output.get("num_tokens", 1)}]

    def after_evaluation(self, results: list[dict[str, Any]], split_name: str, epoch: int | str) -> dict[str, float]:
        """Mean loss over all tokens of the split; `agg_metrics` is its negative."""
        loss = mean_loss(results)
        return {"agg_metrics": -loss, "loss": loss}


def mean_loss(results: list[dict[str, Any]]) -> float:
    """The mean over all tokens, from the rows of `ImageTextPretrainTask.valid_step`."""
    total = sum(result["num_tokens"] for result in results)
    return sum(result["loss"] * result["num_tokens"] for result in results) / total
