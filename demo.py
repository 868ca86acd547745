"""Talk to a trained model on a web page, or with --cli in the terminal: python demo.py [--cfg-path eval_configs/quickstart.yaml]"""

import argparse
import importlib
import logging
import signal
import sys
from pathlib import Path

from xraygpt.common.startup import started

# isort: split
import xraygpt.datasets.builders
import xraygpt.runners  # noqa: F401  both register the classes that a configuration names
from xraygpt.common.config import Config, add_config_arguments
from xraygpt.common.errors import ConfigError, XrayGPTError
from xraygpt.common.seed import seed_everything
from xraygpt.conversation import conv_templates
from xraygpt.serving import RESEARCH_NOTICE, ReportPipeline, TerminalChat
from xraygpt.serving.example_films import example_films
from xraygpt.serving.web_queue import PageQueue

QUICKSTART = "eval_configs/quickstart.yaml"


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Talk to a chest-X-ray report model.", epilog=RESEARCH_NOTICE)
    add_config_arguments(parser, cfg_path=QUICKSTART)
    parser.add_argument("--device", metavar="NAME", help="short for run.device: auto, cpu, cuda or cuda:N")
    parser.add_argument(
        "--image", metavar="PATH", help="the image to talk about first (on the page: the first example): PNG, JPEG or DICOM"
    )
    page = parser.add_argument_group("the page, which only this machine can reach")
    page.add_argument("--port", type=int, help="where it listens (default: the first free one from 7860 on)")
    page.add_argument("--auth", metavar="USER:PASSWORD", type=_user_and_password, help="ask for this name and password")
    page.add_argument("--share", action="store_true", help="also reach it from the internet through gradio's servers; needs --auth")
    terminal = parser.add_argument_group("the terminal")
    terminal.add_argument("--cli", action="store_true", help="chat in the terminal instead of opening the page")
    terminal.add_argument(
        "--conversation",
        choices=["trained", *conv_templates],
        default="trained",
        help="format of the prompt: the one of training, or the published checkpoints' own (default: %(default)s)",
    )
    args = parser.parse_args()
    if args.share and not args.auth:
        parser.error("--share opens the page to the internet: give --auth USER:PASSWORD too. Never share patients' images this way.")
    return args


def _user_and_password(text: str) -> tuple[str, str]:
    user, colon, password = text.partition(":")
    if not (user and colon and password):
        raise argparse.ArgumentTypeError("expected USER:PASSWORD, such as reader:a-long-secret")
    return user, password


def load_pipeline(args: argparse.Namespace) -> ReportPipeline:
    """The model of the configuration, on its device."""
    try:
        cfg = Config(args, needs=("run", "model"))
    except ConfigError as error:
        if args.cfg_path != QUICKSTART:
            raise
        raise ConfigError(f"{error}\nThe quickstart's model is made by `make quickstart`; another one is named with --cfg-path.") from None
    if args.device:
        cfg.run_cfg.device = args.device
    seed_everything(cfg.run_cfg.seed)
    pipeline = ReportPipeline.from_config(cfg)
    started()
    return pipeline


def open_page(args: argparse.Namespace) -> None:
    """Serve the page until Ctrl-C."""
    examples = [*([Path(args.image)] if args.image else []), *example_films()]
    web = importlib.import_module("xraygpt.serving.web")  # the terminal does not wait for it
    queue = PageQueue()
    page = web.build_page(load_pipeline(args), examples=examples, queue=queue)
    try:
        _, local, shared = page.launch(
            server_name="127.0.0.1",
            server_port=args.port,
            share=args.share,
            auth=args.auth,
            prevent_thread_lock=True,
            quiet=True,
            **web.PAGE_OPTIONS,
        )
    except OSError as error:
        raise ConfigError(f"Nothing can listen at port {args.port or '7860 to 7959'}: it is taken. Choose another --port.") from error
    print(f"The page: {local}" + (f" and {shared}" if shared else ""))
    print("Ctrl-C ends it.", flush=True)
    stop_in_good_order(queue)
    page.block_thread()


def stop_in_good_order(queue: PageQueue) -> None:
    """On SIGTERM or Ctrl-C, finish the answer that is being written, then exit; a second Ctrl-C ends at once."""

    def stop(*_: object) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        queue.finish()
        sys.exit(0)  # so that the page's temporary folder is removed

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)


def chat(args: argparse.Namespace) -> None:
    """Answer in the terminal until the input ends."""
    terminal = TerminalChat(
        pipeline=load_pipeline(args),
        write=lambda text: print(text, end="", flush=True),
        conv=None if args.conversation == "trained" else conv_templates[args.conversation],
        about={"model": args.cfg_path},
    )
    if args.image:
        terminal.open_image(args.image)
    print("Ask about the image; /help lists the commands.")
    terminal.run(read=lambda: input("> "))
    print()


def main() -> int:
    """Open the page or chat; what the user can mend is one message."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    try:
        args = parse_args()
        print(RESEARCH_NOTICE, flush=True)
        (chat if args.cli else open_page)(args)
    except XrayGPTError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print()
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
