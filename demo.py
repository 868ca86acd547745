"""Talk to a trained model: python demo.py --cfg-path eval_configs/quickstart.yaml --cli --image x.png [--options run.device=cpu …]"""

import argparse
import logging
import sys

import xraygpt.datasets.builders
import xraygpt.runners  # noqa: F401  both register the classes that a configuration names
from xraygpt.common.config import Config, add_config_arguments
from xraygpt.common.errors import XrayGPTError
from xraygpt.common.seed import seed_everything
from xraygpt.conversation import conv_templates
from xraygpt.serving import RESEARCH_NOTICE, ReportPipeline, TerminalChat


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Talk to a chest-X-ray report model.", epilog=RESEARCH_NOTICE)
    add_config_arguments(parser, cfg_path="eval_configs/quickstart.yaml")
    parser.add_argument("--cli", action="store_true", help="chat in the terminal (required: there is no other way yet)")
    parser.add_argument("--image", metavar="PATH", help="the image to talk about first: PNG, JPEG or DICOM")
    parser.add_argument("--device", metavar="NAME", help="short for run.device: auto, cpu, cuda or cuda:N")
    parser.add_argument(
        "--conversation",
        choices=["trained", *conv_templates],
        default="trained",
        help="format of the prompt: the one of training, or the published checkpoints' own (default: %(default)s)",
    )
    args = parser.parse_args()
    if not args.cli:
        parser.error("add --cli to chat in the terminal.")
    return args


def chat(args: argparse.Namespace) -> None:
    """Load the model, then answer until the input ends."""
    print(RESEARCH_NOTICE)
    cfg = Config(args, needs=("run", "model"))
    if args.device:
        cfg.run_cfg.device = args.device
    seed_everything(cfg.run_cfg.seed)
    terminal = TerminalChat(
        pipeline=ReportPipeline.from_config(cfg),
        write=lambda text: print(text, end="", flush=True),
        conv=None if args.conversation == "trained" else conv_templates[args.conversation],
    )
    if args.image:
        terminal.open_image(args.image)
    print("Ask about the image; /help lists the commands.")
    terminal.run(read=lambda: input("> "))
    print()


def main() -> int:
    """Chat; what the user can mend is one message."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    try:
        chat(parse_args())
    except XrayGPTError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print()
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
