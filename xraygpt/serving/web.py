"""The web page: a film on the left, the conversation about it on the right.

`build_page` makes it, `PAGE_OPTIONS` are what `gradio.mount_gradio_app` needs to know of it. What the page remembers is in
`web_workspace`, what its buttons do in `web_actions`, what it shows in `web_view`, its style and scripts in `assets/`.

Nothing is asked of another host, and nothing is written to disk: uploads (`page_uploads`) and conversations stay in memory until the tab
is closed. `http_app.build_app` puts the page behind its guards; it is served in no other way.
"""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from xraygpt.processors import open_image
from xraygpt.serving.page_gradio import forget_tab, forget_tabs, gr
from xraygpt.serving.page_sessions import Session
from xraygpt.serving.page_uploads import Uploads
from xraygpt.serving.pipeline import ReportPipeline
from xraygpt.serving.safety import RESEARCH_NOTICE
from xraygpt.serving.session import ChatSession
from xraygpt.serving.web_actions import (
    BEAMS,
    GREEDY,
    MAX_QUESTION,
    SAMPLING,
    Look,
    PageActions,
    Screen,
    decoding_settings,
    suggested_questions,
)
from xraygpt.serving.web_events import EventHandlers, choice, integer, said
from xraygpt.serving.web_heat import looker
from xraygpt.serving.web_queue import PageQueue
from xraygpt.serving.web_view import conversation_html, data_uri, findings_html
from xraygpt.serving.web_workspace import Workspace, Workspaces

ASSETS = Path(__file__).with_name("assets")

MAX_NEW_TOKENS = 512
"""Longest answer that can be asked for."""

NUM_SUGGESTIONS = 6

MAX_EVENTS = 256
"""That gradio's queue holds."""

LAST_EVENTS_SECONDS = (0.5, 5.0, 60.0)
"""After the end of a session, when what its last events have left is looked for: one that runs then ends within these."""

LOGOUT_BUTTON = '<form method="post" action="/logout"><button class="xg-logout">Log out</button></form>'

NO_CHAT = ("No radiograph yet", 0)
"""What the list of conversations says while there is none."""

PAGE_OPTIONS: dict[str, Any] = {
    "theme": gr.themes.Soft(
        primary_hue="cyan",
        secondary_hue="cyan",
        neutral_hue="slate",
        font=["system-ui", "sans-serif"],
        font_mono=["ui-monospace", "monospace"],
    ).set(
        background_fill_primary="*neutral_50",  # the theme's own value, which `set` would forget
        input_border_width="1px",
        input_border_color="#7c8a9c",
        input_border_color_dark="#7c8a9c",
        block_border_width="1px",
        # Every text has a contrast of 4.5 at least (WCAG AA), which the theme's own colours do not reach.
        body_text_color_subdued="#475569",
        body_text_color_subdued_dark="#a9b6c6",
        input_placeholder_color="#64748b",
        input_placeholder_color_dark="#a9b6c6",
        button_primary_background_fill="#0e7490",
        button_primary_background_fill_dark="#0e7490",
        button_primary_background_fill_hover="#155e75",
        button_primary_background_fill_hover_dark="#155e75",
        block_title_background_fill="transparent",
        block_title_background_fill_dark="transparent",
        block_title_text_color="*body_text_color",
        block_title_text_color_dark="*body_text_color",
        block_title_padding="0",
        block_info_text_color="*body_text_color_subdued",
        block_info_text_color_dark="*body_text_color_subdued",
        checkbox_label_background_fill_selected="#0e7490",
        checkbox_label_background_fill_selected_dark="#0e7490",
    ),
    "css": (ASSETS / "page.css").read_text(encoding="utf-8"),
    "footer_links": [],
    "run_history": False,  # it would keep questions and answers in the browser
    "show_error": False,
    "allowed_paths": [],
}
"""Keyword arguments of `gradio.mount_gradio_app`."""


