"""Learn to write reports, and evaluate by writing them."""

import base64
import logging
import time
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import OmegaConf

from xraygpt import __version__
from xraygpt.common.config import Config
from xraygpt.common.dist_utils import broadcast_object, is_main_process
from xraygpt.common.errors import ConfigError
from xraygpt.common.files import write_json_lines
from xraygpt.common.journal import Journal, weights_sha256
from xraygpt.common.printable import printable_line
from xraygpt.common.registry import registry, suggest
from xraygpt.common.seed import stateless_seed
from xraygpt.datasets.dataloaders import evenly_spaced, split_into_batches
from xraygpt.evaluation import Corpus, compute_metrics
from xraygpt.evaluation.baselines import nearest_training
from xraygpt.evaluation.evaluate import EvaluatedSet, write_evaluation
from xraygpt.evaluation.faithfulness import judge_report
from xraygpt.evaluation.model_scores import MODEL_SCORES
from xraygpt.evaluation.scorecard_text import format_table
from xraygpt.evaluation.scoring import Settings, metric_values
from xraygpt.models.known_images import FILE_NAME, MIN_IMAGES, KnownImages, probe_image
from xraygpt.tasks.evaluated_split import (
    EvaluatedSplit,
    Row,
    TrainingImages,
    encode_training_images,
    model_provenance,
    sha256_of,
)
from xraygpt.tasks.image_text_pretrain import ImageTextPretrainTask, mean_loss

logger = logging.getLogger(__name__)

DEFAULT_METRICS = ("rouge_l", "bleu_4", "finding_f1")
LOSS = "loss"
MAX_LOGGED_CHARACTERS = 120

_SAMPLE = Corpus(("a",), ("Left pleural effusion.",), (("Left pleural effusion.",),), ("a",), (False,))


@dataclass
class _Evaluation:
    """The evaluation that is under way; the last two are for a test alone."""

    split: EvaluatedSplit
    to_write: set[str]
    journal: Journal | None = None
    training: TrainingImages | None = None
    provenance: dict[str, Any] = field(default_factory=dict)


