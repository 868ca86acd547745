"""Runs a task: epochs of training, validation, checkpoints, the final test."""

import datetime
import logging
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar

from torch.nn.parallel import DistributedDataParallel

from xraygpt import __version__
from xraygpt.common.checkpoint import load_checkpoint, load_trainable_state, model_state
from xraygpt.common.checkpoint_folder import CheckpointFolder
from xraygpt.common.config import Config
from xraygpt.common.dist_utils import (
    all_gather_objects,
    all_reduce_sum,
    broadcast_object,
    decided_by_main,
    get_rank,
    get_world_size,
    is_main_process,
    resolve_device,
)
from xraygpt.common.errors import ConfigError
from xraygpt.common.files import make_folder, write_json, write_text
from xraygpt.common.logger import MetricLogger, RunLog
from xraygpt.common.loss_watch import LossWatch
from xraygpt.common.memory import memory_by_part
from xraygpt.common.optims import build_adamw
from xraygpt.common.registry import registry
from xraygpt.common.run_config import RunConfig
from xraygpt.common.seed import seed_everything
from xraygpt.common.signals import StoppedEarly, UntilStopped, stop_requested
from xraygpt.common.updater import NonFiniteError, Updater, UpdateStats
from xraygpt.datasets.dataloaders import build_eval_loader, build_train_iterator, in_turns
from xraygpt.runners.checkpointer import Checkpointer
from xraygpt.runners.failures import BadSampleList, TooManyBadSamplesError, write_dump
from xraygpt.runners.resuming import Continuation, Resumed, find_checkpoint, restarted
from xraygpt.runners.run_report import RunReport
from xraygpt.runners.run_state import Progress, RunFacts, RunState, data_identity

logger = logging.getLogger(__name__)


