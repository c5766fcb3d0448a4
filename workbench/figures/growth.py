"""Figures of growth: which small layer each layer came from, and held-out loss against training FLOP."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
import plotly.graph_objects as go

from workbench.figures import _frames, style
from workbench.figures.formats import number

ARMS = {"small": ("muted", "square", "dash"), "grown": ("accent", "circle", "solid")}
HIGH = 26  # pixels of a layer


def growth_loss(rows: pd.DataFrame) -> go.Figure:
    """Held-out loss of the small and the grown model against what training them on has cost.

    Args:
        rows: columns arm ("small", "grown"), step, flop, loss (nats per token).

    Returns:
        The light figure; an empty plot that says what will appear when there are no rows.

    Raises:
        UserError: a column is missing.
    """
    _frames.need(rows, ("arm", "step", "flop", "loss"), "losses of growth")
    fig = go.Figure()
    fig.update_xaxes(title_text="Training after growth (TFLOP)", type="linear")
    fig.update_yaxes(title_text="Held-out loss (nats per token)", type="linear")
    title = "Does the larger model pay?"
    if rows.empty:
        style.empty(fig, "Two curves appear here once the models are trained on. Press Grow.")
        return style.finish(fig, title=title, alt="An empty plot: nothing has been grown yet.")
    ends = []
    for arm, (tone, symbol, dash) in ARMS.items():
        own = rows[rows["arm"] == arm].sort_values("step")
        if own.empty:
            continue
        color = style.LIGHT[tone]
        fig.add_scatter(
            x=_frames.plain(own["flop"] / 1e12), y=_frames.plain(own["loss"]), name=arm, mode="lines+markers",
            line={"color": color, "width": 2.5, "dash": dash}, marker={"symbol": symbol, "size": 8, "color": color},
            customdata=list(own["step"]), showlegend=True,
            hovertemplate=f"{arm}<br>after %{{customdata}} steps, %{{x:.3g}} TFLOP<br>loss %{{y:.3f}}<extra></extra>",
        )  # fmt: skip
        ends.append(f"{arm} {number(own['loss'].iloc[0], 3)} → {number(own['loss'].iloc[-1], 3)}")
    fig.update_xaxes(range=_frames.spread(rows["flop"] / 1e12))
    fig.update_yaxes(range=_frames.spread(rows["loss"]))
    fig.update_layout(showlegend=len(ends) > 1)
    told = "; ".join(ends)
    return style.finish(
        fig, title=title, alt=f"Held-out loss over training FLOP: {told}.", top=style.TOP + 24, plot=260,
        caption=f"First to last: {told}. Same FLOP for both, one seed; what came before growth is the same, too.",
    )  # fmt: skip


def lineage(origins: Sequence[int], operator: str) -> go.Figure:
    """The layers of a grown model beside the small one's, joined by where their weights came from.

    Args:
        origins: the small layer behind each layer of the grown model.
        operator: for the title; `zero` marks the layers that start silent.
    """
    small = max(origins) + 1
    first: set[int] = set()
    fig = go.Figure()
    joints_x: list[float | None] = []
    joints_y: list[float | None] = []
    silent = []
    top = len(origins)
    for place, origin in enumerate(origins):
        joints_x += [0, 1, None]
        joints_y += [(origin + 0.5) * top / small - 0.5, place, None]
        silent.append(operator == "zero" and origin in first)
        first.add(origin)
    fig.add_scatter(x=joints_x, y=joints_y, mode="lines", line={"color": style.LIGHT["muted"], "width": 1}, hoverinfo="skip",
                    showlegend=False)  # fmt: skip
    box = {"symbol": "square", "size": 22, "line": {"width": 1.5, "color": style.LIGHT["accent"]}}
    for x, ys, names, off in (
        (0, [(i + 0.5) * top / small - 0.5 for i in range(small)], range(small), [False] * small),
        (1, list(range(top)), origins, silent),
    ):
        fig.add_scatter(
            x=[x] * len(ys), y=ys, mode="markers+text", text=[str(i) for i in names], showlegend=False,
            name="small" if x == 0 else "grown", textposition="middle center",
            marker={**box, "color": [style.LIGHT["line"] if o else style.LIGHT["ground"] for o in off]},
            hovertext=[f"layer {n}" if x == 0 else f"layer {p}, from layer {n}" + (", starts silent" if o else "")
                       for p, (n, o) in enumerate(zip(names, off, strict=True))],
            hovertemplate="%{hovertext}<extra></extra>",
        )  # fmt: skip
    fig.update_xaxes(type="linear", range=[-0.4, 1.4], tickmode="array", tickvals=[0, 1], ticktext=["small", "grown"],
                     showgrid=False)  # fmt: skip
    fig.update_yaxes(
        type="linear",
        range=[-0.7, top - 0.3],
        showticklabels=False,
        ticks="",
        showline=False,
        showgrid=False,
        title_text="",
    )
    words = "Grey: adds nothing at first." if any(silent) else "First layer at the bottom."
    if operator in ("width", "mlp"):
        words = "The layers stay; their units are repeated."
    return style.finish(
        fig, title="Where each layer came from", plot=max(120, HIGH * top + 20), bottom=34, caption=words,
        alt=f"{small} layers become {top}; from bottom to top they come from layers {', '.join(map(str, origins))}.",
    )  # fmt: skip


def _measured() -> pd.DataFrame:
    """`workbench grow tiny-lm --steps 100` (seed 0), as its run recorded it."""
    small = {0: 4.8543, 31: 4.6847, 62: 4.5864, 93: 4.5347, 124: 4.4981, 155: 4.4701, 183: 4.46}
    grown = {0: 4.993, 17: 4.7606, 34: 4.6718, 51: 4.626, 68: 4.583, 85: 4.5671, 100: 4.5598}
    found = []
    for arm, losses, step_flop in (("small", small, 14.5589e9), ("grown", grown, 26.6982e9)):
        found += [{"arm": arm, "step": step, "flop": step * step_flop, "loss": loss} for step, loss in losses.items()]
    return pd.DataFrame(found)


EXAMPLE = {"growth_loss": lambda: {"rows": _measured()}}
