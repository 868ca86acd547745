"""`xraygpt serve`: the HTTP API and the page of one model, until Ctrl-C or SIGTERM."""

import argparse
import signal
import sys
from pathlib import Path

import xraygpt.datasets.builders
import xraygpt.runners  # noqa: F401  both register the classes that a configuration names
from xraygpt.common.config import Config, add_config_arguments
from xraygpt.common.errors import ConfigError
from xraygpt.common.printable import printable_line
from xraygpt.common.seed import seed_everything
from xraygpt.serving import RESEARCH_NOTICE, ReportPipeline
from xraygpt.serving.api_limits import ApiLimits
from xraygpt.serving.api_prompt import QuestionReader
from xraygpt.serving.api_server import ApiServer, is_loopback, listen
from xraygpt.serving.api_service import ApiService
from xraygpt.serving.api_writer import BatchWriter
from xraygpt.serving.example_films import example_films
from xraygpt.serving.http_app import build_app
from xraygpt.serving.http_guard import add_name_arguments
from xraygpt.serving.logins import PAGE_USER, read_tokens, token_login
from xraygpt.serving.web import build_page
from xraygpt.serving.web_queue import PageQueue


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `xraygpt serve`."""
    default = ApiLimits()
    add_config_arguments(parser)
    parser.add_argument("--device", metavar="NAME", help="short for run.device: auto, cpu, cuda or cuda:N")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen at (default: %(default)s, this machine alone)")
    parser.add_argument("--port", type=int, default=8000, help="0: any that is free (default: %(default)s)")
    parser.add_argument(
        "--api-token-file",
        type=Path,
        metavar="FILE",
        help="tokens, one a line, one of which must come with each request and opens the page",
    )
    add_name_arguments(parser)
    parser.add_argument("--insecure", action="store_true", help="listen at an address that others can reach, without a token")
    parser.add_argument("--model-name", metavar="NAME", help="what clients call the model (default: the name of the configuration file)")
    parser.add_argument("--strict", action="store_true", help="refuse images that do not look like an upright frontal chest film")
    parser.add_argument("--no-page", action="store_true", help="the API alone")
    limits = parser.add_argument_group("limits")
    limits.add_argument(
        "--max-queue",
        type=int,
        default=default.max_queue,
        metavar="N",
        help="requests inside at a time; others are told busy (%(default)s)",
    )
    limits.add_argument("--max-batch", type=int, default=default.max_batch, metavar="N", help="requests written together (%(default)s)")
    limits.add_argument("--max-bytes", type=int, default=default.max_bytes, metavar="N", help="of a request (%(default)s)")
    limits.add_argument("--max-pixels", type=int, default=default.max_pixels, metavar="N", help="of an image (%(default)s)")
    limits.add_argument("--max-tokens", type=int, default=default.max_tokens, metavar="N", help="of an answer (%(default)s)")
    limits.add_argument("--max-seconds", type=float, default=default.max_seconds, metavar="S", help="for a request (%(default)s)")


def run(args: argparse.Namespace) -> int:
    """Serve until told to stop; requests that are inside are answered first."""
    limits = read_limits(args)
    tokens = read_tokens(args.api_token_file) if args.api_token_file else []
    if not (is_loopback(args.host) or tokens or args.insecure):
        raise ConfigError(
            f"--host {args.host} can be reached from other machines. Give --api-token-file FILE, so that not everybody there may use the "
            "model; or --insecure, if everybody shall."
        )
    cfg = Config(args, needs=("run", "model"))
    if args.device:
        cfg.run_cfg.device = args.device
    seed_everything(cfg.run_cfg.seed)
    pipeline, queue = ReportPipeline.from_config(cfg), PageQueue()
    service = ApiService(
        QuestionReader(pipeline, limits=limits, strict=args.strict),
        BatchWriter(pipeline, queue.lock).write,
        model_name=args.model_name or Path(args.cfg_path).stem,
        limits=limits,
        tokens=tokens,
    )
    page = None if args.no_page else build_page(pipeline, examples=example_films(), queue=queue, with_logout=bool(tokens))
    app = build_app(
        service=service,
        page=page,
        login=token_login(tokens) if tokens else None,
        public_names=args.public_name,
        any_address=not is_loopback(args.host),
    )
    listening = listen(args.host, [args.port])
    where = f"http://{f'[{args.host}]' if ':' in args.host else args.host}:{listening.getsockname()[1]}"
    print(RESEARCH_NOTICE)
    if not args.no_page:
        print(f"Page: {where}/" + (f" (user {PAGE_USER}, a token as password)" if tokens else ""))
    print(f"API: base URL {where}/v1, model {printable_line(service.model_name)}", flush=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # uvicorn sends the signal again when all is answered
    ApiServer(app, service, page_queue=queue, behind_proxy=bool(args.public_name)).run(sockets=[listening])
    return 0


def read_limits(args: argparse.Namespace) -> ApiLimits:
    """The limits of the command line.

    Raises:
        ConfigError: one is not above 0.
    """
    names = ("max_queue", "max_batch", "max_bytes", "max_pixels", "max_tokens", "max_seconds")
    for name in names:
        if getattr(args, name) <= 0:
            raise ConfigError(f"--{name.replace('_', '-')} must be above 0, got {getattr(args, name)}.")
    return ApiLimits(**{name: getattr(args, name) for name in names})
