"""Using a trained model: reports for images, and chats.

    pipeline     ReportPipeline: model, image processor and generation settings of a configuration
    terminal     TerminalChat: a chat in a terminal

Both take what they need from a `Config`; neither trains or reads data folders.
"""

from xraygpt.serving.pipeline import RESEARCH_NOTICE, ReportPipeline
from xraygpt.serving.terminal import TerminalChat

__all__ = ["RESEARCH_NOTICE", "ReportPipeline", "TerminalChat"]
