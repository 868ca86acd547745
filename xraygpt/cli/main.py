"""The `xraygpt` command: `xraygpt COMMAND [options]`.

A command is one module with two functions:

    def add_arguments(parser: argparse.ArgumentParser) -> None
    def run(args: argparse.Namespace) -> int      # exit code

Only the module of the chosen command is imported, by its name in `COMMANDS`, so `xraygpt --help` needs no torch.
"""

import argparse
import importlib
import sys
from collections.abc import Sequence
from typing import NoReturn

from xraygpt import __version__
from xraygpt.common.errors import XrayGPTError
from xraygpt.common.printable import LOG_FORMAT, message_text, set_up_logging
from xraygpt.common.registry import suggest
from xraygpt.common.startup import started

# command: (module, one line of help)
COMMANDS = {
    "phantom": ("xraygpt.cli.phantom", "draw synthetic chest X-rays with known findings and write their reports"),
    "prepare": ("xraygpt.cli.prepare", "turn Open-i, MIMIC-CXR or your own radiographs into a training-ready folder"),
    "data": ("xraygpt.cli.data", "count, check and look at a prepared folder"),
    "tokenizer": ("xraygpt.cli.tokenizer", "train a small tokenizer and write an untrained language model beside it"),
    "generate": ("xraygpt.cli.generate", "write a report for each image of a folder"),
    "serve": ("xraygpt.cli.serve", "answer over HTTP as OpenAI's API does, with the web page beside it"),
    "cache": ("xraygpt.cli.cache", "fill, list or verify the features of frozen vision parts that runs keep on disk"),
    "plan": ("xraygpt.cli.plan", "work out memory, speed and hours of a run before it starts"),
    "evaluate": ("xraygpt.cli.evaluate", "write reports for a split with a model, and score them"),
    "replay": ("xraygpt.cli.replay", "compute an update that was not finite again, from the dump of a run"),
    "score": ("xraygpt.cli.score", "score generated reports against reference reports"),
    "label": ("xraygpt.cli.label", "label the findings that reports state"),
    "doctor": ("xraygpt.cli.doctor", "examine this machine, and what a configuration needs, before a run"),
    "inspect": ("xraygpt.cli.inspect", "show what a checkpoint, a weights file or a run's folder holds"),
}

INTERRUPTED = 130  # 128 + SIGINT, as shells report it


class CommandParser(argparse.ArgumentParser):
    """Quotes what it refuses without what a terminal would obey: the shell puts file names on a command line."""

    def error(self, message: str) -> NoReturn:
        """Print the usage and the message, and end with 2."""
        super().error(message_text(message))


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. Returns its exit code; 1 after an error that the user can mend, 130 after Ctrl-C."""
    argv = sys.argv[1:] if argv is None else list(argv)
    set_up_logging(LOG_FORMAT, force=False)
    try:
        return _run(argv)
    except XrayGPTError as error:
        print(message_text(f"error: {error}"), file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED


def _run(argv: list[str]) -> int:
    parser, subparsers = _build_parsers()
    # The options before the command take no value, so the first word without a dash is the command.
    command = next((word for word in argv if not word.startswith("-")), None)
    if command is None:
        parser.parse_args(argv)  # --help and --version end here
        parser.error(f"a command is expected.{suggest('', COMMANDS)}")
    if command not in COMMANDS:
        parser.error(f"there is no command {command!r}.{suggest(command, COMMANDS)}")
    module = importlib.import_module(COMMANDS[command][0])
    started()
    module.add_arguments(subparsers[command])
    return module.run(parser.parse_args(argv))


def _build_parsers() -> tuple[argparse.ArgumentParser, dict[str, argparse.ArgumentParser]]:
    """The parser of `xraygpt`, and those of the commands by name, which have no arguments of their own yet."""
    parser = CommandParser(
        prog="xraygpt",
        description="Train, evaluate and use chest-X-ray report models.",
        epilog="For research only: not a medical device, and nothing it writes is medical advice.",
    )
    parser.add_argument("--version", action="version", version=f"xraygpt {__version__}")
    actions = parser.add_subparsers(title="commands", metavar="COMMAND")
    return parser, {name: actions.add_parser(name, help=line, description=line) for name, (_, line) in COMMANDS.items()}


if __name__ == "__main__":
    sys.exit(main())
