"""Train or evaluate: python train.py --cfg-path train_configs/stage1.yaml [--options run.max_epoch=2 …] [--check]

For several GPUs: torchrun --nproc_per_node=8 train.py --cfg-path …
"""

import argparse
import logging
import sys

import torch.distributed as dist
from torch.distributed.elastic.multiprocessing.errors import record

import xraygpt.tasks as tasks
from xraygpt.common.config import Config, add_config_arguments
from xraygpt.common.dist_utils import get_rank, init_distributed_mode
from xraygpt.common.errors import XrayGPTError
from xraygpt.common.logger import setup_logger
from xraygpt.common.registry import registry
from xraygpt.common.seed import seed_everything
from xraygpt.runners import new_job_id


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Train or evaluate a chest-X-ray report model. For research only.")
    add_config_arguments(parser)
    parser.add_argument("--check", action="store_true", help="validate the configuration, print it with the parameter counts, and stop")
    return parser.parse_args()


def check(cfg: Config) -> None:
    """Print the resolved configuration and each part's parameters, without reading a weight."""
    model_class = registry.get_model_class(cfg.model_cfg.arch)
    print(cfg.to_yaml())
    print(f"{'part':<20} {'parameters':>15} {'trainable':>15}")
    counts = model_class.skeleton(cfg.model_cfg).parameter_counts()
    counts["all"] = tuple(sum(column) for column in zip(*counts.values(), strict=True))
    for part, (total, trainable) in counts.items():
        print(f"{part:<20} {total:>15,} {trainable:>15,}")


def train(args: argparse.Namespace) -> None:
    """Configuration → task → datasets and model → runner."""
    cfg = Config(args)
    init_distributed_mode(cfg.run_cfg)
    setup_logger()
    job_id = new_job_id(cfg.run_cfg)
    seed_everything(cfg.run_cfg.seed)
    cfg.pretty_print()

    task = tasks.setup_task(cfg)
    datasets = task.build_datasets(cfg)
    model = task.build_model(cfg)
    runner_class = registry.get_runner_class(cfg.run_cfg.get("runner", "runner_base"))
    runner = runner_class(cfg=cfg, job_id=job_id, task=task, model=model, datasets=datasets)
    runner.train()


@record
def main() -> int:
    """Run, and end every rank with a message: one line for what the user can mend, a traceback for what we must."""
    setup_logger()
    args = parse_args()
    try:
        check(Config(args)) if args.check else train(args)
    except XrayGPTError as error:
        logging.error("rank %d: %s", get_rank(), error)
        return 1
    except Exception:
        logging.exception("rank %d failed.", get_rank())
        raise
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()
    return 0


if __name__ == "__main__":
    sys.exit(main())
