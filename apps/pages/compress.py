"""Compress: fewer bits a weight or fewer weights, several settings at once, and what each costs in size, quality and speed."""

from __future__ import annotations

from html import escape
from typing import Any

import gradio as gr
import pandas as pd

from workbench.errors import UserError
from workbench.figures import formats, layers, weights
from workbench.runs import Run

from .. import catalogue, choices, drawing, exports, fields, html, live, measured, shrinking, submit, variants
from ..frame import Frame, Page, box, step

PAGE = Page(
    "Compress", "compress", "Store fewer bits or fewer weights and see what it costs, layer by layer.", "Work", 1
)
BITS, WEIGHTS = shrinking.BITS, shrinking.WEIGHTS
HEAD = (
    "Variant", "Bits a weight", "Zeros", "On disk", "Worst layer", "Perplexity", "Accuracy", "Tokens/s", "Time",
)  # fmt: skip
NOTHING = "One row for each compressed variant appears here. Choose a model and press Start."


def build(frame: Frame) -> None:
    """Lay the page out inside the current `gr.Blocks`."""
    with gr.Row(elem_classes="wb-work wb-live"):
        with gr.Column(elem_classes="wb-set"):
            step(1, "Model")
            model = gr.Dropdown(
                [("tiny-lm", "tiny-lm")], value="tiny-lm", allow_custom_value=True, label="Compress",
                info="A bundled model, one of your runs (its adapter is merged first), or a hub id.",
            )  # fmt: skip
            step(2, "Method")
            method = gr.Dropdown(
                [("gptq · fewer bits", "gptq")], value="gptq", allow_custom_value=True, label="Method",
                info="Fewer bits make a smaller file. Fewer weights keep the file and make its zeros.",
            )  # fmt: skip
            about = box()
            step(3, "How far")
            levels, forms, parts = [], [], []
            for way in (BITS, WEIGHTS):
                with gr.Column(visible=way is BITS) as part:
                    levels.append(gr.CheckboxGroup(way.levels, value=way.usual, label=way.label, info=way.info))
                    forms.append(fields.component(way.form))
                parts.append(part)
            step(4, "Take it elsewhere")
            to = gr.Dropdown(
                exports.CHOICES, value="gguf-q8_0", label="Format",
                info="Of the run in view, else of the model above. The file is read back and compared before it is offered.",
            )  # fmt: skip
            export = gr.Button("Check this export")
        with gr.Column(elem_classes="wb-see"):
            card = box(html.empty(NOTHING))
            with gr.Row(elem_classes="wb-row"):
                stop = gr.Button("Stop", visible=False)
                resume = gr.Button("Resume this run", visible=False)
                take = gr.DownloadButton("Download the checked export", visible=False)
            listing = box()
            with gr.Row(elem_classes="wb-row"):
                measure = gr.Button("Measure quality and speed")
            errors = drawing.component(name="layers")
            with gr.Row(elem_classes="wb-row"):
                layer = gr.Dropdown([], label="Layer", info="Whose weights are counted, before and after.", scale=2)
                count = gr.Button("Show weights before and after")
            spread = drawing.component(
                weights(pd.DataFrame(columns=["name", "left", "right", "share"])), name="weights"
            )
    with gr.Row(elem_classes="wb-do"):
        start = gr.Button("Start compressing", variant="primary")
        ask = gr.Button("Forecast size and memory")
        said = box()
    asked = [model, method, *levels, *forms]
    loaded = frame.on(
        frame.blocks.load, lists, [model], [model, method], queue=True, js="() => [workbench.parameter('model')]"
    )
    frame.on(loaded.then, explain, method, [about, *parts])
    frame.on(method.change, explain, method, [about, *parts])
    frame.on(start.click, begin, asked, [frame.run, said, *forms])
    frame.on(ask.click, estimate, asked, [said, *forms], gate=True, progress="minimal")
    frame.on(stop.click, live.halt, frame.run, None)
    frame.on(resume.click, live.go_on, frame.run, None)
    frame.on(export.click, begin_export, [model, to, frame.run], [frame.run, said], progress="minimal")
    frame.on(measure.click, compare, [model, frame.run], said)
    frame.on(count.click, variants.histogram, [frame.run, layer], spread, gate=True, progress="minimal")
    frame.follow(live.stamp, show_run, [frame.run], [card, stop, resume, layer, take])
    frame.follow(stamp_variants, show_variants, [model, frame.run], [listing, errors])


