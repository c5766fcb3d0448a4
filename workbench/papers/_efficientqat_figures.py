"""The pictures of the page `efficientqat`: what is left of rounding's gap, loss against bits, errors block by block, and the
stairs that training looks at.

Rows are those of the page's `experiment`: columns seed, kind ("model" or "block"), bits, group, arm; of models loss (nats per
token), of blocks block (from 1), before, after (relative output error, 0 … 1).
"""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from workbench.figures import _frames, style
from workbench.papers._nola_figures import half_interval, interval_words

FLOAT, RTN, GPTQ = "float", "RTN", "GPTQ"
STEPS_ONLY, BLOCK, WHOLE, LATE = "steps and zeros only", "Block-AP", "Block-AP + E2E-QP", "RTN + E2E-QP"
SYMBOLS = {RTN: "circle", STEPS_ONLY: "diamond", LATE: "circle-open", BLOCK: "pentagon", WHOLE: "star"}
LINES = {RTN: ("circle", "dot"), GPTQ: ("square", "dash"), BLOCK: ("pentagon", "dashdot"), WHOLE: ("star", "solid")}
MUTED = {"size": 12, "color": style.LIGHT["muted"]}
LIMIT = 0.4


def left_over(rows: pd.DataFrame) -> pd.DataFrame:
    """Share of round-to-nearest's gap to the float model that every arm leaves: 0 the float model, 1 rounding.

    Args:
        rows: of one or more seeds.

    Returns:
        Columns seed, bits, group, arm, loss, gap (nats per token), left (share; NaN where rounding costs nothing).
    """
    table = rows[rows["kind"] == "model"]
    dense = table[table["arm"] == FLOAT].set_index("seed")["loss"]
    table = table[table["arm"] != FLOAT].copy()
    table["gap"] = table["loss"] - table["seed"].map(dense)
    keys = ["seed", "bits", "group"]
    rounded = table[table["arm"] == RTN].set_index(keys)["gap"]
    size = table.set_index(keys).index.map(rounded).to_numpy(dtype=float)
    table["left"] = np.where(size > 0, table["gap"].to_numpy() / np.where(size > 0, size, 1.0), math.nan)
    return table[[*keys, "arm", "loss", "gap", "left"]].reset_index(drop=True)


def verdict(rows: pd.DataFrame, bits: int = 2, group: int = 32) -> go.Figure:
    """What every arm leaves of rounding's gap, at the width that is judged.

    Args:
        rows: of one or more seeds.
        bits, group: which models.
    """
    table = left_over(rows)
    table = table[(table["bits"] == bits) & (table["group"] == group)].dropna(subset=["left"])
    arms = [arm for arm in (WHOLE, BLOCK, LATE, STEPS_ONLY, RTN) if arm in set(table["arm"])]
    means = table.groupby("arm")["left"].mean()
    fig = go.Figure()
    fig.add_vline(x=LIMIT, line={"color": style.LIGHT["muted"], "width": 1, "dash": "dot"})
    fig.add_annotation(text="two fifths", x=LIMIT, y=len(arms) - 0.4, xanchor="left", xshift=4, showarrow=False,
                       font=MUTED)  # fmt: skip
    for index, arm in enumerate(arms):
        own = table[table["arm"] == arm]["left"]
        color = style.LIGHT["accent"] if arm in (BLOCK, WHOLE) else style.LIGHT["muted"]
        fig.add_scatter(
            x=[float(means[arm])], y=[index], mode="markers", name=arm, showlegend=False,
            error_x={"type": "data", "array": [half_interval(own)], "color": style.LIGHT["muted"], "thickness": 1.5,
                     "width": 4},
            marker={"symbol": SYMBOLS[arm], "size": 12, "color": color, "line": {"color": color, "width": 2}},
            hovertemplate=f"{arm}<br>%{{x:.2f}} of rounding's gap<extra></extra>",
        )  # fmt: skip
    fig.update_yaxes(
        type="linear", tickmode="array", tickvals=list(range(len(arms))), showgrid=False, range=[-0.6, max(len(arms), 1) - 0.1],
        ticktext=[arm.replace(" + ", "<br>+ ").replace(" and zeros", "<br>and zeros") for arm in arms],
    )  # fmt: skip
    fig.update_xaxes(type="linear", title_text="Gap to float (share of rounding's)", rangemode="tozero")
    told = ", ".join(f"{arm} {means[arm]:.2f}" for arm in arms)
    seeds = table["seed"].nunique()
    return style.finish(
        fig, title=f"What is left of the loss that {bits} bits cost", left=112, plot=46 * max(1, len(arms)),
        alt=f"Share of round-to-nearest's gap that is left at {bits} bits: {told or 'rounding costs nothing here'}.",
        caption=f"0 is the float model, 1 round-to-nearest; {bits} bits, {group} weights to a step, same calibration text for "
        f"all. {interval_words(seeds)}",
    )  # fmt: skip


