"""Compare: any models on the same held-out text with intervals and paired tests; any runs by what their settings differ in."""

from __future__ import annotations

import json
from typing import Any

import gradio as gr
import pandas as pd

from workbench.commands.jobs import compare
from workbench.errors import UserError
from workbench.figures import formats, intervals, pareto
from workbench.figures.axes import AXES
from workbench.runs import Run, Store, compare_configs

from .. import choices, curve, drawing, fields, html, live, measured, submit
from ..frame import Frame, Page, box, step

PAGE = Page("Compare", "compare", "Which one is better, and is the difference more than noise?", "Work", 2)
FORM = fields.from_command(compare, ("data", "tokens", "items", "window", "seed"), more=("window", "seed"))
COSTS = [(AXES[key].words, key) for key in ("disk_bytes", "ram_bytes", "decode_tps", "prefill_tps")]
QUALITY = [(AXES[key].words, key) for key in ("perplexity", "accuracy")]
EMPTY = pd.DataFrame()
CELL = """import pandas as pd
from workbench.figures import {name}
from workbench.runs import Store

rows = pd.DataFrame(Store().get({id!r}).result()["rows"])
{name}(rows, {arguments})"""
NOTHING = "Every model's quality, size and speed appear here side by side. Choose at least two on the left."


def build(frame: Frame) -> None:
    """Lay the page out inside the current `gr.Blocks`."""
    with gr.Row(elem_classes="wb-work wb-live"):
        with gr.Column(elem_classes="wb-set"):
            step(1, "Models")
            models = gr.Dropdown(
                [], value=[], multiselect=True, allow_custom_value=True, label="Compare",
                info="The first one is the reference that the others are tested against.",
            )  # fmt: skip
            step(2, "The same budget for all")
            form = fields.component(FORM)
            step(3, "Settings of runs")
            runs = gr.Dropdown(
                [], value=[], multiselect=True, allow_custom_value=True, label="Runs",
                info="Shows only the settings in which they differ, and their curves. Costs nothing.",
            )  # fmt: skip
        with gr.Column(elem_classes="wb-see"):
            card = box(html.empty(NOTHING))
            with gr.Row(elem_classes="wb-row"):
                stop = gr.Button("Stop and keep", visible=False)
                resume = gr.Button("Resume this run", visible=False)
            table = box()
            with gr.Row(elem_classes="wb-row"):
                cost = gr.Dropdown(COSTS, value="disk_bytes", label="Cost", info="Across in the picture.")
                good = gr.Dropdown(QUALITY, value="perplexity", label="Quality", info="Up in the picture.")
            front = drawing.component(name="pareto")
            spread = drawing.component(name="intervals")
            tests = box()
            differ = box()
            with gr.Column(visible=False) as drawn:
                curves = drawing.component(name="curves")
    with gr.Row(elem_classes="wb-do"):
        start = gr.Button("Start comparing", variant="primary")
        said = box()
    frame.on(
        frame.blocks.load, lists, [models], [models, runs], queue=True, js="() => [[workbench.parameter('models')]]"
    )
    frame.on(start.click, begin, [models, form], [frame.run, said, form])
    frame.on(stop.click, halt, frame.run, None)
    frame.on(resume.click, go_on, frame.run, None)
    frame.on(runs.change, differences, runs, [differ, drawn, curves])
    frame.follow(lambda id: measured.stamp(found(id)), show_run, [frame.run], [card, stop, resume, table, tests])
    frame.follow(lambda id, *_: measured.stamp(found(id)), show_figures, [frame.run, cost, good], [front, spread])


def found(id: str) -> Run | None:
    """The comparison that the address names."""
    run = live.find(id)
    return run if run is not None and run.job == "compare" else None


def lists(asked: list[str]) -> tuple[Any, Any]:
    """What can be compared now; the address may name models, separated by commas."""
    snap = live.snapshot()
    every = [run for run, _ in snap.runs]
    known = choices.base_models() + choices.run_models(every, live.title)
    keys = {key for _, key in known}
    wanted = [key for part in asked or [] for key in str(part).split(",") if key in keys]
    trained = [(live.title(run), run.id) for run in every if run.job in ("finetune", "quantize")]
    return gr.update(choices=known, value=wanted or ["tiny-lm"]), gr.update(choices=trained[:100])


