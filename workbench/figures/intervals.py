"""One point with its 95 % interval per method, best on top, and the group that is tied with the best shaded.

"Tied" is decided by a paired test outside (`workbench.evaluation.statistics.tied_with_best`), never by whether two
intervals overlap: overlapping intervals can differ in a paired test, and the figure does not pretend to know.
"""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go

from workbench.figures import _digits, _frames, _switch, style
from workbench.figures.formats import count, number

ROW = 30  # pixels per method


def intervals(
    rows: pd.DataFrame, metric: str, *, budget: str = "", items: str = "items", log: bool | None = None
) -> go.Figure:
    """Draw point estimates with intervals.

    Args:
        rows: columns name, `<metric>`, `<metric>_low`, `<metric>_high` (95 % interval, same unit);
            optional method (look; the name where absent), n or `<metric>_n` (items), seeds, `<metric>_tied` or tied (true for
            the best and what a paired test cannot tell from it), within_budget (false gives a hollow mark).
        metric: the column that is drawn.
        budget: the budget in words ("at most 70 MB"), for the caption when hollow marks appear.
        items: what n counts ("documents", "questions").
        log: start with a log axis; None decides by the spread of the values, where the measure allows it.

    Returns:
        The light figure; an empty plot that says what will appear when there are no rows.

    Raises:
        UserError: a column is missing.
    """
    _frames.need(rows, ("name", metric, f"{metric}_low", f"{metric}_high"), f"intervals of {metric}")
    ax = style.axis(metric)
    fig = go.Figure()
    fig.update_xaxes(title_text=ax.title, type="linear")
    fig.update_yaxes(title_text="", type="category", showgrid=False)
    title = f"{ax.words}, with 95 % intervals"
    if rows.empty:
        fig.update_yaxes(type="linear")
        style.empty(fig, f"{ax.words} of each method appears here with its interval. Run a comparison to fill it.")
        return style.finish(fig, title=title, alt=f"An empty plot: no method has a measured {ax.words.lower()} yet.")

    rows = rows.sort_values([metric, "name"], ascending=[ax.better == "lower", True], na_position="last").reset_index(
        drop=True
    )
    names = [_frames.shorten(str(n), 22) for n in rows["name"]]
    values, low, high = (rows[c].to_numpy(float) * ax.scale for c in (metric, f"{metric}_low", f"{metric}_high"))
    inside = rows["within_budget"].to_numpy(bool) if "within_budget" in rows else [True] * len(rows)
    for i, row in enumerate(rows.itertuples()):
        look = style.look(getattr(row, "method", row.name))
        fig.add_scatter(
            x=_frames.plain([values[i]]),
            y=[i],
            name=str(row.name),
            showlegend=False,
            mode="markers",
            error_x={
                "type": "data",
                "symmetric": False,
                "color": look.stroke,
                "thickness": 2,
                "width": 5,
                "visible": True,
                "array": _frames.plain([high[i] - values[i]]),
                "arrayminus": _frames.plain([values[i] - low[i]]),
            },
            marker={
                "symbol": look.marker,
                "size": 11,
                "color": look.fill if inside[i] else style.LIGHT["ground"],
                "line": {"color": look.stroke, "width": 1.5 if inside[i] else 2.5},
            },
            hovertext=[_frames.hover(row, rows.columns)],
            hovertemplate="%{hovertext}<extra></extra>",
        )
    tied = next((c for c in (f"{metric}_tied", "tied") if c in rows), None)
    band = [i for i in range(len(rows)) if tied and bool(rows[tied].iloc[i])]
    _shade(fig, band)
    reach = [*low, *high, *values]
    logged, offer = _switch.start(reach, log) if ax.log else (False, False)
    both = _switch.set_axis(fig, "x", ax.title, reach, log=logged, pad=0.08)
    room = _switch.add(fig, {"x": (logged, both)}, above=12) if offer else 0
    fig.update_yaxes(
        type="linear",
        range=[len(rows) - 0.4, -0.8],
        tickmode="array",
        tickvals=list(range(len(rows))),
        ticktext=names,
    )
    fig.update_layout(hovermode="closest")
    best = rows.iloc[0]
    also = [str(rows["name"].iloc[i]) for i in band if i != 0]
    alt = f"{best['name']} has the best {ax.words.lower()}, {number(values[0])}" + (
        f", tied with {', '.join(also)}." if also else "."
    )
    return style.finish(
        fig,
        title=title,
        alt=alt,
        caption=_caption(rows, metric, items, bool(band), not all(inside), budget),
        left=36 + round(_frames.CHAR * max(map(len, names))),
        top=style.TOP + 8,
        buttons=room,
        plot=max(style.PLOT, ROW * len(rows)),
    )


def _shade(fig: go.Figure, band: list[int]) -> None:
    for i in band:
        fig.add_shape(
            type="rect",
            xref="paper",
            x0=0,
            x1=1,
            yref="y",
            y0=i - 0.5,
            y1=i + 0.5,
            layer="below",
            fillcolor=style.alpha(style.LIGHT["accent"], 0.12),
            line={"width": 0, "color": style.LIGHT["accent"]},
        )
    if band:
        fig.add_annotation(
            name="label",
            text="tied with the best",
            xref="paper",
            x=1,
            xanchor="right",
            yref="y",
            y=band[0] - 0.5,
            yanchor="bottom",
            showarrow=False,
            font={"size": 12, "color": style.LIGHT["accent"]},
        )


def _caption(rows: pd.DataFrame, metric: str, items: str, tied: bool, hollow: bool, budget: str) -> str:
    column = next((c for c in (f"{metric}_n", "n") if c in rows), None)
    parts = ["Line: 95 % interval"]
    if column:
        low, high = rows[column].min(), rows[column].max()
        parts[0] += f", n = {count(low)} {items}" if low == high else f", n = {count(low)} to {count(high)} {items}"
    if "seeds" in rows:
        seeds = rows["seeds"].min()
        parts[0] += f", {count(seeds)} seed{'' if seeds == 1 else 's'}"
    if tied:
        parts.append("Shaded: the best and what a paired test cannot tell from it")
    if hollow:
        parts.append(f"Hollow: outside the budget ({budget})" if budget else "Hollow: outside the budget")
    return ". ".join(parts) + "."


EXAMPLE = {"intervals": lambda: {"rows": _digits.accuracy_rows(), "metric": "accuracy", "items": "images"}}
