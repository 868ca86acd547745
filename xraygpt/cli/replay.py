"""`xraygpt replay DUMP`: compute an update that was not finite again, and show which samples it comes from and where it begins."""

import argparse
from collections.abc import Iterable

from xraygpt.common.printable import printable_line, printable_text
from xraygpt.runners.replay import Computed, Replay, config_of, load_dump

MAX_PARAMETERS = 5  # that are listed


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `xraygpt replay`."""
    parser.add_argument("dump", metavar="DUMP", help="dump_step….pth in the folder of the run")
    parser.add_argument("--options", nargs="+", default=[], metavar="KEY=VALUE", help="override the run's configuration: run.device=cpu …")
    parser.add_argument(
        "--import", dest="imports", action="append", default=[], metavar="MODULE", help="a module that the run was given with --import"
    )


def run(args: argparse.Namespace) -> int:
    """Print the loss and the gradient of each micro-batch and sample. Returns 0 if they are not finite again, 1 if all are finite now."""
    dump = load_dump(args.dump)
    replay = Replay(dump, config_of(dump, options=args.options, imports=args.imports), args.dump)
    print(printable_text(f"Step {dump['step']}: the {dump['what']} was not finite.\n\nmicro-batches, as they were"))
    batches = list(_printed(replay.micro_batches_again()))
    bad = [batch for batch in batches if not batch.is_finite]
    if not bad:
        versions = ", ".join(f"{name} {version}" for name, version in dump["libraries"].items())
        print(f"\nNot reproduced: every loss and gradient is finite here. It was computed with {printable_line(versions)}.")
        return 1
    for batch in bad:
        print(f"\nsamples of rank {batch.rank}, iteration {batch.iteration}, one by one")
        list(_printed(replay.samples_again(batch)))
    first = bad[0]
    print(f"\nReproduced. The first output that is not finite: {first.first_module or 'none, it is the loss or its gradient'}.")
    if first.parameters:
        more = ", …" if len(first.parameters) > MAX_PARAMETERS else ""
        print(f"Gradients that are not finite: {', '.join(first.parameters[:MAX_PARAMETERS])}{more} ({len(first.parameters)}).")
    return 0


def _printed(rows: Iterable[Computed]) -> Iterable[Computed]:
    """The rows, each printed as it comes."""
    print(f"{'rank':>4} {'iteration':>9} {'loss':>14} {'gradient norm':>14}  samples")
    for row in rows:
        names = printable_line(", ".join(row.sample_ids))
        print(f"{row.rank:>4} {row.iteration:>9} {row.loss:>14.6g} {row.grad_norm:>14.6g}  {names}", flush=True)
        yield row
