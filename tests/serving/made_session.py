"""A conversation without a model: canned answers, word by word, so that the page can be tested fast and to the letter."""

import time
from collections.abc import Callable, Iterator, Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from xraygpt.processors import Concern, check_image
from xraygpt.serving.session import Answer, AnswerSentence, Turn

REPORT = [
    ("Moderate cardiomegaly.", 0.99),
    ("Small left pleural effusion, which is unchanged since the prior study.", 0.98),
    ("Possible right upper lobe nodule.", 0.31),
    ("No pneumothorax.", 0.97),
]
"""Sentences of the report, with their confidences: one low, one that compares."""

ANSWER = [("You asked for more:", 0.99), ("the bones are intact.", 0.99)]


class MadeSession:
    """Speaks like `ChatSession`.

    Args:
        seconds_a_word: how long each word takes.
    """

    def __init__(self, seconds_a_word: float = 0.0) -> None:
        self.seconds_a_word = seconds_a_word
        self.turns: list[Turn] = []
        self.film: Image.Image | None = None
        self.asked: list[tuple[str, dict[str, Any]]] = []

    def open_image(self, image: Image.Image) -> list[Concern]:
        self.film, self.turns = image, []
        return check_image(image)

    def stream(
        self, question: str, *, settings: Mapping[str, Any] | None = None, cancelled: Callable[[], bool] = lambda: False
    ) -> Iterator[str]:
        self.asked.append((question, dict(settings or {})))
        sentences = ANSWER if question else REPORT
        written = ""
        try:
            for word in " ".join(text for text, _ in sentences).split(" "):
                if cancelled():
                    break
                time.sleep(self.seconds_a_word)
                piece = f" {word}" if written else word
                written += piece
                yield piece
        finally:
            self.turns.append(Turn(question, made_answer(written, sentences)))

    def undo(self) -> None:
        self.turns.pop()

    def reset(self) -> None:
        self.turns = []


def made_answer(written: str, sentences: list[tuple[str, float]] = REPORT, **values: Any) -> Answer:
    """The answer that was written as far as `written` goes; `values` replace fields."""
    whole = " ".join(text for text, _ in sentences)
    kept = [AnswerSentence(text, confidence, i, i) for i, (text, confidence) in enumerate(sentences) if text in written]
    fields = {"truncated": written != whole, "dropped_turns": 0, "token_ids": [1, 2, 3, 4], "repeated": False, **values}
    return Answer(text=written, sentences=kept, **fields)


def made_pipeline() -> Any:
    """What the page asks of a `ReportPipeline` besides its sessions."""
    template = "###Patient: {} ###Doctor: "
    prompts = [template.replace("{}", f"<Img><ImageHere></Img> {text}") for text in ("Describe this film.", "What does it show?")]
    model = SimpleNamespace(prompt_template=template, prompt_list=prompts, context_length=512, end_sym="###")
    return SimpleNamespace(model=model, settings={"max_new_tokens": 120, "num_beams": 1, "do_sample": False})


def made_look(session: Any, answer: Any) -> NDArray[np.float32]:
    """A bright spot that wanders from sentence to sentence."""
    y, x = np.mgrid[0:64, 0:64] / 63
    centres = [0.2 + 0.2 * i for i in range(len(answer.sentences))]
    return np.stack([np.exp(-((x - centre) ** 2 + (y - 0.5) ** 2) / 0.02) for centre in centres]).astype(np.float32)
