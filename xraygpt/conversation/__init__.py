"""Prompts, conversations, and the chat about an image.

    prompts         the image placeholder, the prompt file, and how user text is kept from posing as either
    conversation    who said what, and the text that a model reads of it
    chat            Chat: image and questions in, answers out

Models import `prompts` alone; nothing here knows how an image file is opened.
"""

from xraygpt.conversation.chat import Chat, ChatModel
from xraygpt.conversation.conversation import CONV_VISION, Conversation, SeparatorStyle, conv_templates

__all__ = ["CONV_VISION", "Chat", "ChatModel", "Conversation", "SeparatorStyle", "conv_templates"]
