"""How weights are spread, before and after compression: density outlines of one or several tensors.

`weight_rows` counts a tensor into bins once, so the figure never holds the weights themselves.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from workbench.figures import _digits, _frames, _switch, style
from workbench.figures.formats import count, number


def weight_rows(tensors: Mapping[str, np.ndarray], bins: int = 81) -> pd.DataFrame:
    """Count tensors into shared bins.

    Args:
        tensors: name → array of any shape; names become labels and decide the look.
        bins: number of equal bins from the smallest to the largest weight of all tensors.

    Returns:
        Columns name, left, right (edges of the bin), share (of the tensor's weights, sums to 1), n (weights in the tensor).
    """
    flat = {name: np.asarray(values, dtype=np.float64).ravel() for name, values in tensors.items()}
    filled = [values for values in flat.values() if values.size]
    if not filled:
        return pd.DataFrame(columns=["name", "left", "right", "share", "n"])
    edges = np.linspace(min(v.min() for v in filled), max(v.max() for v in filled), bins + 1)
    parts = []
    for name, values in flat.items():
        held, _ = np.histogram(values, edges)
        parts.append(
            pd.DataFrame(
                {
                    "name": name,
                    "left": edges[:-1],
                    "right": edges[1:],
                    "share": held / max(1, values.size),
                    "n": values.size,
                }
            )
        )
    return pd.concat(parts, ignore_index=True)


def weights(rows: pd.DataFrame, *, log: bool = False) -> go.Figure:
    """Draw the spread of weights as outlines.

    Args:
        rows: columns name, left, right (bin edges, in units of the weight), share (of the weights, 0 to 1); optional n
            (weights in all). `weight_rows` makes them.
        log: logarithmic share axis, to see the tails.

    Returns:
        The light figure; an empty plot that says what will appear when there are no rows.

    Raises:
        UserError: a column is missing.
    """
    _frames.need(rows, ("name", "left", "right", "share"), "weight histograms")
    fig = go.Figure()
    fig.update_xaxes(title_text="Weight (no unit)", type="linear")
    fig.update_yaxes(title_text="Weights in the bin (%)", type="log" if log else "linear")
    title = "How the weights are spread"
    if rows.empty:
        style.empty(fig, "The spread of a layer's weights appears here. Pick a model and a layer.")
        return style.finish(fig, title=title, alt="An empty plot: no layer is chosen yet.")

    names = list(dict.fromkeys(rows["name"]))
    for name in names:
        part = rows[rows["name"] == name]
        look = style.look(name)
        x = np.column_stack([part["left"], part["right"]]).ravel()
        y = np.repeat(100 * part["share"].to_numpy(float), 2)
        fig.add_scatter(
            x=_frames.plain(x),
            y=_frames.plain(y),
            name=name,
            mode="lines",
            line={"color": look.stroke, "width": 2, "dash": look.dash},
            fill="tozeroy",
            fillcolor=style.alpha(look.stroke, 0.12),
            hovertemplate=f"{name}<br>around %{{x:.3g}}<br>%{{y:.3g}} %<extra></extra>",
        )
    top = 100 * rows["share"].to_numpy(float)
    fig.update_xaxes(range=_frames.spread([*rows["left"], *rows["right"]], pad=0.02))
    both = _switch.set_axis(fig, "y", "Weights in the bin (%)", top, log=log, pad=0.08)
    both[False]["range"] = [0.0, 1.08 * float(top.max()) or 1.0]
    fig.update_layout(yaxis=both[log])
    room = _switch.add(fig, {"y": (log, both)}, above=24 * -(-len(names) // 4))
    fig.update_layout(hovermode="closest", showlegend=True)
    low, high = float(rows["left"].min()), float(rows["right"].max())
    used = rows[rows["share"] > 0].groupby("name", sort=False).size()
    sizes = f" n = {count(rows['n'].max())} weights." if "n" in rows else ""
    return style.finish(
        fig,
        title=title,
        alt=f"Weights lie between {number(low)} and {number(high)}; "
        + ", ".join(f"{n} fills {used.get(n, 0)} bins" for n in names)
        + ".",
        caption=f"Share of the weights in {rows.groupby('name').size().max()} equal bins.{sizes}",
        buttons=room,
        top=style.TOP + 24 * -(-len(names) // 4),
    )


EXAMPLE = {
    "weights": lambda: {
        "rows": weight_rows(
            {"full": _digits.runs()["full"][0]["w1"], "rtn-3": _digits.quantized()["rtn-3"]["w1"]}, bins=41
        )
    }
}
