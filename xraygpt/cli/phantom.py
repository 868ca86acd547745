"""`xraygpt phantom`: make synthetic chest films with reports, so that everything can be tried without patient data."""

import argparse
from pathlib import Path

from xraygpt.common.printable import printable_line
from xraygpt.datasets.preparation.phantom import MIN_STUDIES, PhantomOptions, generate_phantoms


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("--out", required=True, metavar="FOLDER", help="folder for the two prepared folders, mimic/ and openi/")
    parser.add_argument("--num-studies", type=int, default=4000, metavar="N", help="studies in mimic/; openi/ gets a quarter as many")
    parser.add_argument("--image-size", type=int, default=256, metavar="PIXELS", help="side of the square films")
    parser.add_argument("--seed", type=int, default=0, help="same seed, same files")
    parser.add_argument("--workers", type=int, default=2, metavar="N", help="processes; they do not change the result")
    parser.add_argument("--overwrite", action="store_true", help="replace phantoms that were made with other options")


def run(args: argparse.Namespace) -> int:
    """Make both folders, or say that they are there."""
    for collection, num_studies in (("mimic", args.num_studies), ("openi", max(MIN_STUDIES, args.num_studies // 4))):
        storage = Path(args.out) / collection
        options = PhantomOptions(collection, num_studies, image_size=args.image_size, seed=args.seed)
        made = generate_phantoms(storage, options, workers=args.workers, overwrite=args.overwrite)
        print(f"{printable_line(storage)}: {num_studies} synthetic studies {'written' if made else 'are already there, nothing to do'}.")
    return 0
