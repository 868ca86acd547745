"""A chat in a terminal: questions in, answers out while they are written."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import TextStreamer

from xraygpt.common.errors import DataError
from xraygpt.conversation import Conversation
from xraygpt.serving.pipeline import ReportPipeline

HELP = """\
Type a question about the image, or:
  /image PATH   talk about another image (PNG, JPEG or DICOM)
  /reset        forget what was said about this image
  /help         this text
  /quit         end (so does the end of the input)
"""

Write = Callable[[str], Any]
"""Gets text to show, with its line ends."""


class TextWriter(TextStreamer):
    """Passes an answer on as it is generated, up to its end symbol.

    Args:
        tokenizer: of the model.
        write: gets each piece of the answer.
        end_sym: ends the answer; neither it nor what follows is passed on.
    """

    def __init__(self, tokenizer: Any, write: Write, *, end_sym: str) -> None:
        super().__init__(tokenizer, skip_special_tokens=True)
        self.write = write
        self.end_sym = end_sym
        self.text = ""
        self.num_written = 0

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        """Called by transformers with each new piece of text, which ends where a word ends."""
        self.text = (self.text + text).lstrip()
        answer = self.text.split(self.end_sym)[0] if self.end_sym.strip() else self.text
        answer = answer.rstrip()  # space is shown with the word after it, if one comes
        self.write(answer[self.num_written :])
        self.num_written = max(self.num_written, len(answer))


class TerminalChat:
    """One chat, line by line.

    Args:
        pipeline: the model and its settings.
        write: gets the text to show.
        conv: the empty conversation that each image starts with; none: in the format that the model was trained with.
    """

    def __init__(self, *, pipeline: ReportPipeline, write: Write, conv: Conversation | None = None) -> None:
        self.chat = pipeline.new_chat()
        self.tokenizer = pipeline.model.llama_tokenizer
        self.settings = dict(pipeline.settings)
        self.settings["min_length"] = self.settings.pop("min_new_tokens")
        self.write = write
        self.empty_conv = conv or self.chat.new_conversation()
        self.image_conv = self.conv = self.empty_conv.copy()
        self.img_list: list[Tensor] = []

    def run(self, read: Callable[[], str]) -> None:
        """Handle lines until /quit, or until `read` raises EOFError."""
        while True:
            try:
                line = read().strip()
            except EOFError:
                return
            if line == "/quit":
                return
            try:
                self.handle(line)
            except DataError as error:
                self.write(f"{error}\n")

    def handle(self, line: str) -> None:
        """Carry out one command, or answer one question.

        Raises:
            DataError: the image or the question cannot be used; the chat goes on as before.
        """
        command, _, argument = line.partition(" ")
        if command == "/image":
            self.open_image(argument.strip())
        elif command == "/reset":
            self.conv = self.image_conv.copy()
            self.write("The conversation starts anew.\n")
        elif command == "/help":
            self.write(HELP)
        elif command.startswith("/"):
            raise DataError(f"There is no command {command}. /help lists them.")
        elif line:
            self.ask(line)

    def open_image(self, path: str | Path) -> None:
        """Start a conversation about another image."""
        if not str(path):
            raise DataError("Which image? Write /image PATH.")
        conv, img_list = self.empty_conv.copy(), list[Tensor]()
        self.chat.upload_img(Path(path).expanduser(), conv, img_list)
        self.image_conv, self.conv, self.img_list = conv, conv.copy(), img_list
        self.write(f"Image: {path}\n")

    def ask(self, question: str) -> None:
        """Answer a question. One that cannot be answered is not kept."""
        if not self.img_list:
            raise DataError("There is no image yet. Write /image PATH first.")
        conv = self.conv.copy()
        self.chat.ask(question, conv)
        if self.settings["num_beams"] > 1:  # beams are only compared when all are complete: nothing to show before
            text, _ = self.chat.answer(conv, self.img_list, **self.settings)
            self.write(text)
        else:
            writer = TextWriter(self.tokenizer, self.write, end_sym=conv.sep)
            self.chat.answer(conv, self.img_list, **self.settings, streamer=writer)
        self.write("\n")
        self.conv = conv
