"""How the best model size and the best amount of data grow with the training budget.

Ground beyond the fitted runs is shaded and labelled, curves there are dashed; intervals are bands.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from workbench.figures import _frames, style
from workbench.figures._plan import example_plan, star
from workbench.figures.formats import number
from workbench.figures.scaling import _beyond, _powers, _title

PARTS = {"N": ("parameters", "accent"), "D": ("tokens", "caution")}  # column: direct label, colour of the style


def frontier(rows: pd.DataFrame, planned: pd.DataFrame | None = None, seen: float | None = None) -> go.Figure:
    """Draw compute-optimal model size and data against the training budget.

    Args:
        rows: columns C (FLOP), N, D; optional N_low, N_high, D_low, D_high (95 % intervals).
        planned: C, N, D of the plan, and optional N_low, N_high, D_low, D_high.
        seen: largest compute among the fitted runs: what lies above is beyond the data.

    Returns:
        The light figure; an empty plot that says what will appear when there are no rows.

    Raises:
        UserError: a column is missing.
    """
    _frames.need(rows, ("C", "N", "D"), "the best size for every budget")
    fig = go.Figure()
    fig.update_xaxes(title_text=_title("C"), type="log")
    fig.update_yaxes(title_text="Size of model and data (count, log scale)", type="log")
    title = "Best model size and data for every training budget"
    if rows.empty:
        fig.update_xaxes(type="linear")
        fig.update_yaxes(type="linear")
        style.empty(fig, "The best size and data appear here. Fit a law of N and D to fill it.")
        return style.finish(fig, title=title, alt="An empty plot: nothing is fitted yet.")
    seen = float(rows["C"].max()) if seen is None else seen
    for column, (label, name) in PARTS.items():
        color = style.LIGHT[name]
        if f"{column}_low" in rows:
            fig.add_scatter(
                x=_frames.plain([*rows["C"], *rows["C"][::-1]]),
                y=_frames.plain([*rows[f"{column}_high"], *rows[f"{column}_low"][::-1]]),
                mode="lines", fill="toself", fillcolor=style.alpha(color, 0.14), line={"width": 0, "color": color},
                hoverinfo="skip", showlegend=False,
            )  # fmt: skip
        for chosen, dash in ((rows["C"] <= seen * 1.0001, "solid"), (rows["C"] >= seen / 1.6, "dash")):
            if chosen.sum() > 1 and (dash == "solid" or rows["C"].max() > seen * 1.01):
                fig.add_scatter(
                    x=_frames.plain(rows["C"][chosen]), y=_frames.plain(rows[column][chosen]), mode="lines", name=label,
                    showlegend=False, line={"color": color, "width": 2, "dash": dash},
                    hovertemplate=f"{label} %{{y:.3g}}<br>%{{x:.3g}} FLOP<extra></extra>",
                )  # fmt: skip
        fig.add_annotation(
            name="label", text=label, x=np.log10(rows["C"].iloc[-1]), y=np.log10(rows[column].iloc[-1]), xanchor="left",
            xshift=10, showarrow=False, font={"size": 12, "color": color},
        )  # fmt: skip
        if planned is not None and len(planned):
            star(fig, planned.iloc[0], "C", column, along="y", color=color)
    every = [rows["C"].to_numpy(float)] + ([planned["C"].to_numpy(float)] if planned is not None else [])
    _powers(fig, "x", _title("C"), np.concatenate(every))
    heights = rows[[c for c in rows.columns if c[0] in "ND" and c[1:] in ("", "_low", "_high")]].to_numpy(float)
    _powers(fig, "y", "Size of model and data (count, log scale)", heights[np.isfinite(heights)], pad=0.16)
    reach = float(np.log10(max(map(np.max, every)) / seen))
    if reach > 0.05:
        _beyond(fig, seen, float(max(map(np.max, every))), reach)
    fig.update_layout(hovermode="closest")
    ratio = rows["D"] / rows["N"]
    return style.finish(
        fig, title=title, right=88,
        alt=f"Tokens per parameter go from {number(ratio.iloc[0])} to {number(ratio.iloc[-1])} over the budgets shown.",
        caption="Lines: what one budget is best spent on" + (", bands: 95 % over resampled runs." if "N_low" in rows else ".")
        + (" Stars: the plan." if planned is not None and len(planned) else ""),
    )  # fmt: skip


def _example_path() -> pd.DataFrame:
    c = np.geomspace(1e18, 1e23, 21)
    n = 0.6 * (c / 6) ** 0.46
    d = c / 6 / n
    return pd.DataFrame(
        {"C": c, "N": n, "N_low": n / 1.3, "N_high": n * 1.3, "D": d, "D_low": d / 1.3, "D_high": d * 1.3}
    )


EXAMPLE = {"frontier": lambda: {"rows": _example_path(), "planned": example_plan(), "seen": 7e21}}
