"""Runs: everything that ran, runs or waits; its log, settings and machine; stop, resume, run again, reorder, delete."""

from __future__ import annotations

import json
from html import escape
from typing import Any

import gradio as gr

from workbench.figures import formats
from workbench.runs import Run, Store
from workbench.runs.run import ACTIVE, RESUMABLE, STATES

from .. import choices, html, live
from ..frame import Frame, Page, box

PAGE = Page(
    "Runs", "runs", "Everything that ran, runs or waits. One job works at a time; the others keep their order.", "Runs"
)
SHOWN = 200
NOTHING = "Choose a run on the left: its state, log, settings and machine appear here."
JOBS = [("every job", ""), *((words, job) for job, words in live.JOBS.items() if job not in ("forecast", "selftest"))]


def build(frame: Frame) -> None:
    """Lay the page out inside the current `gr.Blocks`."""
    with gr.Row(elem_classes="wb-work"):
        with gr.Column(elem_classes="wb-set wb-list"):
            with gr.Row(elem_classes="wb-row"):
                words = gr.Textbox(label="Find", info="A word of name, model, data or id.", max_lines=1, min_width=300)
                job = gr.Dropdown(JOBS, value="", label="Job", info="What kind of work.", min_width=120)
                state = gr.Dropdown(
                    [("every state", ""), *((s, s) for s in STATES)], value="", label="State", info="How it stands.",
                    min_width=120,
                )  # fmt: skip
            listing = box()
        with gr.Column(elem_classes="wb-see"):
            card = box(html.empty(NOTHING))
            with gr.Row(elem_classes="wb-row"):
                stop = gr.Button("Stop and keep", visible=False)
                resume = gr.Button("Resume this run", visible=False)
                again = gr.Button("Run it again", visible=False)
                earlier = gr.Button("Move up in the queue", visible=False)
                later = gr.Button("Move down", visible=False)
                delete = gr.Button("Delete this run", variant="stop", visible=False)
            with gr.Row(elem_classes="wb-row"):
                sure = gr.Button("Delete its folder for good", variant="stop", visible=False)
                keep = gr.Button("Keep it", visible=False)
            detail = box()
    buttons = [stop, resume, again, earlier, later, delete]
    frame.follow(lambda *_: live.snapshot().stamp, show_list, [words, job, state, frame.run], [listing])
    frame.follow(live.stamp, show_run, [frame.run], [card, *buttons, detail])
    for button, action in ((stop, live.halt), (resume, live.go_on), (earlier, move_up), (later, move_down)):
        frame.on(button.click, action, frame.run, None)
    frame.on(again.click, rerun, frame.run, frame.run)
    ask = [gr.update(visible=True), gr.update(visible=True)]
    frame.on(delete.click, lambda: ask, None, [sure, keep])
    frame.on(keep.click, lambda: [gr.update(visible=False)] * 2, None, [sure, keep])
    frame.on(sure.click, remove, frame.run, [frame.run, sure, keep])


def show_list(words: str, job: str, state: str, chosen: str) -> tuple[str]:
    """The table of runs that fit the filter."""
    snap = live.snapshot()
    known = [(run, record) for run, record in snap.runs if fits(run, record, words or "", job, state)]
    if not known:
        text = "No run fits this filter." if snap.runs else "Every run appears here. Start one on the page Fine-tune."
        return (html.empty(text),)
    rows = []
    for run, record in known[:SHOWN]:
        place = f" {snap.waiting.index(run) + 1}." if run in snap.waiting else ""
        name = (
            f'<a href="runs?run={run.id}">{escape(live.title(run))}</a><small>{live.JOBS.get(run.job, run.job)}</small>'
        )
        rows.append((html.Raw(name), html.Raw(html.state(record["status"]) + place), formats.seconds(run.seconds)))
    picked = next((i for i, (run, _) in enumerate(known[:SHOWN]) if run.id == chosen), None)
    more = f"<p class='wb-small wb-muted'>{len(known) - SHOWN} older ones are not shown; narrow the filter.</p>"
    return (
        html.table(("Run", "State", "Time"), rows, label="Runs", selected=picked)
        + (more if len(known) > SHOWN else ""),
    )


def fits(run: Run, record: dict[str, Any], words: str, job: str, state: str) -> bool:
    """Whether a run passes the filter."""
    if (job and run.job != job) or (state and record["status"] != state):
        return False
    text = f"{run.id} {live.title(run)} {live.describe(run)}".lower()
    return all(word in text for word in words.lower().split())


def show_run(id: str) -> tuple[Any, ...]:
    """Card, which buttons make sense, and everything known about the run."""
    run = live.find(id)
    if run is None:
        off = gr.update(visible=False)
        gone = html.note("There is no such run (any more). Choose another on the left.", "caution")
        return (gone if id else html.empty(NOTHING), off, off, off, off, off, off, "")
    record = run.record()
    status, waits = record["status"], record["status"] == "queued" and not record.get("held")
    shown = (
        status in ("running", "queued"),
        status in RESUMABLE or bool(record.get("held")),
        status not in ACTIVE,
        waits,
        waits,
        status not in ACTIVE,
    )
    return (live.card(run, NOTHING), *(gr.update(visible=bool(yes)) for yes in shown), detail_of(run))


def detail_of(run: Run) -> str:
    """Result, settings, log, machine."""
    parts = []
    page = live.PAGES.get(run.job)
    if page:
        parts.append(f'<a class="wb-button" href="{live.link(run)}">Open on its page</a>')
    config = {key: choices.shown(value) for key, value in live.config(run).items()}
    changed = run.differences() or {}
    rows = [
        (key, text_of(value), "changed" if key in changed else "default")
        for key, value in sorted(config.items(), key=lambda pair: pair[0] not in changed)
    ]
    parts.append("<h2>Log</h2>" + (html.log(run.log_tail(60)) or html.empty("It has not written anything yet.")))
    parts.append("<h2>Settings</h2>" + html.table(("Setting", "Value", "Against the default"), rows, label="Settings"))
    place = run.environment() or {}
    keys = ("machine", "system", "python", "torch", "transformers", "peft", "workbench", "seed", "begun", "attempt")
    facts = {key: str(place[key]) for key in keys if place.get(key) is not None}
    parts.append("<h2>Machine and versions</h2>" + (html.facts(facts) or html.empty("Recorded when the run starts.")))
    return "".join(parts)


def text_of(value: Any) -> str:
    """A setting in one line."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


# ---- acting


def rerun(id: str) -> str:
    """A new run with the same settings; returns its id."""
    run = Store().rerun(id)
    live.forget()
    return run.id


def move(id: str, by: int) -> None:
    """Change a waiting run's place."""
    queue = Store().queue()
    places = [run.id for run in queue]
    if id in places:
        Store().reorder(id, max(0, places.index(id) + by))
    live.forget()


def move_up(id: str) -> None:
    """One place nearer to the start."""
    move(id, -1)


def move_down(id: str) -> None:
    """One place further back."""
    move(id, 1)


def remove(id: str) -> tuple[str, Any, Any]:
    """Delete the folder; the page then shows no run."""
    Store().delete(id)
    live.forget()
    return "", gr.update(visible=False), gr.update(visible=False)