# ---- setting up


def lists(asked: str) -> tuple[Any, Any]:
    """What can be chosen now; the address may name the model."""
    made = choices.run_models(
        [run for run, _ in live.snapshot().runs if run.job in ("finetune", "demo", "grow")], live.title
    )
    known = choices.base_models() + made
    methods = [(f"{name} · fewer bits", name) for name in catalogue.methods("quantizer")]
    methods += [(f"{name} · fewer weights", name) for name in catalogue.methods("pruner")]
    keys = {key for _, key in known}
    return gr.update(choices=known, value=asked if asked in keys else "tiny-lm"), gr.update(choices=methods)


def explain(method: str) -> tuple[str, Any, Any]:
    """What a method does, and the part of the form that is its own."""
    try:
        way = shrinking.way_of(method)
    except UserError as error:
        return html.note(str(error), "bad"), gr.skip(), gr.skip()
    record = catalogue.methods("quantizer").get(method) or catalogue.methods("pruner")[method]
    words = f'<p class="wb-help">{escape(record["help"])}</p>'
    return words, gr.update(visible=way is BITS), gr.update(visible=way is WEIGHTS)


def attempt(
    model: str, method: str, bits: list[str], shares: list[str], bits_form: str, weights_form: str
) -> tuple[list[dict[str, Any]], str, str, str]:
    """(checked settings, what is wrong, both forms with the complaints at their fields)."""
    forms = {BITS.job: bits_form, WEIGHTS.job: weights_form}
    found, said, wrong = [], "", {}
    try:
        way = shrinking.way_of(method)
        found = shrinking.collect(model, method, bits if way is BITS else shares, forms[way.job])
    except UserError as error:
        said = html.note(str(error), "bad")
        for way in (BITS, WEIGHTS):
            wrong[way.job] = getattr(error, "errors", None) or fields.by_name([str(error)], way.form)[0]
    marked = [fields.payload(way.form, fields.typed(forms[way.job]), wrong.get(way.job)) for way in (BITS, WEIGHTS)]
    return found, said, marked[0], marked[1]


def begin(model: str, method: str, *form: Any) -> tuple[Any, str, str, str]:
    """Submit one run for each level; the first is shown."""
    found, said, *marked = attempt(model, method, *form)
    if not found:
        return (gr.skip(), said, *marked)
    job = shrinking.way_of(method).job
    runs = [submit.submit(job, config) for config in found]
    return (runs[0].id, "", *marked)


def begin_export(model: str, to: str, id: str) -> tuple[Any, str]:
    """Submit an export of the run in view, or of the chosen model; what the format cannot hold is refused from shapes."""
    try:
        run = submit.submit("export", {"model": exports.source(model, live.find(id)), "to": to})
    except UserError as error:
        return gr.skip(), html.note(str(error), "bad")
    return run.id, ""


def estimate(model: str, method: str, *form: Any) -> tuple[str, str, str]:
    """Bytes and memory from the model's shapes; no weight is read."""
    found, said, *marked = attempt(model, method, *form)
    if found:
        way = shrinking.way_of(method)
        told = [way.forecast(submit.CHECKS[way.job](config)) for config in found]
        words = [*(words for words, _ in told), f"up to {formats.size(max(peak for _, peak in told))} of memory"]
        said = f'<p class="wb-forecast">≈ {escape("; ".join(words))}</p>'
    return (said, *marked)


