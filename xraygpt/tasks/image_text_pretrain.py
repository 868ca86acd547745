"""Learn to write the text that belongs to an image; evaluated by the loss."""

from typing import Any

from xraygpt.common.registry import registry
from xraygpt.models import BaseModel
from xraygpt.tasks.base_task import BaseTask


@registry.register_task("image_text_pretrain")
class ImageTextPretrainTask(BaseTask):
    """Trains on, and is evaluated by, the mean cross-entropy over supervised tokens."""

    def valid_step(self, model: BaseModel, samples: dict[str, Any]) -> list[dict[str, Any]]:
        """The loss of a batch and the number of tokens it is a mean of."""
        output = model(samples)
        return [{"loss": float(output["loss"]), "num_tokens": output.get("num_tokens", 1)}]

    def after_evaluation(self, results: list[dict[str, Any]], split_name: str, epoch: int | str) -> dict[str, float]:
        """Mean loss over all tokens of the split; `agg_metrics` is its negative."""
        total = sum(result["num_tokens"] for result in results)
        loss = sum(result["loss"] * result["num_tokens"] for result in results) / total
        return {"agg_metrics": -loss, "loss": loss}
