"""Compress: fewer bits a weight, several settings at once, and what each costs in size, quality and speed."""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import Any

import gradio as gr
import pandas as pd

from workbench.commands.jobs import quantize
from workbench.errors import UserError
from workbench.figures import formats, layers, weight_rows, weights
from workbench.progress import span
from workbench.runs import Run, Store

from .. import cache, catalogue, choices, drawing, fields, html, live, measured, submit, variants
from ..frame import Frame, Page, box, step

PAGE = Page("Compress", "compress", "Store weights in fewer bits and see what it costs, layer by layer.", "Work", 1)
NAMES = ("group_size", "symmetric", "data", "samples", "window", "seed")
FORM = fields.from_command(quantize, NAMES, more=("samples", "window", "seed"))
BITS = [(str(bits), bits) for bits in (8, 4, 3, 2)]
OPTIONS = {option.name: option.help for option in quantize.params}
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
                [("gptq", "gptq")], value="gptq", allow_custom_value=True, label="Method", info=OPTIONS["method"]
            )
            about = box()
            bits = gr.CheckboxGroup(
                BITS, value=[4], label="Bits",
                info="Bits per weight. Fewer is smaller and worse. Several start one run each. Usual: 4.",
            )  # fmt: skip
            step(3, "Settings")
            form = fields.component(FORM)
        with gr.Column(elem_classes="wb-see"):
            card = box(html.empty(NOTHING))
            with gr.Row(elem_classes="wb-row"):
                stop = gr.Button("Stop", visible=False)
                resume = gr.Button("Resume this run", visible=False)
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
    asked = [model, method, bits, form]
    loaded = frame.on(
        frame.blocks.load, lists, [model], [model, method], queue=True, js="() => [workbench.parameter('model')]"
    )
    frame.on(loaded.then, explain, method, about)
    frame.on(method.change, explain, method, about)
    frame.on(start.click, begin, asked, [frame.run, said, form])
    frame.on(ask.click, estimate, asked, [said, form], gate=True, progress="minimal")
    frame.on(stop.click, halt, frame.run, None)
    frame.on(resume.click, go_on, frame.run, None)
    frame.on(measure.click, compare, [model, frame.run], said)
    frame.on(count.click, histogram, [frame.run, layer], spread, gate=True, progress="minimal")
    frame.follow(live.stamp, show_run, [frame.run], [card, stop, resume, layer])
    frame.follow(stamp_variants, show_variants, [model, frame.run], [listing, errors])


# ---- setting up


def lists(asked: str) -> tuple[Any, Any]:
    """What can be chosen now; the address may name the model."""
    made = choices.run_models([run for run, _ in live.snapshot().runs if run.job in ("finetune", "demo")], live.title)
    known = choices.base_models() + made
    methods = [(name, name) for name in catalogue.methods("quantizer")]
    keys = {key for _, key in known}
    return gr.update(choices=known, value=asked if asked in keys else "tiny-lm"), gr.update(choices=methods)


def explain(method: str) -> str:
    """What a method does."""
    record = catalogue.methods("quantizer").get(method)
    if record is None:
        return html.note(f"There is no method called {method!r}.", "bad")
    return f'<p class="wb-help">{escape(record["help"])}</p>'


def collect(model: str, method: str, bits: list[int], form: str) -> list[dict[str, Any]]:
    """One set of settings for each number of bits.

    Raises:
        UserError: nothing chosen, or values that cannot be read.
    """
    values = fields.read(FORM, form)
    values["group_size"] = values["group_size"] or None
    if method in ("nf4", "fp4"):
        bits = [4]
    if not bits:
        raise UserError("No number of bits is chosen; tick at least one.")
    return [{"model": model, "method": method, "bits": int(b), **values} for b in bits]


def begin(model: str, method: str, bits: list[int], form: str) -> tuple[Any, str, str]:
    """Submit one run for each number of bits; the first is shown."""
    try:
        settings = collect(model, method, bits, form)
        for one in settings:
            submit.quantize(one)
        runs = [submit.submit("quantize", one) for one in settings]
    except UserError as error:
        return gr.skip(), html.note(str(error), "bad"), marked(error, form)
    return runs[0].id, "", fields.payload(FORM, fields.typed(form))


def marked(error: UserError, form: str) -> str:
    """The form with the complaint at its field."""
    found = getattr(error, "errors", None) or fields.by_name([str(error)], FORM)[0]
    return fields.payload(FORM, fields.typed(form), found)


