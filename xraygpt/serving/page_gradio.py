"""gradio, and what it keeps of a tab. Imported from here alone, so that its folder is set before it looks for one.

gradio makes its folder when it is imported: by default one of a fixed name in the temporary folder, which every user can read, and
which another user may have made. Nothing of the page is written there; it is private anyway.
"""

import atexit
import os
import shutil
import sys
import tempfile

if "gradio" not in sys.modules:
    os.environ["GRADIO_TEMP_DIR"] = _folder = tempfile.mkdtemp(prefix="xraygpt-")  # mode 0700
    atexit.register(shutil.rmtree, _folder, ignore_errors=True)

import gradio as gr

__all__ = ["accepts_event", "forget_messages", "forget_tab", "forget_tabs", "gr", "is_queued", "num_unheard"]


# gradio has no public name for what follows. It forgets a closed tab an hour later, and what nobody listened to not at all.


def num_unheard(blocks: gr.Blocks, tab: str) -> int:
    """How many events of a tab have an answer that nobody has listened to yet, or will have one."""
    return len(blocks._queue.pending_event_ids_session.get(tab, ()))


async def forget_messages(blocks: gr.Blocks, tab: str) -> None:
    """Drop what was to be told to a tab, and tell it no more of the events that were asked for."""
    queue = blocks._queue
    await queue.clean_events(session_hash=tab)
    messages = queue.pending_messages_per_session.get(tab)
    while messages is not None and not messages.empty():  # it stays, as a stream that is being closed still looks for it
        messages.get_nowait()
    queue.pending_event_ids_session.pop(tab, None)


async def forget_tab(blocks: gr.Blocks, tab: str) -> None:
    """Drop what was to be told to a tab, and the values of its controls, of which one is the image."""
    await forget_messages(blocks, tab)
    blocks.app.state_holder.session_data.pop(tab, None)


async def forget_tabs(blocks: gr.Blocks, prefix: str) -> None:
    """Drop everything of all tabs whose names begin so."""
    queue = blocks._queue
    kept = (queue.pending_messages_per_session, queue.pending_event_ids_session, blocks.app.state_holder.session_data)
    for tab in {tab for names in kept for tab in names if tab.startswith(prefix)}:
        await forget_tab(blocks, tab)
        queue.pending_messages_per_session.pop(tab, None)


def is_queued(blocks: gr.Blocks, number: int) -> bool | None:
    """Whether a function of the page is called through gradio's queue; None if no function has this number."""
    function = blocks.fns.get(number)
    return None if function is None else bool(function.queue)


def accepts_event(blocks: gr.Blocks, number: int, values: list[str | int | float | bool | None]) -> bool:
    """Whether the values of an event are some that the page's controls can have. gradio would log others, with a traceback."""
    inputs = blocks.fns[number].inputs
    try:
        for component, value in zip(inputs, values, strict=True):
            if isinstance(component, gr.Dropdown):  # whose choices are those of the tab
                if not isinstance(value, int):
                    return False
            elif value is None and not isinstance(component, gr.Textbox):
                return False
            else:
                component.preprocess(value)  # type: ignore[union-attr]  # inputs are components
    except (gr.Error, ArithmeticError, TypeError, ValueError):
        return False
    return True
