"""A server in a thread, whose model answers with marks of what it was asked, so that a mix-up is seen."""

import base64
import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any

import httpx
import numpy as np
import openai
import torch
from PIL import Image
from starlette.types import ASGIApp

from xraygpt.models.generation import GeneratedText
from xraygpt.processors import Blip2ImageEvalProcessor, check_image
from xraygpt.serving.api_limits import ApiLimits
from xraygpt.serving.api_prompt import QuestionReader
from xraygpt.serving.api_server import ApiServer
from xraygpt.serving.api_service import ApiService
from xraygpt.serving.api_writer import BatchWriter
from xraygpt.serving.failed_logins import FailedLogins
from xraygpt.serving.http_app import build_app
from xraygpt.serving.http_limits import HttpLimits
from xraygpt.serving.pipeline import ReportPipeline

CHAT = "/v1/chat/completions"
SETTINGS = {"max_new_tokens": 20, "min_new_tokens": 1, "num_beams": 1, "do_sample": False, "top_p": 0.9, "temperature": 1.0}


def film(grey: int, side: int = 40) -> Image.Image:
    """An image of one grey value."""
    return Image.new("L", (side, side), grey)


def data_uri(image: Image.Image | bytes, kind: str = "png") -> str:
    """An image, or the bytes of a file, as a data URI."""
    content = image
    if isinstance(image, Image.Image):
        stream = BytesIO()
        image.save(stream, format=kind)
        content = stream.getvalue()
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def image_part(image: Image.Image | bytes | str) -> dict[str, Any]:
    """A part of a message."""
    return {"type": "image_url", "image_url": {"url": image if isinstance(image, str) else data_uri(image)}}


def user(text: str, *images: Image.Image | bytes | str) -> dict[str, Any]:
    """A message of the user."""
    return {"role": "user", "content": [*({"type": "text", "text": text},) * bool(text), *map(image_part, images)]}


def grey_tensor(image: Image.Image) -> torch.Tensor:
    """float32 [3, 2, 2] of the image's mean grey value."""
    return torch.full((3, 2, 2), float(np.asarray(image).mean()))


class WordTokenizer:
    """A token for each word that it has met; the end symbol is a token of its own."""

    def __init__(self) -> None:
        self.words = ["###"]

    def encode(self, text: str) -> list[int]:
        words = text.split()
        self.words += [word for word in dict.fromkeys(words) if word not in self.words]
        return [self.words.index(word) for word in words]

    def decode(self, ids: Sequence[int], **_: Any) -> str:
        return " ".join(self.words[i] for i in ids)


@dataclass
class MarkModel:
    """Answers with its prompt, in which the grey values of the images stand in their places, word by word.

    Attributes:
        fault: raised in place of an answer.
        seconds: that each word takes.
        go_on: cleared by a test to keep batches waiting.
        batches: the prompts of each batch.
        num_words: how many words each row of a batch was asked for.
    """

    fault: Exception | None = None
    seconds: float = 0.0
    go_on: threading.Event = field(default_factory=threading.Event)
    batches: list[list[str]] = field(default_factory=list)
    settings: list[dict[str, Any]] = field(default_factory=list)
    num_words: int = 0
    prompt_template: str = "###Patient: {} ###Doctor: "
    end_sym: str = "###"
    context_length: int = 1000
    device: str = "cpu"
    llama_tokenizer: WordTokenizer = field(default_factory=WordTokenizer)

    def __post_init__(self) -> None:
        self.go_on.set()

    def eval(self) -> "MarkModel":
        return self

    def new_cache(self) -> None:
        return None

    def prompt_wrap(self, prompts: Sequence[Sequence[str]]) -> list[list[int]]:
        return [self.llama_tokenizer.encode(" ".join(parts)) for parts in prompts]

    def report_prompt(self, question: str = "") -> str:
        return f"###Patient: <Img><ImageHere></Img> {question or 'Describe this film.'} ###Doctor: "

    def encode_once(self, images: torch.Tensor) -> torch.Tensor:
        return images.mean(dim=(1, 2, 3)).view(-1, 1, 1)

    def generate(
        self, prompts: Sequence[Sequence[str]], image_embeds: torch.Tensor, *, watch: Callable[[int, Sequence[int]], bool], **settings: Any
    ) -> list[GeneratedText]:
        self.batches.append(["".join(parts) for parts in prompts])
        self.settings.append(settings)
        self.go_on.wait()
        if self.fault:
            raise self.fault
        greys = iter(image_embeds.flatten().tolist())
        seen = ["".join(f"{next(greys):.0f}" if part == "<ImageHere>" else part for part in parts) for parts in prompts]
        whole = [self.llama_tokenizer.encode(text.replace("#", " ")) for text in seen]
        rows = [row[: settings["max_new_tokens"]] for row in whole]
        lengths: dict[int, int] = {}
        for length in range(1, max(map(len, rows)) + 1):
            going = [i for i, row in enumerate(rows) if i not in lengths and length <= len(row)]
            if not going:
                break
            time.sleep(self.seconds)
            self.num_words += len(going)
            lengths |= {i: length for i in going if watch(i, rows[i][:length])}
        answers = []
        for i, row in enumerate(rows):
            ids = row[: lengths.get(i, len(row))]
            truncated = i not in lengths and len(row) < len(whole[i])
            answers.append(
                GeneratedText(
                    self.llama_tokenizer.decode(ids), ids, truncated=truncated, stopped=i in lengths, log_probs=[math.log(0.5)] * len(ids)
                )
            )
        return answers


