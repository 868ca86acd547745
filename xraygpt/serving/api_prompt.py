"""From a request to what the model reads. `S` image size."""

import secrets
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from xraygpt.common.errors import DataError
from xraygpt.conversation import Conversation
from xraygpt.conversation.prompts import IMAGE_BLOCK, neutralise
from xraygpt.processors import Concern, refusal
from xraygpt.serving.api_images import open_data_uri
from xraygpt.serving.api_limits import ApiLimits, invalid
from xraygpt.serving.api_schema import ChatRequest, Message
from xraygpt.serving.pipeline import ReportPipeline

_SYSTEM_ROLES = ("system", "developer")


@dataclass(frozen=True, eq=False)
class Question:
    """What is to be answered, and how.

    Attributes:
        parts: the prompt in parts, with `<ImageHere>` for each image.
        images: float32 [number of images, 3, S, S].
        settings: keyword arguments of the model's `generate`, but the seed.
        seed: of sampling; the same one gives the same answer, whatever else is in the batch.
        num_prompt_tokens: of the prompt, those of the images among them.
        is_streamed: whether pieces of the answer are wanted.
        dropped_turns: how many of the oldest turns did not fit.
        has_system_text: whether a system message was left out.
        concerns: what the input gate says about the images.
    """

    parts: list[str]
    images: Tensor
    settings: dict[str, Any]
    seed: int
    num_prompt_tokens: int
    is_streamed: bool = False
    dropped_turns: int = 0
    has_system_text: bool = False
    concerns: tuple[Concern, ...] = ()

    @property
    def batch_key(self) -> Hashable:
        """Questions with equal keys can be answered in one batch."""
        return tuple(sorted(self.settings.items()))

    @property
    def decoding(self) -> dict[str, Any]:
        """The settings, with the seed where it matters."""
        return self.settings | ({"seed": self.seed} if self.settings["do_sample"] else {})


class QuestionReader:
    """Makes questions of requests.

    Args:
        pipeline: the model and its settings.
        limits: of a request.
        strict: refuse images that the input gate has a concern about.
    """

    def __init__(self, pipeline: ReportPipeline, *, limits: ApiLimits, strict: bool = False) -> None:
        self.pipeline = pipeline
        self.limits = limits
        self.strict = strict

    def read(self, request: ChatRequest) -> Question:
        """Decode the images, and put the messages into the model's own format.

        Raises:
            ApiError: an image cannot be used, there is none, the messages are in no order of a conversation, or the question does not fit
                into the model's context.
        """
        settings = request.settings(self.pipeline.settings, self.limits)
        conversation = self._conversation(request.messages)
        if not conversation.num_images():
            raise invalid("There is no image in the messages: send one as an image_url part, data:image/png;base64,…", param="messages")
        images, concerns = self._read_images(request.messages)
        try:
            parts, dropped_turns = self.pipeline.new_chat().fit(conversation, max_new_tokens=settings["max_new_tokens"])
        except DataError as error:
            raise invalid(str(error), param="messages", code="context_length_exceeded") from None
        return Question(
            parts=parts,
            images=images,
            settings=settings,
            num_prompt_tokens=len(self.pipeline.model.prompt_wrap([parts])[0]),
            is_streamed=request.stream,
            dropped_turns=dropped_turns,
            has_system_text=any(message.role in _SYSTEM_ROLES for message in request.messages),
            concerns=concerns,
            seed=secrets.randbits(62) if request.seed is None else request.seed,
        )

    def _conversation(self, messages: Sequence[Message]) -> Conversation:
        conversation = Conversation.from_template(self.pipeline.model.prompt_template, self.pipeline.model.end_sym)
        asks, answers = conversation.roles
        for number, message in enumerate(messages):
            where = f"messages.{number}"
            if message.role == "user":
                conversation.append_message(asks, self._question_text(message, where))
            elif message.role == "assistant":
                if message.image_urls() or not conversation.messages or conversation.messages[-1][0] == answers:
                    raise invalid("A message of the assistant must follow one of the user, and has text alone.", param=where)
                conversation.append_message(answers, _harmless(message))
        if not conversation.messages or conversation.messages[-1][0] != asks:
            raise invalid("The last message must be the user's: there is nothing to answer.", param="messages")
        return conversation

    def _question_text(self, message: Message, where: str) -> str:
        """A message as the model reads it, its images first, as in training. Images without a word ask for a report."""
        blocks, text = [IMAGE_BLOCK] * len(message.image_urls()), _harmless(message)
        if text:
            return " ".join([*blocks, text])
        if not blocks or any(text.strip() for text in message.texts()):
            raise invalid("This message is empty, or nothing but markup. Ask in words.", param=where)
        before, after = self.pipeline.model.prompt_template.split("{}")
        return " ".join([*blocks[1:], self.pipeline.full_prompt.removeprefix(before).removesuffix(after)])

    def _read_images(self, messages: Sequence[Message]) -> tuple[Tensor, tuple[Concern, ...]]:
        """float32 [number of images, 3, S, S] in the order of the messages; one image at a time is in memory at its full size."""
        urls = [(f"messages.{number}.content", url) for number, message in enumerate(messages) for url in message.image_urls()]
        if len(urls) > self.limits.max_images:
            raise invalid(f"{len(urls)} images; at most {self.limits.max_images} are read.", param="messages")
        pixels, concerns = [], list[Concern]()
        for where, url in urls:
            image = open_data_uri(url, param=where, max_pixels=self.limits.max_pixels)
            try:
                pixels.append(self.pipeline.load_image(image))
                found = self.pipeline.doubts(image, pixels[-1])
            except DataError as error:
                raise invalid(str(error), param=where, code="invalid_image") from None
            if found and self.strict:
                raise invalid(refusal(where, found), param=where, code="image_refused")
            concerns += found
        return torch.stack(pixels), tuple(concerns)


def _harmless(message: Message) -> str:
    """The text of a message on one line, without what could pose as markup."""
    return neutralise(" ".join(message.texts()))
