"""`xraygpt tokenizer`: a tokenizer made for the reports, and beside it the sizes of a small language model to train from nothing."""

import argparse
from collections.abc import Iterable
from pathlib import Path

from xraygpt.common.errors import DataError
from xraygpt.common.files import ANNOTATIONS_NAME
from xraygpt.common.printable import printable_line
from xraygpt.conversation.prompts import load_prompts
from xraygpt.datasets.builders import load_annotations
from xraygpt.models import MiniGPT4Config
from xraygpt.models.small_language_model import train_tokenizer, write_language_model


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `xraygpt tokenizer`."""
    parser.add_argument(
        "--storage", nargs="+", type=Path, required=True, metavar="FOLDER", help="prepared folders, whose training captions are used"
    )
    parser.add_argument(
        "--prompts", type=Path, default=Path("prompts/alignment.txt"), metavar="FILE", help="prompt file (default: %(default)s)"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="gets the tokenizer and config.json")
    sizes = parser.add_argument_group("sizes")
    sizes.add_argument("--vocab-size", type=int, default=800, metavar="N", help="tokens (default: %(default)s)")
    sizes.add_argument("--hidden-size", type=int, default=128, metavar="N", help="width (default: %(default)s)")
    sizes.add_argument("--layers", type=int, default=2, metavar="N", help="layers (default: %(default)s)")
    sizes.add_argument("--heads", type=int, default=4, metavar="N", help="attention heads (default: %(default)s)")
    sizes.add_argument("--intermediate-size", type=int, default=256, metavar="N", help="width inside a layer (default: %(default)s)")
    sizes.add_argument(
        "--context-length", type=int, default=512, metavar="N", help="most tokens of prompt, image and answer (default: %(default)s)"
    )
    sizes.add_argument(
        "--initializer-range",
        type=float,
        default=0.06,
        metavar="STD",
        help="standard deviation of the initial weights (default: %(default)s)",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace a folder that this command wrote")


def run(args: argparse.Namespace) -> int:
    """Train the tokenizer, write the folder, say what is in it."""
    captions = [caption for storage in args.storage for caption in training_captions(storage)]
    tokenizer = train_tokenizer(training_texts(captions, args.prompts), vocab_size=args.vocab_size, end_sym=MiniGPT4Config.end_sym)
    config = write_language_model(
        args.out,
        tokenizer,
        hidden_size=args.hidden_size,
        num_layers=args.layers,
        num_heads=args.heads,
        intermediate_size=args.intermediate_size,
        context_length=args.context_length,
        initializer_range=args.initializer_range,
        overwrite=args.overwrite,
    )
    out = printable_line(args.out)
    print(
        f"{out}: a tokenizer of {len(tokenizer)} tokens from {len(captions)} captions, and a LLaMA of {config.num_hidden_layers} "
        f"layers of width {config.hidden_size}, without weights. Use it with model.llama_model={out} model.llm_from_scratch=True."
    )
    return 0


def training_captions(storage: Path) -> list[str]:
    """The captions of a prepared folder's training split.

    Raises:
        DataError: there are none.
    """
    captions = [ann["caption"] for ann in load_annotations(storage / ANNOTATIONS_NAME) if ann.get("split", "train") == "train"]
    if not captions:
        raise DataError(f"{storage / 'filter_cap.json'} has no annotation of the split train, from which the tokenizer is made.")
    return captions


def training_texts(captions: Iterable[str], prompts: Path) -> list[str]:
    """What a model is trained on: each caption with its end symbol, and as many prompts, so that both get short token rows."""
    if not prompts.is_file():
        raise DataError(f"There is no prompt file {prompts} (looked for {prompts.absolute()}). Name one with --prompts.")
    texts = [caption + MiniGPT4Config.end_sym for caption in captions]
    templated = load_prompts(prompts, MiniGPT4Config.prompt_template)
    return texts + templated * max(1, len(texts) // len(templated))