# ---- watching


def family(model: str, id: str) -> tuple[str, list[Run]]:
    """The place of the model in view (that of the run, where there is one) and its compressed variants, oldest first."""
    run = exports.compressed(live.find(id))
    if run is not None and run.job in shrinking.WAYS:
        place = live.config(run).get("model", "")
    else:
        try:
            place = choices.model_place(model)
        except UserError:
            return "", []
    runs = [r for r, _ in live.snapshot().runs if r.job in shrinking.WAYS and live.config(r).get("model") == place]
    return place, runs[::-1]


def show_run(id: str) -> tuple[str, Any, Any, Any, Any]:
    """Card, buttons, the layers that can be looked at, and the file of an export."""
    run = live.find(id)
    off = gr.update(visible=False)
    if run is None or run.job not in (*shrinking.WAYS, "export"):
        return html.empty(NOTHING), off, off, gr.update(choices=[]), off
    status = run.status
    names = [entry["name"] for entry in (run.result() or {}).get("layers", [])]
    ways = ""
    file = exports.download(run) if run.job == "export" and status == "done" else None
    if choices.made_by(run):
        key = f"run:{run.id}"
        ways = (
            f'<p><a class="wb-button" href="chat?model={key}">Chat with it</a>'
            f'<a class="wb-button" href="runs?run={run.id}">Log and settings</a></p>'
        )
    return (
        live.card(run, NOTHING) + ways + (exports.report(run) if run.job == "export" else ""),
        *live.buttons(run),
        gr.update(choices=names, value=names[0] if names else None),
        gr.update(visible=file is not None, value=file),
    )


def stamp_variants(model: str, id: str) -> str:
    """Changes when a variant or its measurement does."""
    place, runs = family(model, id)
    every = [run for run, _ in live.snapshot().runs]
    return repr([(run.id, run.status, run.progress) for run in runs]) + measured.stamp(measured.newest(place, every))


def show_variants(model: str, id: str) -> tuple[str, str]:
    """The table that grows row by row, and the layer-wise errors."""
    place, runs = family(model, id)
    if not place:
        return html.empty(NOTHING), drawing.payload(layers(pd.DataFrame(columns=["layer", "error"])), name="layers")
    newest = measured.newest(place, [run for run, _ in live.snapshot().runs])
    known = measured.cells(newest) if newest else {}
    base = known.get(place, {})
    size = formats.size(measured.disk(place))
    rows = [["as it is", None, None, size, None, *variants.quality(base), None]]
    for run in runs:
        found, made = run.result() or {}, choices.made_by(run).get("")
        worst = max((entry["error"] for entry in found.get("layers", [])), default=None)
        done = f" {live.share(run):.0%}" if run.status == "running" else ""
        name = f'<a href="compress?run={run.id}">{escape(variants.label(run))}</a>'
        rows.append(
            [
                html.Raw(f"{name}<small>{html.state(run.status)}{done}</small>"),
                found.get("bits_per_weight"),
                f"{found['sparsity']:.0%}" if "sparsity" in found else None,
                formats.size(measured.disk(str(made))) if made else None,
                worst,
                *variants.quality(known.get(str(made), {})),
                formats.seconds(found["seconds"]) if "seconds" in found else None,
            ]
        )
    return html.table(HEAD, rows, label="Variants"), variants.layer_figure(runs)


# ---- acting


def compare(model: str, id: str) -> str:
    """Submit a comparison of the model with all of its finished variants."""
    place, runs = family(model, id)
    done = [run for run in runs if choices.made_by(run)]
    if not done:
        raise UserError("There is nothing to measure yet; start a compression first.")
    first = str(choices.shown(place))
    run = submit.submit("compare", {"models": [first, *(f"run:{r.id}" for r in done)], "tokens": 4000, "items": 24})
    return html.note(f"{live.title(run)} is {run.status}. Its rows appear in the table one by one.")
