"""Fine-tune: model, data, method, forecast, live curves, stop and resume, and where to go with the result."""

from __future__ import annotations

from html import escape
from typing import Any

import gradio as gr

from workbench.errors import UserError
from workbench.runs import Run
from workbench.training.config import FinetuneConfig

from .. import catalogue, choices, curve, datasets, drawing, fields, html, live, outcome, submit
from ..frame import Frame, Page, box, step

PAGE = Page("Fine-tune", "finetune", "Teach a model your text. The run goes on when you close this page.", "Work", 0)
FIRST = ("steps", "batch_size", "window", "learning_rate", "eval_every")
OWN = ("model", "data", "method", "method_args", "kind", "columns")
TRAINING = fields.from_dataclass(FinetuneConfig, skip=OWN, first=FIRST)
KINDS = [("guess from the columns", ""), *((k, k) for k in ("text", "prompt-completion", "chat", "classification"))]
HELP = {name: FinetuneConfig.__dataclass_fields__[name].metadata["help"] for name in OWN}
NOTHING = "The curve of a run appears here. The settings on the left are good enough to press Start."


def build(frame: Frame) -> None:
    """Lay the page out inside the current `gr.Blocks`."""
    with gr.Row(elem_classes="wb-work wb-live"):
        with gr.Column(elem_classes="wb-set"):
            step(1, "Model")
            model = gr.Dropdown(
                [("tiny-lm", "tiny-lm")],
                value="tiny-lm",
                allow_custom_value=True,
                label="Start from",
                info=HELP["model"],
            )
            step(2, "Data")
            data = gr.Dropdown(
                [("moby-dick", "moby-dick")], value="moby-dick", allow_custom_value=True, label="Learn from",
                info="A bundled text, an upload, or a hub id. More text takes no more time: steps decide that.",
            )  # fmt: skip
            upload = gr.File(label="Upload text or a table", file_types=list(choices.SUFFIXES), height=110)
            with gr.Accordion("What is a row?", open=False):
                kind = gr.Dropdown(KINDS, value="", label="Kind", info=HELP["kind"])
                columns = fields.component(datasets.role_fields("moby-dick"))
            step(3, "Method")
            method = gr.Dropdown(
                [("lora", "lora")], value="lora", allow_custom_value=True, label="Method", info=HELP["method"]
            )
            about = box()
            arguments = fields.component()
            step(4, "Training")
            training = fields.component(TRAINING)
            name = gr.Textbox(label="Name", info="To find the run by. Costs nothing; may stay empty.", max_lines=1)
        with gr.Column(elem_classes="wb-see"):
            card = box(html.empty(NOTHING))
            with gr.Row(elem_classes="wb-row"):
                stop = gr.Button("Stop and keep", visible=False)
                resume = gr.Button("Resume this run", visible=False)
            figure = drawing.component(name="curves")
            with gr.Row(elem_classes="wb-row"):
                log = gr.Checkbox(False, label="Log scale", container=False)
                others = gr.Dropdown(
                    [], multiselect=True, label="Lay older runs over it", allow_custom_value=True, scale=3
                )
            result = box()
            with gr.Accordion("What the model will see", open=True):
                preview = box(html.empty("The first rows appear here with what is learned underlined."))
    with gr.Row(elem_classes="wb-do"):
        start = gr.Button("Start fine-tuning", variant="primary")
        ask = gr.Button("Forecast time and memory")
        said = box()
        cost = box()
    asked = gr.Textbox(visible="hidden", label="forecast")

    form = [model, data, kind, columns, method, arguments, training]
    marked = [said, columns, arguments, training]
    frame.on(frame.blocks.load, lists, None, [model, data, method, others], queue=True)
    frame.on(frame.blocks.load, explain, method, [about, arguments], queue=True)
    frame.on(method.change, explain, method, [about, arguments])
    looked = [data, kind, columns, model]
    for event in (frame.blocks.load, data.change, kind.change, columns.change, model.change):
        frame.on(event, look_at, looked, preview, queue=True, trigger_mode="always_last", progress="minimal")
    frame.on(data.change, lambda key: fields.payload(datasets.role_fields(key)), data, columns)
    frame.on(upload.upload, keep, upload, [data, upload, said])
    frame.on(start.click, begin, [*form, name], [frame.run, *marked])
    frame.on(ask.click, estimate, form, [asked, *marked])
    frame.on(stop.click, halt, frame.run, said)
    frame.on(resume.click, go_on, frame.run, said)
    frame.follow(live.stamp, show_cost, [asked], [cost])
    frame.follow(live.stamp, show_run, [frame.run], [card, stop, resume, result])
    frame.follow(stamp_curves, show_curves, [frame.run, others, log], [figure])


# ---- setting up


def lists() -> tuple[Any, Any, Any, Any]:
    """What can be chosen now."""
    known = catalogue.methods("adapter")
    every = [run for run, _ in live.snapshot().runs]
    runs = [(live.title(run), run.id) for run in every if run.job == "finetune"]
    grown = choices.run_models([run for run in every if run.job == "grow"], live.title)
    return (
        gr.update(choices=choices.base_models(encoders=True) + grown),
        gr.update(choices=choices.data_sets()),
        gr.update(choices=[(name, name) for name in known]),
        gr.update(choices=runs[:50]),
    )