@dataclass(kw_only=True)
class Parts:
    """The components that change, by their names in a `Screen`."""

    film: gr.HTML
    conversation: gr.HTML
    findings: gr.HTML
    alerts: gr.HTML
    question: gr.Textbox
    chats: gr.Dropdown
    saved: gr.HTML
    report: gr.Button
    ask: gr.Button
    stop: gr.Button
    retry: gr.Button
    edit: gr.Button
    clear: gr.Button
    start: gr.Button
    settings: list[Any]
    suggestions: gr.HTML
    examples: gr.HTML | None

    @property
    def outputs(self) -> list[Any]:
        """What an action may change."""
        shown = [self.film, self.conversation, self.findings, self.alerts, self.question, self.chats, self.saved]
        return [*shown, *self.idle_buttons, self.stop]

    @property
    def idle_buttons(self) -> list[gr.Button]:
        """The buttons that do nothing while an answer is written."""
        return [self.report, self.ask, self.retry, self.edit, self.clear]

    def updates(self, screen: Screen) -> dict[Any, Any]:
        """A screen as gradio takes it."""
        changed = {
            getattr(self, name): screen[name] for name in ("conversation", "findings", "alerts", "question", "saved") if name in screen
        }
        film = {"value": screen["film"]} if "film" in screen else {}
        heat = {"heat": screen["heat"]} if "heat" in screen else {}
        if film or heat:
            changed[self.film] = gr.update(**film, **heat)
        if "chats" in screen:
            changed[self.chats] = _chat_list(screen["chats"])
        if "is_writing" in screen:
            changed |= {button: gr.update(interactive=not screen["is_writing"]) for button in self.idle_buttons}
            changed[self.stop] = gr.update(interactive=screen["is_writing"])
        return changed or {self.alerts: gr.skip()}  # gradio takes no empty dictionary


@dataclass(frozen=True)
class Page:
    """The page, and what it has in common with the guards before it."""

    blocks: gr.Blocks
    workspaces: Workspaces
    uploads: Uploads

    async def close_tab(self, session: Session, tab: str) -> None:
        """Forget a tab, by the server's name of it, and all that was to be told to it."""
        session.close_tab(tab)
        self.workspaces.close(tab)
        await forget_tab(self.blocks, tab)

    def end_session(self, session: Session) -> Coroutine[None, None, None]:
        """Forget what a session holds, at once; the coroutine drops what gradio has of it, and what its last events leave."""
        self.uploads.forget(session)
        self.workspaces.close_all_of(session)

        async def forget() -> None:
            for seconds in (0.0, *LAST_EVENTS_SECONDS):
                await asyncio.sleep(seconds)
                self.workspaces.close_all_of(session)
                await forget_tabs(self.blocks, session.tab(""))

        return forget()


def build_page(
    pipeline: ReportPipeline,
    *,
    examples: Sequence[Path] = (),
    new_session: Callable[[], ChatSession] | None = None,
    look: Look | None = None,
    queue: PageQueue | None = None,
    with_logout: bool = False,
) -> Page:
    """The page for a model.

    Args:
        pipeline: the model and its settings.
        examples: image files to choose from, none of a patient who did not agree.
        new_session: makes a conversation; None: `ChatSession(pipeline)`.
        look: finds where the model looked; None: `web_heat.looker(pipeline)`.
        queue: gives out the model; give one with the lock of what else uses the model in this process, or to stop in good order.
        with_logout: show a button that ends the session.
    """
    uploads = Uploads()
    workspaces = Workspaces(new_session or (lambda: ChatSession(pipeline)))
    actions = PageActions(look or looker(pipeline), queue or PageQueue())
    suggestions = suggested_questions(pipeline.model)[:NUM_SUGGESTIONS]
    with gr.Blocks(title="XrayGPT", analytics_enabled=False, fill_width=True) as blocks:
        head = _asset("head.html").replace("NOTICE", RESEARCH_NOTICE)
        gr.HTML(head.replace("LOGOUT", LOGOUT_BUTTON if with_logout else ""), js_on_load=None, elem_id="xg-head")
        parts = _lay_out(pipeline, suggestions, examples)
        _wire(parts, EventHandlers(parts.updates, workspaces, uploads, actions), suggestions, examples)
        blocks.unload(lambda: None)  # only then does a tab keep a stream open, by which `PageGate` knows that it is there
    # Who waits, waits in `PageQueue`, which says so; gradio's own queue is only kept from growing without end.
    blocks.queue(default_concurrency_limit=None, max_size=MAX_EVENTS, api_open=False)
    return Page(blocks, workspaces, uploads)


def _asset(name: str) -> str:
    return (ASSETS / name).read_text(encoding="utf-8")


