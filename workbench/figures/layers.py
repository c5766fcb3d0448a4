"""Where compression hurts: the relative error of each layer's output, ‖(W − Ŵ)X‖ / ‖WX‖.

Up to 24 layers get a bar each. More are grouped by kind (the last part of the name, `q_proj`, `down_proj` …): the bar is
the median over the blocks and each point one block, so a single bad layer stays visible.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from workbench.figures import _digits, _frames, _switch, style
from workbench.figures.formats import number

EACH = 24  # layers that still get their own bar


def layers(rows: pd.DataFrame, *, log: bool = False) -> go.Figure:
    """Draw layer-wise errors.

    Args:
        rows: columns layer (full module name), error (relative, 1 = all lost); optional method (one colour each).
        log: logarithmic error axis.

    Returns:
        The light figure; an empty plot that says what will appear when there are no rows.

    Raises:
        UserError: a column is missing.
    """
    _frames.need(rows, ("layer", "error"), "layer errors")
    fig = go.Figure()
    ax = style.AXES["error"]
    fig.update_xaxes(title_text="Layer", type="category", showgrid=False)
    fig.update_yaxes(title_text=ax.title, type="log" if log else "linear")
    title = "Error that compression adds, by layer"
    if rows.empty:
        fig.update_xaxes(type="linear")
        style.empty(fig, "The error of each compressed layer appears here. Compress a model to fill it.")
        return style.finish(fig, title=title, alt="An empty plot: no model has been compressed yet.")

    rows = rows.assign(method=rows["method"].astype(str) if "method" in rows else "error")
    grouped = rows["layer"].nunique() > EACH
    rows = rows.assign(place=rows["layer"].str.rsplit(".", n=1).str[-1] if grouped else _short(rows["layer"]))
    methods, places = list(dict.fromkeys(rows["method"])), list(dict.fromkeys(rows["place"]))
    for method in methods:
        look = style.look(method)
        part = rows[rows["method"] == method]
        middle = part.groupby("place", sort=False)["error"].median().reindex(places)
        fig.add_bar(
            x=places,
            y=_frames.plain(middle.fillna(np.nan)),
            name=method,
            offsetgroup=method,
            marker={
                "color": look.fill,
                "line": {"color": look.stroke, "width": 1},
                "pattern": {
                    "shape": style.PATTERNS.get(look.marker, "+"),
                    "fillmode": "overlay",
                    "fgcolor": style.LIGHT["ground"],
                    "fgopacity": 0.8,
                    "size": 7,
                    "solidity": 0.25,
                },
            },
            hovertemplate=f"{method}<br>%{{x}}<br>error %{{y:.3g}}<extra></extra>",
        )
        if grouped:
            fig.add_box(
                x=list(part["place"]),
                y=_frames.plain(part["error"]),
                name=method,
                offsetgroup=method,
                showlegend=False,
                boxpoints="all",
                jitter=0.6,
                pointpos=0,
                fillcolor="rgba(0, 0, 0, 0)",
                line={"color": "rgba(0, 0, 0, 0)", "width": 0},
                marker={"color": look.stroke, "size": 4, "opacity": 0.6},
                text=list(part["layer"]),
                hovertemplate=f"{method}<br>%{{text}}<br>error %{{y:.3g}}<extra></extra>",
                hoveron="points",
            )
    worst = rows.loc[rows["error"].idxmax()]
    both = _switch.set_axis(fig, "y", ax.title, rows["error"], log=log, pad=0.08)
    both[False]["range"] = [0.0, 1.08 * float(rows["error"].max()) or 1.0]
    fig.update_layout(yaxis=both[log])
    positive = float(rows["error"].min()) > 0
    slanted = len(places) > 6 or max(map(len, places)) * len(places) > 40
    fig.update_xaxes(
        range=[-0.5, len(places) - 0.5],
        tickmode="array",
        tickvals=places,
        ticktext=[_frames.shorten(p, 14) for p in places],
    )
    longest = max(len(_frames.shorten(p, 14)) for p in places)
    if slanted:
        fig.update_xaxes(tickangle=-90, title_text="")
    fig.update_layout(
        barmode="group",
        boxmode="group",
        bargap=0.25,
        bargroupgap=0.06,
        boxgap=0.25,
        boxgroupgap=0.06,
        hovermode="closest",
        showlegend=True,
    )
    what = "Bar: median over blocks, point: one layer." if grouped else "Bar: one layer."
    room = _switch.add(fig, {"y": (log, both)}, above=24 * -(-len(methods) // 4)) if positive else 0
    return style.finish(
        fig,
        title=title,
        alt=f"{ax.words} for {rows['layer'].nunique()} layers; the largest is {number(float(worst['error']))}, "
        f"{worst['layer']} under {worst['method']}.",
        caption=f"{what} Error: size of the change of the layer's output, as a share of the output, on calibration text.",
        buttons=room,
        top=style.TOP + 24 * -(-len(methods) // 4),
        bottom=18 + round(_frames.CHAR * longest) if slanted else style.BOTTOM,
    )


def _short(names: pd.Series) -> pd.Series:
    """Layer names without the part that all of them share."""
    parts = [name.split(".") for name in names.unique()]
    shared = 0
    while len({tuple(p[: shared + 1]) for p in parts}) == 1 and all(len(p) > shared + 1 for p in parts):
        shared += 1
    return names.str.split(".").str[shared:].str.join(".")


EXAMPLE = {"layers": lambda: {"rows": _digits.layer_rows()}}