def estimate(model: str, method: str, bits: list[int], form: str) -> tuple[str, str]:
    """Bytes and memory from the model's shapes; no weight is read."""
    from workbench.compress.job import forecast

    try:
        words = []
        for one in collect(model, method, bits, form):
            found = forecast(submit.quantize(one))
            label = one["method"] if one["method"] in ("nf4", "fp4") else f"{one['bits']} bits"
            words.append(f"{label}: {formats.size(found['bytes'])}, {found['bits_per_weight']:.2f} bits a weight")
        words.append(f"up to {formats.size(found['peak_bytes'])} of memory")
    except UserError as error:
        return html.note(str(error), "bad"), marked(error, form)
    return f'<p class="wb-forecast">≈ {escape("; ".join(words))}</p>', fields.payload(FORM, fields.typed(form))


# ---- watching


def family(model: str, id: str) -> tuple[str, list[Run]]:
    """The place of the model in view (that of the run, where there is one) and its compressed variants, oldest first."""
    run = live.find(id)
    if run is not None and run.job == "quantize":
        place = live.config(run).get("model", "")
    else:
        try:
            place = choices.model_place(model)
        except UserError:
            return "", []
    runs = [r for r, _ in live.snapshot().runs if r.job == "quantize" and live.config(r).get("model") == place]
    return place, runs[::-1]


def show_run(id: str) -> tuple[str, Any, Any, Any]:
    """Card, buttons, and the layers that can be looked at."""
    run = live.find(id)
    off = gr.update(visible=False)
    if run is None or run.job != "quantize":
        return html.empty(NOTHING), off, off, gr.update(choices=[])
    status = run.status
    names = [entry["name"] for entry in (run.result() or {}).get("layers", [])]
    ways = ""
    if choices.made_by(run):
        key = f"run:{run.id}"
        ways = (
            f'<p><a class="wb-button" href="chat?model={key}">Chat with it</a>'
            f'<a class="wb-button" href="runs?run={run.id}">Log and settings</a></p>'
        )
    return (
        live.card(run, NOTHING) + ways,
        gr.update(visible=status in ("running", "queued")),
        gr.update(visible=status in ("stopped", "interrupted", "failed")),
        gr.update(choices=names, value=names[0] if names else None),
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
    rows = [
        [
            "as it is",
            html.Raw(html.state("done")),
            None,
            formats.size(measured.disk(place)),
            None,
            None,
            *variants.quality(base),
        ]
    ]
    for run in runs:
        found, packed = run.result() or {}, run.directory / "packed"
        worst = max((entry["error"] for entry in found.get("layers", [])), default=None)
        done = f" {live.share(run):.0%}" if run.status == "running" else ""
        rows.append(
            [
                html.Raw(f'<a href="compress?run={run.id}">{escape(variants.label(run))}</a>'),
                html.Raw(html.state(run.status) + done),
                found.get("bits_per_weight"),
                formats.size(measured.disk(str(packed))) if packed.is_dir() else None,
                worst,
                span(found["seconds"]) if "seconds" in found else None,
                *variants.quality(known.get(str(packed), {})),
            ]
        )
    head = (
        "Variant",
        "State",
        "Bits a weight",
        "On disk",
        "Largest layer error",
        "Time",
        "Perplexity",
        "Accuracy",
        "Tokens/s",
    )
    return html.table(head, rows, label="Variants"), variants.layer_figure(runs)


def histogram(id: str, layer: str | None) -> str:
    """How one layer's weights are spread before and after."""
    run = live.find(id)
    if run is None or not layer or not choices.made_by(run):
        raise UserError("No finished compression is in view; start one, or choose it in the table.")
    from workbench.compress.linear import PackedLinear
    from workbench.compress.targets import matrix

    tensors = {}
    base = str(choices.shown(live.config(run)["model"]))
    if base.startswith("run:") and (Path(choices.model_place(base)) / "adapter_config.json").is_file():
        base += "#merged"
    for name, key in (("base", base), (variants.label(run), f"run:{run.id}")):
        module = cache.MODELS.open(key).model.get_submodule(layer)
        weight = module.dequantize() if isinstance(module, PackedLinear) else matrix(module)
        tensors[name] = weight.float().numpy()
    rows = weight_rows(tensors)
    return drawing.payload(weights(rows, log=False), name="weights", rows=rows)


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


def halt(id: str) -> None:
    """Stop the run in view."""
    Store().stop(id)
    live.forget()


def go_on(id: str) -> None:
    """Put it back in the queue."""
    Store().resume(id)
    live.forget()