def begin(models: list[str], form: str) -> tuple[Any, str, str]:
    """Submit the comparison."""
    try:
        if len(models or []) < 2:
            raise UserError("One model has nothing to be compared with; choose at least two.")
        run = submit.submit("compare", {"models": list(models), **fields.read(FORM, form)})
    except UserError as error:
        errors = getattr(error, "errors", None) or {}
        return gr.skip(), html.note(str(error), "bad"), fields.payload(FORM, fields.typed(form), errors)
    return run.id, "", fields.payload(FORM, fields.typed(form))


def show_run(id: str) -> tuple[str, Any, Any, str, str]:
    """Card, buttons, the table that grows row by row, and the paired tests."""
    run = found(id)
    off = gr.update(visible=False)
    if run is None:
        return html.empty(NOTHING), off, off, "", ""
    status = run.status
    return (
        live.card(run, NOTHING),
        gr.update(visible=status in ("running", "queued")),
        gr.update(visible=status in ("stopped", "interrupted", "failed")),
        measured.table(run),
        paired(run),
    )


def paired(run: Run) -> str:
    """Each model against the reference: difference, p, and p corrected for the number of tests."""
    result = run.result() or {}
    if not result.get("tests"):
        return ""
    words = measured.readable(run)
    units = {"loss": "nats per token", "accuracy": "share right"}
    rows = [
        (
            words.get(t["name"], t["name"]),
            f"{t['measure']} ({units.get(t['measure'], '')})",
            t["difference"],
            t["p"],
            t["p_holm"],
        )
        for t in result["tests"]
    ]
    budget = result.get("budget", {})
    same = (
        f"The same for all: {formats.count(budget.get('predicted_tokens'))} held-out tokens of {budget.get('documents')} "
        f"documents, {budget.get('items')} questions, window {budget.get('window')}, seed {budget.get('seed')}."
    )
    return (
        f"<h2>Against {words.get(result['tests'][0]['reference'], 'the reference')}</h2>"
        + html.table(("Model", "Measure", "Difference", "p", "p, corrected"), rows, label="Paired tests")
        + f'<p class="wb-small wb-muted">{same} Sign-flip test over documents, Holm correction.</p>'
    )


def show_figures(id: str, cost: str, good: str) -> tuple[str, str]:
    """Quality against cost, and quality with its intervals."""
    run = found(id)
    rows = pd.DataFrame(measured.named(run)) if run else EMPTY
    done = run is not None and bool((run.result() or {}).get("rows"))

    def cell(name: str, arguments: str) -> str:
        return CELL.format(name=name, id=run.id, arguments=arguments) if done else ""

    front = pareto(rows, cost, good)
    budget = intervals(rows, good, items="documents" if good == "perplexity" else "questions")
    return (
        drawing.payload(front, name="pareto", cell=cell("pareto", f"{cost!r}, {good!r}"), rows=rows),
        drawing.payload(budget, name="intervals", cell=cell("intervals", repr(good)), rows=rows),
    )


def differences(ids: list[str]) -> tuple[str, Any, str]:
    """Only the settings in which the chosen runs differ, and their curves."""
    runs = [run for run in map(live.find, ids or []) if run is not None]
    if len(runs) < 2:
        return "", gr.update(visible=False), curve.payload([])
    names = live.names(runs)
    changed = compare_configs(runs)
    rows = [
        (key, *(text(values.get(run.id)) if run.id in values else None for run in names.values()))
        for key, values in changed.items()
        if key != "split_seed"
    ]
    table = (
        html.table(("Setting", *names), rows, label="Differences")
        if rows
        else html.note("They have the same settings.")
    )
    trained = [run for run in runs if run.job == "finetune"]
    return "<h2>Settings that differ</h2>" + table, gr.update(visible=bool(trained)), curve.payload(trained)


def text(value: Any) -> str:
    """A setting in one cell."""
    value = choices.shown(value)
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def halt(id: str) -> None:
    """Stop; finished rows are kept."""
    Store().stop(id)
    live.forget()


def go_on(id: str) -> None:
    """Measure the rest."""
    Store().resume(id)
    live.forget()
