"""A chat in a terminal: questions in, answers out while they are written."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from xraygpt.common.errors import DataError
from xraygpt.common.printable import message_text, printable_line, printable_text, well_formed
from xraygpt.conversation import Conversation
from xraygpt.serving.pipeline import ReportPipeline
from xraygpt.serving.safety import RESEARCH_NOTICE, notes
from xraygpt.serving.saved_chat import chat_record, remarks, save_chat
from xraygpt.serving.session import ChatSession

try:
    import readline  # gives input() its line editing, and the questions of this session with the arrow keys
except ImportError:  # Windows has a history of its own
    pass
else:
    readline.parse_and_bind("tab: complete")  # names of files, which may hold any sign but white space
    readline.set_completer_delims(" \t\n")

HELP = f"""\
Type a question about the image, or:
  /image PATH   talk about another image (PNG, JPEG or DICOM)
  /report       write the report
  /reset        forget what was said about this image
  /save FILE    write the conversation to a .md or .json file
  /help         this text
  /quit         end (so does the end of the input)
Ctrl-C stops an answer; what was written stays.
{RESEARCH_NOTICE}
"""

Write = Callable[[str], Any]
"""Gets text to show, with its line ends."""


class TerminalChat:
    """One chat, line by line.

    Args:
        pipeline: the model and its settings.
        write: gets the text to show.
        conv: the empty conversation that each image starts with; none: in the format that the model was trained with.
        about: what a saved conversation says about the model, plain values.
    """

    def __init__(
        self, *, pipeline: ReportPipeline, write: Write, conv: Conversation | None = None, about: dict[str, Any] | None = None
    ) -> None:
        self.session = ChatSession(pipeline, conv=conv)
        self._write = write
        self.about = {"decoding": pipeline.settings, **(about or {})}
        self.image_name = ""

    def write(self, text: str) -> None:
        """Show text. Escape sequences that a model or a file name holds do not reach the terminal."""
        self._write(printable_text(text))

    def run(self, read: Callable[[], str]) -> None:
        """Handle lines until /quit, or until `read` raises EOFError."""
        while True:
            try:
                line = read().strip()
            except EOFError:
                return
            except UnicodeDecodeError:
                self.write("The line is not UTF-8, which is expected here. Nothing was done.\n")
                continue
            if line == "/quit":
                return
            try:
                self.handle(line)
            except DataError as error:
                self.write(f"{message_text(error)}\n")

    def handle(self, line: str) -> None:
        """Carry out one command, or answer one question.

        Raises:
            DataError: the image or the question cannot be used; the chat goes on as before.
        """
        command, _, argument = line.partition(" ")
        if command == "/image":
            self.open_image(argument.strip())
        elif command == "/report":
            self.ask("")
        elif command == "/reset":
            self.session.reset()
            self.write("The conversation starts anew.\n")
        elif command == "/save":
            self.save(argument.strip())
        elif command == "/help":
            self.write(HELP)
        elif command.startswith("/"):
            raise DataError(f"There is no command {command}. /help lists them.")
        elif line:
            self.ask(line)

    def open_image(self, path: str | Path) -> None:
        """Start a conversation about another image, and say what the input gate thinks of it."""
        if not str(path):
            raise DataError("Which image? Write /image PATH.")
        concerns = self.session.open_image(Path(path).expanduser())
        self.image_name = str(path)
        self.write("\n".join([f"Image: {printable_line(path)}", *notes(concerns=[concern.message for concern in concerns])]) + "\n")

    def ask(self, question: str) -> None:
        """Answer a question, "" for the report, and remark on what the answer deserves doubt for."""
        if not self.image_name:
            raise DataError("There is no image yet. Write /image PATH first.")
        if well_formed(question) != question:  # as the terminal hands on what is not UTF-8
            raise DataError(f"The question is not Unicode text: {question}")
        with interrupts() as interrupted:
            for piece in self.session.stream(question, cancelled=interrupted):
                self.write(piece)
        lines = remarks(self.record()["turns"][-1])
        self.write("\n".join(["", *lines]) + "\n")

    def save(self, path: str) -> None:
        """Write the conversation to a file."""
        if not path:
            raise DataError("Where? Write /save FILE, with a name that ends in .md or .json.")
        save_chat(Path(path).expanduser(), self.record())
        self.write(f"Saved: {printable_line(path)}\n")

    def record(self) -> dict[str, Any]:
        """The conversation as plain values, with the name of the image but not its folder."""
        return chat_record(self.session.turns, image=Path(self.image_name).name, about=self.about)


@contextmanager
def interrupts() -> Iterator[Callable[[], bool]]:
    """Yield a function that says whether Ctrl-C was pressed. Inside, the first Ctrl-C is only noted; the second one acts as usual."""
    pressed = threading.Event()
    if threading.current_thread() is not threading.main_thread():  # signals reach the main thread alone
        yield pressed.is_set
        return
    usual = signal.getsignal(signal.SIGINT)

    def note(*_: Any) -> None:
        pressed.set()
        signal.signal(signal.SIGINT, usual)

    signal.signal(signal.SIGINT, note)
    try:
        yield pressed.is_set
    finally:
        signal.signal(signal.SIGINT, usual)
