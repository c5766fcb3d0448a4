"""What every page has: header with entries and the job that works, title, one timer, and one manner of asking the server.

A page is a file in `pages/` with `PAGE` and `build(frame)`. Adding the file adds the page; no list is edited.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import pkgutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from types import ModuleType
from typing import Any

import gradio as gr

from workbench.errors import JobError, UserError

from . import live

GROUPS = ("Work", "Explore", "Papers", "Runs", "Workshop")
GATE = "device"  # handlers that touch a model share this concurrency id: one at a time
TICK = 1.0  # seconds
MARK = (
    '<svg viewBox="0 0 20 20" aria-hidden="true"><path fill="currentColor" d="M2 4h16v4H2zM3 9h3v8H3zM14 9h3v8h-3zM7 '
    '11h6v2H7z"/></svg>'
)
HALF = (
    '<svg viewBox="0 0 16 16" aria-hidden="true"><circle cx="8" cy="8" r="6.5" fill="none" stroke="currentColor" '
    'stroke-width="1.5"/><path fill="currentColor" d="M8 1.5a6.5 6.5 0 0 1 0 13z"/></svg>'
)


@dataclass(frozen=True)
class Page:
    """One page.

    Attributes:
        title: heading and entry. path: address, empty for home. purpose: one sentence under the heading.
        group: which of `GROUPS` it belongs to; empty for home. order: place inside the group.
    """

    title: str
    path: str
    purpose: str
    group: str = ""
    order: int = 0


def discover() -> list[ModuleType]:
    """Modules of `pages/` that hold a PAGE, in the order of the header."""
    package = importlib.import_module(f"{__package__}.pages")
    names = sorted(module.name for module in pkgutil.iter_modules(package.__path__))
    modules = [importlib.import_module(f"{package.__name__}.{name}") for name in names if not name.startswith("_")]
    found = [module for module in modules if hasattr(module, "PAGE")]
    return sorted(found, key=lambda m: (GROUPS.index(m.PAGE.group) if m.PAGE.group else -1, m.PAGE.order))


def navigation(pages: Sequence[Page], current: Page) -> str:
    """The header's entries: five at most, and beside the one we are in, its pages."""

    def entry(words: str, page: Page, here: bool) -> str:
        mark = ' aria-current="page"' if here else ""
        return f'<li><a href="{page.path or "./"}"{mark}>{escape(words)}</a></li>'

    groups = {group: [page for page in pages if page.group == group] for group in GROUPS}
    top = "".join(entry(group, own[0], current.group == group) for group, own in groups.items() if own)
    inside = groups.get(current.group, [])
    sub = "".join(entry(page.title, page, page == current) for page in inside) if len(inside) > 1 else ""
    sub = f'<ul class="wb-nav wb-sub" aria-label="{escape(current.group)}">{sub}</ul>' if sub else ""
    return (
        f'<nav class="wb-bar" aria-label="Pages"><a class="wb-brand" href="./">{MARK}Workbench</a>'
        f'<ul class="wb-nav">{top}</ul>{sub}</nav>'
    )


def plainly(function: Callable[..., Any]) -> Callable[..., Any]:
    """A handler whose bad input and failed jobs become the sentence that the page shows."""

    def sentence(error: Exception) -> gr.Error:
        return gr.Error(str(error), title="This does not work yet", print_exception=False, duration=20)

    @functools.wraps(function)
    def inner(*values: Any) -> Any:
        try:
            return function(*values)
        except (UserError, JobError) as error:
            raise sentence(error) from error

    def steps(*values: Any) -> Any:
        try:
            yield from function(*values)
        except (UserError, JobError) as error:
            raise sentence(error) from error

    return steps if inspect.isgeneratorfunction(function) else inner


class Frame:
    """The frame of one page, made inside the current `gr.Blocks`.

    Attributes:
        page: what it frames. timer: ticks once a second. run: hidden text with the run that the address names.
    """

    def __init__(self, blocks: gr.Blocks, page: Page, pages: Sequence[Page]) -> None:
        self.blocks, self.page = blocks, page
        with gr.Row(elem_classes="wb-top"):
            gr.HTML(navigation(pages, page), elem_classes="wb-navbox", apply_default_css=False, min_width=0)
            status = gr.HTML(elem_classes="wb-statusbox", apply_default_css=False, min_width=0)
            gr.HTML(
                f'<button type="button" class="wb-theme" aria-label="Dark colours" title="Light or dark">{HALF}</button>',
                apply_default_css=False, min_width=0, elem_classes="wb-themebox",
            )  # fmt: skip
        words = f"<h1>{escape(page.title)}</h1><p>{escape(page.purpose)}</p>"
        gr.HTML(f'<div class="wb-head">{words}</div>', apply_default_css=False)
        self.timer = gr.Timer(TICK)
        self.run = gr.Textbox(visible="hidden", label="run", elem_id="run-id")
        self.follow(lambda: live.snapshot().stamp, lambda: (live.header(live.snapshot()),), [], [status])
        blocks.load(None, None, self.run, js="() => workbench.parameter('run')", show_progress="hidden")
        self.run.change(None, self.run, None, js="(id) => { workbench.remember('run', id); }", show_progress="hidden")

    def on(
        self,
        event: Callable[..., Any],
        function: Callable[..., Any] | None,
        inputs: Any = None,
        outputs: Any = None,
        *,
        gate: bool = False,
        progress: str = "hidden",
        **options: Any,
    ) -> Any:
        """Listen to an event.

        Args:
            event: such as `button.click`.
            function: the handler; bad input it raises becomes a sentence on the page.
            inputs, outputs: components.
            gate: wait for the device: one such handler works at a time.
            progress: hidden, minimal or full.
            options: more of Gradio's, such as js.
        """
        if gate:
            options |= {"concurrency_id": GATE, "concurrency_limit": 1}
        elif "queue" not in options:
            options["queue"] = False
        wrapped = plainly(function) if function else None
        return event(wrapped, inputs, outputs, show_progress=progress, api_visibility="private", **options)

    def follow(
        self, stamp: Callable[..., Any], draw: Callable[..., tuple], inputs: Sequence[Any], outputs: Sequence[Any]
    ) -> None:
        """Keep `outputs` up to date: on load, on every tick, and when an input changes. Draws only when `stamp` differs.

        Args:
            stamp: of the inputs' values; cheap.
            draw: of the inputs' values; one value per output.
            inputs, outputs: components.
        """
        seen = gr.State("")

        def look(before: str, *values: Any) -> Any:
            now = repr(stamp(*values)) + repr(values)
            return gr.skip() if now == before else (now, *draw(*values))

        boxes = [seen, *inputs]
        for event in [self.timer.tick, *(box.change for box in inputs)]:
            self.on(event, look, boxes, [seen, *outputs])
        # The first look already knows the run that the address names, so no answer about no run comes in after it.
        own = next((i for i, box in enumerate(boxes) if box is getattr(self, "run", None)), None)
        named = f"(...v) => {{ v[{own}] = workbench.parameter('run'); return v.slice(0, {len(boxes)}); }}"
        self.on(self.blocks.load, look, boxes, [seen, *outputs], js=None if own is None else named)


def step(number: int, words: str) -> gr.HTML:
    """The heading of one step of the set-up column."""
    text = f'<div class="wb-step"><b>{number}</b><span>{escape(words)}</span></div>'
    return gr.HTML(text, apply_default_css=False)


def box(value: str = "", **options: Any) -> gr.HTML:
    """A place for a piece of `html`."""
    return gr.HTML(value, apply_default_css=False, **options)
