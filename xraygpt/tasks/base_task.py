"""What every task does: build the datasets and the model, train an epoch, evaluate a split."""

import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import nn

from xraygpt.common.config import Config, builder_name
from xraygpt.common.errors import ConfigError
from xraygpt.common.logger import MetricLogger, SmoothedValue
from xraygpt.common.rank_watch import note_progress
from xraygpt.common.registry import registry
from xraygpt.common.updater import Updater, UpdateStats
from xraygpt.datasets.builders import BaseDatasetBuilder
from xraygpt.datasets.data_utils import prepare_sample
from xraygpt.datasets.dataloaders import SKIP, split_into_batches
from xraygpt.models import BaseModel
from xraygpt.tasks.feature_caching import evaluation_processor, use_features, used_datasets
from xraygpt.tasks.out_of_memory import IN_EVALUATION, IN_TRAINING, sizes_named

logger = logging.getLogger(__name__)

OnUpdate = Callable[[int, float, UpdateStats, MetricLogger], None]
"""Called after each update with (iteration of the epoch, learning rate, statistics, meters)."""


class BaseTask:
    """A task that trains on the model's loss. Subclasses say what evaluation does.

    A subclass is registered with `@registry.register_task(name)`; `setup_task` builds it from the configuration.
    """

    def __init__(self, cfg: Config) -> None:
        self.cfg = cfg
        self.datasets: dict[str, dict[str, Any]] = {}
        """Those that were built."""
        self.tolerates: Callable[[str], bool] = self._is_skipped_where_bad
        """Whether annotations of a split that cannot be used are left out of its datasets, rather than an error."""

    def _is_skipped_where_bad(self, split: str) -> bool:
        return self.cfg.run_cfg.on_bad_sample == SKIP and split in self.cfg.run_cfg.train_splits

    @classmethod
    def setup_task(cls, cfg: Config) -> "BaseTask":
        """The task of a configuration."""
        return cls(cfg)

    def build_datasets(self, cfg: Config) -> dict[str, dict[str, Any]]:
        """{dataset name: {split: dataset}} of every dataset in the configuration."""
        if not cfg.datasets_cfg:
            raise ConfigError(
                f"{cfg.cfg_path}: at least one dataset is needed under datasets:. Known: {', '.join(registry.list_datasets())}."
            )
        datasets: dict[str, dict[str, Any]] = {}
        for key, dataset_config in cfg.datasets_cfg.items():
            name = str(key)
            builder: BaseDatasetBuilder = registry.get_builder_class(builder_name(name, dataset_config))(dataset_config)
            builder.tolerates = self.tolerates
            datasets[name] = builder.build_datasets()
            sizes = ", ".join(f"{split} {len(dataset)}" for split, dataset in datasets[name].items())
            logger.info("Dataset %s: %s", name, sizes)
        self.datasets = datasets
        return datasets

    def build_model(self, cfg: Config) -> BaseModel:
        """The model of the configuration, with its weights, on the CPU."""
        model_class = registry.get_model_class(cfg.model_cfg.arch)
        if not cfg.run_cfg.feature_cache.path:
            return model_class.from_config(cfg.model_cfg)
        return model_class.from_config(cfg.model_cfg, vision_key=self.use_features(cfg))

    def use_features(self, cfg: Config) -> str:
        """Let the datasets give features from `run.feature_cache` in place of images; what is not there is computed now.

        Returns:
            The key of the vision parts.
        """
        used = []
        for name, dataset, trained_on in used_datasets(cfg, self.datasets):
            if trained_on and cfg.run_cfg.feature_cache.views == 1:
                dataset.vis_processor = evaluation_processor(cfg, name)
            used.append((dataset, trained_on))
        return use_features(cfg, used)

    # Training --------------------------------------------------------------------------------------------------

    def train_step(self, model: nn.Module, samples: dict[str, Any]) -> tuple[torch.Tensor, int]:
        """The loss of a batch, and how much it counts (supervised tokens; 1 if the model does not say)."""
        output = model(samples)
        loss = output["loss"]
        return loss, output.get("num_tokens", 1)

    def train_epoch(
        self,
        epoch: int,
        *,
        model: nn.Module,
        data_loader: Iterator[dict[str, Any]],
        updater: Updater,
        cuda_enabled: bool,
        log_freq: int,
        start_iter: int = 0,
        meters: dict[str, list[float]] | None = None,
        before_step: Callable[[int], None] = lambda i: None,
        on_update: OnUpdate = lambda i, lr, stats, metric_logger: None,
        needs_numbers: Callable[[int], bool] = lambda i: True,
        progress_bar: bool = False,
    ) -> dict[str, float]:
        """Train from iteration `start_iter` to the end of epoch `epoch`.

        Args:
            model: as it is called in training.
            data_loader: endless batches, standing at `start_iter`.
            meters: state of the meters at `start_iter`, from a checkpoint.
            before_step: called with each iteration before its forward pass.
            on_update: called after each update, or (see `Updater.settle`) after the one that follows it.
            needs_numbers: whether the update after an iteration is needed at once, because something is done then. The epoch's last is.

        Returns:
            Averages over the epoch: "lr" and "loss".
        """
        metric_logger = MetricLogger(progress_bar=progress_bar)
        metric_logger.add_meter("lr", SmoothedValue(window_size=1, fmt="{value:.6f}"))
        metric_logger.add_meter("loss", SmoothedValue(window_size=1, fmt="{value:.4f}"))
        metric_logger.load_state_dict(meters or {})
        return self._train_inner_loop(
            epoch, model, data_loader, updater, metric_logger, range(start_iter, updater.iters_per_epoch), cuda_enabled, log_freq,
            before_step, on_update, needs_numbers,
        )  # fmt: skip

    def _train_inner_loop(
        self,
        epoch: int,
        model: nn.Module,
        data_loader: Iterator[dict[str, Any]],
        updater: Updater,
        metric_logger: MetricLogger,
        iterations: range,
        cuda_enabled: bool,
        log_freq: int,
        before_step: Callable[[int], None],
        on_update: OnUpdate,
        needs_numbers: Callable[[int], bool],
    ) -> dict[str, float]:
        """The training loop; there is no other."""
        model.train()
        for i in metric_logger.log_every(iterations, log_freq, header=f"Train: data epoch: [{epoch}]"):
            step = epoch * updater.iters_per_epoch + i
            note_progress("waiting for data", step=step)
            with metric_logger.data_wait():
                samples = next(data_loader)
            note_progress("computing", step=step)
            samples = prepare_sample(samples, cuda_enabled=cuda_enabled)
            before_step(i)
            updater.schedule(epoch, i)
            finished: list[UpdateStats] = []
            with sizes_named(model, samples, IN_TRAINING):
                with updater.gradient_sync(i):
                    with updater.autocast():
                        loss, num_tokens = self.train_step(model=model, samples=samples)
                    updater.backward(loss, num_tokens, samples)
                if updater.completes_group(i):
                    updater.update(step)
                    finished = updater.settle(keep=0 if i == iterations[-1] or needs_numbers(i) else 1)
            for stats in finished:
                if not stats.skipped:
                    metric_logger.update(lr=stats.lr, loss=stats.loss)
                on_update(stats.i, stats.lr, stats, metric_logger)
                updater.require_progress()
        note_progress("finishing the epoch")
        logger.info("Averaged stats: %s", "  ".join(f"{name}: {value:.6f}" for name, value in metric_logger.averages().items()))
        return metric_logger.averages()

    # Evaluation ------------------------------------------------------------------------------------------------
    #
    # On every rank: before_evaluation, then valid_step for each batch of its share, then after_evaluation with the results of all.
    # `epoch` is the number of the epoch in a validation, and which model it is in a test: "best", "last" or "evaluate".

    def before_evaluation(self, model: BaseModel, datasets: Sequence[Any], *, split_name: str, epoch: int | str) -> list[list[int]]:
        """The batches to evaluate, as indices into the datasets of a split, which stand one after another; the same on every rank."""
        return split_into_batches(range(sum(map(len, datasets))), self.cfg.run_cfg.batch_size_eval)

    def valid_step(self, model: BaseModel, samples: dict[str, Any]) -> list[dict[str, Any]]:
        """Results of one batch: a list of plain dictionaries, put together over batches and ranks."""
        raise NotImplementedError(f"{type(self).__name__} does not say how to evaluate.")

    def after_evaluation(self, results: list[dict[str, Any]], split_name: str, epoch: int | str) -> dict[str, float]:
        """Numbers from the results of all ranks, which come in the order of the batches.

        "agg_metrics" among them decides which checkpoint is best (higher is better).
        """
        raise NotImplementedError(f"{type(self).__name__} does not say how to evaluate.")

    @torch.no_grad()
    def evaluation(
        self, model: BaseModel, data_loader: Any, *, cuda_enabled: bool, header: str, progress_bar: bool = False
    ) -> list[list[dict[str, Any]]]:
        """The results of each batch of this rank's share."""
        model.eval()
        results: list[list[dict[str, Any]]] = []
        batches = iter(data_loader)
        metric_logger = MetricLogger(progress_bar=progress_bar)
        for _ in metric_logger.log_every(range(len(data_loader)), log_freq=max(1, len(data_loader) // 5), header=header):
            with metric_logger.data_wait():
                samples = next(batches)
            with sizes_named(model, samples, IN_EVALUATION):
                results.append(self.valid_step(model=model, samples=prepare_sample(samples, cuda_enabled=cuda_enabled)))
        return results


registry.declare_base("task", BaseTask)
