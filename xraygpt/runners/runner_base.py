"""Runs a task: epochs of training, validation, checkpoints, the final test."""

import datetime
import logging
import time
from pathlib import Path
from typing import Any, ClassVar

from torch.nn.parallel import DistributedDataParallel

from xraygpt import __version__
from xraygpt.common.checkpoint import load_checkpoint, load_trainable_state, newest_checkpoint, save_checkpoint, trainable_state
from xraygpt.common.config import Config
from xraygpt.common.dist_utils import (
    all_gather_objects,
    barrier,
    broadcast_object,
    get_rank,
    get_world_size,
    is_main_process,
    main_process,
    resolve_device,
)
from xraygpt.common.errors import CheckpointError, ConfigError
from xraygpt.common.files import write_json, write_text
from xraygpt.common.logger import MetricLogger, RunLog, max_memory_mib
from xraygpt.common.optims import build_adamw
from xraygpt.common.registry import registry
from xraygpt.common.run_config import RunConfig
from xraygpt.common.seed import seed_everything
from xraygpt.common.updater import Updater, UpdateStats
from xraygpt.datasets.dataloaders import build_eval_loader, build_train_iterator, in_turns
from xraygpt.runners.run_report import RunReport

logger = logging.getLogger(__name__)


def new_job_id(run_cfg: Any) -> str:
    """`run.job_id`, or the time of the start, the same on every rank."""
    return run_cfg.job_id or broadcast_object(datetime.datetime.now().strftime("%Y%m%d%H%M%S"))