def new_job_id(run_cfg: Any) -> str:
    """`run.job_id`, or the time of the start, the same on every rank.

    Raises:
        ConfigError: there is no job_id, and a launcher that starts the run again could not find its folder.
    """
    if not run_cfg.job_id and (restarted() or int(os.environ.get("TORCHELASTIC_MAX_RESTARTS") or 0) > 0):
        raise ConfigError("A run that is started again by itself (torchrun --max-restarts, SLURM requeue) needs a name: set run.job_id.")
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
        self.folder = CheckpointFolder(self.output_dir, keep_step_checkpoints=self.run_cfg.keep_step_checkpoints)
        facts = RunFacts(
            config=cfg.to_dict(),
            data=data_identity(cfg.datasets_cfg, datasets),
            llm=self.model.identity(),
            llm_differences=self.model.identity_differences,
        )
        run = self.run_cfg
        resumed = None if run.evaluate else find_checkpoint(self.folder, run.resume_ckpt_path, facts, allow=run.resume_allow)
        decided_by_main(lambda: self._prepare_output_dir(resumed))
        registry.register_path("output_dir", str(self.output_dir), overwrite=True)
        registry.register_path("result_dir", str(self.output_dir / "result"), overwrite=True)
        if run.evaluate:
            return
        going_on = resumed.continuation if resumed else Continuation()
        self.iters_per_epoch = going_on.iters_per_epoch or run.iters_per_epoch or self._one_pass()
        self.warmup_steps = run.warmup_steps if going_on.warmup_steps is None else going_on.warmup_steps
        self.updater = self._build_updater()
        self.state = RunState(
            model=self.model, updater=self.updater, facts=facts, iters_per_epoch=self.iters_per_epoch, warmup_steps=self.warmup_steps
        )  # fmt: skip
        if resumed is not None:
            self._continue_from(resumed)
        self.saved = self.state.progress
        self.checkpointer = self._build_checkpointer()
        self.bad_samples = BadSampleList(self.output_dir, max_share=run.max_bad_share)
        self.bad_samples.note_left_out(self._train_datasets())
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

    def _prepare_output_dir(self, resumed: Resumed | None) -> None:
        """Make the run's folder, on rank 0. A finished or running job is not written over.

        Raises:
            ConfigError: there is a run in the folder which this one does not continue, or the folder cannot be written to.
        """
        fresh = resumed is None or resumed.path.absolute().parent != self.output_dir
        on_purpose = self.run_cfg.resume_ckpt_path == "auto" or restarted()  # anew, if it was interrupted before its first checkpoint
        if fresh and not on_purpose and not self.run_cfg.evaluate and self.log.path.exists():
            raise ConfigError(
                f"{self.output_dir} already holds a run. Continue it with --resume auto, choose another run.job_id, "
                "or move the folder away."
            )
        try:
            make_folder(self.output_dir / "result")
            if self.run_cfg.evaluate:
                return
            write_text(self.output_dir / "config.yaml", self.config.to_yaml())
            self.folder.begin(resumed.path if resumed else None)
            if fresh:
                self.log.clear()
                self.log.write({"config": self.config.to_dict(), "version": __version__, "job_id": self.job_id})
        except OSError as error:
            raise ConfigError(
                f"The run's folder {self.output_dir} cannot be written to: {error}. Free or mend it, or set run.output_dir."
            ) from error

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
            warmup_steps=self.warmup_steps,
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
            wishes=lambda: (stop_requested(), self.checkpointer.due_by_time()),
            loss_watch=LossWatch(window=run.spike_window, factor=run.spike_factor),
        )

    def _build_checkpointer(self) -> Checkpointer:
        return Checkpointer(
            folder=self.folder,
            state=self.state.state_dict,
            every_iters=self.run_cfg.save_every_iters,
            every_minutes=self.run_cfg.save_every_minutes,
            accum_grad_iters=self.run_cfg.accum_grad_iters,
            retry_minutes=self.run_cfg.save_retry_minutes,
        )

    def _build_train_loader(self) -> Any:
        return build_train_iterator(
            self._train_datasets(),
            batch_size=self.run_cfg.batch_size_train,
            num_workers=self.run_cfg.num_workers,
            seed=self.run_cfg.seed,
            rank=get_rank(), world_size=get_world_size(),
            start_iteration=self.state.step, pin_memory=self.cuda_enabled,
            on_bad_sample=self.run_cfg.on_bad_sample,
            timeout_s=60 * self.run_cfg.dist_timeout_minutes,
            group_by_length=self.run_cfg.group_by_length, accum_grad_iters=self.run_cfg.accum_grad_iters,
            row_length=self.model.row_length() if self.run_cfg.group_by_length else None,
        )  # fmt: skip

    # Running ---------------------------------------------------------------------------------------------------

    def train(self) -> None:
        """Train to the end with validation and checkpoints after each epoch, then test; or, with `run.evaluate`, only test."""
        start = time.monotonic()
        if self.run_cfg.evaluate:
            self.evaluate("evaluate")
            return
        try:
            self._stop_if_told()
            for epoch in range(self.state.progress.epoch, self.run_cfg.max_epoch):
                self._run_epoch(epoch)
            self.checkpointer.finish()
            self.report.plot_losses()
            tested = self.evaluate("best" if self.state.best["epoch"] >= 0 else "last") if self.run_cfg.test_splits else {}
        finally:
            self.train_loader.close()  # ends its processes
            self.checkpointer.wait()
        best = self.state.best if self.state.best["epoch"] >= 0 else None
        memory = memory_by_part(self.model, self.updater.optimizer, self.device)
        self.report.write_summary(best=best, tested=tested, seconds=time.monotonic() - start, memory_mib=memory)

    def _run_epoch(self, epoch: int) -> None:
        """Train, validate, log, save."""
        stats = self.train_epoch(epoch)
        self.checkpointer.wait()  # evaluation starts processes, and a fork wants no other thread at work
        record: dict[str, Any] = {f"train_{name}": value for name, value in stats.items()}
        for split in self.run_cfg.valid_splits:
            metrics = self.eval_epoch(split, epoch)
            logger.info("%s [%d]: %s", split, epoch, "  ".join(f"{name}: {value:.4f}" for name, value in metrics.items()))
            record |= {f"{split}_{name}": value for name, value in metrics.items()}
            if split == "val":
                self.state.note_best(metrics, epoch)
        self._finish_epoch(epoch, record)
        self._stop_if_told()

    def train_epoch(self, epoch: int) -> dict[str, float]:
        """Train one epoch, from where a resumed run stands; returns the averages of learning rate and loss."""
        first_step = epoch * self.iters_per_epoch
        self.report.start_clock()

        def before_step(i: int) -> None:
            # Dropout is a function of (seed, rank, iteration), so a resumed run draws the same.
            seed_everything(self.run_cfg.seed, get_rank(), first_step + i)

        def on_update(i: int, lr: float, stats: UpdateStats, metric_logger: MetricLogger) -> None:
            self._after_update(epoch, i, lr, stats, metric_logger)

        try:
            return self.task.train_epoch(
                epoch,
                model=self.train_model,
                data_loader=self.train_loader,
                updater=self.updater,
                cuda_enabled=self.cuda_enabled,
                log_freq=self.run_cfg.log_freq,
                start_iter=self.state.progress.iteration,
                meters=self.state.progress.meters,
                before_step=before_step,
                on_update=on_update,
                needs_numbers=self._is_logged_or_saved,
                progress_bar=self.run_cfg.progress_bar,
            )
        except (NonFiniteError, TooManyBadSamplesError) as error:  # on all ranks at the same update
            self._save_step()
            if isinstance(error, NonFiniteError):
                write_dump(error, folder=self.output_dir, config=self.config.to_dict(), model=self.model, updater=self.updater)
            raise

    def _after_update(self, epoch: int, i: int, lr: float, stats: UpdateStats, metric_logger: MetricLogger) -> None:
        """Log and save where their turn has come; with accumulation, at the update that the turn falls into."""
        accum, step = self.run_cfg.accum_grad_iters, epoch * self.iters_per_epoch + i
        self.report.count(images=accum * self.run_cfg.batch_size_train * get_world_size(), tokens=stats.num_tokens)
        if step < accum and (warning := self.model.first_loss_warning(stats.loss)):
            logger.warning(warning)
        if self._is_logged(i):
            waited = metric_logger.data_time.value
            numbers = {"lr": lr, "loss": stats.loss, "grad_norm": stats.grad_norm, **self.updater.counts, "data_time": waited}
            self.report.log_step(step=step, epoch=epoch, **numbers)
        if not stats.latest:
            return
        self.state.progress = Progress(epoch, i + 1, metric_logger.state_dict())
        seen = (step + 1) * self.run_cfg.batch_size_train * get_world_size()
        self.bad_samples.note(stats.bad_samples, total=self.updater.counts["bad_samples"], seen=seen)
        due = stats.save or self.checkpointer.due_after(i)
        unfinished = i + 1 < self.iters_per_epoch or bool(self.run_cfg.valid_splits)  # else the epoch's own checkpoint comes now
        if stats.stop:
            self._save_and_stop()
        if due and unfinished:
            self._save_step()
        self.checkpointer.retry()

    def _is_logged(self, i: int) -> bool:
        return i % self.run_cfg.log_freq < self.run_cfg.accum_grad_iters or i == self.iters_per_epoch - 1

    def _is_logged_or_saved(self, i: int) -> bool:
        return self._is_logged(i) or self.checkpointer.due_after(i)

    def eval_epoch(self, split: str, epoch: int | str) -> dict[str, float]:
        """Evaluate the model as it is on a split, all ranks together; the numbers are the same on each.

        Raises:
            StoppedEarly: the run was told to stop. A validation is then done anew when it goes on.
        """
        shared = self.run_cfg.use_dist_eval_sampler
        rank, world_size = (get_rank(), get_world_size()) if shared else (0, 1)
        batches = self.task.before_evaluation(self.model, self.splits[split], split_name=split, epoch=epoch)
        loader = build_eval_loader(
            self.splits[split],
            batches=batches[rank::world_size],
            num_workers=self.run_cfg.num_workers,
            pin_memory=self.cuda_enabled,
            timeout_s=60 * self.run_cfg.dist_timeout_minutes,
        )
        seed_everything(self.run_cfg.seed, get_rank())  # sampled reports are then the same after an interruption
        own: list[list[dict[str, Any]]] = []
        with suppress(StoppedEarly):  # the other ranks must hear of it first
            own = self.task.evaluation(
                self.model,
                UntilStopped(loader),
                cuda_enabled=self.cuda_enabled,
                header=f"Evaluation: {split} [{epoch}]",
                progress_bar=self.run_cfg.progress_bar,
            )
        self._stop_if_told()
        by_batch = in_turns(all_gather_objects(own)) if shared else own
        return self.task.after_evaluation([row for rows in by_batch for row in rows], split_name=split, epoch=epoch)

    def evaluate(self, which: str) -> dict[str, dict[str, float]]:
        """Evaluate the test splits with the "best" checkpoint, the "last" state, or (`evaluate`) the model as configured."""
        if which == "best":
            path = self.output_dir / "checkpoint_best.pth"
            load_trainable_state(self.model, model_state(load_checkpoint(path), path), path)
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
        """Log, then save: a run that resumes from the epoch's checkpoint finds its line."""
        if self.state.best["epoch"] >= 0:
            record["best_epoch"] = self.state.best["epoch"]
        self.report.log_epoch(step=(epoch + 1) * self.iters_per_epoch - 1, epoch=epoch, **record)
        self.state.progress = Progress(epoch + 1)
        self._save(str(epoch), best=self.state.best["epoch"] == epoch)

    def _save(self, name: str, *, best: bool = False) -> None:
        self.checkpointer.save(name, best=best)
        self.saved = self.state.progress

    def _save_step(self) -> None:
        self._save(f"step{self.state.step}")

    def _stop_if_told(self) -> None:
        """Outside the steps, where nothing else travels between the ranks: stop if any of them was told to."""
        if all_reduce_sum([stop_requested()], self.device)[0] > 0:
            self._save_and_stop()

    def _save_and_stop(self) -> None:
        """Save what is not saved yet, and wait until it is.

        Raises:
            StoppedEarly: always, on every rank; or a CheckpointError, if saving failed.
        """
        if not self.run_cfg.evaluate:
            if self.state.progress != self.saved:
                self._save_step()
            self.checkpointer.finish()
        raise StoppedEarly

    def _continue_from(self, resumed: Resumed) -> None:
        """Take over the state of a checkpoint, and the best epoch and the log if they are in this folder."""
        state, scale = resumed.state, resumed.continuation.scale
        self.state.load_state_dict(state, resumed.path, scale=scale)
        here = resumed.path.absolute().parent == self.output_dir
        best = state.get("best")
        if here and best and decided_by_main(lambda: self.folder.holds_best(best["epoch"])):
            self.state.best = best
        step = state.get("step")
        self.log.rewind(self.state.step if step is None else step, finished_epochs=state["epoch"] + 1, scale=scale)