def against_bits(rows: pd.DataFrame, points: pd.DataFrame | None = None, group: int = 64) -> go.Figure:
    """Loss against bits per weight: rounding, GPTQ, Block-AP and both phases.

    Args:
        rows: of one or more seeds.
        points: rows of models made here and now, drawn as stars.
        group: weights to a step of the models in the lines.
    """
    models = rows[rows["kind"] == "model"]
    dense = float(models[models["arm"] == FLOAT]["loss"].mean())
    table = models[(models["group"] == group) & models["arm"].isin(LINES)]
    fig, told = go.Figure(), {}
    colors = dict(zip(LINES, (style.LIGHT["bad"], style.LIGHT["muted"], style.COLORS["low-rank"], style.LIGHT["accent"]),
                      strict=True))  # fmt: skip
    for arm, (symbol, dash) in LINES.items():
        own = table[table["arm"] == arm].groupby("bits")["loss"].mean().sort_index()
        if own.empty:
            continue
        color = style.readable(colors[arm], style.LIGHT["ground"])
        fig.add_scatter(
            x=own.index.astype(int).tolist(), y=own.tolist(), name=arm, mode="lines+markers",
            line={"color": color, "width": 2, "dash": dash}, marker={"symbol": symbol, "size": 9, "color": color},
            hovertemplate=f"{arm}<br>%{{x}} bits<br>%{{y:.3f}} nats per token<extra></extra>",
        )  # fmt: skip
        told[arm] = own.iloc[0]
    if points is not None and len(points):
        fig.add_scatter(
            x=points["bits"].astype(int).tolist(), y=points["loss"].tolist(), name="yours", mode="markers",
            text=[f"{row.arm}, group {row.group}" for row in points.itertuples()],
            marker={"symbol": "star-diamond", "size": 15, "color": style.LIGHT["accent"],
                    "line": {"color": style.LIGHT["text"], "width": 1}},
            hovertemplate="%{text}<br>%{x} bits<br>%{y:.3f} nats per token<extra></extra>",
        )  # fmt: skip
    fig.add_hline(y=dense, line={"color": style.LIGHT["muted"], "width": 1, "dash": "dash"})
    fig.add_annotation(text=f"float: {dense:.3f}", x=0.5, xref="paper", y=dense, xanchor="center", yanchor="top",
                       showarrow=False, font=MUTED)  # fmt: skip
    fig.update_xaxes(type="linear", tickmode="array", tickvals=[2, 3, 4], title_text="Bits per weight (without steps)")
    fig.update_yaxes(type="linear", title_text="Loss (nats per token)")
    least = int(table["bits"].min()) if len(table) else 0
    ends = ", ".join(f"{name} {value:.3f}" for name, value in told.items())
    return style.finish(
        fig, title="Loss against bits", top=style.TOP + 24 * len(fig.data),
        alt=f"At {least} bits the losses are: {ends}; the float model has {dense:.3f}.",
        caption=f"Text not seen, {group} weights to a step. Mean over {models['seed'].nunique()} seeds. Diamonds: made here.",
    )  # fmt: skip


