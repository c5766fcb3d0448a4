"""The pictures of lessons 08 and 09 on how rounding works: staircase, tables, two weights, the ladder, loud tokens, gaps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from workbench.figures import style

MUTED = {"size": 12, "color": style.LIGHT["muted"]}
ACCENT = style.LIGHT["accent"]
LOOKS = {"rtn": "rtn-4", "gptq": "gptq-3", "nf4": "nf4", "fp4": "fp-4"}


def staircase(weights: np.ndarray, bits: int = 3, group: int | None = None, symmetric: bool = False) -> go.Figure:
    """One row of weights before and after rounding to a grid.

    Args:
        weights: floats [in].
        bits: bits per code.
        group: weights that share a scale; None: all.
        symmetric: no zero point.
    """
    import torch

    from workbench.compress.rtn import quantize_rtn

    row = torch.as_tensor(weights, dtype=torch.float32)[None]
    record = quantize_rtn(row, bits=bits, group_size=group, symmetric=symmetric)
    back = record.dequantize()[0].numpy()
    error = float(np.linalg.norm(back - weights) / np.linalg.norm(weights))
    fig = go.Figure()
    edge = float(np.abs(weights).max())
    fig.add_scatter(x=[-edge, edge], y=[-edge, edge], mode="lines", name="no rounding", showlegend=False, hoverinfo="skip",
                    line={"color": style.LIGHT["muted"], "width": 1, "dash": "dash"})  # fmt: skip
    look = style.look(f"rtn-{bits}")
    fig.add_scatter(
        x=weights.tolist(), y=back.tolist(), mode="markers", name="weights", showlegend=False,
        marker={"symbol": "circle", "size": 6, "color": look.fill, "line": {"color": look.stroke, "width": 1}},
        hovertemplate="%{x:.4f} becomes %{y:.4f}<extra></extra>",
    )  # fmt: skip
    fig.update_xaxes(type="linear", title_text="Weight before (as stored)")
    fig.update_yaxes(type="linear", title_text="Weight after")
    shared = "one scale for the row" if group is None else f"{record.scales.shape[1]} scales, one for {group} weights"
    return style.finish(
        fig, title=f"{len(weights)} weights on {1 << bits} codes",
        alt=f"At {bits} bits and {shared} the row moves by {error:.1%} of its length.",
        caption=f"{shared.capitalize()}: {record.bits_per_weight:.2f} bits a weight, error ‖ŵ − w‖ / ‖w‖ = {error:.1%}.",
    )  # fmt: skip


def tables(weights: np.ndarray, kind: str = "nf4", block: int = 64) -> go.Figure:
    """Where the sixteen values of a 4-bit table stand among real weights.

    Args:
        weights: floats, a multiple of the block.
        kind: nf4, fp4, or int4 (seven even steps each way).
        block: weights that share a scale.
    """
    from workbench.compress.nf4 import TABLES

    blocks = weights.reshape(-1, block)
    unit = (blocks / np.abs(blocks).max(1, keepdims=True)).ravel()
    levels = np.unique(TABLES[kind]) if kind in TABLES else np.arange(-7, 8) / 7
    nearest = levels[np.abs(unit[:, None] - levels).argmin(1)]
    error = float(np.linalg.norm(nearest - unit) / np.linalg.norm(unit))
    counts, edges = np.histogram(unit, bins=40, range=(-1, 1))
    fig = go.Figure()
    fig.add_bar(x=((edges[1:] + edges[:-1]) / 2).tolist(), y=counts.tolist(), name="weights", showlegend=False,
                marker={"color": style.COLORS["base"], "line": {"width": 0}},
                hovertemplate="%{y} weights<extra></extra>")  # fmt: skip
    height = 1.08 * float(counts.max())
    fig.add_scatter(
        x=levels.tolist(), y=[height] * len(levels), mode="markers", name=kind, showlegend=False,
        marker={"symbol": "triangle-down", "size": 11, "color": ACCENT}, hovertemplate="code value %{x:.3f}<extra></extra>",
    )  # fmt: skip
    fig.update_layout(bargap=0.05)
    fig.update_xaxes(type="linear", title_text="Weight / largest of its block", range=[-1.05, 1.05])
    fig.update_yaxes(type="linear", title_text="Weights (number)", range=[0, 1.15 * height])
    return style.finish(
        fig, title=f"Where the codes of {kind} stand",
        alt=f"With {kind} the weights move by {error:.1%} of their length.",
        caption=f"Grey: weights of the shipped model in blocks of {block}. Triangles: the values a code can take. "
        f"Error ‖ŵ − w‖ / ‖w‖ = {error:.1%}.",
    )  # fmt: skip


def two_rules(weight: Sequence[float], correlation: float) -> dict[str, tuple[list[float], float]]:
    """Two weights rounded to whole numbers by both rules: {rule: (codes, Δ H Δᵀ)} with H = [[1, ρ], [ρ, 1]].

    Args:
        weight: the two weights.
        correlation: ρ of their inputs, −1 … 1.
    """
    first = round(weight[0])
    chosen = {
        "nearest": [first, round(weight[1])],
        "GPTQ": [first, round(weight[1] + correlation * (weight[0] - first))],
    }
    return {
        rule: (codes, (a := codes[0] - weight[0]) ** 2 + 2 * correlation * a * (b := codes[1] - weight[1]) + b**2)
        for rule, codes in chosen.items()
    }


def two_weights(first: float = 1.45, second: float = 1.35, correlation: float = 0.9) -> go.Figure:
    """The loss of moving two weights, the grid, and the point each rule takes.

    Args:
        first, second: the weights, in steps of the grid.
        correlation: of their inputs.
    """
    axis = np.linspace(-0.5, 3.5, 81)
    a, b = np.meshgrid(axis - first, axis - second)
    loss = a**2 + 2 * correlation * a * b + b**2
    fig = go.Figure()
    fig.add_contour(
        x=axis.tolist(), y=axis.tolist(), z=np.sqrt(loss).round(3).tolist(), showscale=False, ncontours=14, hoverinfo="skip",
        colorscale=[[0, "#EAF4F4"], [1, "#0B6E6E"]], line={"width": 0.5}, name="loss",
    )  # fmt: skip
    grid = [(i, j) for i in range(4) for j in range(4)]
    fig.add_scatter(x=[i for i, _ in grid], y=[j for _, j in grid], mode="markers", showlegend=False, hoverinfo="skip",
                    marker={"size": 6, "color": style.LIGHT["text"]}, name="grid")  # fmt: skip
    fig.add_scatter(x=[first], y=[second], mode="markers", name="the weights", hovertemplate="the weights<extra></extra>",
                    marker={"symbol": "x", "size": 12, "color": style.LIGHT["text"]})  # fmt: skip
    found = two_rules((first, second), correlation)
    for rule, symbol, size, color in (
        ("nearest", "circle", 17, style.COLORS["prompts"]),
        ("GPTQ", "square", 11, style.COLORS["sparse"]),
    ):
        codes, cost = found[rule]
        fig.add_scatter(
            x=[codes[0]], y=[codes[1]], mode="markers", name=rule, hovertemplate=f"{rule}: loss {cost:.3f}<extra></extra>",
            marker={"symbol": symbol, "size": size, "color": color, "line": {"color": style.LIGHT["text"], "width": 1}},
        )  # fmt: skip
    fig.update_xaxes(type="linear", title_text="First weight (steps)", range=[-0.5, 3.5], showgrid=False)
    fig.update_yaxes(type="linear", title_text="Second weight (steps)", range=[-0.5, 3.5], showgrid=False)
    told = ", ".join(f"{rule} {cost:.3f}" for rule, (_, cost) in found.items())
    return style.finish(
        fig, title="Two weights whose inputs go along", top=style.TOP + 24, plot=300,
        alt=f"Loss of the output: {told}.",
        caption=f"Lighter: the layer's output changes less. Loss: {told}. Correlation of the inputs: {correlation:g}.",
    )  # fmt: skip


def ladder(rows: pd.DataFrame, points: pd.DataFrame | None = None) -> go.Figure:
    """How far the predictions of a model of so many bits move.

    Args:
        rows: as `_quantization_lesson.one_point` gives them.
        points: rows made here and now, drawn as stars.
    """
    fig, told = go.Figure(), []
    for method in ("rtn", "gptq", "nf4", "fp4"):
        own = rows[rows["method"] == method].sort_values("size")
        if own.empty:
            continue
        look = style.look(LOOKS[method])
        color = style.COLORS["sparse"] if method == "gptq" else look.stroke
        fig.add_scatter(
            x=own["size"].tolist(), y=own["kl"].tolist(), name=method, mode="lines+markers",
            line={"color": color, "width": 2, "dash": look.dash}, error_y=_bars(own["half"], color),
            marker={"symbol": look.marker, "size": 10, "color": color if method == "gptq" else look.fill,
                    "line": {"color": color, "width": 1.5}},
            text=[f"loss {gap:+.4f} nats" for gap in own["gap"]],
            hovertemplate=f"{method}<br>%{{x:.2f}} bits a weight<br>KL %{{y:.2g}} nats<br>%{{text}}<extra></extra>",
        )  # fmt: skip
        told.append(f"{method} {own['kl'].iloc[0]:.2g} nats at {own['size'].iloc[0]:.2f} bits")
    if points is not None and len(points):
        fig.add_scatter(
            x=points["size"].tolist(), y=points["kl"].tolist(), name="yours", mode="markers",
            error_y=_bars(points["half"], ACCENT),
            text=[f"{row.method}, {row.bits} bits, group {row.group or 'whole row'}<br>loss {row.gap:+.4f} nats"
                  for row in points.itertuples()],
            marker={"symbol": "star", "size": 15, "color": ACCENT, "line": {"color": style.LIGHT["text"], "width": 1}},
            hovertemplate="%{text}<br>%{x:.2f} bits a weight<br>KL %{y:.2g} nats<extra></extra>",
        )  # fmt: skip
    fig.update_xaxes(type="linear", title_text="Stored bits for each quantized weight")
    fig.update_yaxes(type="log", title_text="Mean KL (nats per token, log scale)", exponentformat="power")
    return style.finish(
        fig, title="How far the predictions move, against size", top=style.TOP + 24 * 2,
        alt=f"Least bits of each method: {'; '.join(told)}.",
        caption=f"KL of the next-token distributions before and after, on text not seen. Bars: 95 % interval over "
        f"{int(rows['tested'].iloc[0])} windows of 64 tokens. Lines: groups of 64.",
    )  # fmt: skip


def _bars(half: pd.Series, color: str) -> dict[str, Any]:
    return {"type": "data", "array": half.tolist(), "color": color, "thickness": 1.5, "width": 3}


def loud_tokens(shares: Mapping[str, Sequence[float]]) -> go.Figure:
    """How much of a layer's calibration sum the loudest token of each window holds, block by block.

    Args:
        shares: model → shares in the order of its blocks, as `_quantization_lesson.loudest_shares` gives them.
    """
    fig, told = go.Figure(), []
    for name, color, values in zip(shares, (style.LIGHT["muted"], ACCENT), shares.values(), strict=False):
        place = [(i + 1) / len(values) for i in range(len(values))]
        fig.add_scatter(
            x=place, y=[100 * value for value in values], mode="lines+markers", name=name, line={"color": color, "width": 2},
            marker={"size": 7, "color": color},
            hovertemplate=f"{name}<br>loudest tokens: %{{y:.1f}} percent<extra></extra>",
        )  # fmt: skip
        told.append(f"{name} up to {max(values):.1%}")
    fig.update_xaxes(type="linear", title_text="Depth (share of the blocks)", range=[0, 1.04])
    fig.update_yaxes(type="linear", title_text="Held by the loudest tokens (percent)", range=[0, 105])
    return style.finish(
        fig, title="One token of a window decides the sum", top=style.TOP + 24 * len(shares),
        alt=f"Share of the loudest tokens at the input of the block's last layer: {', '.join(told)}.",
        caption="What the loudest token of each window holds of Σ‖x‖² over all calibration tokens, at the input of each "
        "block's last layer (down_proj).",
    )  # fmt: skip


def calibration(rows: pd.DataFrame) -> go.Figure:
    """How far GPTQ moves the predictions, by the text it was calibrated on, for several amounts.

    Args:
        rows: as `_quantization_lesson.calibrations` gives them, rounding included as source "none".
    """
    plain = float(rows[rows["source"] == "none"]["kl"].mean())
    own = rows[rows["source"] != "none"]
    sources, counts = list(dict.fromkeys(own["source"])), sorted(own["windows"].unique())
    fig = go.Figure()
    fig.add_vline(x=plain, line={"color": style.LIGHT["muted"], "width": 1, "dash": "dash"})
    fig.add_annotation(
        text="rounding, no text",
        x=plain,
        y=len(sources) - 0.45,
        xanchor="right",
        xshift=-4,
        showarrow=False,
        font=MUTED,
    )
    for index, count in enumerate(counts):
        part = own[own["windows"] == count].set_index("source")
        fig.add_scatter(
            x=part["kl"].reindex(sources).tolist(), name=f"{count} windows", mode="markers",
            y=[i + 0.18 * ((len(counts) - 1) / 2 - index) for i in range(len(sources))],
            marker={"symbol": ("circle", "square", "diamond")[index % 3], "size": 10,
                    "color": style.alpha(ACCENT, (index + 1) / len(counts)), "line": {"color": ACCENT, "width": 1.5}},
            error_x=_bars(part["half"].reindex(sources), ACCENT),
            hovertemplate=f"{count} windows<br>%{{x:.4f}} nats<extra></extra>",
        )  # fmt: skip
    fig.update_yaxes(type="linear", tickmode="array", tickvals=list(range(len(sources))), ticktext=sources, showgrid=False,
                     range=[-0.5, len(sources) - 0.2])  # fmt: skip
    fig.update_xaxes(type="linear", title_text="Mean KL (nats per token)", rangemode="tozero")
    mean = own.groupby("source")["kl"].mean()
    told = ", ".join(f"{source} {mean[source]:.4f}" for source in sources)
    return style.finish(
        fig, title="GPTQ at 3 bits, calibrated on …", left=118, top=style.TOP + 24 * 2, plot=46 * len(sources),
        alt=f"Mean KL by calibration text: {told}; rounding {plain:.4f}.",
        caption="KL on unseen text of all three books in equal parts. Bars: 95 % interval over "
        f"{int(rows['tested'].iloc[0])} windows of 64 tokens. One draw of calibration text for each mark.",
    )  # fmt: skip


def gaps(shift: float = 0.3, temperature: float = 0.3) -> go.Figure:
    """KL of two candidates against the gap of their logits: exact and closed form enclose the same area.

    Args:
        shift: how far rounding moves the gap.
        temperature: of the sampling.
    """
    import torch

    from workbench.evaluation.decoding import divergences

    axis = torch.linspace(-6, 6, 481, dtype=torch.float64)
    logits = torch.stack([axis, torch.zeros_like(axis)], 1)
    found = divergences(logits, logits + torch.tensor([shift, 0.0]), temperature)
    width = float(axis[1] - axis[0])
    areas = {key: float(found[key].sum()) * width for key in ("kl", "predicted")}
    fig = go.Figure()
    for key, words, color, dash in (
        ("predicted", "closed form", style.LIGHT["muted"], "dot"),
        ("kl", "exact", ACCENT, "solid"),
    ):
        fig.add_scatter(
            x=axis.tolist(), y=found[key].round(decimals=6).tolist(), mode="lines", name=words,
            line={"color": color, "width": 2, "dash": dash}, hovertemplate=f"{words}: %{{y:.3f}} nats<extra></extra>",
        )  # fmt: skip
    fig.update_xaxes(type="linear", title_text="Gap between the two logits (nats)")
    fig.update_yaxes(type="linear", title_text="KL divergence (nats)", rangemode="tozero")
    off = float(
        (found["predicted"] / found["kl"].clamp(min=1e-12) - 1)[(found["kl"] > 0.01 * found["kl"].max())].abs().max()
    )
    return style.finish(
        fig, title="Only close races are decided by rounding", top=style.TOP + 24, left=style.LEFT + 16,
        alt=f"Area under the exact curve {areas['kl']:.4f}, under the closed form {areas['predicted']:.4f}.",
        caption=f"Shift {shift:g}, temperature {temperature:g}. Area: exact {areas['kl']:.4f}, closed form "
        f"{areas['predicted']:.4f}, though single gaps are off by up to {100 * off:.0f} percent.",
    )  # fmt: skip
