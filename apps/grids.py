"""The grid on the page Compare: ways of training at one budget, what is measured so far, the judged table and its figures."""

from __future__ import annotations

import os
import queue
import shutil
import threading
from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import Any

import pandas as pd

from workbench.commands.grid import compare
from workbench.errors import UserError
from workbench.figures import formats, intervals, pareto
from workbench.figures.axes import AXES
from workbench.grid.settings import DEFAULTS
from workbench.progress import span
from workbench.runs import Run
from workbench.runs.files import peek

from . import choices, drawing, fields, html, live

USUAL = {"models": ["tiny-lm"], "tasks": ["moby-dick"], "methods": ["lora", "ia3", "prompt"], "bases": ["none"]}
BASES = [("as it is", "none"), ("nf4", "nf4"), ("rtn-4", "rtn-4"), ("gptq-4", "gptq-4")]
KINDS = (
    ("trained numbers", "params"), ("bytes of the file", "bytes"), ("tokens of training", "tokens"),
    ("seconds of training", "seconds"), ("none: every method as it is usual", "none"),
)  # fmt: skip
HELP = {option.name: option.help for option in compare.params if getattr(option, "help", None)}
FORM = [
    fields.Field("budget", "choice", "params", "What every method may spend. Seconds limit each training.", KINDS,
                 label="Budget"),
    fields.Field("amount", "text", "0.3%", "How much: 20000, 0.3% of the model's numbers, 100k bytes, 50k tokens, 60 seconds.",
                 label="Amount"),
    *fields.from_command(
        compare,
        ("seeds", "trials", "steps", "batch_size", "window", "test_rows", "test_tokens", "eval_rows", "span", "reference",
         "general", "first_seed"),
        more=("batch_size", "window", "test_rows", "test_tokens", "eval_rows", "span", "reference", "general", "first_seed"),
    ),
    fields.Field("outside", "bool", True, HELP["outside"], label="Keep methods outside the budget", more=True),
]  # fmt: skip
COSTS = [(AXES[name].words, name) for name in ("trainable", "disk_bytes", "peak_bytes")] + [
    ("Time of a step", "step_seconds")
]
CELL = """import json
from workbench.figures import {figure}
from workbench.grid.report import blocks
from workbench.runs import Store

record = json.loads((Store().get({id!r}).directory / "grid.json").read_text(encoding="utf-8"))
rows = blocks(record)[{index}][2]
rows = rows.assign(n=rows[{metric!r} + "_n"], disk_bytes=rows.get("file_bytes"))
{draw}"""


def settings(values: dict[str, Any], **lists: list[str]) -> dict[str, Any]:
    """Settings of the job from the form and the lists beside it, with keys in place of paths.

    Raises:
        UserError: an empty list, or a budget that cannot be read.
    """
    for name, chosen in lists.items():
        if not chosen:
            raise UserError(f"No entry of {name} is chosen; choose at least one.")
    kind, amount = values.pop("budget"), values.pop("amount").replace(" ", "")
    budget = "none" if kind == "none" else f"{kind}={amount}"
    return {**values, "window": values["window"] or DEFAULTS["window"], "budget": budget, **lists}


def check(config: dict[str, Any]) -> dict[str, Any]:
    """Checked settings, with places for the keys of models and data."""
    from workbench.grid.settings import check as complete

    full = complete(config)
    return {
        **full,
        "models": [choices.model_place(key) for key in full["models"]],
        "tasks": [choices.data_place(key) for key in full["tasks"]],
    }


def planned(config: dict[str, Any]) -> str:
    """What the grid would train: every row's size against the budget, and how many trainings there are.

    Raises:
        UserError: a plan that cannot work.
    """
    from workbench.grid import plan

    made = plan(config)
    rows = [
        {"name": row.name, "model": row.model, "task": row.task, "size": row.size, "within_budget": row.within,
         "cells": len(row.trials) + (config["seeds"] if row.steps else 1)}
        for row in made.rows
    ]  # fmt: skip
    words = f'<p class="wb-forecast">{formats.count(made.cells)} trainings of about {config["steps"]} steps each.</p>'
    return words + plan_table(rows, config["budget"], made.left_out)