def by_block(rows: pd.DataFrame, bits: int = 2, group: int = 32) -> go.Figure:
    """Output error of every block, rounded and after its training, along the quantized stream.

    Args:
        rows: of one or more seeds.
        bits, group: which model.
    """
    table = rows[(rows["kind"] == "block") & (rows["bits"] == bits) & (rows["group"] == group)]
    ends = {arm: own.groupby("block")[["before", "after"]].mean() for arm, own in table.groupby("arm")}
    fig, told = go.Figure(), []
    series = [(BLOCK, "before", "rounded", style.LIGHT["bad"], "circle", "dot"),
              (BLOCK, "after", "everything trained", style.LIGHT["accent"], "pentagon", "solid")]  # fmt: skip
    for arm, column, name, shade, symbol, dash in series:
        if arm not in ends:
            continue
        own, color = 100 * ends[arm][column], style.readable(shade, style.LIGHT["ground"])
        fig.add_scatter(
            x=own.index.astype(int).tolist(), y=own.tolist(), name=name, mode="lines+markers",
            line={"color": color, "width": 2, "dash": dash}, marker={"symbol": symbol, "size": 9, "color": color},
            hovertemplate=f"{name}<br>block %{{x}}<br>%{{y:.1f}} percent<extra></extra>",
        )  # fmt: skip
        told.append(f"{name} {own.iloc[-1]:.0f} percent")
    last = int(table["block"].max()) if len(table) else 1
    fig.update_xaxes(type="linear", dtick=max(1, last // 10), title_text="Block (number)")
    fig.update_yaxes(type="linear", rangemode="tozero", title_text="Output error (percent)")
    return style.finish(
        fig, title="Error of each block's output", top=style.TOP + 24 * 2,
        alt=f"Relative output error of the last block at {bits} bits: {', '.join(told) or 'nothing was trained'}.",
        caption="‖quantized − float‖ / ‖float‖ per token, on calibration text, after the trained "
        "blocks before it. Rounded: this block only.",
    )  # fmt: skip


def stairs(bits: int = 2, step: float = 1.0, zero: float = 1.0) -> go.Figure:
    """The quantizer that training sees: weight in, rounded weight out, and what a gradient meets on the way back.

    Args:
        bits: bits per weight.
        step: s, in units of the weight axis.
        zero: z, in codes.
    """
    import torch

    from workbench.compress._fake_quant import fake_quant

    top = (1 << bits) - 1
    weight = torch.linspace(-4, 4, 801, dtype=torch.float64).unsqueeze(0).requires_grad_()
    one = torch.ones(1, 1, dtype=torch.float64)
    rounded = fake_quant(weight, one * step, one * zero, bits)
    rounded.sum().backward()
    x, y, open_ = weight.detach()[0], rounded.detach()[0], weight.grad[0] > 0
    fig = go.Figure()
    for name, shown, color, dash in (
        ("gradient passes", open_, style.LIGHT["accent"], "solid"), ("gradient stops", ~open_, style.LIGHT["bad"], "dot"),
    ):  # fmt: skip
        fig.add_scatter(
            x=x.tolist(), y=torch.where(shown, y, math.nan).tolist(), mode="lines", name=name,
            line={"color": style.readable(color, style.LIGHT["ground"]), "width": 2.5, "dash": dash, "shape": "hv"},
            hovertemplate=f"weight %{{x:.2f}} → %{{y:.2f}}<br>{name}<extra></extra>",
        )  # fmt: skip
    fig.add_scatter(x=[-4, 4], y=[-4, 4], mode="lines", name="unchanged", hoverinfo="skip",
                    line={"color": style.LIGHT["muted"], "width": 1, "dash": "dash"})  # fmt: skip
    fig.update_xaxes(type="linear", title_text="Weight before (same unit)")
    fig.update_yaxes(type="linear", title_text="Weight after (same unit)")
    share = float(open_.double().mean())
    return style.finish(
        fig, title=f"{top + 1} stairs of height s", top=style.TOP + 24 * 3,
        alt=f"A staircase of {len(set(_frames.plain(y.round(decimals=6).tolist())))} values from {float(y.min()):.3g} to "
        f"{float(y.max()):.3g}; the gradient passes on {share:.0%} of the axis.",
        caption=f"{bits} bits, s = {step:g}, z = {zero:g}. Flat stairs have no slope; training pretends "
        "slope 1 between the ends and 0 beyond.",
    )  # fmt: skip
