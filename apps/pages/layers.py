"""Layers: where the weights of a DCLS kernel went in training, what one is, costs of a step, parameters; growing a model."""

from __future__ import annotations

from html import escape
from typing import Any

import gradio as gr
import pandas as pd

from workbench import machine
from workbench.errors import UserError
from workbench.figures import formats, style
from workbench.papers import _dcls_figures as figures
from workbench.papers.badge import read

from .. import drawing, fields, growth, html, layer_sizes
from ..frame import Frame, Page, box, step

PAGE = Page(
    "Layers",
    "layers",
    "Convolution whose few weights learn where they stand (DCLS), and models that grow from their own layers.",
    "Explore",
    1,
)
LEAST_HEIGHT = 380  # pixels, so that the frame of the bars is filled
WIDE = ("max", "gauss")  # versions whose points have a width
VERSIONS = [
    ("v1 · bilinear", "v1"),
    ("v0 · bilinear, slope of the right", "v0"),
    ("max · triangle", "max"),
    ("gauss · Gaussian", "gauss"),
]


def number(name: str, default: int, text: str, label: str = "", more: bool = False) -> fields.Field:
    """A field for a whole number."""
    return fields.Field(name, "int", default, text, more=more, label=label or name.capitalize())


TIMES = [
    number("channels", 32, "Of the layer. Time grows in proportion. Usual in a first stage: 32 to 96."),
    number("side", 32, "Of the picture, in pixels. Doubling it takes four times as long.", "Picture side"),
    number("batch", 8, "Pictures a step. Time grows in proportion."),
    number(
        "size", 17, "Side of the DCLS kernel, odd. Larger ones are applied by Fourier transform.", "Kernel side", True
    ),
    number("count", 34, "Weights of a DCLS filter. Costs little: they only build the kernel.", "Weights", True),
    number("repeats", 5, "Passes of each layer; the median is told. More are steadier.", more=True),
]
SIZES = [
    number("channels", 96, "Channels of the stage; a depthwise layer has one filter each."),
    number("blocks", 3, "Depthwise layers of the stage.", "Blocks"),
    number("size", 17, "Side of the window in which DCLS places its weights, odd.", "DCLS window"),
    number("count", 34, "Weights of each DCLS filter.", "DCLS weights"),
    number("k", 7, "Side of the dense kernel to compare with, odd. ConvNeXt: 7.", "Dense side"),
    fields.Field("version", "choice", "v1", "How a weight is spread over pixels; max and gauss also learn its width.",
                 tuple(VERSIONS), label="Version"),
    fields.Field("places", "choice", "shared", "Whether all blocks of the stage stand on the same positions, as in the paper's "
                 "ConvNeXt.", (("one set for all blocks", "shared"), ("own ones in each block", "own")), label="Positions"),
]  # fmt: skip
MOVING = """import pandas as pd
from workbench.papers import _dcls_figures as figures
from workbench.papers.badge import read
from workbench.papers.dcls import of

rows = of(pd.DataFrame(read("dcls")["rows"]), "point")
figures.moving_points(rows[rows["seed"] == {seed}], moment={moment})"""
SPREAD = """import pandas as pd
from workbench.papers import _dcls_figures as figures
from workbench.papers.badge import read
from workbench.papers.dcls import SIZE, of

figures.spread(of(pd.DataFrame(read("dcls")["rows"]), "bin"), SIZE // 2)"""
POINT = """from workbench.papers._dcls_lesson import one_point

one_point({version!r}, {x}, {y}, {sigma})"""
STEPS = """from workbench.papers import _dcls_figures as figures
from workbench.papers._dcls_lesson import step_times

figures.step_bars(step_times({settings}))"""
NO_RECORD = "The points appear here once the claim of DCLS has been run: open the page Papers and run it."


