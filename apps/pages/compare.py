"""Compare: models on the same held-out text, ways of training at one budget, runs by what their settings differ in."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import gradio as gr
import pandas as pd

from workbench.commands.jobs import compare
from workbench.errors import UserError
from workbench.figures import intervals, pareto
from workbench.figures.axes import AXES
from workbench.runs import Run, compare_configs

from .. import catalogue, choices, curve, drawing, fields, grids, html, live, measured, submit
from ..frame import Frame, Page, box, step

PAGE = Page("Compare", "compare", "Which one is better, and is the difference more than noise?", "Work", 2)
FORM = fields.from_command(compare, ("data", "tokens", "items", "window", "seed"), more=("window", "seed"))
COSTS = [(AXES[key].words, key) for key in ("disk_bytes", "ram_bytes", "decode_tps", "prefill_tps")]
QUALITY = [(AXES[key].words, key) for key in ("perplexity", "accuracy")]
EMPTY = pd.DataFrame()
KINDS = [("Models that are there", "models"), ("Ways of training, at one budget", "grid")]
CELL = """import pandas as pd
from workbench.figures import {name}
from workbench.runs import Store

names = {names!r}
methods = {methods!r}
rows = pd.DataFrame(Store().get({id!r}).result()["rows"])
rows = rows.assign(method=rows["name"].map(methods), name=rows["name"].map(names))
{name}(rows, {arguments})"""
NOTHING = (
    "Quality, size and speed appear here side by side. Choose at least two models on the left, or ways of training."
)


def build(frame: Frame) -> None:
    """Lay the page out inside the current `gr.Blocks`."""
    with gr.Row(elem_classes="wb-work wb-live"):
        with gr.Column(elem_classes="wb-set"):
            kind = gr.Radio(
                KINDS, value="models", label="What is compared",
                info="Models that are there are only measured. A grid trains every method anew, tuned alike, several seeds.",
            )  # fmt: skip
            with gr.Column() as ready_part:
                step(1, "Models")
                models = picks("Compare", "The first one is the reference that the others are tested against.")
                step(2, "The same budget for all")
                form = fields.component(FORM)
                step(3, "Settings of runs")
                runs = picks("Runs", "Shows only the settings in which they differ, and their curves. Costs nothing.")
            with gr.Column(visible=False) as grid_part:
                step(1, "Models, data, methods")
                grid = [
                    picks("Models", "Every method is trained on every one of them.", grids.USUAL["models"]),
                    picks("Data", "To train and judge on. Labelled data is classified.", grids.USUAL["tasks"]),
                    picks(
                        "Methods", "The model as it is and full fine-tuning are always rows.", grids.USUAL["methods"]
                    ),
                    gr.CheckboxGroup(
                        grids.BASES,
                        value=["none"],
                        label="Under the methods",
                        info="Weights as they are, or packed first.",
                    ),
                ]
                step(2, "The same budget for all")
                grid_form = fields.component(grids.FORM)
        with gr.Column(elem_classes="wb-see"):
            card = box(html.empty(NOTHING))
            with gr.Row(elem_classes="wb-row"):
                stop = gr.Button("Stop and keep", visible=False)
                resume = gr.Button("Resume this run", visible=False)
            with gr.Column() as ready_shown:
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
            with gr.Column(visible=False) as grid_shown:
                told = box()
                grid_table = box()
                with gr.Row(elem_classes="wb-row"):
                    block = gr.Dropdown([], value=None, label="Model and data", info="Rows are judged inside one pair.")
                    grid_cost = gr.Dropdown(
                        grids.COSTS, value="trainable", label="Cost", info="Across in the second picture."
                    )
                scores = drawing.component(name="grid")
                grid_front = drawing.component(name="grid-front")
                report = gr.DownloadButton("Download the report (HTML)", visible=False)
    with gr.Row(elem_classes="wb-do"):
        start = gr.Button("Start comparing", variant="primary")
        ask = gr.Button("Forecast this grid", visible=False)
        said = box()
    frame.on(
        frame.blocks.load, lists, [models], [models, runs, *grid[:3]], queue=True,
        js="() => [[workbench.parameter('models')]]",
    )  # fmt: skip
    frame.on(kind.change, choose_kind, kind, [ready_part, grid_part, ready_shown, grid_shown, ask])
    frame.on(start.click, begin, [kind, models, form, *grid, grid_form], [frame.run, said, form, grid_form])
    frame.on(ask.click, estimate, [*grid, grid_form], [said, grid_form, told], gate=True, progress="minimal")
    frame.on(stop.click, live.halt, frame.run, None)
    frame.on(resume.click, live.go_on, frame.run, None)
    frame.on(runs.change, differences, runs, [differ, drawn, curves])
    frame.follow(stamp_run, show_run, [frame.run], [card, stop, resume, table, tests])
    frame.follow(lambda id, *_: measured.stamp(found(id)), show_figures, [frame.run, cost, good], [front, spread])
    frame.follow(lambda id: repr(found(id, "grid")), kind_of, [frame.run], [kind])
    watched = [frame.run, block, grid_cost]
    shown = [told, grid_table, block, scores, grid_front, report]
    frame.follow(lambda id, *_: grids.stamp(found(id, "grid")), show_grid, watched, shown)


def picks(label: str, info: str, value: list[str] | None = None) -> gr.Dropdown:
    """A list of which several can be chosen."""
    usual = value or []
    return gr.Dropdown(usual, value=usual, multiselect=True, allow_custom_value=True, label=label, info=info)


def choose_kind(kind: str) -> tuple[Any, ...]:
    """Show the half of the page that was chosen."""
    ready, grid = gr.update(visible=kind == "models"), gr.update(visible=kind == "grid")
    return ready, grid, ready, grid, grid


def kind_of(id: str) -> tuple[Any]:
    """The half that the run in view belongs to."""
    return ("grid",) if found(id, "grid") else (gr.skip(),)


def found(id: str, job: str = "compare") -> Run | None:
    """The comparison that the address names; with `job` grid, the grid."""
    run = live.find(id)
    return run if run is not None and run.job == job else None


def stamp_run(id: str) -> str:
    """Changes with the comparison or the grid in view."""
    return measured.stamp(found(id) or found(id, "grid"))


def lists(asked: list[str]) -> tuple[Any, ...]:
    """What can be compared now; the address may name models, separated by commas."""
    every = [run for run, _ in live.snapshot().runs]
    known = choices.base_models() + choices.run_models(every, live.title)
    keys = {key for _, key in known}
    wanted = [key for part in asked or [] for key in str(part).split(",") if key in keys]
    trained = [(live.title(run), run.id) for run in every if run.job in ("finetune", "quantize", "prune")]
    methods = [(name, name) for name in catalogue.methods("adapter") if name != "full"]
    return (
        gr.update(choices=known, value=wanted or ["tiny-lm"]),
        gr.update(choices=trained[:100]),
        gr.update(choices=choices.base_models(encoders=True)),
        gr.update(choices=choices.data_sets()),
        gr.update(choices=methods),
    )


def begin(kind: str, models: list[str], form: str, *grid: Any) -> tuple[Any, str, str, str]:
    """Submit the comparison, or the grid."""
    *chosen, grid_form = grid
    wrong, wrong_grid = {}, {}
    try:
        if kind == "grid":
            run = submit.submit("grid", grid_settings(*chosen, grid_form))
        else:
            if len(models or []) < 2:
                raise UserError("One model has nothing to be compared with; choose at least two.")
            run = submit.submit("compare", {"models": list(models), **fields.read(FORM, form)})
    except UserError as error:
        errors = getattr(error, "errors", None) or {}
        wrong, wrong_grid = ({}, errors) if kind == "grid" else (errors, {})
        id, said = gr.skip(), html.note(str(error), "bad")
    else:
        id, said = run.id, ""
    marked = fields.payload(FORM, fields.typed(form), wrong)
    return id, said, marked, fields.payload(grids.FORM, fields.typed(grid_form), wrong_grid)


def grid_settings(
    models: list[str], tasks: list[str], methods: list[str], bases: list[str], form: str
) -> dict[str, Any]:
    """Settings of a grid from its half of the form."""
    return grids.settings(fields.read(grids.FORM, form), models=models, tasks=tasks, methods=methods, bases=bases)


def estimate(*grid: Any) -> Iterator[tuple[Any, str, Any]]:
    """Sizes and number of trainings at once, then time and memory from a few steps of every row; nothing is kept."""
    *chosen, form = grid
    clean = fields.payload(grids.FORM, fields.typed(form))
    try:
        config = grids.check(grid_settings(*chosen, form))
        yield "", clean, grids.planned(config)
        for words, table in grids.forecasts(config):
            yield words, clean, table or gr.skip()
    except UserError as error:
        errors = getattr(error, "errors", None)
        yield html.note(str(error), "bad"), fields.payload(grids.FORM, fields.typed(form), errors), gr.skip()


def show_grid(id: str, block: int | None, cost: str) -> tuple[Any, ...]:
    """Finding, table, blocks, both figures, and the report of the grid in view."""
    run = found(id, "grid")
    if run is None:
        return gr.skip(), "", gr.update(choices=[]), *grids.pictures(None, {}, 0, cost), gr.update(visible=False)
    record, block = grids.record(run), int(block or 0)
    blocks = [(words, number) for number, (words, _) in enumerate(grids.parts(record))]
    file = grids.download(run, record)
    return (
        grids.note(run) + grids.lead(record, block),
        grids.table(record, block) if record else grids.cells(run),
        gr.update(choices=blocks, value=block if blocks else None, visible=len(blocks) > 1),
        *grids.pictures(run, record, block, cost),
        gr.update(visible=file is not None, value=file),
    )


def show_run(id: str) -> tuple[str, Any, Any, str, str]:
    """Card, buttons, the table that grows row by row, and the paired tests."""
    run = found(id) or found(id, "grid")
    off = gr.update(visible=False)
    if run is None:
        return html.empty(NOTHING), off, off, "", ""
    return (
        live.card(run, NOTHING),
        *live.buttons(run),
        measured.table(run) if run.job == "compare" else "",
        measured.paired(run) if run.job == "compare" else "",
    )


def show_figures(id: str, cost: str, good: str) -> tuple[str, str]:
    """Quality against cost, and quality with its intervals."""
    run = found(id)
    rows = pd.DataFrame(measured.named(run)) if run else EMPTY
    done = run is not None and bool((run.result() or {}).get("rows"))

    def cell(name: str, arguments: str) -> str:
        if not done:
            return ""
        names, methods = measured.readable(run), measured.looks(run)
        return CELL.format(name=name, id=run.id, names=names, methods=methods, arguments=arguments)

    front = pareto(rows, cost, good)
    items = "documents" if good == "perplexity" else "questions"
    budget = intervals(rows, good, items=items)
    return (
        drawing.payload(front, name="pareto", cell=cell("pareto", f"{cost!r}, {good!r}"), rows=rows),
        drawing.payload(budget, name="intervals", cell=cell("intervals", f"{good!r}, items={items!r}"), rows=rows),
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