@registry.register_runner("runner_base")
class RunnerBase:
    """Trains and evaluates one model on one configuration.

    Everything that a run needs is built in the constructor, in one straight line; properties and methods create nothing.

    Args:
        cfg: the run's configuration.
        job_id: name of the run's folder under `run.output_dir`.
        task: trains an epoch and evaluates a split.
        model: as built by the task, on the CPU.
        datasets: {dataset name: {split: dataset}}.
    """

    config_schema: ClassVar[type] = RunConfig

    def __init__(self, *, cfg: Config, job_id: str, task: Any, model: Any, datasets: dict[str, dict[str, Any]]) -> None:
        self.config, self.run_cfg, self.job_id, self.task = cfg, cfg.run_cfg, job_id, task
        self.device = resolve_device(self.run_cfg.device)
        self.cuda_enabled = self.device.type == "cuda"
        self.splits = self._datasets_by_split(datasets)
        self.model = model.place(self.device)
        self.output_dir = Path(self.run_cfg.output_dir).expanduser().absolute() / job_id
        self.log = RunLog(self.output_dir / "log.txt")
        self.report = RunReport(self.log, self.output_dir, tensorboard=self.run_cfg.tensorboard)
        self.start_epoch, self.start_iter, self.best = 0, 0, {"agg_metrics": -float("inf"), "loss": float("inf"), "epoch": -1}
        self.meters: dict[str, list[float]] | None = None
        resume_from = self._prepare_output_dir()
        if self.run_cfg.evaluate:
            return
        self.iters_per_epoch = self.run_cfg.iters_per_epoch or self._one_pass()
        self.updater = self._build_updater()
        if resume_from is not None:
            self._load_checkpoint(resume_from)
        self.train_loader = self._build_train_loader()

    # Building --------------------------------------------------------------------------------------------------

    def _datasets_by_split(self, datasets: dict[str, dict[str, Any]]) -> dict[str, list[Any]]:
        """{split: [dataset, …]} for the splits that this run uses; each must have at least one dataset."""
        used = [*(() if self.run_cfg.evaluate else (*self.run_cfg.train_splits, *self.run_cfg.valid_splits)), *self.run_cfg.test_splits]
        by_split = {split: [splits[split] for splits in datasets.values() if split in splits] for split in used}
        empty = [split for split, found in by_split.items() if not found]
        if empty:
            has = "; ".join(f"{name}: {', '.join(splits)}" for name, splits in datasets.items())
            raise ConfigError(f"No dataset has the split {', '.join(empty)} that run.*_splits ask for. There are: {has}.")
        return by_split

    def _prepare_output_dir(self) -> Path | None:
        """Make the run's folder, and return the checkpoint to resume from, if any.

        A finished or running job is not written over. "auto" starts anew one that was interrupted before its first checkpoint.
        """
        resume = self.run_cfg.resume_ckpt_path
        resume_from = newest_checkpoint(self.output_dir) if resume == "auto" else Path(resume).expanduser() if resume else None
        fresh = resume_from is None or resume_from.absolute().parent != self.output_dir
        if fresh and resume != "auto" and not self.run_cfg.evaluate and self.log.path.exists():
            raise ConfigError(
                f"{self.output_dir} already holds a run. Continue it with run.resume_ckpt_path=auto, choose another run.job_id, "
                "or move the folder away."
            )
        barrier()  # Every rank has looked before rank 0 writes.
        if is_main_process():
            (self.output_dir / "result").mkdir(parents=True, exist_ok=True)
            if not self.run_cfg.evaluate:
                write_text(self.output_dir / "config.yaml", self.config.to_yaml())
                if fresh:
                    self.log.clear()
                    self.log.write({"config": self.config.to_dict(), "version": __version__, "job_id": self.job_id})
        registry.register_path("output_dir", str(self.output_dir), overwrite=True)
        registry.register_path("result_dir", str(self.output_dir / "result"), overwrite=True)
        barrier()
        return resume_from

    def _train_datasets(self) -> list[Any]:
        return [dataset for split in self.run_cfg.train_splits for dataset in self.splits[split]]

    def _one_pass(self) -> int:
        """Iterations of one pass over the training data, over all ranks."""
        return max(1, sum(map(len, self._train_datasets())) // (self.run_cfg.batch_size_train * get_world_size()))

    def _build_updater(self) -> Updater:
        run = self.run_cfg
        if not any(parameter.requires_grad for parameter in self.model.parameters()):
            raise ConfigError("Every part of the model is frozen: there is nothing to train. Unfreeze one (model.freeze_*=False).")
        self.train_model = DistributedDataParallel(self.model) if get_world_size() > 1 else self.model
        optimizer = build_adamw(self.model, lr=run.init_lr, weight_decay=run.weight_decay, beta2=run.beta2)
        schedule = registry.get_lr_scheduler_class(run.lr_sched)(
            optimizer,
            max_epoch=run.max_epoch,
            iters_per_epoch=self.iters_per_epoch,
            init_lr=run.init_lr,
            min_lr=run.min_lr,
            warmup_steps=run.warmup_steps,
            warmup_start_lr=run.warmup_lr,
            decay_rate=run.lr_decay_rate,
        )
        return Updater(
            model=self.train_model,
            optimizer=optimizer,
            lr_scheduler=schedule,
            device=self.device,
            amp=run.amp,
            iters_per_epoch=self.iters_per_epoch,
            accum_grad_iters=run.accum_grad_iters,
            max_grad_norm=run.max_grad_norm,
            max_nonfinite_steps=run.max_nonfinite_steps,
        )

    def _build_train_loader(self) -> Any:
        return build_train_iterator(
            self._train_datasets(),
            batch_size=self.run_cfg.batch_size_train,
            num_workers=self.run_cfg.num_workers,
            seed=self.run_cfg.seed,
            rank=get_rank(),
            world_size=get_world_size(),
            start_iteration=self.start_epoch * self.iters_per_epoch + self.start_iter,
            pin_memory=self.cuda_enabled,
        )

    # Running ---------------------------------------------------------------------------------------------------

    def train(self) -> None:
        """Train to the end with validation and checkpoints after each epoch, then test; or, with `run.evaluate`, only test."""
        start = time.monotonic()
        if self.run_cfg.evaluate:
            self.evaluate("evaluate")
            return
        for epoch in range(self.start_epoch, self.run_cfg.max_epoch):
            stats = self.train_epoch(epoch)
            record: dict[str, Any] = {f"train_{name}": value for name, value in stats.items()}
            for split in self.run_cfg.valid_splits:
                metrics = self.eval_epoch(split, epoch)
                logger.info("%s [%d]: %s", split, epoch, "  ".join(f"{name}: {value:.4f}" for name, value in metrics.items()))
                record |= {f"{split}_{name}": value for name, value in metrics.items()}
                if split == "val":
                    self._note_best(metrics, epoch)
            self._finish_epoch(epoch, record)
        self.report.plot_losses()
        tested = self.evaluate("best" if self.best["epoch"] >= 0 else "last") if self.run_cfg.test_splits else {}
        self._write_summary(tested, seconds=time.monotonic() - start)

    def _note_best(self, metrics: dict[str, float], epoch: int) -> None:
        if "agg_metrics" not in metrics:
            logger.warning("Epoch %d cannot become the best: what chooses it (run.agg_metric) had nothing to measure.", epoch)
            return
        best = {"agg_metrics": metrics["agg_metrics"], "loss": metrics.get("loss", float("inf")), "epoch": epoch}
        # Models that write the same report for every image tie; of them the one with the lowest loss is kept.
        if (best["agg_metrics"], -best["loss"]) > (self.best["agg_metrics"], -self.best.get("loss", float("inf"))):
            self.best = best

    def train_epoch(self, epoch: int) -> dict[str, float]:
        """Train one epoch, from where a resumed run stands; returns the averages of learning rate and loss."""
        start_iter = self.start_iter if epoch == self.start_epoch else 0
        meters = self.meters if epoch == self.start_epoch else None
        first_step = epoch * self.iters_per_epoch
        self.report.start_clock()

        def before_step(i: int) -> None:
            # Dropout is a function of (seed, rank, iteration), so a resumed run draws the same.
            seed_everything(self.run_cfg.seed, get_rank(), first_step + i)

        def on_update(i: int, lr: float, stats: UpdateStats, metric_logger: MetricLogger) -> None:
            self._after_update(epoch, i, lr, stats, metric_logger)

        return self.task.train_epoch(
            epoch,
            model=self.train_model,
            data_loader=self.train_loader,
            updater=self.updater,
            cuda_enabled=self.cuda_enabled,
            log_freq=self.run_cfg.log_freq,
            start_iter=start_iter,
            meters=meters,
            before_step=before_step,
            on_update=on_update,
            progress_bar=self.run_cfg.progress_bar,
        )

    def _after_update(self, epoch: int, i: int, lr: float, stats: UpdateStats, metric_logger: MetricLogger) -> None:
        """Log and save where their turn has come; with accumulation, at the update that the turn falls into."""
        accum, step = self.run_cfg.accum_grad_iters, epoch * self.iters_per_epoch + i
        self.report.count(images=accum * self.run_cfg.batch_size_train * get_world_size(), tokens=stats.num_tokens)
        if step < accum and (warning := self.model.first_loss_warning(stats.loss)):
            logger.warning(warning)
        if i % self.run_cfg.log_freq < accum or i == self.iters_per_epoch - 1:
            waited = metric_logger.data_time.value
            self.report.log_step(step=step, epoch=epoch, lr=lr, loss=stats.loss, grad_norm=stats.grad_norm, data_time=waited)
        save_every = self.run_cfg.save_every_iters
        if save_every and (i + 1) % save_every < accum and i + 1 < self.iters_per_epoch:
            self._save_checkpoint("last", finished_epoch=epoch - 1, iteration=i + 1, meters=metric_logger.state_dict())

    def eval_epoch(self, split: str, epoch: int | str) -> dict[str, float]:
        """Evaluate the model as it is on a split, all ranks together; the numbers are the same on each."""
        shared = self.run_cfg.use_dist_eval_sampler
        rank, world_size = (get_rank(), get_world_size()) if shared else (0, 1)
        batches = self.task.before_evaluation(self.model, self.splits[split], split_name=split, epoch=epoch)
        loader = build_eval_loader(
            self.splits[split],
            batches=batches[rank::world_size],
            num_workers=self.run_cfg.num_workers,
            pin_memory=self.cuda_enabled,
        )
        own = self.task.evaluation(
            self.model,
            loader,
            cuda_enabled=self.cuda_enabled,
            header=f"Evaluation: {split} [{epoch}]",
            progress_bar=self.run_cfg.progress_bar,
        )
        by_batch = in_turns(all_gather_objects(own)) if shared else own
        return self.task.after_evaluation([row for rows in by_batch for row in rows], split_name=split, epoch=epoch)

    def evaluate(self, which: str) -> dict[str, dict[str, float]]:
        """Evaluate the test splits with the "best" checkpoint, the "last" state, or (`evaluate`) the model as configured."""
        if which == "best":
            path = self.output_dir / "checkpoint_best.pth"
            load_trainable_state(self.model, load_checkpoint(path)["model"], path)
        tested = {}
        for split in self.run_cfg.test_splits:
            tested[split] = self.eval_epoch(split, which)
            if is_main_process():
                path = self.output_dir / "result" / f"{split}_{which}.json"
                write_json(path, tested[split])
                logger.info("%s [%s]: the numbers are in %s", split, which, path)
        return tested

    # Checkpoints -----------------------------------------------------------------------------------------------

    def _finish_epoch(self, epoch: int, record: dict[str, Any]) -> None:
        """Log, then save: a run that resumes from the epoch's checkpoint finds its line and its checkpoint_best.pth."""
        if self.best["epoch"] >= 0:
            record["best_epoch"] = self.best["epoch"]
        self.report.log_epoch(step=(epoch + 1) * self.iters_per_epoch - 1, epoch=epoch, **record)
        if self.best["epoch"] == epoch:
            self._save_checkpoint("best", finished_epoch=epoch, iteration=0)
        self._save_checkpoint(str(epoch), finished_epoch=epoch, iteration=0)
        barrier()

    @main_process
    def _save_checkpoint(self, name: str, *, finished_epoch: int, iteration: int, meters: dict[str, list[float]] | None = None) -> None:
        state = {
            "model": trainable_state(self.model),
            **self.updater.state_dict(),
            "config": self.config.to_dict(),
            "epoch": finished_epoch,
            "iteration": iteration,
            "meters": meters,
            "best": self.best,
            "llm": self.model.identity(),
            "version": __version__,
        }
        save_checkpoint(self.output_dir / f"checkpoint_{name}.pth", state)

    def _load_checkpoint(self, path: Path) -> None:
        """Continue exactly where the checkpoint was written: parameters, optimizer, scaler, position, best metric, averages."""
        state = load_checkpoint(path)
        if absent := {"model", "optimizer", "epoch"} - state.keys():
            raise CheckpointError(
                f"{path} is no checkpoint of a run: it has no {', '.join(sorted(absent))}. "
                "To start from its weights, give it as model.ckpt."
            )
        load_trainable_state(self.model, state["model"], path)
        self.updater.load_state_dict(state)
        self.start_epoch, self.start_iter = state["epoch"] + 1, state.get("iteration", 0)
        self.meters = state.get("meters")
        if path.absolute().parent == self.output_dir:  # the best epoch of another run has no checkpoint in this folder
            self.best = state["best"]
        step = self.start_epoch * self.iters_per_epoch + self.start_iter
        self.log.rewind(step)
        logger.info("Resumed from %s at epoch %d, iteration %d.", path, self.start_epoch, self.start_iter)

    @main_process
    def _write_summary(self, tested: dict[str, dict[str, float]], *, seconds: float) -> None:
        """summary.json is written last: where it is, the run is complete."""
        summary = {
            "job_id": self.job_id,
            "best": self.best if self.best["epoch"] >= 0 else None,
            "test": tested,
            "seconds": round(seconds, 1),
        }
        if self.cuda_enabled:
            summary["max_memory_mib"] = max_memory_mib()
        write_json(self.output_dir / "summary.json", summary)
        logger.info("Finished in %s. Results are in %s", datetime.timedelta(seconds=int(seconds)), self.output_dir)
