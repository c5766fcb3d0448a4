"""The part of the page Layers that grows a model: lineage of its layers at once, two curves from a run, when to grow."""

from __future__ import annotations

from typing import Any

import gradio as gr
import pandas as pd

from workbench.commands.grow import grow as command
from workbench.errors import UserError
from workbench.figures import formats
from workbench.figures.growth import growth_loss, lineage
from workbench.models.growth_job import ARMS, rows_of
from workbench.runs import Run
from workbench.runs.files import peek

from . import catalogue, choices, drawing, fields, html, live, submit
from .frame import Frame, box, step

OPERATORS = (
    ("stack · layers 0 1 0 1", "stack"),
    ("split · layers 0 0 1 1", "split"),
    ("zero · new layers start silent", "zero"),
    ("width · every unit again", "width"),
    ("mlp · feed-forward units again", "mlp"),
)
WHEN = [
    fields.Field("billions", "float", 7.0, "Parameters of the grown model, in billions. The rule was fitted from 0.4 to 7.",
                 label="Grown model"),
    fields.Field("trillions", "float", 2.0, "Tokens of its whole training, in trillions.", label="Tokens"),
]  # fmt: skip
LOSSES = """from workbench.figures.growth import growth_loss
from workbench.models.growth_job import rows_of
from workbench.runs import Store, merge
import pandas as pd

columns = ["arm", "step", "flop", "loss"]
growth_loss(pd.DataFrame(rows_of(merge(Store().get({id!r}).metrics())), columns=columns))"""
LINEAGE = """from workbench.figures.growth import lineage
from workbench.models.growth_plan import origins

lineage(origins({operator!r}, {layers}, {factor}), {operator!r})"""
NOTHING = "Curves appear here. Press Grow: with tiny-lm they take under a minute on two cores."


def form() -> list[fields.Field]:
    """The fields, with the help and the defaults of `workbench grow`; models are those at hand now."""
    rest = {f.name: f for f in fields.from_command(command, ("factor", "noise", "steps", "learning_rate", "seed"),
                                                   more=("noise", "learning_rate", "seed"))}  # fmt: skip
    texts = tuple(choices.data_sets("text"))
    return [
        fields.Field("model", "choice", "tiny-lm", "Larger ones take longer; a run's model cannot be grown here.",
                     tuple(choices.base_models()), label="Model"),
        fields.Field("operator", "choice", "stack", "Only the first two change what the model says at first; in the paper the "
                     "first is the best start.", OPERATORS, label="Operator"),
        rest["factor"],
        rest["steps"],
        fields.Field("data", "choice", "moby-dick", "Both models are trained on it; a tenth is held out.", texts, label="Data"),
        rest["noise"], rest["learning_rate"], rest["seed"],
    ]  # fmt: skip


def build(frame: Frame, number: int) -> None:
    """Lay the two steps out, the first with this number, inside the current `gr.Blocks`."""
    with gr.Row(elem_classes="wb-work"):
        with gr.Column(elem_classes="wb-set"):
            step(number, "Grow a trained model")
            settings = fields.component(form())
            with gr.Row(elem_classes="wb-row"):
                start = gr.Button("Grow", variant="primary")
                stop = gr.Button("Stop and keep", visible=False)
                resume = gr.Button("Resume this run", visible=False)
            said = box()
        with gr.Column(elem_classes="wb-see"):
            came = drawing.component(name="lineage")
            card = box(html.empty(NOTHING))
            losses = drawing.component(name="growth", visible=False)
    with gr.Row(elem_classes="wb-work"):
        with gr.Column(elem_classes="wb-set"):
            step(number + 1, "When to grow a large one")
            when = fields.component(WHEN)
        with gr.Column(elem_classes="wb-see"):
            told = box()
    frame.on(start.click, begin, settings, [frame.run, said, settings])
    frame.on(stop.click, live.halt, frame.run, None)
    frame.on(resume.click, live.go_on, frame.run, None)
    frame.follow(live.stamp, show_run, [frame.run], [card, stop, resume])
    frame.follow(stamp_losses, show_losses, [frame.run], [losses])
    for event in (frame.blocks.load, settings.change):
        frame.on(event, show_lineage, settings, came, trigger_mode="always_last")
    for event in (frame.blocks.load, when.change):
        frame.on(event, show_when, when, told, trigger_mode="always_last")


