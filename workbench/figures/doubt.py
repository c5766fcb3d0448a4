"""What resampled runs leave open in a fitted law: two constants together, and how far each can move alone."""

from __future__ import annotations

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from workbench.figures import _frames, style
from workbench.figures._switch import log_ticks
from workbench.figures.formats import number

SHOWN = 500  # resamples drawn as dots; more do not change the cloud
LIMIT = 3.84  # 95 % quantile of χ²(1)
HUES = ("accent", "text", "caution", "bad", "muted")
DASHES = ("solid", "dash", "dot", "dashdot", "longdash")


def joint(rows: pd.DataFrame, outline: pd.DataFrame | None = None, best: pd.DataFrame | None = None) -> go.Figure:
    """Draw two constants of a law together: a dot per resample, the joint 95 % region, the fit.

    Args:
        rows: columns first and second, named after the constants: one row per resample.
        outline: the same two columns: the border of the joint 95 % region.
        best: the same two columns: the fit.

    Returns:
        The light figure; an empty plot that says what will appear when there are no rows.

    Raises:
        UserError: fewer than two columns.
    """
    names = [str(c) for c in rows.columns[:2]] if len(rows.columns) else ["first", "second"]
    fig = go.Figure()
    fig.update_xaxes(title_text=f"Constant {names[0]} (no unit)", type="linear")
    fig.update_yaxes(title_text=f"Constant {names[-1]} (no unit)", type="linear")
    title = f"What the runs say about {names[0]} and {names[-1]} together"
    if rows.empty:
        style.empty(fig, "The cloud of refits appears here. Fit a law to fill it.")
        return style.finish(fig, title=title, alt="An empty plot: nothing is fitted yet.")
    _frames.need(rows, names, "two constants together")
    first, second = names
    shown = rows.iloc[:SHOWN]
    fig.add_scatter(
        x=_frames.plain(shown[first]), y=_frames.plain(shown[second]), mode="markers", showlegend=False, name="resample",
        marker={"size": 5, "color": style.alpha(style.LIGHT["accent"], 0.35), "line": {"width": 0}},
        hovertemplate=f"{first} %{{x:.4g}}<br>{second} %{{y:.4g}}<extra></extra>",
    )  # fmt: skip
    if outline is not None and len(outline):
        fig.add_scatter(
            x=_frames.plain(outline[first]), y=_frames.plain(outline[second]), mode="lines", showlegend=False,
            name="95 %", line={"color": style.LIGHT["text"], "width": 1.6}, hoverinfo="skip",
        )  # fmt: skip
    if best is not None and len(best):
        fig.add_scatter(
            x=_frames.plain(best[first]), y=_frames.plain(best[second]), mode="markers", showlegend=False, name="fit",
            marker={"size": 12, "symbol": "x", "color": style.LIGHT["bad"]},
            hovertemplate=f"fit<br>{first} %{{x:.5g}}<br>{second} %{{y:.5g}}<extra></extra>",
        )  # fmt: skip
    for axis, name in (("x", first), ("y", second)):
        values = rows[name].to_numpy(float)
        middle = np.quantile(values, [0.005, 0.995])
        values = np.concatenate([middle, *(t[name].to_numpy(float) for t in (outline, best) if t is not None)])
        fig.update_layout({f"{axis}axis": {"range": _frames.spread(values), "tickmode": "auto", "nticks": 6}})
    fig.update_layout(hovermode="closest")
    region = "line: joint 95 % region; " if outline is not None and len(outline) else ""
    positive = (rows > 0).all(axis=None)
    together = float(np.corrcoef((np.log(rows) if positive else rows).to_numpy(float)[:, :2].T)[0, 1])
    return style.finish(
        fig, title=title, alt=f"Over {len(rows)} resamples {first} and {second} have a correlation of {together:.2f}.",
        caption=f"Each dot is one refit of resampled runs, n = {len(rows)}; {region}cross: the fit. "
        "A long thin cloud means that only a combination of the two is known.",
    )  # fmt: skip


