"""Pictures of the page `power-scheduler`: excess by cell, the power law of the best rate, and the schedules themselves."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from workbench.figures import _frames, style
from workbench.figures._switch import log_ticks
from workbench.papers._nola_figures import half_interval, interval_words

MUTED = {"size": 12, "color": style.LIGHT["muted"]}
LOOKS = {  # arm: (colour, marker, filled)
    "power": (style.LIGHT["accent"], "circle", True),
    "WSD": (style.LIGHT["text"], "square", True),
    "WSD, rate × batch": (style.LIGHT["text"], "square", False),
    "cosine": (style.LIGHT["bad"], "diamond", True),
}
HALF = {0.5: "½"}


def transfer(rows: pd.DataFrame) -> go.Figure:
    """Loss above the cell's best WSD rate, by cell and arm, with the mean over the transferred cells on top.

    Args:
        rows: columns seed, factor, multiple, arm, percent, transferred.
    """
    cells = sorted({(m, f) for m, f in zip(rows["multiple"], rows["factor"], strict=True)}, reverse=True)
    fig = go.Figure()
    mean = rows[rows["transferred"]].groupby(["arm", "seed"])["percent"].mean()
    top = len(cells) + 0.3
    for index, (arm, (color, marker, filled)) in enumerate(LOOKS.items()):
        own = rows[rows["arm"] == arm].groupby(["multiple", "factor"])["percent"]
        shift = 0.18 * (1.5 - index)
        x = [own.get_group(cell).mean() for cell in cells] + [mean[arm].mean()]
        bars = [0.0] * len(cells) + [half_interval(mean[arm])]
        y = [level + shift for level in range(len(cells))] + [top + shift]
        fig.add_scatter(
            x=_frames.plain(x), y=y, mode="markers", name=arm, showlegend=True,
            error_x={"type": "data", "array": bars, "color": style.LIGHT["muted"], "thickness": 1.2, "width": 3},
            marker={"symbol": marker, "size": [8] * len(cells) + [13], "color": color if filled else style.LIGHT["ground"],
                    "line": {"width": 1.5, "color": color}},
            hovertemplate=f"{arm}<br>%{{x:+.2f}} %<extra></extra>",
        )  # fmt: skip
    fig.add_vline(x=0, line={"color": style.LIGHT["muted"], "width": 1})
    fig.add_vline(x=1, line={"color": style.LIGHT["muted"], "width": 1, "dash": "dash"})
    first = rows.loc[~rows["transferred"], ["multiple", "factor"]].drop_duplicates().itertuples(index=False)
    known = {tuple(cell) for cell in first}
    texts = [f"text ×{m}, batch ×{HALF.get(f, f'{f:g}')}" + (" (tuned)" if (m, f) in known else "") for m, f in cells]
    places = [*range(len(cells)), top]
    fig.update_yaxes(
        type="linear", tickmode="array", tickvals=places, ticktext=[*texts, "mean, transferred"], showgrid=False
    )
    fig.update_yaxes(range=[-0.6, top + 0.6])
    ends = [mean[arm].mean() + sign * half_interval(mean[arm]) for arm in LOOKS for sign in (-1, 1)]
    low, high = _frames.spread([*rows.groupby(["arm", "multiple", "factor"])["percent"].mean(), *ends])
    fig.update_xaxes(type="linear", range=[min(low, -0.5), max(high, 1.5)])
    fig.update_xaxes(title_text="Loss above the best WSD (%)")
    fig.update_layout(hovermode="closest", showlegend=True)
    seeds = rows["seed"].nunique()
    told = ", ".join(f"{arm} {mean[arm].mean():+.2f} %" for arm in LOOKS)
    return style.finish(
        fig, title="Tuned once, then moved to other budgets and batches", left=176, plot=34 * (len(cells) + 1),
        alt=f"Mean excess over the cells transferred to: {told}.", top=style.TOP + 48,
        caption=f"Zero: the best of six WSD rates in that very cell. Dashed: the 1 % of the claim. Marks: means over "
        f"seeds. {interval_words(seeds)}",
    )  # fmt: skip


def gamma(best: pd.DataFrame, law: dict[str, float], budget: int) -> go.Figure:
    """Best rate per sequence against tokens, on log axes, with the fitted power.

    Args:
        best: columns factor, multiple, gamma, edge.
        law: a, b, low, high, batch, n.
        budget: characters at multiple 1.
    """
    fig = go.Figure()
    tokens = best["multiple"].to_numpy(float) * budget
    factors = sorted(best["factor"].unique())
    for index, factor in enumerate(factors):
        for edge in (False, True):
            own = best[(best["factor"] == factor) & (best["edge"].astype(bool) == edge)]
            if own.empty:
                continue
            color = (style.LIGHT["accent"], style.LIGHT["text"], style.LIGHT["bad"])[index % 3]
            nudge = 1.06 ** (index - (len(factors) - 1) / 2)
            fig.add_scatter(
                x=_frames.plain(own["multiple"] * budget * nudge), y=_frames.plain(own["gamma"]), mode="markers",
                name=f"batch ×{HALF.get(factor, f'{factor:g}')}", showlegend=not edge,
                marker={"symbol": style.MARKERS[index], "size": 10, "color": style.LIGHT["ground"] if edge else color,
                        "line": {"width": 1.5, "color": color}},
                hovertemplate="%{x:.3g} characters<br>%{y:.3g} per sequence<extra></extra>",
            )  # fmt: skip
    told = "The exponent cannot be measured, too few best rates lie inside the grid."
    if np.isfinite(law["b"]):
        line = np.array([tokens.min() / 1.3, tokens.max() * 1.3])
        fig.add_scatter(
            x=_frames.plain(line), y=_frames.plain(law["a"] * line ** law["b"]), mode="lines", name="fit", showlegend=False,
            line={"color": style.LIGHT["muted"], "width": 2}, hovertemplate="fit<extra></extra>",
        )  # fmt: skip
        told = f"The best rate per sequence goes as tokens to the power {law['b']:.2f} ({law['low']:.2f} to {law['high']:.2f})."
        told += f" The best rate itself goes as the batch to the power {law['batch']:.2f}."
    x, y = (_frames.spread(v, log=True, pad=0.12) for v in (tokens, best["gamma"].to_numpy(float)))
    fig.update_xaxes(type="log", range=x, tickmode="array", tickvals=sorted(set(tokens)))
    fig.update_xaxes(
        ticktext=[f"{t / 1000:.0f} k" for t in sorted(set(tokens))], title_text="Training text (characters, log scale)"
    )
    ticks, texts = log_ticks(10 ** y[0], 10 ** y[1])
    fig.update_yaxes(type="log", range=y, tickmode="array", tickvals=ticks, ticktext=texts)
    fig.update_yaxes(title_text="Best rate per sequence (log scale)")
    fig.update_layout(hovermode="closest", showlegend=True)
    return style.finish(
        fig, title="The best plateau rate per sequence, against text", alt=told, left=74, top=style.TOP + 24,
        caption=f"{told} Published: −0.51 and 1. n = {len(best)} cells and seeds; hollow: at the end "
        "of the grid, not fitted.",
    )  # fmt: skip


def schedules(lengths: Sequence[float], stop: float, *, rate: float = 0.02, points: int = 240) -> go.Figure:
    """Cosine, WSD and power for several lengths on one axis; up to `stop` drawn full, what would follow thin.

    Args:
        lengths: planned lengths in billion tokens.
        stop: where the reader stops training, billion tokens.
        rate: cap of all three.
        points: per line.
    """
    from workbench.training.schedules import PowerCurve, cosine_factor, wsd_factor

    fig, longest = go.Figure(), max(lengths)
    n = np.linspace(0, longest, points)
    for index, length in enumerate(sorted(lengths)):
        decay, warm = 0.1 * length, 0.01 * longest
        curve = PowerCurve(
            128, warm * 1e9, lr_max=rate, end=(length - decay) * 1e9, decay_tokens=decay * 1e9, decay="linear"
        )
        own = n[n <= length]
        lines = {
            "cosine": [rate * cosine_factor(x, warmup=warm, total=length) for x in own],
            "WSD": [
                rate * wsd_factor(x, warmup=warm, decay_start=length - decay, decay=decay, shape="linear") for x in own
            ],
            "power": [curve.rate(x * 1e9) for x in own],
        }
        for name, y in lines.items():
            color = LOOKS[name][0]
            for part, width in ((own <= stop, 2.6), (own >= stop, 1.0)):
                fig.add_scatter(
                    x=_frames.plain(own[part]), y=_frames.plain(np.array(y)[part]), mode="lines", name=name,
                    legendgroup=name, showlegend=bool(index == 0 and width > 2), line={"color": color, "width": width},
                    hovertemplate=f"{name}, planned for {length:g} billion<br>%{{y:.3g}}<extra></extra>",
                )  # fmt: skip
    fig.add_vline(x=stop, line={"color": style.LIGHT["muted"], "width": 1.5, "dash": "dash"})
    fig.add_annotation(
        text="you stop here",
        x=stop,
        y=1,
        yref="paper",
        xanchor="left",
        yanchor="top",
        xshift=4,
        showarrow=False,
        font=MUTED,
    )
    fig.update_xaxes(type="linear", range=[0, longest * 1.02], title_text="Training data (billion tokens)")
    fig.update_yaxes(type="linear", range=[0, rate * 1.08], title_text="Learning rate (no unit)")
    fig.update_layout(hovermode="closest", showlegend=True)
    shared = [x for x in lengths if x >= stop]
    done = f"{len(shared)} of {len(lengths)} planned lengths lie beyond {stop:g} billion tokens"
    return style.finish(
        fig, title="Three schedules, each for three lengths", left=70, top=style.TOP + 24,
        alt=f"{done}; WSD and power coincide up to the first decay, the cosines do not.",
        caption="Full: what has been trained when you stop. WSD and power of all lengths coincide until the first decay: any "
        "of them can still be had. Each cosine was on its own way from the start.",
    )  # fmt: skip
