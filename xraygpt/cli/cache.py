"""`xraygpt cache`: the features of frozen vision parts that runs keep on disk (`run.feature_cache`).

xraygpt cache build --cfg-path train_configs/stage1.yaml --options run.feature_cache.path=cache     fill it ahead
torchrun --nproc_per_node=8 -m xraygpt.cli.main cache build --cfg-path …                            the ranks share the work
xraygpt cache show cache                                                                            what is in it
xraygpt cache verify cache [--repair]                                                               is every row what was written?
"""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import xraygpt.runners  # noqa: F401  registers the runner that a configuration names
from xraygpt.common.config import Config, add_config_arguments
from xraygpt.common.dist_utils import among_ranks
from xraygpt.common.errors import ConfigError, DataError, first_line
from xraygpt.common.files import read_small_json
from xraygpt.common.logger import setup_logger
from xraygpt.common.printable import printable_line
from xraygpt.common.signals import EXIT_STOPPED, StoppedEarly, stop_on_signals
from xraygpt.datasets.feature_cache import FeatureCache
from xraygpt.tasks import setup_task


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `xraygpt cache`."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    build = actions.add_parser("build", help="compute all rows that a configuration's run will read, and that are not there yet")
    add_config_arguments(build)
    show = actions.add_parser("show", help="list what is in a cache")
    verify = actions.add_parser("verify", help="read every row and compare it with its checksum; exit code 1 if one is damaged")
    verify.add_argument("--repair", action="store_true", help="remove damaged rows, so that they are computed again")
    for each in (show, verify):
        each.add_argument("path", metavar="PATH", type=Path, help="run.feature_cache.path")


def run(args: argparse.Namespace) -> int:
    """Build, show or verify."""
    if args.action == "build":
        return _build(Config(args))
    caches = list(_caches(args.path))
    if not caches:
        raise ConfigError(f"{args.path} holds no feature cache: expected folders with a key.json.")
    return _show(caches) if args.action == "show" else _verify(caches, repair=args.repair)


def _build(cfg: Config) -> int:
    if not cfg.run_cfg.feature_cache.path:
        raise ConfigError("Where is the cache to be? Set run.feature_cache.path, in the YAML or with --options.")
    try:
        with stop_on_signals(), among_ranks(cfg.run_cfg):
            setup_logger()
            task = setup_task(cfg)
            task.build_datasets(cfg)
            task.use_features(cfg)
    except StoppedEarly:
        return EXIT_STOPPED
    return 0


def _caches(path: Path) -> Iterator[tuple[FeatureCache, dict[str, Any]]]:
    for file in sorted(path.glob("*/key.json"), key=lambda file: file.stat().st_mtime):
        try:
            key = read_small_json(file)
            cache, _ = FeatureCache(file.parent, key), key["vision"]["files"]
        except (OSError, ValueError, KeyError, TypeError, ArithmeticError) as error:
            raise DataError(f"{file} is damaged: {first_line(error)}. Delete its folder; what was in it is computed again.") from error
        yield cache, key


def _show(caches: list[tuple[FeatureCache, dict[str, Any]]]) -> int:
    print(f"{'folder':<18} {'rows':>10} {'GB':>8}  type      image  precision  weights")
    for cache, key in caches:
        size = sum(file.stat().st_size for file in cache.folder.iterdir())
        vision = key["vision"]
        weights = ", ".join(checksum[:8] for checksum in vision["files"])
        line = f"{cache.folder.name:<18} {len(cache):>10,} {size / 1e9:>8.2f}  {key['dtype']:<9} {vision['image_size']:>5}"
        print(printable_line(f"{line}  {vision['precision']:<9}  {weights}"))
    print("A folder whose weights, sizes or precision no run has any more can be deleted.")
    return 0


def _verify(caches: list[tuple[FeatureCache, dict[str, Any]]], *, repair: bool) -> int:
    found = 0
    for cache, _ in caches:
        rows, damaged = len(cache), cache.damaged()
        found += len(damaged)
        if repair and damaged:
            cache.forget(damaged)
        done = ", removed" if repair and damaged else ""
        print(printable_line(f"{cache.folder.name:<18} {rows:>10,} rows, {len(damaged)} damaged{done}"))
    return 1 if found and not repair else 0
