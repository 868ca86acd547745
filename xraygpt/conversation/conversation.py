"""A conversation about images, and the text that a model reads of it.

The format of training is `Conversation.from_template(...)`: the tokens of its first turn are those of the training prompt for the
same question. `CONV_VISION` is the original's chat format, with a system text that its training never showed.
"""

from dataclasses import dataclass, field, replace
from enum import Enum, auto
from typing import Any

from xraygpt.conversation.prompts import IMAGE_BLOCK, IMAGE_PLACEHOLDER, split_at_images


class SeparatorStyle(Enum):
    """How messages are put together."""

    SINGLE = auto()
    """`system` `sep`, then `role: message` `sep` for each message."""
    TWO = auto()
    """As SINGLE, with `sep` and `sep2` in turn."""
    TRAINED = auto()
    """`template` around each question, then the answer and `sep`, as in training. There is no system text."""


@dataclass(kw_only=True)
class Conversation:
    """Who said what, in which format."""

    system: str = ""
    """Text before the first message."""
    roles: tuple[str, str] = ("Patient", "Doctor")
    """Who asks, and who answers."""
    messages: list[list[Any]] = field(default_factory=list)
    """[role, text] pairs; an answer that is still to come has the text None."""
    offset: int = 0
    """Number of messages that `to_gradio_chatbot` leaves out."""
    sep_style: SeparatorStyle = SeparatorStyle.SINGLE
    sep: str = "###"
    """Stands behind a message, and ends an answer."""
    sep2: str | None = None
    """The second separator of the style TWO."""
    template: str = "{}"
    """Text around a question in the style TRAINED, with `{}` in its place."""
    skip_next: bool = False
    """A mark for web pages; no meaning here."""
    conv_id: Any = None
    """A name that web pages and logs may give."""

    @classmethod
    def from_template(cls, template: str, end_sym: str) -> "Conversation":
        """A conversation in the format of a model that was trained with this prompt template and end symbol."""
        return cls(sep_style=SeparatorStyle.TRAINED, template=template, sep=end_sym)

    def append_message(self, role: str, message: str | None) -> None:
        """Add a message; None is the place of an answer that is to be written."""
        self.messages.append([role, message])

    def get_parts(self) -> list[str]:
        """The prompt in parts, each of which is tokenised on its own; `<ImageHere>` is the part of an image."""
        if self.sep_style is not SeparatorStyle.TRAINED:
            return split_at_images(self._joined_messages())
        parts: list[str] = []
        for question, answer in self._turns():
            text = self.template.replace("{}", question)
            # A template that opens with the separator finds it there already: the answer before ended with it.
            parts += split_at_images(text.removeprefix(self.sep) if parts else text)
            if answer is not None:
                parts.append(answer + self.sep)
        return parts

    def get_prompt(self) -> str:
        """The prompt as one text, with `<ImageHere>` for each image."""
        return "".join(self.get_parts())

    def _joined_messages(self) -> str:
        separators = (self.sep, self.sep2 if self.sep_style is SeparatorStyle.TWO and self.sep2 is not None else self.sep)
        texts = [f"{role}: {text}{separators[i % 2]}" if text else f"{role}:" for i, (role, text) in enumerate(self.messages)]
        return "".join([self.system + self.sep, *texts])

    def _turns(self) -> list[tuple[str, str | None]]:
        """Question and answer of each turn. Messages of the asking role in a row are one question."""
        turns: list[tuple[str, str | None]] = []
        for role, text in self.messages:
            if role != self.roles[0]:
                turns[-1] = (turns[-1][0], text)
            elif turns and turns[-1][1] is None:
                turns[-1] = (f"{turns[-1][0]} {text}", None)
            else:
                turns.append((text, None))
        return turns

    def num_images(self) -> int:
        """Number of image placeholders in the messages."""
        return sum((text or "").count(IMAGE_PLACEHOLDER) for _, text in self.messages)

    def without_oldest_turn(self) -> "Conversation | None":
        """A copy that lacks the oldest question and answer, but has their images in its first question; None if there is only one turn."""
        asked = [role == self.roles[0] for role, _ in self.messages]
        start = next((i for i in range(1, len(asked)) if asked[i] and not asked[i - 1]), None)
        if start is None:
            return None
        num_images = sum((text or "").count(IMAGE_PLACEHOLDER) for _, text in self.messages[:start])
        (role, question), *later = self.copy().messages[start:]
        return replace(self, messages=[[role, " ".join([IMAGE_BLOCK] * num_images + [question])], *later])

    def to_gradio_chatbot(self) -> list[list[str | None]]:
        """[question, answer] pairs from message `offset` on; the answer to come is None."""
        pairs: list[list[str | None]] = []
        for i, (_, text) in enumerate(self.messages[self.offset :]):
            if i % 2 == 0:
                pairs.append([text, None])
            else:
                pairs[-1][1] = text
        return pairs

    def copy(self) -> "Conversation":
        """A copy whose messages are its own."""
        return replace(self, messages=[list(message) for message in self.messages])

    def dict(self) -> dict[str, Any]:
        """The conversation as plain containers, for a log."""
        return {
            "system": self.system,
            "roles": list(self.roles),
            "messages": [list(message) for message in self.messages],
            "offset": self.offset,
            "sep_style": self.sep_style.name,
            "sep": self.sep,
            "sep2": self.sep2,
            "template": self.template,
            "conv_id": self.conv_id,
        }


CONV_VISION = Conversation(
    system=(
        "You are an experienced Doctor, give the following medical scan: <Img>ImageContent</Img>. "
        "You will be able to see the medical scan once I provide it to you. Please answer my questions."
    ),
    offset=2,
)
"""The original's chat format, for its published checkpoints. Copy it before use."""

conv_templates = {"vision": CONV_VISION}
"""Formats that do not follow from a model, by name."""
