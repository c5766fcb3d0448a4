"""Quality against cost: who gives the most for the least, with intervals and the front of variants nobody beats.

A variant is on the front when no other is at least as good in both directions and better in one. The front follows the
point estimates; the intervals show how sure that is. Labels are placed so that they do not overlap between 390 and
1 600 pixels; a label that fits nowhere is left out (hover gives it), a point never.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from workbench.figures import _digits, _frames, _switch, style
from workbench.figures.formats import count


def front(x: Sequence[float], y: Sequence[float], *, x_better: str = "lower", y_better: str = "higher") -> list[int]:
    """Indices of the points that no other point beats, from the best x to the worst.

    Args:
        x: cost of each point, shape (n,).
        y: quality of each point, shape (n,).
        x_better: "lower" or "higher", which x is preferred.
        y_better: the same for y.
    """
    cost = np.asarray(x, float) * (1 if x_better == "lower" else -1)
    loss = np.asarray(y, float) * (1 if y_better == "lower" else -1)
    chosen, least = [], np.inf
    for i in np.lexsort((loss, cost)):
        if loss[i] < least:
            chosen.append(int(i))
            least = loss[i]
    return chosen


def pareto(rows: pd.DataFrame, x: str, y: str, *, log_x: bool | None = None, log_y: bool | None = None) -> go.Figure:
    """Draw quality against cost.

    Args:
        rows: columns name, `<x>` (cost, see style.AXES for units), `<y>` (quality); optional `<x>_low`, `<x>_high`,
            `<y>_low`, `<y>_high` (95 % intervals), method (look; the name where absent), within_budget (false: hollow mark).
        x: cost column, such as disk_bytes.
        y: quality column, such as perplexity.
        log_x: start with a log cost axis; None decides by the spread of the values, where the measure allows it.
        log_y: the same for quality.

    Returns:
        The light figure; an empty plot that says what will appear when there are no rows.

    Raises:
        UserError: a column is missing.
    """
    _frames.need(rows, ("name", x, y), f"{y} against {x}")
    ax, ay = style.axis(x), style.axis(y)
    title = f"{ay.words} against {ax.words[0].lower()}{ax.words[1:]}"
    fig = go.Figure()
    fig.update_xaxes(title_text=ax.title, type="linear")
    fig.update_yaxes(title_text=ay.title, type="linear")
    rows = rows.dropna(subset=[x, y]).reset_index(drop=True) if len(rows) else rows
    if rows.empty:
        where = f"{ax.words.lower()} across, {ay.words.lower()} up"
        style.empty(fig, f"Each variant appears here as a point: {where}. Run a comparison to fill it.")
        return style.finish(fig, title=title, alt="An empty plot: nothing has been compared yet.")

    px, py = rows[x].to_numpy(float) * ax.scale, rows[y].to_numpy(float) * ay.scale
    best = front(px, py, x_better=ax.better or "lower", y_better=ay.better or "higher")
    fig.add_scatter(
        x=_frames.plain(px[best]),
        y=_frames.plain(py[best]),
        mode="lines",
        name="front",
        showlegend=False,
        hoverinfo="skip",
        line={"color": style.LIGHT["muted"], "width": 1.5, "dash": "dot", "shape": "hv"},
    )
    inside = rows["within_budget"].to_numpy(bool) if "within_budget" in rows else np.ones(len(rows), bool)
    for i, row in enumerate(rows.itertuples()):
        look = style.look(getattr(row, "method", row.name))
        bars = {
            f"error_{a}": bar
            for a, c, s in (("x", x, ax.scale), ("y", y, ay.scale))
            if (bar := _bar(row, c, s, look.stroke))
        }
        fig.add_scatter(
            x=_frames.plain([px[i]]),
            y=_frames.plain([py[i]]),
            name=str(row.name),
            mode="markers",
            showlegend=False,
            **bars,
            marker={
                "symbol": look.marker,
                "size": 11,
                "color": look.fill if inside[i] else style.LIGHT["ground"],
                "line": {"color": look.stroke, "width": 1.5 if inside[i] else 2.5},
            },
            hovertext=[_frames.hover(row, rows.columns)],
            hovertemplate="%{hovertext}<extra></extra>",
        )
    reach = [rows[c].to_numpy(float) * ay.scale for c in (f"{y}_low", f"{y}_high") if c in rows]
    switches = {}
    for which, measure, values, asked, pad in (("x", ax, [px], log_x, 0.12), ("y", ay, [py, *reach], log_y, 0.1)):
        shown = np.concatenate(values)
        log, offer = _switch.start(shown, asked) if measure.log else (False, False)
        both = _switch.set_axis(fig, which, measure.title, shown, log=log, pad=pad)
        if offer:
            switches[which] = (log, both)
    room = _switch.add(fig, switches)
    _labels(fig, rows, (px, py), best, y, ay.scale)
    fig.update_layout(hovermode="closest")
    on_front = ", ".join(str(rows["name"].iloc[i]) for i in best)
    notes = "Dotted line: the front, variants that no other beats in both directions."
    if reach:
        notes += " Lines on points: 95 % intervals."
        if "n" in rows:
            notes += f" n = {count(rows['n'].min())}."
    if not inside.all():
        notes += " Hollow: outside the budget."
    return style.finish(
        fig,
        title=title,
        alt=f"On the front of {ay.words.lower()} against {ax.words.lower()}: {on_front}.",
        caption=notes,
        left=66,
        buttons=room,
    )


def _bar(row: tuple, column: str, scale: float, color: str) -> dict | None:
    value, low, high = (getattr(row, c, None) for c in (column, f"{column}_low", f"{column}_high"))
    if low is None or high is None or not np.isfinite([low, high]).all():
        return None
    return {
        "type": "data",
        "symmetric": False,
        "array": _frames.plain([(high - value) * scale]),
        "visible": True,
        "arrayminus": _frames.plain([(value - low) * scale]),
        "color": style.alpha(color, 0.7),
        "thickness": 1.5,
        "width": 4,
    }


def _labels(
    fig: go.Figure, rows: pd.DataFrame, at: tuple[np.ndarray, np.ndarray], best: list[int], y: str, scale: float
) -> None:
    """Names next to their points, those of the front first, in the coordinates of the axes as they start."""
    axes = (fig.layout.xaxis, fig.layout.yaxis)
    px, py = (np.log10(v) if a.type == "log" else v for v, a in zip(at, axes, strict=True))

    def up(value: float) -> float:
        low, high = axes[1].range
        return ((np.log10(value) if axes[1].type == "log" else value) - low) / (high - low)

    order = [*best, *(i for i in range(len(rows)) if i not in best)]
    left, right = axes[0].range
    points = [((px[i] - left) / (right - left), up(at[1][i])) for i in order]
    ends = [[rows.iloc[i].get(f"{y}_{side}", np.nan) * scale for side in ("low", "high")] for i in order]
    bars = [(up(e[0]), up(e[1])) if np.isfinite(e).all() else None for e in ends]
    texts = [_frames.shorten(str(rows["name"].iloc[i])) for i in order]
    for i, text, shift in zip(order, texts, _frames.place(points, texts, style.PLOT, bars=bars), strict=True):
        if shift is None:
            continue
        far = max(abs(shift[0]) - len(text) * _frames.CHAR / 2, abs(shift[1]) - 7) > 14
        fig.add_annotation(
            name="label",
            text=text,
            x=float(px[i]),
            y=float(py[i]),
            xref="x",
            yref="y",
            ax=shift[0],
            ay=-shift[1],
            axref="pixel",
            ayref="pixel",
            showarrow=True,
            arrowhead=0,
            arrowwidth=1 if far else 0.1,
            arrowcolor=style.alpha(style.LIGHT["muted"], 0.7 if far else 0.0),
            standoff=6,
            font={"size": 12, "color": style.LIGHT["text"]},
            bgcolor=style.alpha(style.LIGHT["ground"], 0.75),
            borderpad=0,
        )


EXAMPLE = {"pareto": lambda: {"rows": _digits.accuracy_rows(), "x": "disk_bytes", "y": "accuracy"}}
