"""`xraygpt evaluate`: write a report for every image of the test splits, and score them.

    {output_dir}/{job_id}/{split}/    predictions.jsonl  references.jsonl  baselines.jsonl  scorecard.json  scorecard.md  report.html

An interrupted evaluation continues where it stood when the same command is given again. On several GPUs:

    torchrun --nproc_per_node=2 -m xraygpt.cli.main evaluate --cfg-path …
"""

import argparse

import xraygpt.runners  # noqa: F401  registers the runner that a configuration names
from xraygpt.common.config import Config, add_config_arguments
from xraygpt.common.dist_utils import among_ranks
from xraygpt.common.errors import ConfigError
from xraygpt.common.logger import setup_logger
from xraygpt.common.registry import registry
from xraygpt.common.seed import seed_everything
from xraygpt.runners import new_job_id
from xraygpt.tasks import ReportGenerationTask, setup_task


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `xraygpt evaluate`."""
    add_config_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Evaluate the configuration's model, as `train.py` does with `run.evaluate=true`."""
    cfg = Config(args)
    cfg.run_cfg.evaluate = True
    if not cfg.run_cfg.test_splits:
        raise ConfigError(f"{cfg.cfg_path}: run.test_splits is empty; name the splits to evaluate, as in run.test_splits=[test].")
    with among_ranks(cfg.run_cfg):
        setup_logger()
        job_id = new_job_id(cfg.run_cfg)
        seed_everything(cfg.run_cfg.seed)
        task = setup_task(cfg)
        if not isinstance(task, ReportGenerationTask):
            raise ConfigError(f"run.task is {cfg.run_cfg.task}, which writes no reports. Add --options run.task=report_generation.")
        datasets = task.build_datasets(cfg)
        model = task.build_model(cfg)
        runner_class = registry.get_runner_class(cfg.run_cfg.get("runner", "runner_base"))
        runner_class(cfg=cfg, job_id=job_id, task=task, model=model, datasets=datasets).train()
    return 0
