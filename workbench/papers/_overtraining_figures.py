"""Pictures of over-training: the verdict on held-out runs, the parallel lines, and error against loss."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from workbench.figures import _frames, style
from workbench.figures._switch import log_ticks
from workbench.figures.scaling import RAMP, _beyond, _powers

if TYPE_CHECKING:
    from workbench.scaling.overtraining import Chain

MUTED = {"size": 12, "color": style.LIGHT["muted"]}
CORPORA = {"c4": "C4", "redpajama": "RedPajama", "refinedweb": "RefinedWeb"}
MARKS = {  # arm: (colour, marker)
    "one exponent": ("accent", "circle"),
    "two exponents": ("text", "square"),
    "compute only": ("muted", "diamond"),
    "nearest run": ("muted", "x"),
}


def verdict(rows: pd.DataFrame) -> go.Figure:
    """Worst relative error on the held-out runs, by corpus and law; filled: resampled training runs, hollow: all of them."""
    worst = rows.groupby(["corpus", "arm", "trained", "seed"])["percent"].max().reset_index()
    known = set(zip(worst["corpus"], worst["arm"], strict=True))
    places = [(corpus, arm) for corpus in CORPORA for arm in MARKS if (corpus, arm) in known]
    fig = go.Figure()
    for level, (corpus, arm) in enumerate(reversed(places)):
        name, marker = MARKS[arm]
        color = style.LIGHT[name]
        own = worst[(worst["corpus"] == corpus) & (worst["arm"] == arm)]
        for trained, hollow in (("four fifths", False), ("all", True)):
            values = own.loc[own["trained"] == trained, "percent"]
            values = values.iloc[:1] if hollow else values  # the fit to all runs is the same for every seed
            fig.add_scatter(
                x=_frames.plain(values), y=[level] * len(values), mode="markers", showlegend=False, name=arm,
                marker={"symbol": marker, "size": 13 if hollow else 8,
                        "color": style.alpha(style.LIGHT["ground"], 0) if hollow else color,
                        "line": {"width": 2 if hollow else 1, "color": color}},
                hovertemplate=f"{CORPORA[corpus]}, {arm}, {trained} of the runs<br>worst %{{x:.2f}} %<extra></extra>",
            )  # fmt: skip
    texts = [f"{CORPORA[corpus]}: {arm}" for corpus, arm in reversed(places)]
    fig.update_yaxes(type="linear", tickmode="array", tickvals=list(range(len(places))), ticktext=texts, showgrid=False)
    fig.update_yaxes(range=[-0.7, len(places) - 0.3])
    fig.update_xaxes(type="linear", range=[0, float(worst["percent"].max()) * 1.08])
    fig.update_xaxes(title_text="Worst error on the held-out runs (%)")
    full = worst[worst["trained"] == "all"].groupby(["corpus", "arm"])["percent"].first()
    told = "; ".join(
        f"{CORPORA[c]} {full[c, 'one exponent']:.1f} % against {full[c, 'two exponents']:.1f} and {full[c, 'compute only']:.1f}"
        for c in CORPORA if (c, "one exponent") in full.index
    )  # fmt: skip
    seeds = rows["seed"].nunique()
    return style.finish(
        fig, title="How far off on runs above 10²⁰ FLOP", alt=f"Worst errors with all training runs: {told}.", left=186,
        plot=26 * len(places) + 20,
        caption=f"Hollow: fitted to all runs up to 10²⁰ FLOP. Filled: one dot for each of {seeds} random four fifths of them. "
        "Held out: 5 or 6 larger runs per corpus.",
    )  # fmt: skip


def parallel_lines(
    chain: Chain, runs: pd.DataFrame, fitted: pd.DataFrame, ratio: float, size: float, show: bool
) -> go.Figure:
    """Reducible loss against compute: one straight line per tokens-per-parameter, the cheap runs, the far ones.

    Args:
        chain: the fitted law and link.
        runs: all measured runs of the corpus (N, D, M, C, loss).
        fitted: those the law was fitted to.
        ratio: tokens per parameter of the line and target that the reader chose.
        size: parameters of the chosen target.
        show: fill the hollow predictions with the measured losses.
    """
    law = chain.law
    target = 6.0 * size * size * ratio
    c = np.geomspace(fitted["C"].min() / 2, max(1e22, 2 * target), 60)
    fig = go.Figure()
    shown = sorted({20.0, 320.0, float(ratio)})
    heights = np.array([law.loss(c, m) - law.E for m in shown])
    low, high = _frames.spread(heights.ravel(), log=True)
    pixels = (np.log10(heights[:, 0]) - low) / (high - low) * style.PLOT
    shifts = np.array(_frames.apart(pixels, 15)) - pixels
    for index, m in enumerate(shown):
        color = style.LIGHT["accent"] if m == ratio else style.readable(RAMP[min(5, 2 * index)], style.LIGHT["ground"])
        y = heights[index]
        fig.add_annotation(
            text=f"M = {m:g}", x=np.log10(c[0]), y=np.log10(y[0]), xanchor="right", xshift=-4, yshift=float(shifts[index]),
            showarrow=False, font={"size": 12, "color": color},
        )  # fmt: skip
        for part, dash in ((c <= fitted["C"].max(), "solid"), (c >= fitted["C"].max() / 1.4, "dash")):
            fig.add_scatter(
                x=_frames.plain(c[part]), y=_frames.plain(y[part]), mode="lines", showlegend=False, name=f"M = {m:g}",
                line={"color": color, "width": 2, "dash": dash}, hovertemplate=f"{m:g} tokens per parameter<extra></extra>",
            )  # fmt: skip
    far = runs[(runs["N"] > 1e9) & (runs["M"].round() != 80)]
    ahead = law.loss_nd(far["N"], far["D"]) - law.E
    dots = [(fitted["C"], fitted["loss"] - law.E, "fitted run", True), (far["C"], ahead, "predicted", False)]
    if show:
        dots.append((far["C"], far["loss"] - law.E, "measured", True))
    for x, y, name, filled in dots:
        fig.add_scatter(
            x=_frames.plain(x), y=_frames.plain(y), mode="markers", name=name, showlegend=False,
            marker={"size": 12 if name == "predicted" else 8, "line": {"width": 2, "color": style.LIGHT["text"]},
                    "color": style.LIGHT["text"] if filled else style.alpha(style.LIGHT["ground"], 0)},
            hovertemplate=f"{name}<br>%{{y:.3f}} nats above the floor<extra></extra>",
        )  # fmt: skip
    told = chain.predict(size, size * ratio).iloc[0]
    fig.add_scatter(
        x=[target], y=[told["loss"] - law.E], mode="markers", name="yours", showlegend=False,
        marker={"size": 15, "symbol": "star", "color": style.LIGHT["accent"],
                "line": {"width": 1, "color": style.LIGHT["ground"]}},
        error_y={"type": "data", "symmetric": False, "array": [told["loss_high"] - told["loss"]],
                 "arrayminus": [min(told["loss"] - told["loss_low"], 0.95 * (told["loss"] - law.E))],
                 "color": style.LIGHT["accent"]},
        hovertemplate="your model<br>%{y:.3f} nats above the floor<extra></extra>",
    )  # fmt: skip
    _powers(fig, "x", "Training compute (FLOP, log scale)", np.append(c, c[0] / 30))
    ticks, texts = log_ticks(10**low, 10**high)
    fig.update_yaxes(type="log", range=[low, high], tickmode="array", tickvals=ticks, ticktext=texts)
    fig.update_yaxes(title_text="Loss above the floor (nats, log scale)")
    decades = max(0.0, np.log10(target / fitted["C"].max()))
    _beyond(fig, float(fitted["C"].max()), float(c[-1]), np.log10(c[-1] / fitted["C"].max()))
    sentence = (
        f"{size / 1e9:.3g} B parameters on {size * ratio / 1e9:.3g} B tokens: loss {told['loss']:.3f} "
        f"({told['loss_low']:.2f} to {told['loss_high']:.2f}), mean error {100 * told['error']:.1f} %"
    )
    return style.finish(
        fig, title="Over-training shifts the line, it does not tilt it", alt=f"{sentence}.", left=74,
        caption=f"Star: {sentence}, {decades:.1f} decades of compute beyond the fitted runs. In brackets: range over fits "
        f"with one run left out. Dots: the {len(fitted)} fitted runs" + (" and the large ones measured." if show else ".")
        + " Hollow: large ones, predicted.",
    )  # fmt: skip


def error_against_loss(chain: Chain, runs: pd.DataFrame, used: pd.DataFrame) -> go.Figure:
    """Mean error over tasks against validation loss: the link, the runs it was fitted to (filled) and all others (hollow)."""
    fig = go.Figure()
    grid = np.linspace(runs["loss"].min() - 0.1, runs["loss"].max() + 0.1, 80)
    fig.add_scatter(
        x=_frames.plain(grid), y=_frames.plain(100 * chain.link.error(grid)), mode="lines", showlegend=False, name="link",
        line={"color": style.LIGHT["accent"], "width": 2}, hovertemplate="%{y:.1f} %<extra></extra>",
    )  # fmt: skip
    for part, filled in ((runs[~runs["run"].isin(used["run"])], False), (used, True)):
        fig.add_scatter(
            x=_frames.plain(part["loss"]), y=_frames.plain(100 * part["error"]), mode="markers", showlegend=False,
            name="fitted" if filled else "other",
            marker={"size": 9, "color": style.LIGHT["text" if filled else "ground"],
                    "line": {"width": 1.5, "color": style.LIGHT["text" if filled else "muted"]}},
            hovertext=[_frames.hover(row, ["run", "loss", "error"]) for row in part.itertuples()],
            hovertemplate="%{hovertext}<extra></extra>",
        )  # fmt: skip
    off = 100 * np.abs(chain.link.error(runs["loss"]) / runs["error"] - 1)
    fig.update_xaxes(type="linear", title_text="Validation loss (nats per token)", range=[grid[0], grid[-1]])
    fig.update_yaxes(type="linear", title_text="Mean error over the tasks (%)")
    return style.finish(
        fig, title="From loss to mean error over tasks", alt=f"The curve is {np.median(off):.1f} % off on the median run.",
        caption=f"n = {len(runs)} runs; filled: the {len(used)} the curve was fitted to. Single tasks do not follow such a "
        "curve, only the mean over many does.",
    )  # fmt: skip
