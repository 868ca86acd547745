"""Talk to a trained model on a web page, or with --cli in the terminal: python demo.py [--cfg-path eval_configs/quickstart.yaml]"""

import argparse
import importlib
import logging
import sys
from pathlib import Path

from xraygpt.common.startup import started

# isort: split
import xraygpt.datasets.builders
import xraygpt.runners  # noqa: F401  both register the classes that a configuration names
from xraygpt.common.config import Config, add_config_arguments
from xraygpt.common.errors import ConfigError, XrayGPTError
from xraygpt.common.printable import message_text, set_up_logging
from xraygpt.common.seed import seed_everything
from xraygpt.conversation import conv_templates
from xraygpt.serving import RESEARCH_NOTICE, ReportPipeline, TerminalChat
from xraygpt.serving.example_films import example_films
from xraygpt.serving.http_guard import add_name_arguments
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
    page.add_argument(
        "--auth",
        metavar="FILE",
        type=_auth_file,
        help="ask for a name and a password, which FILE has as USER:PASSWORD, one user a line; or set XRAYGPT_AUTH=USER:PASSWORD",
    )
    add_name_arguments(page)
    terminal = parser.add_argument_group("the terminal")
    terminal.add_argument("--cli", action="store_true", help="chat in the terminal instead of opening the page")
    terminal.add_argument(
        "--conversation",
        choices=["trained", *conv_templates],
        default="trained",
        help="format of the prompt: the one of training, or the published checkpoints' own (default: %(default)s)",
    )
    return parser.parse_args()


def _auth_file(text: str) -> Path:
    if ":" in text and not Path(text).exists():
        raise argparse.ArgumentTypeError(
            "expected a file. Every user of this machine can read a command line: put USER:PASSWORD into a file, and give its name here"
        )
    return Path(text)


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
    """Serve the page until Ctrl-C or SIGTERM; an answer that is being written is finished first."""
    examples = [*([Path(args.image)] if args.image else []), *example_films()]
    # The terminal does not wait for these.
    web, http_app, logins, server = map(
        importlib.import_module, (f"xraygpt.serving.{name}" for name in ("web", "http_app", "logins", "api_server"))
    )
    passwords = logins.read_passwords(args.auth)
    queue = PageQueue()
    page = web.build_page(load_pipeline(args), examples=examples, queue=queue, with_logout=bool(passwords))
    app = http_app.build_app(page=page, login=logins.password_login(passwords) if passwords else None, public_names=args.public_name)
    listening = server.listen("127.0.0.1", [args.port] if args.port is not None else range(7860, 7960))
    print(f"The page: http://127.0.0.1:{listening.getsockname()[1]}")
    print("Ctrl-C ends it.", flush=True)
    server.ApiServer(app, page_queue=queue, behind_proxy=bool(args.public_name)).run(sockets=[listening])


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
    """Open the page or chat; an error that the user can fix is one message."""
    set_up_logging("%(message)s", level=logging.WARNING, force=False)
    try:
        args = parse_args()
        print(RESEARCH_NOTICE, flush=True)
        (chat if args.cli else open_page)(args)
    except XrayGPTError as error:
        print(message_text(f"error: {error}"), file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print()
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
