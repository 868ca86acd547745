"""The chat: an image is uploaded, questions are asked, the model answers.

`S` image size, `Q` query tokens of an image, `D_l` width of the language model.
"""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from xraygpt.common.errors import DataError
from xraygpt.conversation.conversation import Conversation
from xraygpt.conversation.prompts import IMAGE_BLOCK, neutralise

logger = logging.getLogger(__name__)


class ChatModel(Protocol):
    """What a model must offer to be talked to."""

    prompt_template: str
    end_sym: str

    @property
    def context_length(self) -> int:
        """Most tokens of prompt and answer together."""

    def encode_once(self, image: Tensor) -> Tensor:
        """float32 [1, 3, S, S] → [1, Q, D_l]; an image that was seen lately is not encoded again."""

    def prompt_wrap(self, prompts: Sequence[Sequence[str]]) -> list[list[int]]:
        """Token ids of prompts in parts."""

    def new_cache(self) -> Any:
        """What `generate` and `stream` take as `cache`, to read again only what has changed since the last turn."""

    def generate(self, prompts: Sequence[Sequence[str]], image_embeds: Tensor, **settings: Any) -> list[Any]:
        """For each prompt an object with `text` and `token_ids`."""


class Chat:
    """Talks about images with a model.

    Args:
        model: in eval mode.
        vis_processor: what `open_image` returns → float32 tensor [3, S, S].
        device: where image tensors are put.
        open_image: opens the image files whose paths are uploaded.
    """

    def __init__(
        self,
        model: ChatModel,
        vis_processor: Callable[[Any], Tensor],
        device: str | torch.device = "cpu",
        *,
        open_image: Callable[[str | Path], Any] | None = None,
    ) -> None:
        self.model = model
        self.vis_processor = vis_processor
        self.device = device
        self.open_image = open_image
        self.cache = model.new_cache()

    def new_conversation(self) -> Conversation:
        """An empty conversation in the format that the model was trained with."""
        return Conversation.from_template(self.model.prompt_template, self.model.end_sym)

    @torch.no_grad()
    def upload_img(self, image: Any, conv: Conversation, img_list: list[Tensor]) -> str:
        """Encode an image, append its embeddings [1, Q, D_l] to `img_list` and a message with its placeholder to `conv`.

        Args:
            image: a path (if the chat has `open_image`), a Pillow image, or a processed tensor [3, S, S] or [1, 3, S, S].

        Returns:
            "Received."
        """
        if isinstance(image, str | Path):
            if self.open_image is None:
                raise TypeError("This chat has no open_image: give an image or a tensor, not a path.")
            image = self.open_image(image)
        pixels = image if isinstance(image, Tensor) else self.vis_processor(image)
        pixels = pixels.unsqueeze(0) if pixels.ndim == 3 else pixels
        img_list.append(self.model.encode_once(pixels.to(self.device)))
        conv.append_message(conv.roles[0], IMAGE_BLOCK)
        return "Received."

    def ask(self, text: str, conv: Conversation) -> None:
        """Add a question. It joins the message of an image that was just uploaded; markup in it is made harmless.

        Raises:
            DataError: the question is empty.
        """
        question = neutralise(text.encode(errors="replace").decode())  # half of a surrogate pair is no character
        if not question:
            raise DataError(f"The question {text!r} is empty, or nothing but markup. Ask it in words.")
        if conv.messages and conv.messages[-1][0] == conv.roles[0] and conv.messages[-1][1].endswith("</Img>"):
            conv.messages[-1][1] += f" {question}"
        else:
            conv.append_message(conv.roles[0], question)

    def answer(
        self,
        conv: Conversation,
        img_list: list[Tensor],
        max_new_tokens: int = 300,
        num_beams: int = 1,
        min_length: int = 1,
        top_p: float = 0.9,
        repetition_penalty: float = 1.0,
        length_penalty: float = 1.0,
        temperature: float = 1.0,
        do_sample: bool = False,
        max_length: int = 2000,
        streamer: Any = None,
    ) -> tuple[str, list[int]]:
        """Answer what was asked last, and add the answer to `conv`.

        Args:
            max_new_tokens: longest answer, in tokens.
            min_length: shortest answer, in tokens.
            max_length: most tokens of prompt and answer together; the model's context may set a lower limit.
                What is too long is read without its oldest turns, which is logged; `conv` keeps them.
            streamer: a transformers streamer, which gets the answer as it is written; not with beams.

        The other arguments are those of transformers' GenerationConfig; greedy unless `do_sample`.

        Returns:
            The answer, and its token ids.

        Raises:
            DataError: `conv` has no image or another number of images than `img_list`, or the question is too long.
        """
        if not img_list or conv.num_images() != len(img_list):
            raise DataError(f"The conversation has {conv.num_images()} images, but {len(img_list)} were encoded. Upload an image first.")
        if streamer is not None and num_beams > 1:
            raise ValueError("With beams there is nothing to stream: they are only compared when all are complete.")
        parts, dropped = self.fit(conv, max_new_tokens=max_new_tokens, max_length=max_length)
        if dropped:
            logger.warning("The conversation is too long: this answer was written without its %d oldest turns.", dropped)
        (written,) = self.model.generate(
            [parts],
            torch.cat(img_list),
            cache=self.cache,
            watch=None if streamer is None else lambda _, ids: bool(streamer.put(torch.tensor(ids[-1:]))),
            end_sym=conv.sep,
            max_new_tokens=max_new_tokens,
            min_new_tokens=min_length,
            num_beams=num_beams,
            do_sample=do_sample,
            top_p=top_p,
            temperature=temperature,
            repetition_penalty=repetition_penalty,
            length_penalty=length_penalty,
        )
        if streamer is not None:
            streamer.end()
        text = written.text.split(f"{conv.roles[1]}:")[-1].strip()
        conv.append_message(conv.roles[1], neutralise(text))
        return text, written.token_ids

    def fit(self, conv: Conversation, *, max_new_tokens: int, max_length: int = 2000) -> tuple[list[str], int]:
        """What the model reads for the next answer, so that prompt and answer have their place in its context.

        Args:
            max_new_tokens: place for the answer.
            max_length: as for `answer`.

        Returns:
            The prompt in parts, and how many of the oldest turns it lacks; images and system text stay.

        Raises:
            DataError: the question alone is too long.
        """
        conv, dropped = conv.copy(), 0
        conv.append_message(conv.roles[1], None)
        limit = min(max_length, self.model.context_length) - max_new_tokens
        while (length := len(self.model.prompt_wrap([conv.get_parts()])[0])) > limit:
            shorter = conv.without_oldest_turn()
            if shorter is None:
                raise DataError(
                    f"The question and its images take {length} tokens, but {max(limit, 0)} are left for them beside the answer. "
                    "Ask a shorter question, or allow fewer new tokens."
                )
            conv, dropped = shorter, dropped + 1
        return conv.get_parts(), dropped