# Layout ------------------------------------------------------------------------------------------------------------


def _region(script: str, element: str, *, elem_id: str, **options: Any) -> gr.HTML:
    """A part whose content the script takes from its value, so that no text passes through gradio's templates."""
    return gr.HTML(html_template=element, js_on_load=_asset(script), elem_id=elem_id, apply_default_css=False, **options)


def _lay_out(pipeline: ReportPipeline, suggestions: list[str], examples: Sequence[Path]) -> Parts:
    live = '<div class="xg-region" aria-live="polite"></div>'
    parts: dict[str, Any] = {}
    with gr.Row(elem_id="xg-main"):
        with gr.Column(scale=5, min_width=320, elem_id="xg-left"):
            parts["film"] = _region("viewer.js", _asset("viewer.html"), elem_id="xg-viewer", value="", heat={})
            parts["alerts"] = _region("html.js", live, elem_id="xg-alerts", value="")
            parts["examples"] = _examples(examples)
        with gr.Column(scale=6, min_width=320, elem_id="xg-right"):
            with gr.Row(elem_id="xg-chats"):
                parts["chats"] = gr.Dropdown(
                    label="Conversation",
                    show_label=False,
                    container=False,
                    choices=[NO_CHAT],
                    value=NO_CHAT[1],
                    interactive=True,
                    scale=3,
                    min_width=120,
                    filterable=False,
                )
                parts["start"] = gr.Button("New chat", scale=1, min_width=96, elem_id="xg-new")
            parts["conversation"] = _region(
                "html.js",
                live.replace("xg-region", "xg-region xg-talk").replace(
                    'aria-live="polite"', 'role="log" aria-label="Conversation" tabindex="0"'
                ),
                elem_id="xg-conversation",
                value=conversation_html(None),
            )
            parts |= _buttons() | _question_row(suggestions)
            with gr.Accordion("Findings stated in the report", open=True, elem_id="xg-findings"):
                parts["findings"] = _region(
                    "html.js", '<div class="xg-region"></div>', elem_id="xg-findings-table", value=findings_html(None)
                )
            parts["saved"] = _region("save.js", _asset("save.html"), elem_id="xg-save", value=None)
            parts["settings"] = _settings(pipeline)
    gr.HTML(_asset("foot.html"), js_on_load=None, elem_id="xg-foot")
    return Parts(**parts)


def _buttons() -> dict[str, Any]:
    parts: dict[str, Any] = {}
    with gr.Row(elem_id="xg-actions"):
        parts["report"] = gr.Button("Write report", variant="primary", scale=2, min_width=120, elem_id="xg-report")
        parts["stop"] = gr.Button("Stop", interactive=False, variant="stop", min_width=72, elem_id="xg-stop")
        parts["retry"] = gr.Button("Retry", min_width=72)
        parts["edit"] = gr.Button("Edit last", min_width=72)
        parts["clear"] = gr.Button("Clear", min_width=72)
    return parts


def _question_row(suggestions: list[str]) -> dict[str, Any]:
    parts: dict[str, Any] = {}
    with gr.Row(elem_id="xg-ask"):
        parts["question"] = gr.Textbox(
            placeholder="Ask about this radiograph",
            label="Question",
            show_label=False,
            container=False,
            lines=1,
            max_lines=6,
            max_length=MAX_QUESTION,
            scale=5,
        )
        parts["ask"] = gr.Button("Ask", scale=1, min_width=72)
    chips = [{"text": text} for text in suggestions]
    parts["suggestions"] = _region("chips.js", '<div class="xg-chips"></div>', elem_id="xg-suggestions", value=chips)
    return parts