def build(frame: Frame) -> None:
    """Lay the page out inside the current `gr.Blocks`."""
    last = moments()
    with gr.Row(elem_classes="wb-work"):
        with gr.Column(elem_classes="wb-set"):
            step(1, "A kernel that learns where its weights stand")
            box(about())
            seed = gr.Dropdown(
                seeds(), value=seeds()[0] if seeds() else None, label="Training run (seed)",
                info="Runs behind the badge; each follows the channel that travelled farthest.",
            )  # fmt: skip
            moment = gr.Slider(
                0, max(1, last), value=last, step=1, label="Snapshot",
                info=f"0 is the start, {max(1, last)} the end of training.",
            )  # fmt: skip
            at = box()
        with gr.Column(elem_classes="wb-see"):
            moving = drawing.component(name="moving-points")
            spread = drawing.component(name="positions")
    with gr.Row(elem_classes="wb-work"):
        with gr.Column(elem_classes="wb-set"):
            step(2, "One weight, spread over pixels")
            version = gr.Dropdown(VERSIONS, value="v1", label="Version", info="The profile along each axis.")
            x = gr.Slider(-4, 4, value=1.3, step=0.1, label="x", info="Pixels to the right of the middle.")
            y = gr.Slider(-4, 4, value=-0.6, step=0.1, label="y", info="Pixels below the middle.")
            sigma = gr.Slider(
                0.3, 3, value=1.0, step=0.1, label="Width σ", info="In pixels; learned in max (from 1) and gauss (from 0.27).",
                visible=False,
            )  # fmt: skip
        with gr.Column(elem_classes="wb-see"):
            point = drawing.component(name="one-weight")
    with gr.Row(elem_classes="wb-work"):
        with gr.Column(elem_classes="wb-set"):
            step(3, "What a step costs here")
            timing = fields.component(TIMES)
            measure = gr.Button("Measure on this machine", variant="primary")
            said = box(f'<p class="wb-help">Takes a few seconds on {escape(machine.processor())}.</p>')
        with gr.Column(elem_classes="wb-see"):
            bars = drawing.component(unmeasured(), name="step-times")
    with gr.Row(elem_classes="wb-work"):
        with gr.Column(elem_classes="wb-set"):
            step(4, "Parameters")
            sizing = fields.component(SIZES)
        with gr.Column(elem_classes="wb-see"):
            table = box()
    growth.build(frame, 5)
    for event in (frame.blocks.load, seed.change, moment.change):
        frame.on(event, show_moving, [seed, moment], [moving, at], trigger_mode="always_last")
    frame.on(frame.blocks.load, show_spread, None, spread)
    frame.on(version.change, lambda v: gr.update(visible=v in WIDE), version, sigma)
    for event in (frame.blocks.load, version.change, x.change, y.change, sigma.change):
        frame.on(event, show_point, [version, x, y, sigma], point, trigger_mode="always_last")
    frame.on(measure.click, show_times, timing, [bars, timing, said], gate=True, progress="minimal")
    for event in (frame.blocks.load, sizing.change):
        frame.on(event, show_sizes, sizing, table, trigger_mode="always_last")


# ---- what training left


def rows_of(part: str) -> pd.DataFrame:
    """Rows of the stored claim; empty where it has not been run."""
    record = read("dcls")
    if not record:
        return pd.DataFrame()
    rows = pd.DataFrame(record["rows"])  # `of` of the paper's page, without the import of torch that it brings
    return rows[rows["part"] == part].dropna(axis="columns", how="all").reset_index(drop=True)


def seeds() -> list[int]:
    """Seeds whose points were recorded."""
    rows = rows_of("point")
    return [] if rows.empty else sorted(int(seed) for seed in rows["seed"].unique())


def moments() -> int:
    """The last snapshot's number."""
    rows = rows_of("point")
    return 0 if rows.empty else int(rows["moment"].max())


def about() -> str:
    """The idea, and what came out."""
    record = read("dcls")
    words = (
        "<p class='wb-small'>A dense 17 × 17 filter has 289 weights. DCLS keeps 34 and learns where each stands, in fractions "
        "of a pixel.</p>"
    )
    if record:
        words += (
            f"<p class='wb-small'>{html.state(record['badge'])} <a href='papers?paper=dcls'>the paper's claim</a>, "
            f"{len(record['seeds'])} seeds.</p>"
        )
    return words


def show_moving(seed: int | None, moment: float) -> tuple[str, str]:
    """The kernel of one channel at a snapshot, and when that was."""
    rows = rows_of("point")
    if rows.empty or seed is None:
        return missing(), ""
    own = rows[rows["seed"] == int(seed)]
    if own.empty:
        raise UserError(f"Seed {seed} has no recorded points; choose one of {', '.join(map(str, seeds()))}.")
    moment = min(int(moment), int(own["moment"].max()))
    fig = figures.moving_points(own, moment=moment)
    steps = read("dcls")["ran"].get("steps", {}).get("motifs")
    share = moment / max(1, int(own["moment"].max()))
    words = f"After step {formats.count(round(share * steps))} of {formats.count(steps)}." if steps else ""
    shown = own[own["moment"] <= moment][["moment", "element", "x", "y", "weight"]]
    cell = MOVING.format(seed=int(seed), moment=moment)
    return drawing.payload(
        fig, name="moving-points", cell=cell, rows=shown
    ), f'<p class="wb-small wb-number">{words}</p>'


