"""Learn to write reports, and evaluate by writing them."""

from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from xraygpt.common.config import Config
from xraygpt.common.dist_utils import is_main_process
from xraygpt.common.files import write_json_lines
from xraygpt.common.registry import registry
from xraygpt.evaluation.scorecard import score_findings, true_findings
from xraygpt.tasks.base_task import BaseTask


@registry.register_task("report_generation")
class ReportGenerationTask(BaseTask):
    """Trains on the loss; evaluation writes a report for every image and scores the findings that it states.

    The reports go to `result/{split}_{epoch}.jsonl` in the run's folder: one `{"id", "report", "reference"}` a line.
    The truth is an annotation's "findings" where it has them, else what its caption states.
    """

    def __init__(self, cfg: Config) -> None:
        super().__init__(cfg)
        generation: Any = OmegaConf.to_container(cfg.run_cfg.generation)
        self.question = generation.pop("prompt")
        self.settings = generation
        self.annotations: dict[str, dict[str, Any]] = {}

    def build_datasets(self, cfg: Config) -> dict[str, dict[str, Any]]:
        """As in `BaseTask`; also keeps the annotations of the evaluated splits."""
        datasets = super().build_datasets(cfg)
        evaluated = {*cfg.run_cfg.valid_splits, *cfg.run_cfg.test_splits}
        for splits in datasets.values():
            for split in evaluated & splits.keys():
                self.annotations |= {ann["image_id"]: ann for ann in splits[split].annotation}
        return datasets

    def valid_step(self, model: Any, samples: dict[str, Any]) -> list[dict[str, Any]]:
        """One written report a sample, beside its reference."""
        reports = model.write_reports(samples["image"], prompt=self.question, **self.settings)
        rows = zip(samples["sample_id"], reports, samples["caption"], strict=True)
        return [{"id": sample_id, "report": report, "reference": caption} for sample_id, report, caption in rows]

    def after_evaluation(self, results: list[dict[str, Any]], split_name: str, epoch: int | str) -> dict[str, float]:
        """Writes the reports, and scores them; `agg_metrics` is the macro-F1 over findings."""
        if is_main_process():
            write_json_lines(Path(registry.get_path("result_dir")) / f"{split_name}_{epoch}.jsonl", results)
        truth = {row["id"]: true_findings(self.annotations[row["id"]]) for row in results}
        scores = score_findings({row["id"]: row["report"] for row in results}, truth).model
        numbers = {
            "finding_f1_macro": scores.macro_f1,
            "finding_f1_micro": scores.micro_f1,
            "laterality_accuracy": scores.laterality_accuracy,
            "normal_abnormal_accuracy": scores.normal_abnormal_accuracy,
            "distinct_ratio": scores.distinct_ratio,
        }
        return {"agg_metrics": scores.macro_f1 or 0.0} | {name: value for name, value in numbers.items() if value is not None}
