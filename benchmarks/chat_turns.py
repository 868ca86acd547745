"""The first token of a chat's second turn, with the cache and without: python benchmarks/chat_turns.py [--tokens 300] [--repeats 15]

The baseline reads the whole conversation again on each turn, as chats do that keep nothing but the image's embeddings; what it costs to
encode the image again too, as some do, is printed beside it. All are measured in the same run, in turn, on the same conversation and the
same model: the quickstart's architecture with random weights, and once more with a language model of 8 layers of width 512.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

import xraygpt.models  # noqa: F401  registers the model
from xraygpt.conversation import Chat, Conversation
from xraygpt.models import load_model
from xraygpt.models.small_language_model import train_tokenizer, write_language_model

TEXTS = ["The heart is normal in size. The lungs are clear. No pleural effusion or pneumothorax.###"] * 8
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
SIZES = {
    "quickstart": {"hidden_size": 128, "num_layers": 2, "num_heads": 4, "intermediate_size": 256, "context_length": 1024},
    "8 x 512": {"hidden_size": 512, "num_layers": 8, "num_heads": 8, "intermediate_size": 1376, "context_length": 1024},
}


def build_model(size: str) -> Any:
    """The quickstart's ViT and Q-Former and a language model of a size, with random weights."""
    with tempfile.TemporaryDirectory() as folder:
        write_language_model(Path(folder) / "llm", train_tokenizer(TEXTS, vocab_size=748), overwrite=False, **SIZES[size])
        return load_model("mini_gpt4", "quickstart", is_eval=True, device="auto", llama_model=f"{folder}/llm", prompt_path="")


def first_turn(chat: Chat, image: torch.Tensor, num_tokens: int) -> tuple[Conversation, list[torch.Tensor]]:
    """A conversation of one turn, with its answer, of about so many tokens as the model reads them."""
    conv, images = chat.new_conversation(), list[torch.Tensor]()
    chat.upload_img(image, conv, images)
    chat.ask("What does this chest radiograph show?", conv)
    written = ["The", *["heart is normal in size."] * num_tokens]
    while True:  # words instead of random tokens, which would not be tokenised as they were written
        conv.append_message(conv.roles[1], " ".join(written))
        if len(chat.model.prompt_wrap([conv.get_parts()])[0]) <= num_tokens:
            return conv, images
        del conv.messages[-1]
        written.pop()


def seconds(chat: Chat, conv: Conversation, images: list[torch.Tensor], question: str) -> float:
    """From the question to the first token of its answer."""
    conv = conv.copy()
    start = time.perf_counter()
    chat.ask(question, conv)
    chat.answer(conv, images, max_new_tokens=1)
    return time.perf_counter() - start


def measure(size: str, num_tokens: int, repeats: int) -> None:
    """Print the times and the ratios for one size."""
    torch.manual_seed(0)
    model = build_model(size)
    image = torch.randn(3, 64, 64)
    chat = Chat(model, vis_processor=lambda image: image, device=model.device)
    conv, images = first_turn(chat, image, num_tokens)
    times: dict[str, list[float]] = {"with the cache": [], "conversation read again": [], "image encoded again too": []}
    for i in range(-2, repeats):
        # Another first letter each time: what the cache has of the question before is of no use to the next.
        question = f"{LETTERS[i]}re the lungs clear?"
        kept = seconds(chat, conv, images, question)
        cache, chat.cache = chat.cache, model.new_cache()
        again = seconds(chat, conv, images, question)
        chat.cache = model.new_cache()
        model.seen_images.clear()
        start = time.perf_counter()
        chat.upload_img(image, chat.new_conversation(), [])
        image_too = time.perf_counter() - start + seconds(chat, conv, images, question)
        chat.cache = cache
        if i >= 0:
            for values, value in zip(times.values(), (kept, again, image_too), strict=True):
                values.append(value)
    length = len(model.prompt_wrap([conv.get_parts()])[0])
    print(f"{size}: {length} tokens before the question, {torch.get_num_threads()} threads, {model.device}")
    for name, values in times.items():
        ratio = statistics.median(value / kept for value, kept in zip(values, times["with the cache"], strict=True))
        print(f"  {name:<24} {1000 * statistics.median(values):7.2f} ms to the first token, {ratio:5.2f} x")


def main() -> None:
    """Measure both sizes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, default=300)
    parser.add_argument("--repeats", type=int, default=15)
    args = parser.parse_args()
    for size in SIZES:
        measure(size, args.tokens, args.repeats)


if __name__ == "__main__":
    main()