def begin(typed: str) -> tuple[Any, str, str]:
    """Submit a growth; (run id, message, form)."""
    known = form()
    try:
        run = submit.submit("grow", fields.read(known, typed))
    except UserError as error:
        found = getattr(error, "errors", None) or fields.by_name([str(error)], known)[0]
        return gr.skip(), html.note(str(error), "bad"), fields.payload(known, fields.typed(typed), found)
    return run.id, "", fields.payload(known, fields.typed(typed))


def own(id: str) -> Run | None:
    """The growth that the address names."""
    run = live.find(id)
    return run if run is not None and run.job == "grow" else None


def show_run(id: str) -> tuple[Any, ...]:
    """Card with sizes, and the buttons."""
    run = own(id)
    return live.card(run, NOTHING) + (sizes(run) if run else ""), *live.buttons(run)


def stamp_losses(id: str) -> str:
    """Changes with every new held-out loss."""
    run = own(id)
    return f"{run.id} {len(rows_of(live.metrics(run)))}" if run else ""


def show_losses(id: str) -> tuple[Any]:
    """The curves so far."""
    run = own(id)
    found = rows_of(live.metrics(run)) if run else []
    if not found:
        return (gr.update(visible=False),)
    rows = pd.DataFrame(found)
    drawn = drawing.payload(growth_loss(rows), name="growth", cell=LOSSES.format(id=run.id), rows=rows)
    return (gr.update(visible=True, value=drawn),)


def sizes(run: Run) -> str:
    """Parameters and cost of both models, and where to go on with the grown one."""
    facts = peek(run.directory / "growth.json")
    if not facts:
        return ""
    rows = [
        [arm, formats.parameters(facts["parameters"][arm]), f"{facts['flop_per_step'][arm] / 1e9:.0f} GFLOP"]
        for arm in ARMS
    ]
    table = html.table(("Model", "Parameters", "One step"), rows, label="Sizes before and after growth")
    links = (
        "<p class='wb-small'>Fine-tune, chat with or compress the grown model: it stands in their lists of models.</p>"
    )
    return table + (links if run.status == "done" else "")


def show_lineage(typed: str) -> str:
    """Where each layer would come from, for the model and operator that are chosen."""
    from workbench import models
    from workbench.models.growth_plan import origins

    catalogue.ready()
    values = fields.typed(typed)
    try:
        factor = min(8, max(2, int(values["factor"])))
        config = models.load_config(choices.model_place(values["model"])).get_text_config()
    except (UserError, ValueError):
        return gr.skip()  # the form says what is wrong when Grow is pressed
    operator = str(values["operator"])
    fig = lineage(origins(operator, config.num_hidden_layers, factor), operator)
    cell = LINEAGE.format(operator=operator, layers=config.num_hidden_layers, factor=factor)
    return drawing.payload(fig, name="lineage", cell=cell)


def show_when(typed: str) -> str:
    """Tokens after which to grow a model of this size, by the paper's rule."""
    from workbench.models.growth_plan import growth_tokens

    try:
        values = fields.read(WHEN, typed)
        parameters, tokens = 1e9 * values["billions"], 1e12 * values["trillions"]
        found = growth_tokens(parameters, 6 * parameters * tokens)
    except UserError as error:
        return html.note(str(error), "bad")
    share = found / tokens
    words = (
        f"Train a model of a quarter of the layers on <b class='wb-number'>{found / 1e9:.1f} billion tokens</b>, "
        f"{share:.2%} of them, then stack it four times."
    )
    rule = "log10 d = 0.88 log10 N + 163.27 / log10 C − 5.74, with C = 6 N D"
    fitted = 0.3 <= values["billions"] <= 10
    outside = "" if fitted else "<p class='wb-small'>This is outside the sizes the rule was fitted on.</p>"
    return (
        f"<h2>When to grow</h2><p>{words}</p>{outside}<p class='wb-small wb-muted'>{rule} "
        "(Du et al. 2024, arXiv 2405.15319).</p>"
    )
