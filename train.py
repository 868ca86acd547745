"""Train or evaluate: python train.py --cfg-path train_configs/stage1.yaml [--options run.max_epoch=2 …] [--check]

For several GPUs: torchrun --nproc_per_node=8 train.py --cfg-path …

Exit codes: 0 done; 1 an error that the log explains; 2 wrong usage; 75 told to stop (SIGTERM, SIGUSR1, Ctrl-C), all saved, start again
with --resume auto; 130 a second Ctrl-C.
"""

import argparse
import logging
import sys

from xraygpt.common.startup import started

# isort: split
from torch.distributed.elastic.multiprocessing.errors import record

import xraygpt.tasks as tasks
from xraygpt.common.config import Config, add_config_arguments
from xraygpt.common.dist_utils import get_rank, init_distributed_mode, leave_process_group
from xraygpt.common.errors import XrayGPTError
from xraygpt.common.logger import setup_logger
from xraygpt.common.printable import printable_line, printable_text
from xraygpt.common.rank_watch import first_cause
from xraygpt.common.registry import registry
from xraygpt.common.seed import seed_everything
from xraygpt.common.signals import EXIT_STOPPED, StoppedEarly, stop_on_signals
from xraygpt.datasets.bad_samples import scan_data
from xraygpt.runners import new_job_id


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Train or evaluate a chest-X-ray report model. For research only.")
    add_config_arguments(parser)
    parser.add_argument(
        "--resume", metavar="auto|PATH", help="continue exactly from the run folder's newest good checkpoint, or from a named one"
    )
    parser.add_argument(
        "--resume-allow", metavar="NAME,…", help="settings that may differ from the checkpoint's: init_lr, max_epoch, data, llm, …"
    )
    parser.add_argument("--check", action="store_true", help="validate the configuration, print it with the parameter counts, and stop")
    parser.add_argument("--scan-data", action="store_true", help="with --check: read every image and annotation, and list all that are bad")
    args = parser.parse_args()
    if args.scan_data and not args.check:
        parser.error("--scan-data goes with --check.")
    args.options = [*args.options, *_resume_options(args)]
    return args


def _resume_options(args: argparse.Namespace) -> list[str]:
    """`--resume` and `--resume-allow` as options of the configuration, in the form that the other options have."""
    given = {"run.resume_ckpt_path": args.resume, "run.resume_allow": args.resume_allow and f"[{args.resume_allow}]"}
    pairs = [(key, value) for key, value in given.items() if value]
    if args.options and "=" not in args.options[0]:
        return [part for pair in pairs for part in pair]
    return [f"{key}={value}" for key, value in pairs]


def check(cfg: Config) -> None:
    """Print the resolved configuration and each part's parameters, without reading a weight."""
    model_class = registry.get_model_class(cfg.model_cfg.arch)
    print(printable_text(cfg.to_yaml()))
    print(f"{'part':<20} {'parameters':>15} {'trainable':>15}")
    counts = model_class.count_parameters(cfg.model_cfg)
    counts["all"] = tuple(sum(column) for column in zip(*counts.values(), strict=True))
    for part, (total, trainable) in counts.items():
        print(f"{part:<20} {total:>15,} {trainable:>15,}")


def scan(cfg: Config) -> int:
    """Read every sample of every dataset, print those that cannot be used, and return the exit code: 1 if there are any."""
    task = tasks.setup_task(cfg)
    task.tolerates = lambda split: True
    datasets = [dataset for splits in task.build_datasets(cfg).values() for dataset in splits.values()]
    bad = scan_data(datasets, num_workers=cfg.run_cfg.num_workers)
    print(*map(printable_line, bad), f"{len(bad)} bad, {sum(map(len, datasets))} read.", sep="\n")
    return 1 if bad else 0


def train(args: argparse.Namespace) -> None:
    """Configuration → task → datasets and model → runner.

    Raises:
        StoppedEarly: the run was told to stop, and has saved.
    """
    with stop_on_signals():
        _train(Config(args))


def _train(cfg: Config) -> None:
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
    started()
    runner.train()


@record
def main() -> int:
    """Run, and end every rank with a message: one line for what the user can mend, a traceback for what we must."""
    setup_logger()
    args = parse_args()
    try:
        if args.check:
            check(cfg := Config(args))
            return scan(cfg) if args.scan_data else 0
        train(args)
    except StoppedEarly:
        logging.warning("Stopped early, all is saved. Start again with --resume auto. Exit code %d.", EXIT_STOPPED)
        return EXIT_STOPPED
    except XrayGPTError as error:
        first_cause(error)  # the other ranks learn of it
        logging.error("rank %d: %s", get_rank(), error)
        return 1
    except Exception as error:
        if (cause := first_cause(error)) is not None:
            logging.error("rank %d lost contact with the others. The first cause: %s", get_rank(), cause)
            return 1
        logging.exception("rank %d failed.", get_rank())
        raise
    finally:
        leave_process_group()
    return 0


if __name__ == "__main__":
    sys.exit(main())