def forecasts(config: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """What is being timed, again and again, and at last what the whole will cost, from a few real steps of every row.

    The steps are taken in a process of their own and nothing of them is kept. Who leaves the page ends them.

    Yields:
        (words, table); the table is empty until all rows are timed.

    Raises:
        UserError: a plan that cannot work.
    """
    from workbench.grid import forecast

    told: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
    left = threading.Event()

    def work() -> None:
        try:
            found = forecast(config, progress=lambda _, __, text: told.put((text, None)), should_stop=left.is_set)
            told.put(("", found))
        except Exception as error:  # raised again below, where the page can show it
            told.put(("", error))

    threading.Thread(target=work, name="grid-forecast", daemon=True).start()
    try:
        while True:
            text, found = told.get()
            if isinstance(found, Exception):
                raise found
            if found is not None:
                words = (
                    f"≈ {span(found['seconds'])} for {formats.count(found['cells'])} trainings, up to "
                    f"{formats.size(found['peak_bytes'])} of memory"
                )
                yield (
                    f'<p class="wb-forecast">{words}</p>',
                    plan_table(found["rows"], config["budget"], found["left_out"]),
                )
                return
            yield f'<p class="wb-forecast wb-muted">Taking a few steps of every row: {escape(text)} …</p>', ""
    finally:
        left.set()


def plan_table(rows: list[dict[str, Any]], budget: str, left_out: list[str]) -> str:
    """The grid's rows before it starts: size, budget, trainings, and time and memory once they are known."""
    head = ["Row", "Model", "Data", "Bytes" if budget.startswith("bytes") else "Trained numbers", "Meets the budget",
            "Trainings"]  # fmt: skip
    timed = any("seconds" in row for row in rows)
    lines = []
    for row in rows:
        line = [row["name"], str(choices.shown(row["model"])), str(choices.shown(row["task"])), row["size"],
                "yes" if row["within_budget"] else "no, hollow", row["cells"]]  # fmt: skip
        if timed:
            line += [formats.seconds(row["step_seconds"]), formats.size(row["peak_bytes"]), span(row["seconds"])]
        lines.append(line)
    failed = [f"{row['name']}: {row['failed']}" for row in rows if row.get("failed")]
    left = "".join(html.note(str(words), "caution") for words in [*left_out, *failed])
    return html.table([*head, *(["Step", "Memory", "Time"] if timed else [])], lines, label="Plan of the grid") + left


# ---- watching


def record(run: Run | None) -> dict[str, Any]:
    """The judged record; empty while the grid works."""
    return (peek(run.directory / "grid.json") or {}) if run is not None and run.status in ("done", "stopped") else {}


def stamp(run: Run | None) -> str:
    """Changes when a cell is added or the run's state changes."""
    return f"{run.stamp()} {len(list((run.directory / 'cells').glob('*.json')))}" if run else ""


def parts(found: dict[str, Any]) -> list[tuple[str, pd.DataFrame]]:
    """(model on data, its rows) of every block."""
    from workbench.grid.report import blocks

    if not found.get("rows"):
        return []
    return [(f"{choices.shown(model)} on {choices.shown(task)}", rows) for model, task, rows in blocks(found)]


def cells(run: Run) -> str:
    """Finished trainings while the others work."""
    rows = []
    for path in sorted((run.directory / "cells").glob("[0-9a-f]*.json"), key=lambda p: p.stat().st_mtime):
        cell = peek(path) or {}
        if cell.get("stage") not in ("trial", "final"):
            continue
        what = "tuning" if cell["stage"] == "trial" else "judged"
        rate = cell.get("learning_rate")
        loss = cell.get("failed") or cell.get("eval_loss")
        rows.append(
            (
                cell["name"],
                str(choices.shown(cell["model"])),
                what,
                cell["seed"],
                rate,
                loss,
                span(cell.get("seconds", 0)),
            )
        )
    if not rows:
        return html.empty("A line appears here as soon as the first training is finished.")
    head = ("Row", "Model", "Stage", "Seed", "Learning rate", "Loss while tuning", "Time")
    return html.table(head, rows[::-1], label="Trainings so far")


def lead(found: dict[str, Any], index: int) -> str:
    """The finding in words, what was left out, and what the intervals mean."""
    from workbench.grid import report

    blocks = parts(found)
    if not blocks:
        return html.note("No row could be measured.", "caution") if found else ""
    rows = blocks[min(index, len(blocks) - 1)][1]
    asked = found["settings"]
    same = f"Budget {asked['budget']}, {asked['trials']} tuning trials a method, {asked['seeds']} seeds."
    left = "".join(f"<li>{escape(str(words))}</li>" for words in [*found["left_out"], *found["failed"]])
    more = (
        f"<details><summary>Left out ({left.count('<li>')})</summary><ul class='wb-small'>{left}</ul></details>"
        if left
        else ""
    )
    words = f"{escape(same)} {escape(report.edges(rows))}"
    return f"<p>{escape(report.sentence(rows))}</p><p class='wb-small wb-muted'>{words}</p>{more}"


def table(found: dict[str, Any], index: int) -> str:
    """Rows of one block, best first, with intervals; tied with the best is shaded."""
    blocks = parts(found)
    if not blocks:
        return ""
    rows = blocks[min(index, len(blocks) - 1)][1]
    metric = rows["metric"].iloc[0]
    rows = rows.sort_values(metric, ascending=metric == "loss")
    lines, tied = [], set()
    for r, row in enumerate(rows.to_dict("records")):
        inside = "" if row["within_budget"] else " (outside)"
        lines.append(
            [
                row["name"] + inside,
                formats.interval(row[metric], row[f"{metric}_low"], row[f"{metric}_high"]),
                number(row.get("trainable")), formats.size(number(row.get("file_bytes"))),
                formats.seconds(number(row.get("step_seconds"))), number(row.get("learning_rate")), number(row.get("p_holm")),
            ]
        )  # fmt: skip
        if row[f"{metric}_tied"]:
            tied.add((r, 1))
    head = (
        "Row",
        f"{AXES[metric].words} ({AXES[metric].unit})",
        "Trained",
        "File",
        "Step",
        "Learning rate",
        "p, corrected",
    )
    note = "≈ tied with the best by a paired test over documents and seeds, 95 %, Holm correction."
    return html.table(head, lines, label="Grid", tied=tied) + f'<p class="wb-small wb-muted">{note}</p>'


def number(value: Any) -> Any:
    """A measured number, None where there is none; whole numbers without a point."""
    if value is None or value != value:
        return None
    return int(value) if isinstance(value, float) and value.is_integer() and value >= 1 else value


def pictures(run: Run | None, found: dict[str, Any], index: int, cost: str) -> tuple[str, str]:
    """Scores with intervals, and scores against a cost."""
    blocks = parts(found)
    if run is None or not blocks:
        none = pd.DataFrame()
        return drawing.payload(intervals(none, "loss"), name="grid"), drawing.payload(
            pareto(none, cost, "loss"), name="grid-front"
        )
    index = min(index, len(blocks) - 1)
    rows = blocks[index][1]
    metric, budget = rows["metric"].iloc[0], found["settings"]["budget"]
    rows = rows.assign(n=rows[f"{metric}_n"], disk_bytes=rows.get("file_bytes"))
    shown = {"id": run.id, "index": index, "metric": metric}
    told = {"budget": budget, "items": "documents"}
    spread = CELL.format(
        figure="intervals", draw=f"intervals(rows, {metric!r}, budget={budget!r}, items='documents')", **shown
    )
    front = CELL.format(figure="pareto", draw=f"pareto(rows[rows['trainable'] > 0], {cost!r}, {metric!r})", **shown)
    data = rows.drop(columns="trials")
    return (
        drawing.payload(intervals(rows, metric, **told), name="grid", cell=spread, rows=data),
        drawing.payload(pareto(rows[rows["trainable"] > 0], cost, metric), name="grid-front", cell=front, rows=data),
    )


def download(run: Run, found: dict[str, Any]) -> str | None:
    """The self-contained report, where Gradio serves files from."""
    source = run.directory / "report.html"
    if not found or not source.is_file():
        return None
    target = Path(os.environ["GRADIO_TEMP_DIR"]) / "grids" / run.id / "grid-report.html"
    if not target.is_file() or target.stat().st_mtime < source.stat().st_mtime:
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
    return str(target)


def title(config: dict[str, Any]) -> str:
    """What people call a grid that has no name."""
    methods = config.get("methods", DEFAULTS["methods"])
    return f"{len(methods)} methods × {config.get('seeds', DEFAULTS['seeds'])} seeds"


def names(run: Run) -> list[tuple[str, int]]:
    """(words, number) of the blocks that can be shown."""
    return [(words, number) for number, (words, _) in enumerate(parts(record(run)))]


def note(run: Run) -> str:
    """The grid's settings in one line."""
    config = {**DEFAULTS, **live.config(run)}
    lists = [
        ", ".join(str(choices.shown(one)) for one in config[name]) for name in ("models", "tasks", "methods", "bases")
    ]
    return f'<p class="wb-small wb-muted">{escape(" · ".join(lists))} · {escape(str(config["budget"]))}</p>'