@registry.register_task("report_generation")
class ReportGenerationTask(ImageTextPretrainTask):
    """Trains on the loss, and is evaluated by the reports that the model writes.

    A validation (after an epoch) computes the loss over the split and `run.metrics` over the reports of `run.max_valid_reports` images; the
    reports go to `result/{split}_{epoch}.jsonl` in the run's folder: one `{"id", "report", "reference"}` a line.

    A test writes a report for every image, keeps a journal so that it can be interrupted, and scores the reports beside the baselines:
    see `xraygpt.evaluation.evaluate.write_evaluation` for the files in the folder `{split}/`.

    The model must have `generate_reports`, `report_prompt` and `image_features` as `MiniGPT4` has them.
    """

    def __init__(self, cfg: Config) -> None:
        super().__init__(cfg)
        generation: Any = OmegaConf.to_container(cfg.run_cfg.generation)
        self.question = generation.pop("prompt")
        self.settings = generation
        self.training: dict[str, list[Any]] = {}
        self.current: _Evaluation | None = None

    def check_metrics(self) -> None:
        """Raise ConfigError if a named metric or score does not exist, or `run.agg_metric` cannot choose a checkpoint."""
        run = self.cfg.run_cfg
        self.metrics = list(run.metrics) or list(DEFAULT_METRICS)
        directions = {metric.key: metric.higher_is_better for metric in compute_metrics(_SAMPLE, self.metrics)} | {LOSS: False}
        better = directions.get(run.agg_metric)
        if better is None:
            usable = ", ".join(key for key, direction in directions.items() if direction is not None)
            raise ConfigError(
                f"run.agg_metric is {run.agg_metric!r}, which cannot choose a checkpoint here. Of run.metrics these can: {usable}."
            )
        self.agg_sign = 1.0 if better else -1.0
        if unknown := [name for name in run.scoring.model_scores if name not in MODEL_SCORES]:
            raise ConfigError(
                "; ".join(f"run.scoring.model_scores: there is no {name!r}.{suggest(name, MODEL_SCORES)}" for name in unknown)
            )
        counts = {"max_valid_reports": run.max_valid_reports, "num_logged_reports": run.num_logged_reports}
        for name, count in (counts | {"scoring.nearest_images": run.scoring.nearest_images}).items():
            if count < 0:
                raise ConfigError(f"run.{name} must be 0 or more, got {count}.")

    def build_datasets(self, cfg: Config) -> dict[str, dict[str, Any]]:
        """As in `BaseTask`; also keeps those that are trained on, for the baselines."""
        datasets = super().build_datasets(cfg)
        for split in cfg.run_cfg.train_splits:
            self.training[split] = [splits[split] for splits in datasets.values() if split in splits]
        return datasets

    # Before ------------------------------------------------------------------------------------------------------

    def before_evaluation(self, model: Any, datasets: Any, *, split_name: str, epoch: int | str) -> list[list[int]]:
        """In a validation, batches of the images that get a report, then the others; in a test, batches that no earlier run finished."""
        split, batch_size = EvaluatedSplit.of(split_name, datasets), self.cfg.run_cfg.batch_size_eval
        if isinstance(epoch, int):
            chosen = evenly_spaced(len(split.ids), self.cfg.run_cfg.max_valid_reports or len(split.ids))
            self.current = _Evaluation(split, {split.ids[place] for place in chosen})
            others = sorted(set(range(len(split.ids))) - set(chosen))
            return split_into_batches(chosen, batch_size) + split_into_batches(others, batch_size)
        run_folder = Path(registry.get_path("output_dir"))
        identity = self._identity(model, split) if is_main_process() else {}
        journal = Journal(run_folder / split_name, identity=broadcast_object(identity))
        self.current = _Evaluation(split, set(split.ids), journal)
        if is_main_process():
            of_model = model_provenance(self.cfg, model, run_folder, epoch)
            self.current.provenance = {**of_model, "weights_sha256": identity["weights"], "run": run_folder.name, "which": epoch}
            self.current.provenance |= {"prompt": identity["prompt"], "decoding": identity["decoding"], "batch_size": batch_size}
        self.current.training = self._encode_training(model, split)
        batches = split_into_batches(range(len(split.ids)), batch_size)
        return [batch for batch in batches if not all(split.ids[place] in journal.rows for place in batch)]

    def _identity(self, model: Any, split: EvaluatedSplit) -> dict[str, Any]:
        """All that decides the reports, by name."""
        cfg = self.cfg.to_dict()
        return {
            "weights": weights_sha256(model),
            "features": getattr(model, "vision_key", ""),
            "model": sha256_of(cfg["model"]),
            "prompt": model.report_prompt(self.question),
            "decoding": {**self.settings, "end_sym": cfg["model"].get("end_sym"), "seed": self.cfg.run_cfg.seed},
            "datasets": sha256_of(cfg["datasets"]),
            "ids": sha256_of(split.ids),
            "batch_size": self.cfg.run_cfg.batch_size_eval,
            "device": f"{model.device.type} {model.precision}",
            "versions": [__version__, torch.__version__],
        }

    def _training_of(self, split: EvaluatedSplit) -> list[Any]:
        """The datasets that were trained on; not the evaluated split itself, whose own reports would be its baseline."""
        return [dataset for name, datasets in self.training.items() if name != split.name for dataset in datasets]

    def _encode_training(self, model: Any, split: EvaluatedSplit) -> TrainingImages | None:
        count, training = self.cfg.run_cfg.scoring.nearest_images, self._training_of(split)
        if not count or not sum(map(len, training)):
            return None
        images = encode_training_images(model.eval(), training, split, count=count, cfg=self.cfg)
        logger.info("Encoded %d training images for the nearest-training baseline.", len(images.reports))
        if is_main_process() and len(images.features) >= MIN_IMAGES:
            self._keep_known_images(model, images)
        return images

    def _keep_known_images(self, model: Any, images: TrainingImages) -> None:
        """What an image is compared with later, so that one unlike the training images is doubted (`run.known_images`)."""
        probe = model.image_features(probe_image(self.cfg.model_cfg.image_size)).cpu().numpy()[0]
        path = Path(registry.get_path("output_dir")) / FILE_NAME
        KnownImages.of(images.features, probe).save(path)
        logger.info("What training images look like to the model is in %s", path)

    # Each batch --------------------------------------------------------------------------------------------------

    def valid_step(self, model: Any, samples: dict[str, Any]) -> list[Row]:
        """The loss of a batch (in a validation), and a row for each report that is written."""
        current = self._current()
        rows = [] if current.journal else super().valid_step(model, samples)
        if samples["sample_id"][0] in current.to_write:
            written = self._write(model, samples)
            if current.journal:
                current.journal.write(written)
            rows += written
        return rows

    def _write(self, model: Any, samples: dict[str, Any]) -> list[Row]:
        ids = samples["sample_id"]
        # What is drawn for an image depends on its id alone, not on the batch that it is in.
        seeds = [stateless_seed(self.cfg.run_cfg.seed, zlib.crc32(key.encode())) for key in ids] if self.settings["do_sample"] else None
        start = time.perf_counter()
        reports, features = model.generate_reports(samples["image"], prompt=self.question, seed=seeds, **self.settings)
        seconds = (time.perf_counter() - start) / len(ids)
        encoded = [base64.b64encode(row.tobytes()).decode() for row in features.float().cpu().numpy()]
        return [
            {"id": key, "report": written.text, "truncated": written.truncated or written.repeated, "seconds": seconds, "features": image}
            for key, written, image in zip(ids, reports, encoded, strict=True)
        ]

    # After -------------------------------------------------------------------------------------------------------

    def after_evaluation(self, results: list[Row], split_name: str, epoch: int | str) -> dict[str, float]:
        """Store the reports and score them. Returns each metric that has a value, and `agg_metrics` if `run.agg_metric` has one."""
        current, numbers = self._current(), {}
        rows = {row["id"]: row for row in results if "id" in row}
        if is_main_process():
            if current.journal:
                numbers = self._score_test(current, current.journal.rows | rows, current.journal.folder)
            else:
                numbers = {LOSS: mean_loss([row for row in results if LOSS in row])} | self._score_validation(current, rows, epoch)
            if (value := numbers.get(self.cfg.run_cfg.agg_metric)) is not None:
                numbers = {"agg_metrics": self.agg_sign * value} | numbers
        numbers = broadcast_object(numbers)
        if current.journal:
            current.journal.close()
        if current.journal and is_main_process():
            current.journal.remove()
        return numbers

    def _current(self) -> _Evaluation:
        assert self.current is not None, "before_evaluation comes first"
        return self.current

    def _score_validation(self, current: _Evaluation, rows: dict[str, Row], epoch: int | str) -> dict[str, float]:
        corpus = current.split.corpus(rows)
        texts = zip(corpus.ids, corpus.predictions, corpus.references, strict=True)
        path = Path(registry.get_path("result_dir")) / f"{current.split.name}_{epoch}.jsonl"
        write_json_lines(path, ({"id": key, "report": report, "reference": reference} for key, report, (reference,) in texts))
        self._log_reports(corpus, f"{current.split.name} [{epoch}]")
        return metric_values(corpus, self.metrics)

    def _log_reports(self, corpus: Corpus, title: str) -> None:
        """A few of the written reports, the same ones each time, and how many findings are wrong in them. Never a reference."""
        lines = []
        for place in evenly_spaced(len(corpus.ids), self.cfg.run_cfg.num_logged_reports):
            judged = judge_report(corpus.predictions[place], corpus.references[place])
            text = " ".join(corpus.predictions[place].split())
            shown = text if len(text) <= MAX_LOGGED_CHARACTERS else text[: MAX_LOGGED_CHARACTERS - 1] + "…"
            lines.append(f"{printable_line(corpus.ids[place]):<24} {len(judged.omitted):>6} {len(judged.hallucinated):>8}  {shown}")
        if lines:
            logger.info("Reports of %s:\n%s", title, "\n".join([f"{'id':<24} missed invented  report", *lines]))

    def _score_test(self, current: _Evaluation, rows: dict[str, Row], folder: Path) -> dict[str, float]:
        split, scoring = current.split, self.cfg.run_cfg.scoring
        corpus = split.corpus(rows)
        assert corpus.ids == split.ids, "each sample of the split has its report"
        extra = {}
        if current.training is not None:
            features = np.stack([np.frombuffer(base64.b64decode(rows[key]["features"]), dtype=np.float32) for key in split.ids])
            extra["nearest_training"] = nearest_training(features, current.training.features, current.training.reports)
        seconds = sum(rows[key]["seconds"] for key in split.ids) / len(split.ids)
        evaluated = EvaluatedSet(
            corpus=corpus,
            split=split.name,
            training_reports=[ann["caption"] for dataset in self._training_of(split) for ann in dataset.annotation] or None,
            extra_baselines=extra,
            images=split.images(),
            provenance=current.provenance | {"seconds_per_report": round(seconds, 4)},
            title=f"{Path(self.cfg.cfg_path).stem}: {split.name}",
        )
        settings = Settings(
            model_scores={name: Path(path).expanduser() for name, path in scoring.model_scores.items()},
            resamples=scoring.resamples,
            confidence=scoring.confidence,
            seed=scoring.seed,
        )
        export = Path(scoring.export).expanduser() if scoring.export else None
        card = write_evaluation(folder, evaluated, settings=settings, num_cases=scoring.cases, export=export)
        logger.info("Scores of %s:\n%s\nAll of them: %s", split.name, format_table(card), folder / "report.html")
        return {score.key: score.value for score in card.scores if score.value is not None}