def profile(rows: pd.DataFrame) -> go.Figure:
    """Draw how much worse the best fit gets when one constant is held away from its fitted value.

    Args:
        rows: columns parameter, ratio (held value over fitted value), height (n·ln of the objective's growth).

    Returns:
        The light figure; an empty plot that says what will appear when there are no rows.

    Raises:
        UserError: a column is missing.
    """
    _frames.need(rows, ("parameter", "ratio", "height"), "a profile")
    fig = go.Figure()
    fig.update_xaxes(title_text="Held at (times the fitted value, log scale)", type="log")
    fig.update_yaxes(title_text="Worse by (χ² units)", type="linear")
    title = "How far each constant can move before the fit suffers"
    if rows.empty:
        fig.update_xaxes(type="linear")
        style.empty(fig, "One curve per constant appears here. Fit a law to fill it.")
        return style.finish(fig, title=title, alt="An empty plot: nothing is fitted yet.")
    top = 3 * LIMIT
    inside = rows[rows["height"] <= LIMIT]
    for i, (name, part) in enumerate(rows.groupby("parameter", sort=False)):
        color = style.LIGHT[HUES[i % len(HUES)]]
        shown = part[part["height"] <= 1.5 * top]
        fig.add_scatter(
            x=_frames.plain(shown["ratio"]), y=_frames.plain(shown["height"]), mode="lines", name=str(name), showlegend=True,
            line={"color": color, "width": 2, "dash": DASHES[i % len(DASHES)]},
            hovertemplate=f"{name} × %{{x:.3g}}<br>%{{y:.2f}}<extra></extra>",
        )  # fmt: skip
    low, high = _frames.spread(rows.loc[rows["height"] <= top, "ratio"], log=True, pad=0.02)
    ticks, texts = log_ticks(10**low, 10**high)
    fig.update_xaxes(range=[low, high], tickmode="array", tickvals=ticks, ticktext=texts)
    fig.update_yaxes(range=[0, top], tickmode="auto")
    fig.add_hline(y=LIMIT, line={"color": style.LIGHT["muted"], "width": 1, "dash": "dash"})
    fig.add_annotation(
        name="label", text="95 %", xref="paper", x=1, xanchor="right", y=LIMIT, yanchor="bottom", showarrow=False,
        font={"size": 12, "color": style.LIGHT["muted"]},
    )  # fmt: skip
    fig.update_layout(hovermode="closest", showlegend=True)
    spans = inside.groupby("parameter", sort=False)["ratio"].agg(["min", "max"])
    told = "; ".join(f"{name} from {number(r['min'])} to {number(r['max'])} times" for name, r in spans.iterrows())
    return style.finish(
        fig, title=title, alt=f"Within the 95 % line: {told}.", top=style.TOP + 24,
        caption="All other constants are refitted at every point. Below the dashed line the data do not object "
        "(exact for squared errors, approximate for Huber). A flat curve: not identified.",
    )  # fmt: skip


def _example() -> pd.DataFrame:
    """The covariance of (A, alpha) that 1000 bootstraps of the Chinchilla points give, drawn again."""
    rng = np.random.default_rng(0)
    alpha = 0.3426 + 0.0146 * rng.standard_normal(60)
    a = np.exp(np.log(442.2) + 17.3 * (alpha - 0.3426) + 0.03 * rng.standard_normal(60))
    return pd.DataFrame({"A": a, "alpha": alpha})


def _example_profile() -> pd.DataFrame:
    ratio = np.geomspace(0.6, 1.7, 21)
    parts = [
        pd.DataFrame({"parameter": name, "ratio": ratio, "height": (np.log(ratio) / width) ** 2})
        for name, width in (("A", 0.25), ("alpha", 0.043), ("E", 0.014))
    ]
    return pd.concat(parts, ignore_index=True)


EXAMPLE = {
    "joint": lambda: {"rows": _example(), "best": pd.DataFrame({"A": [442.2], "alpha": [0.3426]})},
    "profile": lambda: {"rows": _example_profile()},
}
