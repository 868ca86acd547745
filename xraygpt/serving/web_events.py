"""From gradio's events to the page's actions: whose tab it is, what the event says, and what is shown when it cannot be done.

What an event says comes from a browser, and need not come from the page's own scripts: every value is checked here.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from xraygpt.common.errors import DataError, XrayGPTError
from xraygpt.serving.page_gradio import gr
from xraygpt.serving.page_uploads import Uploads
from xraygpt.serving.web_actions import PageActions, Screen
from xraygpt.serving.web_view import concerns_html
from xraygpt.serving.web_workspace import Workspace, Workspaces

Updates = dict[Any, Any]
T = TypeVar("T")


class EventHandlers:
    """Makes gradio's event handlers of the page's actions.

    Args:
        updates: makes what gradio shows of a `Screen`.
        workspaces: of the open tabs.
        uploads: the images that wait for the event that claims them.
        actions: what the handlers do.
    """

    def __init__(self, updates: Callable[[Screen], Updates], workspaces: Workspaces, uploads: Uploads, actions: PageActions) -> None:
        self.updates = updates
        self.workspaces = workspaces
        self.uploads = uploads
        self.actions = actions

    def once(self, action: Callable[..., Screen | None]) -> Callable[..., Updates]:
        """Handles an event by an action of (workspace, the values of the inputs)."""

        def handle(request: gr.Request, *values: Any) -> Updates:
            return self._shown(lambda: action(self._workspace(request), *values))

        return handle

    def chosen(self, action: Callable[..., Screen]) -> Callable[..., Updates]:
        """Handles an event that says more, by an action of (workspace, event, the values of the inputs)."""

        def handle(request: gr.Request, event: gr.EventData, *values: Any) -> Updates:
            return self._shown(lambda: action(self._workspace(request), event, *values))

        return handle

    def streamed(self, action: Callable[..., Iterator[Screen]]) -> Callable[..., Iterator[Updates]]:
        """Handles an event by an action that shows what it does while it goes on."""

        def handle(request: gr.Request, *values: Any) -> Iterator[Updates]:
            try:
                workspace = self._workspace(request)
            except XrayGPTError as error:
                yield self.updates(_message(error))
            else:
                yield from map(self.updates, action(workspace, *values))

        return handle

    def open_upload(self, request: gr.Request, event: gr.EventData) -> Updates:
        """Start a conversation about an image that the browser has sent."""

        def opened(workspace: Workspace) -> Screen:
            film, name = self.uploads.claim(request.state.session, integer(event, "upload"))
            return self.actions.open_upload(workspace, film, name)

        return self._opening(request, opened)

    def open_example(self, examples: Sequence[Path]) -> Callable[..., Updates]:
        """Handles the choice of an example."""

        def handle(request: gr.Request, event: gr.EventData) -> Updates:
            return self._opening(request, lambda workspace: self.actions.open_example(workspace, choice(event, examples)))

        return handle

    def _opening(self, request: gr.Request, action: Callable[[Workspace], Screen]) -> Updates:
        session, tab = request.state.session, str(request.session_hash)

        def opened() -> Screen:
            workspace = self.workspaces.keep(session, tab)
            try:
                return action(workspace)
            finally:
                if not workspace.chats or session.has_ended or tab not in session.tabs:  # nothing came of it, or nobody wants it now
                    self.workspaces.close(tab)

        return self._shown(opened)

    def look(self, *, at_once: bool) -> Callable[..., Updates]:
        """Handles the wish for heat maps; see `PageActions.look_at`."""

        def look_at(workspace: Workspace, event: Any) -> Screen:
            asked = integer(event, "asked")
            return self.actions.look_at(workspace, integer(event, "turn"), asked=asked, at_once=at_once)

        return self.chosen(look_at)

    def _workspace(self, request: gr.Request) -> Workspace:
        return self.workspaces.of(request.state.session, str(request.session_hash))

    def _shown(self, action: Callable[[], Screen | None]) -> Updates:
        try:
            return self.updates(action() or {})
        except XrayGPTError as error:
            return self.updates(_message(error))


def said(event: Any, name: str) -> Any:
    """A value that an event says; None if it says none of this name."""
    try:
        return getattr(event, name)
    except (AttributeError, TypeError):  # the latter from gradio, if the event says nothing at all
        return None


def integer(event: Any, name: str) -> int:
    """An integer that an event says.

    Raises:
        DataError: it says none of this name.
    """
    value = said(event, name)
    if not isinstance(value, int):
        raise _not_of_this_page()
    return value


def choice(event: Any, choices: Sequence[T]) -> T:
    """The one of some choices whose number an event says.

    Raises:
        DataError: no choice has this number.
    """
    number = integer(event, "number")
    if not 0 <= number < len(choices):
        raise _not_of_this_page()
    return choices[number]


def _not_of_this_page() -> DataError:
    return DataError("The page does not fit this server, which may have been started again. Reload the page.")


def _message(error: XrayGPTError) -> Screen:
    return {"alerts": concerns_html(None, str(error))}
