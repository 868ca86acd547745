"""Using a trained model: reports for images, and chats.

    pipeline          ReportPipeline: model, image processor and generation settings of a configuration
    safety            the research notice, and the flags of a text
    report_model      ReportModel: the Python interface, `xraygpt.load_model`
    report_batches    reports for many images; report_files: JSON lines, CSV and text of them
    terminal          TerminalChat: a chat in a terminal; saved_chat: a conversation as Markdown or JSON

Both take what they need from a `Config`; neither trains or reads data folders.
"""

from xraygpt.serving.pipeline import ReportPipeline
from xraygpt.serving.safety import RESEARCH_NOTICE
from xraygpt.serving.terminal import TerminalChat

__all__ = ["RESEARCH_NOTICE", "ReportPipeline", "TerminalChat"]
