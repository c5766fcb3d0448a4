"""What pages show of runs: one snapshot of the store for all who look, titles, the run card, the header's line.

Every client ticks once a second. The snapshot is taken at most twice a second whatever the number of clients, and its
stamp is compared before anything is drawn, so a tick in which nothing changed costs a comparison.
"""

from __future__ import annotations

import dataclasses
import os
import threading
import time
from html import escape
from typing import Any

import gradio as gr

from workbench.errors import UserError
from workbench.figures import formats
from workbench.progress import span
from workbench.runs import Run, Store, merge
from workbench.runs.files import peek
from workbench.runs.run import RESUMABLE

from . import choices, html

JOBS = {
    "finetune": "Fine-tuning", "quantize": "Compression", "compare": "Comparison", "demo": "Demo",
    "reproduce": "Paper", "forecast": "Forecast", "selftest": "Self-test", "prune": "Pruning", "export": "Export",
    "grid": "Grid", "reconstruct": "Reconstruction", "edit": "Edit", "grow": "Growth",
}  # fmt: skip
PAGES = {
    "finetune": "finetune", "quantize": "compress", "prune": "compress", "export": "compress", "compare": "compare",
    "grid": "compare", "reproduce": "papers", "reconstruct": "shapes", "edit": "edit",
    "grow": "layers",
}  # fmt: skip
AGE = 0.5  # seconds a snapshot serves


@dataclasses.dataclass(frozen=True)
class Snapshot:
    """The store as it is now.

    Attributes:
        runs: (run, record), newest first, forecasts left out.
        active: the run that works, or None. waiting: runs in the queue, the next one first.
        stamp: changes whenever a status, a place in the queue or the working run's progress does.
        trouble: why the folder of runs could not be brought up to date, or None.
    """

    runs: tuple[tuple[Run, dict[str, Any]], ...]
    active: Run | None
    waiting: tuple[Run, ...]
    stamp: str
    trouble: str | None


_lock = threading.Lock()
_last: tuple[float, str, Snapshot] | None = None


def snapshot(age: float = AGE) -> Snapshot:
    """The store, at most `age` seconds old."""
    global _last
    with _lock:
        store = Store()
        if _last and time.monotonic() - _last[0] < age and _last[1] == str(store.root):
            return _last[2]
        found = []
        for run in store.list():
            try:
                found.append((run, run.record()))
            except UserError:
                continue  # deleted meanwhile
        active = next((run for run, record in found if record["status"] in ("running", "stopping")), None)
        queue = [(run, r) for run, r in found if r["status"] == "queued" and not r.get("held")]
        queue.sort(key=lambda pair: (pair[1].get("position") or 0, pair[1].get("created", 0.0)))
        marks = [(run.id, r["status"], r.get("position"), r.get("name")) for run, r in found]
        stamp = f"{hash(tuple(marks))} {active.stamp() if active else ''}"
        shown = tuple((run, r) for run, r in found if run.job != "forecast")
        snap = Snapshot(shown, active, tuple(run for run, _ in queue), stamp, store.trouble)
        _last = (time.monotonic(), str(store.root), snap)
        return snap


def forget() -> None:
    """Make the next look a fresh one: called after every action, so that its effect is on the screen at once."""
    global _last
    with _lock:
        _last = None


def config(run: Run) -> dict[str, Any]:
    """Settings of a run, read again only when the file changed."""
    return peek(run.directory / "config.json") or {}


def title(run: Run) -> str:
    """What people call a run: the name it was given, else what it does."""
    try:
        name = run.name
    except UserError:
        return run.id
    return name or describe(run)


def describe(run: Run) -> str:
    """The gist of a run's settings in a few words."""
    c = config(run)
    at = f"{run.id[9:11]}:{run.id[11:13]}"
    model = str(choices.shown(c.get("model", "")))
    if model.startswith("run:"):
        model = "run " + model[4:][-4:]
    if run.job in ("finetune", "forecast"):
        words = [c.get("method", "lora"), model, str(choices.shown(c.get("data", "")))]
    elif run.job == "quantize":
        method, bits = c.get("method", "gptq"), c.get("bits", 4)
        words = [method if method in ("nf4", "fp4") else f"{method}-{bits}", model]
    elif run.job == "prune":
        words = [pruned(c), model]
    elif run.job == "grid":
        words = [
            f"{len(c.get('methods', []))} methods × {c.get('seeds', 3)} seeds",
            *map(choices.shown, c.get("models", [])[:1]),
        ]
    elif run.job == "grow":
        words = [f"{c.get('operator', 'stack')} × {c.get('factor', 2)}", model]
    elif run.job == "export":
        words = [str(c.get("to", "")), model]
    elif run.job == "compare":
        words = [f"{len(c.get('models', []))} models", str(choices.shown(c.get("data", "")))]
    elif run.job == "reproduce":
        words = [str(c.get("slug", "")), str(c.get("scale", "small"))]
    else:
        words = [JOBS.get(run.job, run.job), model]
    return " · ".join([*filter(None, map(str, words)), at])


def pruned(c: dict[str, Any]) -> str:
    """`wanda 50 %` or `magnitude 2:4` of a pruning's settings; what was retrained stands behind it."""
    pattern = c.get("pattern", "unstructured")
    share = f"{100 * c.get('sparsity', 0.5):g} %" if pattern == "unstructured" else pattern
    return f"{c.get('method', 'wanda')} {share}" + (f" + {', '.join(c['retrain'])}" if c.get("retrain") else "")


