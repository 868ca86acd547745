"""One conversation about one image, as the page, the terminal and the Python interface hold it.

`S` image size, `Q` query tokens of an image, `D_l` width of the language model.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from xraygpt.common.errors import ConfigError, DataError
from xraygpt.common.registry import suggest
from xraygpt.conversation import Conversation
from xraygpt.conversation.prompts import IMAGE_BLOCK, IMAGE_PLACEHOLDER, neutralise
from xraygpt.models.decoding import DecodingSettings
from xraygpt.models.generation import GeneratedText
from xraygpt.processors import Concern, open_image
from xraygpt.serving.pipeline import ReportPipeline
from xraygpt.serving.safety import find_flags
from xraygpt.serving.sentences import AnswerSentence, read_sentences

SETTINGS = sorted(each.name for each in fields(DecodingSettings) if each.name != "end_sym")
"""What `ChatSession.stream` takes as settings."""


@dataclass(frozen=True)
class Answer:
    """What the model answered.

    Attributes:
        text: as far as it was written.
        sentences: all of the text.
        truncated: it ran out of new tokens.
        dropped_turns: how many of the oldest turns the model could not read for it, because the conversation is too long.
        token_ids: as generated, the end symbol among them.
        repeated: it was ended because it repeated itself.
        stopped: it was cancelled.
        prompt_parts: what the model read, as `MiniGPT4.prompt_wrap` takes it.
    """

    text: str
    sentences: list[AnswerSentence] = field(default_factory=list)
    truncated: bool = False
    dropped_turns: int = 0
    token_ids: list[int] = field(default_factory=list)
    repeated: bool = False
    stopped: bool = False
    prompt_parts: list[str] = field(default_factory=list)

    @property
    def flags(self) -> list[str]:
        """Why the text deserves doubt, of `xraygpt.serving.safety.FLAGS`; one that was cancelled is cut off too."""
        return find_flags(self.text, truncated=self.truncated or self.stopped, repeated=self.repeated)


@dataclass(frozen=True)
class Turn:
    """A question, as it was asked ("": for the report), and its answer."""

    question: str
    answer: Answer


@dataclass(frozen=True)
class _Asked:
    """A question on its way: the conversation before it, and with it; what the model reads of that."""

    question: str
    before: Conversation
    conv: Conversation
    parts: list[str]
    dropped: int
    image: Tensor


class ChatSession:
    """One conversation about one image, for one thread at a time. The model may serve many sessions.

    From turn to turn, the language model reads only what is new or has changed.

    Args:
        pipeline: the model and its settings.
        conv: the empty conversation that each image starts with; none: in the format that the model was trained with.

    Attributes:
        turns: what was asked and answered, oldest first.
        pixels: the image as the model reads it, float32 [3, S, S]; None before the first.
    """

    def __init__(self, pipeline: ReportPipeline, *, conv: Conversation | None = None) -> None:
        self.pipeline = pipeline
        self.turns: list[Turn] = []
        self.pixels: Tensor | None = None
        self._chat = pipeline.new_chat()
        self._empty = conv or self._chat.new_conversation()
        self._images: list[Tensor] = []
        self._states: list[Conversation] = []
        """The conversation before the first turn, and after each of them."""

    def open_image(self, image: Path | Image.Image) -> list[Concern]:
        """Talk about this image from now on. What was said is forgotten.

        Returns:
            What speaks against the image.

        Raises:
            DataError: it cannot be used; everything stays as it was.
        """
        film = image if isinstance(image, Image.Image) else open_image(image)
        pixels = self.pipeline.load_image(film)
        concerns = self.pipeline.doubts(film, pixels)
        conv, images = self._empty.copy(), list[Tensor]()
        self._chat.upload_img(pixels, conv, images)
        self.turns, self.pixels, self._images, self._states = [], pixels, images, [conv]
        return concerns

    def stream(
        self, question: str, *, settings: Mapping[str, Any] | None = None, cancelled: Callable[[], bool] = lambda: False
    ) -> Iterator[str]:
        """Ask, and get the answer in pieces as it is written. It is in `turns` when the iterator ends.

        Args:
            question: "" asks for the report.
            settings: of `SETTINGS`, in place of the pipeline's.
            cancelled: asked before each token; True ends the answer, as closing the iterator does. What was written is the answer.

        Raises:
            DataError: there is no image, or the question is too long, or nothing but markup. Raised at once, not by the iterator.
            ConfigError: a setting does not exist, or its value is impossible. Raised at once too.
        """
        if not self._states:
            raise DataError("There is no image yet. Open one first.")
        chosen = self._settings(settings or {})
        conv = self._states[-1].copy()
        if question:
            self._chat.ask(question, conv)
        else:
            self._ask_for_report(conv)
        parts, dropped = self._chat.fit(conv, max_new_tokens=chosen["max_new_tokens"])
        asked = _Asked(question, self._states[-1], conv, parts, dropped, self._images[0])
        return self._write(asked, chosen, cancelled)

    def undo(self) -> None:
        """Forget the last turn, to ask again or otherwise; nothing happens if there is none."""
        if self.turns:
            self.turns.pop()
            self._states.pop()

    def reset(self) -> None:
        """Forget all turns. The image stays."""
        self.turns.clear()
        del self._states[1:]

    def _settings(self, given: Mapping[str, Any]) -> dict[str, Any]:
        chosen = {**self.pipeline.settings, **given}
        for name in chosen:
            if name not in SETTINGS:
                raise ConfigError(f"There is no generation setting {name!r}.{suggest(name, SETTINGS)}")
        return asdict(DecodingSettings(end_sym=self._empty.sep, **chosen))

    def _ask_for_report(self, conv: Conversation) -> None:
        """Add the message of the model's report prompt. It is not made harmless: the first turn has exactly the tokens of training."""
        before, _, after = self.pipeline.model.prompt_template.partition("{}")
        message = self.pipeline.full_prompt.removeprefix(before).removesuffix(after)
        if len(self._states) == 1:  # the prompt has a place for the image itself
            conv.messages[-1][1] = message
        else:
            conv.append_message(conv.roles[0], message.replace(IMAGE_BLOCK, "").replace(IMAGE_PLACEHOLDER, "").strip())

    def _write(self, asked: _Asked, settings: dict[str, Any], cancelled: Callable[[], bool]) -> Iterator[str]:
        role, written, shown = f"{asked.conv.roles[1]}:", GeneratedText("", [], stopped=True), ""
        steps = self.pipeline.model.stream(asked.parts, asked.image, cache=self._chat.cache, **settings)
        try:
            while not cancelled() and (latest := next(steps, None)) is not None:
                written = latest
                text = without_role(role, written.text)
                if text != shown and not role.startswith(text):  # what begins like the role may become the role
                    piece, shown = text[len(shown) :], text
                    yield piece
            if rest := without_role(role, written.text)[len(shown) :]:
                yield rest
        except GeneratorExit:
            self._keep(asked, written)
            raise
        finally:
            steps.close()
        self._keep(asked, written)

    def _keep(self, asked: _Asked, written: GeneratedText) -> None:
        if not self._states or self._states[-1] is not asked.before:
            return  # meanwhile, the conversation that this belongs to was forgotten
        text = without_role(f"{asked.conv.roles[1]}:", written.text)
        answer = Answer(
            text=text,
            sentences=read_sentences(self.pipeline.model.llama_tokenizer, text, written.token_ids, written.log_probs),
            truncated=written.truncated,
            dropped_turns=asked.dropped,
            token_ids=written.token_ids,
            repeated=written.repeated,
            stopped=written.stopped,
            prompt_parts=asked.parts,
        )
        asked.conv.append_message(asked.conv.roles[1], neutralise(text))
        self._states.append(asked.conv)
        self.turns.append(Turn(asked.question, answer))


def without_role(role: str, text: str) -> str:
    """An answer without the role with which some models begin, though the prompt has begun it already."""
    return text.removeprefix(role).lstrip()
