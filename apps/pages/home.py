"""Home: a first result in three clicks, what this machine has, recent runs, the lessons."""

from __future__ import annotations

import json
from html import escape
from pathlib import Path

import gradio as gr

from workbench.figures import formats
from workbench.paths import assets
from workbench.progress import span
from workbench.runs import Run, hardware

from .. import html, live, submit
from ..frame import Frame, Page, box

PAGE = Page(
    "Workbench", "", "Fine-tune, compress and compare language models on this machine, and re-run what papers claim."
)
RECENT = 6
FIRST = {
    "model": "tiny-lm", "data": "moby-dick", "method": "lora", "steps": 60, "batch_size": 8, "window": 64,
    "eval_every": 15, "eval_rows": 16, "learning_rate": 0.003, "precision": "fp32",
}  # fmt: skip


def build(frame: Frame) -> None:
    """Lay the page out inside the current `gr.Blocks`."""
    with gr.Row(elem_classes="wb-work"):
        with gr.Column(elem_classes="wb-see"):
            box("<h2>A first result</h2>")
            box(
                "<p>Three clicks, under two minutes, no network: fine-tune a small model on Moby-Dick and watch it learn, "
                "compress what came out, talk to both.</p>"
            )
            first = box()
            with gr.Row(elem_classes="wb-row"):
                start = gr.Button("Start the first result", variant="primary")
            box("<h2>Recent runs</h2>")
            recent = box()
            box("<h2>Lessons</h2>" + lessons())
        with gr.Column(elem_classes="wb-set"):
            box(f"<h2>This machine</h2>{machine()}")
            box(f"<h2>At hand</h2>{at_hand()}")
    frame.follow(lambda: live.snapshot().stamp, look, [], [first, recent])
    frame.on(start.click, begin, None, frame.run).then(
        None, frame.run, None, js="(id) => { if (id) location.assign('finetune?run=' + id); }"
    )


def begin() -> str:
    """Submit the first fine-tuning; returns its id."""
    return submit.submit("finetune", FIRST, "first result").id


def look() -> tuple[str, str]:
    """The three steps of the first result, and the newest runs."""
    runs = [run for run, _ in live.snapshot().runs]
    return first_steps(runs), recent_runs(runs[:RECENT])


def first_steps(runs: list[Run]) -> str:
    """Where the first result stands."""
    own = next((run for run in runs if run.job == "finetune" and live.title(run) == "first result"), None)
    done = own is not None and own.status == "done"
    steps = [
        ("Start", "Fine-tune tiny-lm on Moby-Dick", f"finetune?run={own.id}" if own else "", own is not None),
        ("Compress", "Make the result smaller", f"compress?model=run:{own.id}" if done else "", False),
        ("Talk", "Ask the model before and after", f"chat?model=run:{own.id}" if done else "", False),
    ]
    items = []
    for i, (verb, words, link, ticked) in enumerate(steps, 1):
        text = f"<b>{i} {verb}</b> {escape(words)}" + (" ✓" if ticked else "")
        items.append(f'<a class="wb-button" href="{escape(link)}">{text}</a>' if link else f"<span>{text}</span>")
    return f'<p class="wb-small">{" &nbsp;→&nbsp; ".join(items)}</p>'


def recent_runs(runs: list[Run]) -> str:
    """A table of runs with their states."""
    if not runs:
        return html.empty("Every run appears here with its state. The button above starts the first one.")
    rows = [
        (
            html.Raw(f'<a href="{live.link(run)}">{escape(live.title(run))}</a>'),
            live.JOBS.get(run.job, run.job),
            html.Raw(html.state(run.status)),
            formats.seconds(run.seconds),
        )
        for run in runs
    ]
    return html.table(("Run", "Job", "State", "Time"), rows, label="Recent runs")


def machine() -> str:
    """Hardware found."""
    found = hardware()
    cards = ", ".join(f"{gpu['name']} ({formats.size(gpu['memory_bytes'])})" for gpu in found["gpus"])
    return html.facts(
        {
            "Processor": found["processor"],
            "Cores": str(found["cores"]),
            "Memory": formats.size(found["memory_bytes"]),
            "GPU": cards or "none found; everything here also runs without",
            "Free disk": formats.size(found["disk_free_bytes"]),
        }
    )


def at_hand() -> str:
    """Models and data that need no network."""
    from workbench.data import list_data
    from workbench.models import list_models

    rows = [
        (m.name, formats.parameters(m.parameters), m.licence, "at hand" if m.at_hand else m.how_to_get)
        for m in list_models()
    ]
    data = [(d.name, d.kind, d.documents) for d in list_data()]
    return html.table(("Model", "Size", "Licence", "Where"), rows, label="Models") + html.table(
        ("Data", "Kind", "Documents"), data, label="Data"
    ).replace('class="wb-scroll"', 'class="wb-scroll" style="margin-top: 12px"')


def lessons() -> str:
    """The lessons that exist, in order; they open with `workbench lab`."""
    from workbench.commands.rooms import notebooks

    timed = json.loads((assets() / "lessons.json").read_text(encoding="utf-8"))
    cards = []
    for path in sorted(notebooks().glob("[0-9]*.ipynb")):
        words = path.stem + (f" · its cells run in {span(timed[path.stem]['seconds'])}" if path.stem in timed else "")
        cards.append(
            f'<div class="wb-card"><h3>{escape(heading(path))}</h3><p class="wb-small wb-muted">{escape(words)}</p></div>'
        )
    if not cards:
        return html.empty("The lessons are not part of this installation.")
    return f'<p class="wb-small">Open them with <code>workbench lab</code>.</p><div class="wb-cards">{"".join(cards)}</div>'


def heading(path: Path) -> str:
    """The first heading of a notebook."""
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        for line in "".join(cell["source"]).splitlines() if cell["cell_type"] == "markdown" else ():
            if line.startswith("# "):
                return line[2:].strip()
    return path.stem
