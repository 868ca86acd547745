"""The web page beside the API."""

import hmac
from collections.abc import Sequence

import gradio as gr
from fastapi import FastAPI

from xraygpt.serving.safety import RESEARCH_NOTICE
from xraygpt.serving.web import PAGE_OPTIONS

PAGE_USER = "xraygpt"


def mount_page(app: FastAPI, page: gr.Blocks, tokens: Sequence[str] = ()) -> None:
    """Show the page at `/`, below the routes that `app` has. With tokens it asks for a login: user `xraygpt`, one of them as password."""

    def may_enter(user: str, password: str) -> bool:
        known = [hmac.compare_digest(password.encode(), token.encode()) for token in tokens]
        return user == PAGE_USER and any(known)

    gr.mount_gradio_app(
        app,
        page,
        path="/",
        auth=may_enter if tokens else None,
        auth_message=f"User: {PAGE_USER}. Password: a token of this server. {RESEARCH_NOTICE}",
        **PAGE_OPTIONS,
    )