def show_spread() -> str:
    """How far all positions stand from the middle, before and after."""
    from workbench.papers.dcls import SIZE

    rows = rows_of("bin")
    if rows.empty:
        return missing()
    return drawing.payload(figures.spread(rows, SIZE // 2), name="positions", cell=SPREAD, rows=rows)


def missing() -> str:
    """A figure that says how to fill it."""
    import plotly.graph_objects as go

    fig = go.Figure()
    style.empty(fig, NO_RECORD)
    return drawing.payload(
        style.finish(fig, title="Not run yet", alt="An empty plot: DCLS was not run yet."), name="dcls"
    )


# ---- knobs


def show_point(version: str, x: float, y: float, sigma: float) -> str:
    """The dense kernel of a single weight."""
    from workbench.papers._dcls_lesson import one_point

    given = {"version": version, "x": round(float(x), 2), "y": round(float(y), 2), "sigma": round(float(sigma), 2)}
    return drawing.payload(one_point(**given), name="one-weight", cell=POINT.format(**given))


def unmeasured() -> Any:
    """The empty place of the bars."""
    import plotly.graph_objects as go

    fig = go.Figure()
    style.empty(fig, "One bar per layer appears here. Press Measure on this machine.")
    return style.finish(
        fig, title="What a step of one layer costs", alt="An empty plot: nothing has been measured yet."
    )


def show_times(form: str) -> tuple[Any, str, str]:
    """Measure now; (figure, form, message)."""
    try:
        values = layer_sizes.check(fields.read(TIMES, form), layer_sizes.TIMED)
    except UserError as error:
        found = getattr(error, "errors", None) or fields.by_name([str(error)], TIMES)[0]
        return gr.skip(), fields.payload(TIMES, fields.typed(form), found), html.note(str(error), "bad")
    rows = layer_sizes.times(values)
    fig = figures.step_bars(rows)
    fig.update_layout(height=max(LEAST_HEIGHT, fig.layout.height))
    style.caption(
        fig, f"Forward and backward on {values['batch']} inputs, {values['channels']} × {values['side']} × {values['side']}; × "
        f"is the ratio to the 7 × 7 layer. Medians of {values['repeats']} passes taken in turn on this machine, no interval.",
    )  # fmt: skip
    settings = ", ".join(f"{name}={value}" for name, value in values.items())
    drawn = drawing.payload(fig, name="step-times", cell=STEPS.format(settings=settings), rows=rows)
    made = f"{machine.processor()}, {machine.cores()} cores, torch {machine.versions('torch')['torch']}"
    return drawn, fields.payload(TIMES, fields.typed(form)), f'<p class="wb-help">Measured on {escape(made)}.</p>'


def show_sizes(form: str) -> str:
    """Parameters of a stage."""
    try:
        values = layer_sizes.check(fields.read(SIZES, form), layer_sizes.LIMITS)
        shared = values.pop("places") == "shared"
        rows = layer_sizes.sizes(**values, shared=shared)
    except UserError as error:
        return html.note(str(error), "bad")
    head = ("Layers of the stage", "Weights", "Positions", "Widths", "Biases", "Together", "Window")
    table = html.table(
        head,
        [[*(row[key] for key in list(row)[:-1]), f"{row['window']} × {row['window']}"] for row in rows],
        label="Parameters",
    )
    words = (
        f"{values['blocks']} depthwise layers of {values['channels']} channels. DCLS holds n = 2 positions a weight"
        + (", shared by all blocks" if shared else ", own ones in each block")
        + f". The largest dense kernels that are no bigger: {layer_sizes.equal_side(rows[0], values)} a side."
    )
    note = f"<p class='wb-small wb-muted' style='margin-top: 8px'>{escape(words)}</p>"
    return f"<h2>What {values['blocks']} depthwise layers hold</h2>{table}{note}"
