"""Pictures of sparse fine-tuning: one matrix whose trained entries light up and go dark, the share found over time, and
loss against the learning rate."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from workbench.figures import style
from workbench.papers._nola_figures import half_interval, interval_words

KINDS = (  # what an entry can be, and its look
    ("trained, not planted", "nola"),
    ("planted, not trained", "shira"),
    ("planted and trained", "compacter"),
)


def mask_map(held: Collection[int], planted: Collection[int], side: int, step: int) -> go.Figure:
    """One square matrix: which entries train, and which should.

    Args:
        held: flat positions that train.
        planted: flat positions where the target differs.
        side: rows and columns.
        step: updates made so far.
    """
    held, planted = set(held), set(planted)
    groups = (held - planted, planted - held, held & planted)
    fig = go.Figure()
    for (name, look), places in zip(KINDS, groups, strict=True):
        spots = np.array(sorted(places), dtype=int)
        drawn = style.look(look)
        fig.add_scatter(
            x=(spots % side).tolist(), y=(spots // side).tolist(), mode="markers", name=f"{name}: {len(spots)}",
            marker={"symbol": drawn.marker, "size": 7, "color": drawn.fill, "line": {"color": drawn.stroke, "width": 1}},
            hovertemplate=f"{name}<br>row %{{y}}, column %{{x}}<extra></extra>",
        )  # fmt: skip
    fig.update_xaxes(type="linear", title_text="Column of the weight", range=[-1, side], showgrid=False)
    fig.update_yaxes(type="linear", title_text="Row of the weight", range=[side, -1], showgrid=False)
    share = len(held & planted) / max(1, len(planted))
    return style.finish(
        fig, title=f"After {step} updates: {share:.0%} found", top=style.TOP + 48, plot=330,
        alt=f"After {step} updates {len(held & planted)} of {len(planted)} planted entries are among the trained ones.",
        caption=f"{len(held)} of {side * side} entries train. The target differs from the start in {len(planted)} of them.",
    )  # fmt: skip


def found_over_time(curves: Mapping[str, Sequence[tuple[int, float]]]) -> go.Figure:
    """Share of the planted entries that train, after every move.

    Args:
        curves: name → (updates made, share).
    """
    fig = go.Figure()
    for (name, points), look, dash in zip(curves.items(), ("compacter", "lora", "shira"), style.DASHES, strict=False):
        fig.add_scatter(
            x=[step for step, _ in points], y=[100 * share for _, share in points], mode="lines+markers", name=name,
            line={"color": style.look(look).stroke, "dash": dash, "width": 2, "shape": "hv"}, marker={"size": 6},
            hovertemplate=f"{name}<br>%{{x}} updates: %{{y:.0f}} percent<extra></extra>",
        )  # fmt: skip
    fig.update_xaxes(type="linear", title_text="Updates", rangemode="tozero")
    fig.update_yaxes(type="linear", title_text="Planted entries found (percent)", range=[-3, 103])
    told = ", ".join(f"{name} {points[-1][1]:.0%}" for name, points in curves.items())
    return style.finish(
        fig, title="Who finds the planted entries", alt=f"Found at the end: {told}.", top=style.TOP + 48,
        caption="One seed. A random mask stays where it is.",
    )  # fmt: skip


def against_rate(rows: pd.DataFrame, yours: Sequence[Mapping[str, object]] = ()) -> go.Figure:
    """Loss on Python code against the peak learning rate, one curve per arm.

    Args:
        rows: of one or more seeds, as the page `sparse-finetuning` makes them.
        yours: rows of `one_point`, drawn as stars.
    """
    told = rows[rows["task"] == "python"]
    fig, arms = go.Figure(), list(dict.fromkeys(told["arm"]))
    looks = ("lora", "compacter", "shira", "nola", "prompt", "ia3")
    for arm, look, dash in zip(arms, looks, style.DASHES, strict=False):
        grouped = told[told["arm"] == arm].groupby("rate")["eval"]
        means, ink = grouped.mean(), style.look(look).stroke
        fig.add_scatter(
            x=list(means.index), y=means.tolist(), mode="lines+markers", name=arm, marker={"size": 7, "color": ink},
            line={"color": ink, "dash": dash, "width": 2},
            error_y={"type": "data", "array": [half_interval(values) for _, values in grouped], "color": ink,
                     "thickness": 1, "width": 3},
            hovertemplate=f"{arm}<br>rate %{{x:.3g}}<br>%{{y:.3f}} nats per token<extra></extra>",
        )  # fmt: skip
    if yours:
        fig.add_scatter(
            x=[row["rate"] for row in yours], y=[row["eval"] for row in yours], mode="markers", name="yours",
            marker={"symbol": "star", "size": 16, "color": style.LIGHT["accent"],
                    "line": {"color": style.LIGHT["text"], "width": 2}},
            hovertemplate="yours<br>rate %{x:.3g}<br>%{y:.3f} nats per token<extra></extra>",
        )  # fmt: skip
    ticks = sorted({*told["rate"], *(row["rate"] for row in yours)})
    fig.update_xaxes(
        type="log", title_text="Peak learning rate (log scale)", tickmode="array", tickvals=ticks,
        ticktext=[f"{tick:g}" for tick in ticks],
    )  # fmt: skip
    fig.update_yaxes(type="linear", title_text="Loss on Python code (nats per token)")
    best = told.groupby(["arm", "rate"])["eval"].mean().reset_index().sort_values("eval").groupby("arm").first()
    words = ", ".join(f"{arm} {best.loc[arm, 'eval']:.2f} at {best.loc[arm, 'rate']:g}" for arm in arms)
    return style.finish(
        fig, title="Every arm has its own best rate", alt=f"Least loss: {words}.",
        top=style.TOP + 24 * -(-len(fig.data) // 2),
        caption=f"Documents that choose the rate. {interval_words(told['seed'].nunique())}",
    )  # fmt: skip
