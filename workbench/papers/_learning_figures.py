"""Pictures of learning curves: one fitted curve with its regions and a target, several beside each other, β against γ."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from workbench.errors import UserError
from workbench.figures import _frames, style
from workbench.figures.formats import number
from workbench.figures.scaling import _beyond, _powers

if TYPE_CHECKING:
    from workbench.scaling.learning_curve import LearningCurve

MUTED = {"size": 12, "color": style.LIGHT["muted"]}
LOOKS = {"relu": ("accent", "circle"), "tanh": ("text", "square"), "relu, noisy labels": ("caution", "diamond")}


def _log_errors(fig: go.Figure, values: np.ndarray, title: str) -> None:
    from workbench.figures._switch import log_ticks

    low, high = _frames.spread(values, log=True, pad=0.06)
    ticks, texts = log_ticks(10**low, 10**high)
    fig.update_yaxes(type="log", range=[low, high], tickmode="array", tickvals=ticks, ticktext=texts, title_text=title)


def _band(fig: go.Figure, curve: LearningCurve, grid: np.ndarray, color: str) -> None:
    value, low, high = curve.predict(grid, interval=True)
    fig.add_scatter(
        x=_frames.plain([*grid, *grid[::-1]]), y=_frames.plain([*high, *low[::-1]]), mode="lines", fill="toself",
        fillcolor=style.alpha(color, 0.12), line={"width": 0, "color": color}, hoverinfo="skip", showlegend=False,
    )  # fmt: skip
    inside = grid <= curve.m_.max()
    for part, dash in ((inside, "solid"), (grid >= grid[inside].max(), "dash")):
        fig.add_scatter(
            x=_frames.plain(grid[part]), y=_frames.plain(value[part]), mode="lines", showlegend=False, name="fit",
            line={"color": color, "width": 2, "dash": dash}, hovertemplate="fit %{y:.3g} at %{x:.3g} rows<extra></extra>",
        )  # fmt: skip


def learning_curve(curve: LearningCurve, target: float | None = None, held: pd.DataFrame | None = None) -> go.Figure:
    """A measured curve, its fit with band, its regions, and the rows a target needs.

    Args:
        curve: fitted.
        target: error the reader wants; None leaves the marker out.
        held: m and error of shards that were not fitted (drawn hollow).
    """
    fig = go.Figure()
    color, last = style.LIGHT["accent"], curve.m_.max() if held is None else max(curve.m_.max(), held["m"].max())
    told, rows = "", None
    if target is not None:
        try:
            rows = curve.data_for(target)
            told = f"An error of {number(target)} needs about {number(rows)} rows"
            beyond = np.log10(rows / curve.m_.max())
            told += f", {beyond:.1f} decades beyond the data." if beyond >= 0.05 else "."
        except UserError as error:
            told = str(error)
    reach = last * 3 if rows is None else min(max(last * 3, rows * 1.5), curve.m_.max() * 1e4)
    grid = np.geomspace(curve.m_.min() * 0.8, reach, 120)
    _band(fig, curve, grid, color)
    dots = [(curve.m_, curve.error_, True)]
    if held is not None:
        dots.append((held["m"], held["error"], False))
    for m, error, filled in dots:
        fig.add_scatter(
            x=_frames.plain(m), y=_frames.plain(error), mode="markers", showlegend=False, name="measured",
            marker={"size": 9, "color": style.LIGHT["text" if filled else "ground"],
                    "line": {"width": 2, "color": style.LIGHT["text"]}},
            hovertemplate="%{x:.4g} rows<br>error %{y:.3g}<extra></extra>",
        )  # fmt: skip
    if rows is not None and rows <= reach:
        fig.add_scatter(
            x=[rows], y=[target], mode="markers", showlegend=False, name="target",
            marker={"size": 15, "symbol": "star", "color": color, "line": {"width": 1, "color": style.LIGHT["ground"]}},
            hovertemplate="target %{y:.3g} at %{x:.3g} rows<extra></extra>",
        )  # fmt: skip
    _regions(fig, curve, grid)
    _beyond(fig, curve.m_.max(), grid[-1], np.log10(grid[-1] / curve.m_.max()))
    low = curve.predict(grid).min()
    _log_errors(fig, np.concatenate([curve.error_, [low]]), "Error (log scale)")
    _powers(fig, "x", "Training rows (log scale)", grid, pad=0.0)
    beta = curve.interval("exponent")
    sentence = f"The error falls as m to the power {curve.exponent_:.2f} ({beta[0]:.2f} to {beta[1]:.2f})"
    floor = curve.interval("floor")
    ends = f"; floor {number(curve.floor_)} ({number(floor[0])} to {number(floor[1])})." if curve.floor else "."
    return style.finish(
        fig, title="Error against training rows", alt=sentence + ends, top=style.TOP + 18,
        caption=f"{sentence}{ends} n = {len(curve.m_)} shards; band: 95 % of the fit, dashed beyond the data. {told}".strip(),
    )  # fmt: skip


def _regions(fig: go.Figure, curve: LearningCurve, grid: np.ndarray) -> None:
    """Shade guessing and the irreducible part where the data reach them; name the three regions."""
    reached = [k for k in ("m1", "m2") if curve.regions_.get(k, {}).get("reached") == "yes"]
    edges = [grid[0], *(curve.regions_[k]["value"] for k in reached), grid[-1]]
    names = ["guessing"] * ("m1" in reached) + ["power law"] + ["irreducible"] * ("m2" in reached)
    for name, start, stop in zip(names, edges, edges[1:], strict=False):
        if name != "power law":
            fig.add_shape(
                type="rect", xref="x", x0=start, x1=stop, yref="paper", y0=0, y1=1, layer="below",
                fillcolor=style.alpha(style.LIGHT["muted"], 0.10), line={"width": 0, "color": style.LIGHT["muted"]},
            )  # fmt: skip
        fig.add_annotation(
            text=name, x=float(np.log10(np.sqrt(start * stop))), yref="paper", y=1, yanchor="bottom", showarrow=False,
            font=MUTED,
        )  # fmt: skip


def several(table: pd.DataFrame, curves: dict[str, LearningCurve], told: str, floor: float) -> go.Figure:
    """Measured curves and their fits; hollow shards were held out.

    Args:
        table: arm, m, error, sem, held.
        curves: arm → curve fitted to the shards that were not held out.
        told: the finding in one sentence.
        floor: error that label noise makes unavoidable, drawn as a line.
    """
    fig = go.Figure()
    for arm, curve in curves.items():
        name, marker = LOOKS[arm]
        color, own = style.LIGHT[name], table[table["arm"] == arm]
        grid = np.geomspace(curve.m_.min(), own["m"].max(), 60)
        _band(fig, curve, grid, color)
        for held in (False, True):
            part = own[own["held"] == held]
            fig.add_scatter(
                x=_frames.plain(part["m"]), y=_frames.plain(part["error"]), mode="markers", showlegend=not held, name=arm,
                error_y={"type": "data", "array": _frames.plain(part["sem"].fillna(0)), "color": color, "thickness": 1.5},
                marker={"size": 9, "symbol": marker, "color": style.LIGHT["ground"] if held else color,
                        "line": {"width": 2, "color": color}},
                hovertemplate=f"{arm}<br>%{{x:.4g}} rows<br>error %{{y:.3g}}<extra></extra>",
            )  # fmt: skip
    fig.add_hline(y=floor, line={"color": style.LIGHT["muted"], "dash": "dot", "width": 1.5})
    fig.add_annotation(
        text="floor of noisy labels", x=0, xref="paper", xanchor="left", y=np.log10(floor), yanchor="top", showarrow=False,
        font=MUTED,
    )  # fmt: skip
    _log_errors(fig, table["error"].to_numpy(), "Test error (share, log scale)")
    _powers(fig, "x", "Training rows (log scale)", table["m"].to_numpy(float))
    fig.update_layout(showlegend=True, hovermode="closest")
    return style.finish(
        fig, title="Error against training rows, two architectures", alt=told, top=style.TOP + 24,
        caption=f"{told} Hollow: shards not fitted. Bands: 95 % of the fit. Bars: standard error over seeds.",
    )  # fmt: skip


def slope_and_floor(curve: LearningCurve) -> go.Figure:
    """Refits of simulated curves: how the exponent and the floor give way to each other."""
    fig = go.Figure()
    fig.add_scatter(
        x=_frames.plain(curve.draws_[:, 2]), y=_frames.plain(curve.draws_[:, 1]), mode="markers", showlegend=False,
        name="refit", marker={"size": 5, "color": style.alpha(style.LIGHT["muted"], 0.5)},
        hovertemplate="floor %{x:.3g}, exponent %{y:.3g}<extra></extra>",
    )  # fmt: skip
    fig.add_scatter(
        x=[curve.floor_], y=[curve.exponent_], mode="markers", showlegend=False, name="fit",
        marker={"size": 14, "symbol": "star", "color": style.LIGHT["accent"],
                "line": {"width": 1, "color": style.LIGHT["ground"]}},
        hovertemplate="fit: floor %{x:.3g}, exponent %{y:.3g}<extra></extra>",
    )  # fmt: skip
    fig.update_xaxes(type="linear", title_text="Floor γ (error)", range=_frames.spread(curve.draws_[:, 2]))
    fig.update_yaxes(type="linear", title_text="Exponent β", range=_frames.spread(curve.draws_[:, 1]))
    tie = np.corrcoef(curve.draws_[:, 1], curve.draws_[:, 2])[0, 1]
    return style.finish(
        fig, title="Exponent and floor are one question", alt=f"Exponent and floor are correlated with r = {tie:.2f}.",
        caption=f"Each dot is a refit of a simulated curve (n = {len(curve.draws_)}), the star is the fit; correlation "
        f"{tie:.2f}. A higher floor makes a steeper power law of the same points.",
    )  # fmt: skip