def link(run: Run) -> str:
    """Address of the page that shows a run."""
    page = PAGES.get(run.job, "runs")
    paper = f"paper={escape(str(config(run).get('slug', '')))}&amp;" if run.job == "reproduce" else ""
    return f"{page}?{paper}run={run.id}"


def share(run: Run) -> float:
    """Progress, 0 to 1."""
    progress = run.progress or {}
    return float(progress.get("done", 0)) / float(progress.get("total") or 1)


def left(run: Run, done: float) -> str:
    """Time left in words, where enough is done to say so."""
    seconds = run.seconds
    return f"about {span(seconds / done - seconds)} left" if 0.03 < done < 1 and seconds > 1 else ""


def header(snap: Snapshot) -> str:
    """The header's status: what works now and how many wait; else what this machine is."""
    from workbench import machine

    cores = machine.cores()
    hardware = f"{cores} core{'s' * (cores > 1)} · {machine.memory_bytes() / 1e9:.0f} GB"
    parts = [f'<span class="wb-hardware" title="{escape(machine.processor())}">{hardware}</span>']
    if snap.trouble:
        parts.append(f'<span class="wb-state wb-failed">{escape(snap.trouble)}</span>')
    if snap.active:
        run, done = snap.active, share(snap.active)
        parts.append(
            f'<a href="{link(run)}"><span class="wb-now">{escape(title(run))}</span>{html.bar(done, "wb-mini")}'
            f'<span class="wb-number">{done:.0%}</span></a>'
        )
    if snap.waiting:
        parts.append(f'<a href="runs">{len(snap.waiting)} waiting</a>')
    return f'<div class="wb-status" aria-live="off">{"".join(parts)}</div>'


def card(run: Run | None, empty: str) -> str:
    """One run: its state, progress, what it says, and what went wrong; `empty` where there is none."""
    if run is None:
        return html.empty(empty)
    record = run.record()
    status, done, progress = record["status"], share(run), run.progress or {}
    head = (
        f'<div class="wb-run-head"><h2>{escape(title(run))}</h2>{html.state(status)}'
        f'<span class="wb-muted wb-small wb-number">{span(run.seconds)}</span></div>'
    )
    body = ""
    if status in ("running", "stopping"):
        text = str(progress.get("text") or "starting")
        words = " · ".join(filter(None, [f"{done:.0%}", text, left(run, done)]))
        body = html.bar(done) + f'<p class="wb-small wb-number">{escape(words)}</p>'
        if status == "stopping":
            body += '<p class="wb-small">It ends after the step it is in and keeps what it has.</p>'
    elif status == "queued":
        body = f'<p class="wb-small">{escape(place(run))}</p>'
    elif record.get("error"):
        body = html.note(record["error"], "caution" if status == "interrupted" else "bad")
    elif status == "stopped":
        body = '<p class="wb-small">Stopped; its last step is kept. Resume continues the same curve.</p>'
    return f'<section class="wb-card" data-status="{status}" data-run="{run.id}">{head}{body}</section>'


def place(run: Run) -> str:
    """Why a run waits."""
    if run.record().get("held"):
        return "Held back; resume puts it in the queue."
    snap = snapshot()
    ahead = [r for r in snap.waiting if r != run][: snap.waiting.index(run) if run in snap.waiting else 0]
    if snap.active:
        first = title(snap.active)
        return f"Waits for {first}" + (f" and {len(ahead)} more." if ahead else ".") + " One job works at a time."
    return "Starts in a moment."


def find(id: str | None) -> Run | None:
    """The run an address or a hidden field names; None when it names none (any more)."""
    try:
        return Store().get(id) if id else None
    except UserError:
        return None


def buttons(run: Run | None) -> tuple[Any, Any]:
    """Whether the buttons Stop and Resume of a run are to be seen."""
    status = run.status if run else ""
    return gr.update(visible=status in ("running", "queued")), gr.update(visible=status in RESUMABLE)


def halt(id: str) -> None:
    """Ask a run to stop; what is finished is kept."""
    Store().stop(id)
    forget()


def go_on(id: str) -> None:
    """Put a run back in the queue."""
    Store().resume(id)
    forget()


def stamp(id: str | None) -> str:
    """What to compare before a run is drawn again."""
    run = find(id)
    if run is None:
        return f"none {id}"
    try:
        waits = snapshot().stamp if run.status == "queued" else ""
        return f"{run.id} {run.stamp()} {waits}"
    except UserError:
        return f"none {id}"


def size_of(path: os.PathLike | str) -> str:
    """Bytes of a folder in words."""
    from workbench.evaluation import disk_bytes

    return formats.size(disk_bytes(path))


_metrics: dict[str, tuple[int, list[dict[str, Any]]]] = {}


def metrics(run: Run) -> list[dict[str, Any]]:
    """A run's rows; only what is new is read, and rows that a resume has superseded are gone."""
    with _lock:
        offset, rows = _metrics.get(run.id, (0, []))
        new = run.metrics(offset)
        if new:
            rows = merge([*rows, *new])
            if len(_metrics) > 64:
                _metrics.clear()
            _metrics[run.id] = (new.offset, rows)
        return rows


def names(runs: list[Run]) -> dict[str, Run]:
    """Titles that tell the runs apart → run."""
    found: dict[str, Run] = {}
    for run in runs:
        words = title(run)
        found[words if words not in found else f"{words} {run.id[-4:]}"] = run
    return found