def _settings(pipeline: ReportPipeline) -> list[Any]:
    """The controls of the decoding, in the order of `decoding_settings`."""
    default = pipeline.settings
    way = SAMPLING if default.get("do_sample") else BEAMS if default.get("num_beams", 1) > 1 else GREEDY
    longest = min(MAX_NEW_TOKENS, pipeline.model.context_length // 2)
    with gr.Accordion("How answers are written", open=False, elem_id="xg-settings"):
        controls = [
            gr.Radio([GREEDY, BEAMS, SAMPLING], value=way, label="Words", info="The first two give the same answer each time."),
            gr.Slider(
                2, 8, value=max(default.get("num_beams", 1), 4), step=1, label="Beams", info="Beam search: drafts kept side by side."
            ),
            gr.Slider(
                0.1,
                2.0,
                value=default.get("temperature", 1.0),
                step=0.1,
                label="Temperature",
                info="Sampling: lower is closer to the likeliest.",
            ),
            gr.Slider(
                0.1, 1.0, value=default.get("top_p", 0.9), step=0.05, label="Top-p", info="Sampling: share of the probability drawn from."
            ),
            gr.Slider(8, longest, value=min(default["max_new_tokens"], longest), step=1, label="Longest answer", info="Tokens."),
            gr.Number(0, precision=0, minimum=0, maximum=2**31 - 1, label="Seed", info="Sampling: the same seed, the same answer."),
        ]
    return controls


def _examples(paths: Sequence[Path]) -> gr.HTML | None:
    if not paths:
        return None
    chips: list[dict[str, str]] = []
    for path in paths:
        thumbnail = open_image(path)
        thumbnail.thumbnail((96, 96), Image.Resampling.LANCZOS)
        chips.append({"text": f"Example {len(chips) + 1}", "image": data_uri(thumbnail)})
    return _region("chips.js", '<p class="xg-small">Examples</p><div class="xg-chips"></div>', elem_id="xg-examples", value=chips)


def _chat_list(workspace: Workspace) -> Any:
    current = workspace.current
    choices = [(chat.title, chat.number) for chat in workspace.chats.values()] or [NO_CHAT]
    return gr.update(choices=choices, value=current.number if current else NO_CHAT[1])


# Events ------------------------------------------------------------------------------------------------------------


def _wire(parts: Parts, handlers: EventHandlers, suggestions: list[str], examples: Sequence[Path]) -> None:
    actions, once, chosen, streamed = handlers.actions, handlers.once, handlers.chosen, handlers.streamed
    quiet: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
    shown_on_film: dict[str, Any] = {**quiet, "show_progress": "minimal", "show_progress_on": parts.film}
    quick: dict[str, Any] = {**quiet, "queue": False, "outputs": parts.outputs}
    slow: dict[str, Any] = {**quiet, "outputs": parts.outputs, "trigger_mode": "once"}

    parts.film.upload(handlers.open_upload, None, **shown_on_film, outputs=parts.outputs)
    if parts.examples is not None:
        parts.examples.choose(handlers.open_example(examples), None, **quick)
    correct = chosen(lambda tab, event: actions.correct(tab, bool(said(event, "invert")), integer(event, "rotate")))
    parts.alerts.fix(correct, None, **quick)

    parts.chats.input(once(actions.show), [parts.chats], **quick)
    parts.start.click(once(actions.start), None, **quick)
    parts.clear.click(once(actions.clear), None, **quick)
    parts.stop.click(once(actions.stop), None, **quick)
    parts.edit.click(once(lambda tab: actions.edit(tab, suggestions[0] if suggestions else "")), None, **quick)
    parts.suggestions.choose(chosen(lambda tab, event: {"question": choice(event, suggestions)}), None, **quick)

    ask = streamed(lambda tab, question, *controls: actions.ask(tab, question or "", decoding_settings(*controls)))
    for trigger in (parts.ask.click, parts.question.submit):
        trigger(ask, [parts.question, *parts.settings], **slow)
    report = streamed(lambda tab, *controls: actions.write(tab, "", decoding_settings(*controls)))
    parts.report.click(report, parts.settings, **slow)
    parts.retry.click(streamed(lambda tab, *controls: actions.retry(tab, decoding_settings(*controls))), parts.settings, **slow)
    keep = chosen(
        lambda tab, event: actions.choose(tab, integer(event, "turn"), integer(event, "sentence"), bool(getattr(event, "chosen", False)))
    )
    parts.conversation.choose(keep, None, **quick)
    for event, at_once in ((parts.film.look, False), (parts.film.glance, True)):
        event(handlers.look(at_once=at_once), None, **quiet, outputs=[parts.film, parts.alerts], trigger_mode="multiple")
    save = chosen(lambda tab, event, *controls: actions.save(tab, str(said(event, "kind")), decoding_settings(*controls)))
    parts.saved.save(save, parts.settings, **quick)