def explain(method: str) -> tuple[str, str]:
    """What a method does, and the form of its arguments."""
    record = catalogue.methods("adapter").get(method)
    if record is None:
        return html.note(f"There is no method called {method!r}.", "bad"), fields.payload([])
    paper = record.get("paper")
    link = f' From the paper <a href="papers?paper={escape(paper)}">{escape(paper)}</a>.' if paper else ""
    rate = f" Usual learning rate {record['learning_rate']:g}." if record.get("learning_rate") else ""
    return (
        f'<p class="wb-help">{escape(record["help"])}{rate}{link}</p>',
        fields.payload(fields.from_arguments(record["arguments"])),
    )


def look_at(data: str, kind: str, columns: str, model: str) -> str:
    """The preview, or the sentence that says why there is none."""
    try:
        return datasets.check(data, kind, datasets.mapping(fields.typed(columns)), model)
    except UserError as error:
        return html.note(str(error), "bad")


def keep(path: str | None) -> tuple[Any, Any, str]:
    """Take an upload in and choose it."""
    if path is None:
        return gr.skip(), gr.skip(), ""
    try:
        key = choices.keep_upload(path)
    except UserError as error:
        return gr.skip(), None, html.note(str(error), "bad")
    return gr.update(choices=choices.data_sets(), value=key), None, ""


def collect(
    model: str, data: str, kind: str, columns: str, method: str, arguments: str, training: str
) -> dict[str, Any]:
    """The settings as the job takes them.

    Raises:
        fields.FieldErrors: values that are not of their field's kind.
    """
    record = catalogue.methods("adapter").get(method, {"arguments": []})
    own = fields.from_arguments(record["arguments"])
    errors: dict[str, str] = {}
    values: dict[str, Any] = {}
    given: dict[str, Any] = {}
    for known, text, into in ((TRAINING, training, values), (own, arguments, given)):
        try:
            into.update(fields.read(known, text))
        except fields.FieldErrors as error:
            errors |= error.errors
    if errors:
        raise fields.FieldErrors(errors)
    defaults = {field.name: field.default for field in own}
    return {
        **values,
        "model": model,
        "data": data,
        "method": method,
        "method_args": {key: value for key, value in given.items() if value != defaults[key]},
        "kind": kind or None,
        "columns": datasets.mapping(fields.typed(columns)),
    }


def attempt(job: str, form: tuple, name: str = "") -> tuple[Any, Any, Any, Any, Any]:
    """Submit, or say at which field what is wrong: (run id, message, columns, arguments, training)."""
    try:
        run = submit.submit(job, collect(*form), name)
    except UserError as error:
        return (gr.skip(), *refuse(error, form))
    return run.id, "", *refuse(None, form)[1:]


def refuse(error: UserError | None, form: tuple) -> tuple[str, Any, str, str]:
    """The message, and the forms with the complaints that belong to their fields."""
    _, _, _, _, method, arguments, training = form
    own = fields.from_arguments(catalogue.methods("adapter").get(method, {"arguments": []})["arguments"])
    found = getattr(error, "errors", None)
    if found is None:
        found, _ = fields.by_name([str(error)] if error else [], TRAINING)
    return (
        html.note(str(error), "bad") if error else "",
        gr.skip(),
        fields.payload(own, fields.typed(arguments), found),
        fields.payload(TRAINING, fields.typed(training), found),
    )


def begin(*values: Any) -> tuple:
    """Start: checked, submitted, and shown by its id."""
    *form, name = values
    return attempt("finetune", tuple(form), name)


def estimate(*form: Any) -> tuple:
    """Ask for a forecast as a short run of its own."""
    return attempt("forecast", form)


# ---- watching


def show_cost(id: str) -> tuple[str]:
    """The forecast of the run `id`: waiting, working, or its numbers."""
    run = live.find(id)
    if run is None:
        return ("",)
    status = run.status
    if status == "done":
        return (f'<p class="wb-forecast">{outcome.forecast_words(run.result() or {})}</p>',)
    if status in ("failed", "interrupted", "stopped"):
        return (html.note(run.error or "The forecast was stopped.", "bad"),)
    words = live.place(run) if status == "queued" else "Taking two steps that change nothing …"
    return (f'<p class="wb-forecast wb-muted">{escape(words)}</p>',)


def show_run(id: str) -> tuple[str, Any, Any, str]:
    """Card, the two buttons, and the result of the run."""
    run = live.find(id)
    if id and run is None:
        gone = html.note("There is no such run (any more). Choose one on the page Runs, or start a new one.", "caution")
        return gone, gr.update(visible=False), gr.update(visible=False), ""
    return (
        live.card(run, NOTHING),
        *live.buttons(run),
        outcome.result(run) if run else "",
    )


def chosen(id: str, others: list[str] | None) -> list[Run]:
    """The run in view, then those laid over it."""
    found = [live.find(one) for one in dict.fromkeys([id, *(others or [])]) if one]
    return [run for run in found if run is not None and run.job == "finetune"]


def stamp_curves(id: str, others: list[str] | None, log: bool) -> str:
    """Changes when there are other curves to show."""
    return curve.stamp(chosen(id, others), bool(log))


def show_curves(id: str, others: list[str] | None, log: bool) -> tuple[str]:
    """The figure."""
    return (curve.payload(chosen(id, others), bool(log)),)


def halt(id: str) -> str:
    """Ask the run to stop and keep its last step."""
    live.halt(id)
    return ""


def go_on(id: str) -> str:
    """Put the run back in the queue, on the same curve."""
    live.go_on(id)
    return ""
