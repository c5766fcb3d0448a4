"""Scaling: a table of training runs in, a fitted law with its uncertainty out, and a plan for the next run."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from html import escape
from typing import Any

import gradio as gr
import numpy as np
import pandas as pd

from workbench.commands.fit import fit
from workbench.errors import UserError
from workbench.figures import formats
from workbench.figures import scaling as figures
from workbench.scaling.laws import LAWS

from .. import choices, drawing, fields, html, live, run_tables
from ..frame import Frame, Page, box, step

PAGE = Page(
    "Scaling",
    "scaling",
    "Fit a law to training runs, see how far it can be trusted, and plan the next run.",
    "Explore",
    0,
)
FORM = fields.from_command(fit, ("objective", "delta", "samples", "seed"), more=("delta", "samples", "seed"))
OBJECTIVES = ("huber", "squared", "quantile")
KEPT = 16  # fits that stay in memory
SAMPLES = 5_000  # bootstrap resamples at most
CELL = """from workbench.figures import scaling as figures
from workbench.paths import assets, runs_root
from workbench.scaling.fit_report import law_curve, rows_for_figures, sections
from workbench.scaling.study import study

result = study({source}, {law!r}, columns={columns!r}, objective={objective!r}, samples={samples})
rows, x = rows_for_figures(result)
{draw}"""
DRAWS = {
    "law": "figures.law(rows, law_curve(result, x), x=x, size='N' if 'N' in rows else x)",
    "residuals": "figures.residuals(rows, x=x)",
    "iso-loss": "next(part for part in sections(result) if part.heading == 'Size against data').figure[0]",
}
_fits: OrderedDict[str, dict[str, Any]] = OrderedDict()
_lock = threading.Lock()


def build(frame: Frame) -> None:
    """Lay the page out inside the current `gr.Blocks`."""
    laws = [(f"{law.name} · {law.formula}", law.name) for law in LAWS.values()]
    with gr.Row(elem_classes="wb-work"):
        with gr.Column(elem_classes="wb-set"):
            step(1, "Runs")
            data = gr.Dropdown(
                run_tables.tables(), value=run_tables.tables()[0][1], allow_custom_value=True, label="Table",
                info="One training run per row: model size, tokens, loss.",
            )  # fmt: skip
            upload = gr.File(label="Upload a CSV", file_types=[".csv"], height=110)
            own = gr.Dropdown(
                [], value=[], multiselect=True, allow_custom_value=True, label="Or your own runs",
                info="Fine-tunings that measured a held-out loss. Their sizes, tokens and losses become the table.",
            )  # fmt: skip
            gather = gr.Button("Make a table of these runs")
            step(2, "Law")
            law = gr.Dropdown(
                [*laws, ("auto · the law that predicts the largest runs best", "auto")], value="chinchilla", label="Law",
                info="What the loss is said to depend on. More terms need more runs.", allow_custom_value=True,
            )  # fmt: skip
            columns = fields.component()
            step(3, "Fit")
            form = fields.component(shown_form())
        with gr.Column(elem_classes="wb-see"):
            verdict = box(
                html.empty("Curves, residuals and intervals appear here. The table on the left is ready to fit.")
            )
            curve = drawing.component(figures.law(pd.DataFrame(columns=["C", "N", "loss"])), name="law")
            rest = drawing.component(figures.residuals(pd.DataFrame(columns=["C", "residual"])), name="residuals")
            with gr.Column(visible=False) as both:
                lines = drawing.component(name="iso-loss")
            report = box()
            with gr.Column(visible=False) as planner:
                box("<h2>Plan the next run</h2>")
                budget = gr.Slider(
                    15, 27, value=21, step=0.1, label="Training budget (log10 FLOP)",
                    info="10^21 FLOP is about 2 300 A100 hours at 40 % use. Costs nothing here.",
                )  # fmt: skip
                served = gr.Slider(
                    0, 14, value=0, step=0.5, label="Tokens served in its life (log10; 0: none)",
                    info="A model that serves many tokens should be smaller and trained longer.",
                )  # fmt: skip
                plan = box()
    with gr.Row(elem_classes="wb-do"):
        start = gr.Button("Fit this law", variant="primary")
        said = box()
    key = gr.State("")
    for event in (frame.blocks.load, data.change, law.change):
        frame.on(event, lambda d, name: fields.payload(column_fields(d, name)), [data, law], columns)
    frame.on(frame.blocks.load, lambda: gr.update(choices=own_runs()), None, own, queue=True)
    frame.on(upload.upload, keep, upload, [data, upload, said])
    frame.on(gather.click, make_table, own, [data, said])
    done = frame.on(
        start.click, run, [data, law, columns, form], [key, verdict, curve, rest, lines, both, report, planner, budget, said],
        gate=True, progress="minimal",
    )  # fmt: skip
    frame.on(done.then, show_plan, [key, budget, served], plan)
    for slider in (budget, served):
        frame.on(slider.change, show_plan, [key, budget, served], plan, trigger_mode="always_last")


# ---- setting up


def shown_form() -> list[fields.Field]:
    """The options of `workbench fit`, with the objective as a choice."""
    first = fields.Field(
        "objective", "choice", "huber", FORM[0].help, tuple((o, o) for o in OBJECTIVES), label="Objective"
    )
    return [first, *FORM[1:]]


def column_fields(key: str, law: str) -> list[fields.Field]:
    """One choice of column for each quantity the law needs."""
    try:
        names = list(pd.read_csv(run_tables.place(key), nrows=5).columns)
    except (UserError, ValueError, OSError):
        names = []
    known = LAWS.get(law) or LAWS["chinchilla"]
    options = (("guess from its name", ""), *((name, name) for name in names))
    words = {"loss": known.target, "run": "which rows are one curve", **known.units}
    return [
        fields.Field(
            role, "choice", "", f"{words.get(role, '')}".capitalize() + ".", options, more=True, label=f"{role} column"
        )
        for role in (*known.columns, "loss", "run")
    ]


def own_runs() -> list[tuple[str, str]]:
    """(label, id) of the fine-tunings a table can be made of."""
    usable = run_tables.usable(run for run, _ in live.snapshot().runs)
    return [(name, run.id) for name, run in live.names(usable).items()]


def make_table(ids: list[str] | None) -> tuple[Any, str]:
    """Put chosen runs into a table and choose it."""
    runs = [run for run in map(live.find, ids or []) if run is not None]
    try:
        key = run_tables.keep(runs)
    except UserError as error:
        return gr.skip(), html.note(str(error), "bad")
    rows = len(pd.read_csv(run_tables.place(key)))
    words = f"{len(runs)} runs with {rows} evaluations are the table now; the last of each run is fitted."
    return gr.update(choices=run_tables.tables(), value=key), html.note(words, "good")


def keep(path: str | None) -> tuple[Any, Any, str]:
    """Take an uploaded table in and choose it."""
    if path is None:
        return gr.skip(), gr.skip(), ""
    try:
        from workbench.data.sources import read_path

        key = choices.keep_upload(path)
        read_path(run_tables.place(key))
    except UserError as error:
        return gr.skip(), None, html.note(choices.for_page(str(error)), "bad")
    return gr.update(choices=run_tables.tables(), value=key), None, ""


# ---- fitting


def run(data: str, law: str, columns: str, form: str) -> tuple:
    """Fit, and everything the page shows of it."""
    try:
        key, result, given = fitted(data, law, columns, form)
        shown = pictures(data, result, given)
    except UserError as error:
        nothing = [gr.skip()] * 8
        return ("", *nothing, html.note(choices.for_page(str(error)), "bad"))
    table = result["runs"].table
    flops = 6 * table["N"] * table["D"] if {"N", "D"} <= set(table) else pd.Series([1e21])
    plans = {"N", "D"} <= set(result["fitted"].law_.columns)
    largest = float(np.clip(np.round(np.log10(flops.max()) + 0.5, 1), 15, 27))
    return (key, *shown, gr.update(visible=plans), gr.update(value=largest), "")


def fitted(data: str, law: str, columns: str, form: str) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """(key, study, arguments); a fit that was made before is taken from memory."""
    from workbench.scaling.study import study

    values = fields.read(shown_form(), form)
    if not 10 <= values["samples"] <= SAMPLES:
        raise UserError(f"samples is {values['samples']}; it takes 10 to {SAMPLES}.")
    mapping = {role: column for role, column in fields.typed(columns).items() if column} or None
    path = run_tables.place(data)
    given = {"law": law, "columns": mapping, **values}
    mark = repr((data, path.stat().st_mtime_ns, given))
    key = hashlib.sha256(mark.encode()).hexdigest()[:16]
    with _lock:
        if key not in _fits:
            _fits[key] = study(path, **given)
            while len(_fits) > KEPT:
                _fits.popitem(last=False)
        return key, _fits[key], given


def pictures(data: str, result: dict[str, Any], given: dict[str, Any]) -> tuple:
    """Verdict, law, residuals, lines of equal loss and whether they show, and the tables of the report."""
    from workbench.scaling.fit_report import law_curve, rows_for_figures, sections

    rows, x = rows_for_figures(result)
    curves = law_curve(result, x)
    uploaded = data.removeprefix("upload:")
    source = f'assets() / "scaling" / "{data}.csv"' if uploaded == data else f'runs_root() / ".uploads" / {uploaded!r}'

    def cell(name: str) -> str:
        words = {k: given[k] for k in ("columns", "objective", "samples")}
        return CELL.format(source=source, law=result["law"], draw=DRAWS[name], **words)

    law = figures.law(rows, curves, x=x, size="N" if "N" in rows else x)
    parts = sections(result)
    iso = next((part for part in parts if part.heading == "Size against data"), None)
    return (
        verdict_of(result),
        drawing.payload(law, name="law", cell=cell("law"), rows=rows),
        drawing.payload(figures.residuals(rows, x=x), name="residuals", cell=cell("residuals"), rows=rows),
        drawing.payload(iso.figure[0], name="iso-loss", cell=cell("iso-loss"), rows=iso.data) if iso else None,
        gr.update(visible=iso is not None),
        "".join(section(part) for part in parts if part.table is not None),
    )


def verdict_of(result: dict[str, Any]) -> str:
    """The law, how well it predicts the largest runs, and every caution."""
    held = result["holdout"][0] if result["holdout"] else None
    numbers = {"Runs": formats.count(result["n_runs"]), "Fitted in": formats.seconds(result["fit_seconds"])}
    if held:
        numbers["Error on the largest runs"] = f"{held['median']:.2%}"
    text = f"<p><code>{escape(result['formula'])}</code></p>{html.facts(numbers)}"
    cautions = "".join(html.note(words, "caution") for words in result["warnings"])
    notes = "".join(f'<p class="wb-small wb-muted">{escape(words)}</p>' for words in result["notes"])
    good = "" if cautions else html.note("All parameters are identified, and all starts agree.", "good")
    return f'<section class="wb-card"><h2>{escape(result["law"])}</h2>{text}</section>{cautions}{good}{notes}'


def section(part: Any) -> str:
    """One table of the report with its heading and its sentence."""
    table = pd.DataFrame(part.table)
    words = f"<p class='wb-small'>{escape(part.text.replace('`', ''))}</p>" if part.text else ""
    rows = [[v.item() if hasattr(v, "item") else v for v in row] for row in table.itertuples(index=False)]
    return f"<h2>{escape(part.heading)}</h2>{words}" + html.table(
        list(map(str, table.columns)), rows, label=part.heading
    )


def show_plan(key: str, budget: float, served: float) -> str:
    """What a budget buys."""
    from workbench.scaling.fit_text import plan_rows, plan_words
    from workbench.scaling.planner import plan

    result = _fits.get(key)
    if result is None or not {"N", "D"} <= set(result["fitted"].law_.columns):
        return ""
    tokens = 10.0**served if served else 0.0
    try:
        found = plan(result["fitted"], 10.0**budget, served_tokens=tokens, bootstrap=result["bootstrap"])
    except UserError as error:
        return html.note(str(error), "bad")

    cautions = "".join(html.note(words, "caution") for words in found.warnings)
    words = "".join(f'<p class="wb-small wb-muted">{escape(sentence)}</p>' for sentence in plan_words(found))
    return html.table(("Quantity", "Plan", "95 % interval"), plan_rows(found), label="Plan") + words + cautions