class RunningServer(ApiServer):
    """A server that knows what it serves, and where."""

    service: ApiService
    pipeline: ReportPipeline
    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@contextmanager
def api_server(
    model: Any,
    *,
    settings: dict[str, Any] = SETTINGS,
    tokens: Sequence[str] = (),
    image_size: int = 0,
    http_limits: HttpLimits | None = None,
    failed_logins: FailedLogins | None = None,
    behind_proxy: bool = False,
    **limits: Any,
) -> Iterator[RunningServer]:
    """Serve a model on a free port until the block ends; without an image size it sees the mean of each image."""
    check_image(film(1))  # loads what the first request would spend its time on
    vis_processor = Blip2ImageEvalProcessor(image_size=image_size) if image_size else grey_tensor
    pipeline = ReportPipeline(model=model, vis_processor=vis_processor, prompt="", settings=dict(settings))
    bounds = ApiLimits(**{"max_seconds": 20, **limits})
    write = BatchWriter(pipeline, threading.Lock()).write
    service = ApiService(QuestionReader(pipeline, limits=bounds), write, model_name="marks", limits=bounds, tokens=tokens)
    app = build_app(service=service)
    server = RunningServer(
        app, service, host="127.0.0.1", port=0, http_limits=http_limits, failed_logins=failed_logins, behind_proxy=behind_proxy
    )
    server.pipeline = pipeline
    with _running(server):
        try:
            yield server
        finally:
            if isinstance(model, MarkModel):
                model.go_on.set()


@contextmanager
def page_server(app: ASGIApp, **options: Any) -> Iterator[RunningServer]:
    """Serve an application without an API, as a page alone, on a free port until the block ends."""
    server = RunningServer(app, host="127.0.0.1", port=0, **options)
    with _running(server):
        yield server


@contextmanager
def _running(server: RunningServer) -> Iterator[None]:
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    server.port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield
    finally:
        server.should_exit = True
        thread.join()


def client(server: RunningServer, **options: Any) -> openai.OpenAI:
    """OpenAI's client of a server, which does not come again by itself."""
    return openai.OpenAI(**{"base_url": f"{server.url}/v1", "api_key": "none", "max_retries": 0, **options})


def body(*messages: dict[str, Any], **values: Any) -> dict[str, Any]:
    """A request; without messages, a question about a grey film."""
    return {"model": "marks", "messages": list(messages) or [user("What?", film(77))], **values}


def post(server: RunningServer, **values: Any) -> httpx.Response:
    """Send a request."""
    return httpx.post(f"{server.url}{CHAT}", json=body(**values), timeout=20)
