"""What a fine-tuning did to the weights: how far each matrix moved, and in how many directions.

Size of a move: ‖ΔW‖ / ‖W‖ (Frobenius), ΔW = trained − before. Directions: the singular values of ΔW, largest first; a
curve that stops at r means that the change has rank r.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from workbench.figures import _digits, _frames, style
from workbench.figures.formats import number

VIRIDIS = [[0, "#440154"], [0.25, "#3B528B"], [0.5, "#21918C"], [0.75, "#5EC962"], [1, "#FDE725"]]
ZERO = 1e-5  # singular values below this share of the largest are rounding


def changes(rows: pd.DataFrame) -> go.Figure:
    """Draw how far each matrix moved, one field per matrix.

    Args:
        rows: columns method, layer (name or number of the layer), kind (which matrix of it), change (relative, 1 = as large
            as the matrix itself).

    Returns:
        The light figure; an empty plot that says what will appear when there are no rows.

    Raises:
        UserError: a column is missing.
    """
    _frames.need(rows, ("method", "layer", "kind", "change"), "changes of weights")
    fig = go.Figure()
    fig.update_xaxes(title_text="Matrix (kind)", type="category", showgrid=False)
    fig.update_yaxes(title_text="", type="category", showgrid=False)
    title = "How far each weight matrix moved"
    if rows.empty:
        fig.update_xaxes(type="linear")
        fig.update_yaxes(type="linear")
        style.empty(fig, "The change of each matrix appears here. Fine-tune a model to fill it.")
        return style.finish(fig, title=title, alt="An empty plot: no model has been fine-tuned yet.")

    rows = rows.assign(row=rows["method"].astype(str) + " · " + rows["layer"].astype(str))
    kinds, lines = list(dict.fromkeys(rows["kind"])), list(dict.fromkeys(rows["row"]))
    percent = 100 * rows.pivot(index="row", columns="kind", values="change").reindex(index=lines, columns=kinds)
    most = float(np.nanmax(percent.to_numpy())) or 1.0
    fig.add_heatmap(
        x=list(range(len(kinds))),
        y=list(range(len(lines))),
        z=[_frames.plain(line) for line in percent.to_numpy()],
        zmin=0,
        zmax=most,
        showscale=False,
        colorscale=VIRIDIS,
        xgap=2,
        ygap=2,
        name="change",
        customdata=[[f"{line}, {kind}" for kind in kinds] for line in lines],
        hovertemplate="%{customdata}<br>moved by %{z:.2f} % of its size<extra></extra>",
    )
    for bright, color in ((True, "#1D2126"), (False, "#FFFFFF")):
        cells = [
            (x, y, percent.iat[y, x])
            for y in range(len(lines))
            for x in range(len(kinds))
            if np.isfinite(percent.iat[y, x]) and (percent.iat[y, x] > 0.55 * most) == bright
        ]
        fig.add_scatter(
            x=[x for x, _, _ in cells],
            y=[y for _, y, _ in cells],
            mode="text",
            showlegend=False,
            hoverinfo="skip",
            name="percent",
            text=["0" if value == 0 else f"{value:.1f}" for _, _, value in cells],
            textfont={"size": 11, "color": color},
        )
    fig.update_xaxes(
        type="linear",
        range=[-0.5, len(kinds) - 0.5],
        tickmode="array",
        tickvals=list(range(len(kinds))),
        ticktext=[_frames.shorten(kind, 8) for kind in kinds],
        tickangle=-90 if len(kinds) > 4 else 0,
        title_text="" if len(kinds) > 4 else "Matrix (kind)",
    )
    fig.update_yaxes(
        type="linear",
        range=[len(lines) - 0.5, -0.5],
        tickmode="array",
        tickvals=list(range(len(lines))),
        ticktext=[_frames.shorten(line, 16) for line in lines],
    )
    top = rows.loc[rows["change"].idxmax()]
    still = rows[rows["change"] == 0]
    return style.finish(
        fig,
        title=title,
        alt=f"The largest move is {number(100 * float(top['change']))} percent, {top['kind']} of {top['row']}; "
        f"{len(still)} of {len(rows)} matrices did not move.",
        caption="Numbers: size of the change as a percentage of the matrix's own size. 0: not touched. One seed.",
        left=36 + round(_frames.CHAR * max(len(_frames.shorten(line, 16)) for line in lines)),
        bottom=64,
        plot=max(style.PLOT, 24 * len(lines)),
    )


def spectra(rows: pd.DataFrame) -> go.Figure:
    """Draw the singular values of the change of one matrix, largest first.

    Args:
        rows: columns method, index (1 for the largest), value (singular value).

    Returns:
        The light figure; an empty plot that says what will appear when there are no rows.

    Raises:
        UserError: a column is missing.
    """
    _frames.need(rows, ("method", "index", "value"), "singular values")
    fig = go.Figure()
    fig.update_xaxes(title_text="Direction (largest first)", type="linear")
    fig.update_yaxes(title_text="Singular value (log scale)", type="log", exponentformat="power")
    title = "In how many directions the matrix moved"
    if rows.empty:
        fig.update_yaxes(type="linear", title_text="Singular value (no unit)")
        style.empty(fig, "The directions of a change appear here. Fine-tune a model to fill it.")
        return style.finish(fig, title=title, alt="An empty plot: no model has been fine-tuned yet.")

    kept = rows[rows["value"] > ZERO * rows.groupby("method")["value"].transform("max")]
    ranks = kept.groupby("method", sort=False).size()
    for method, part in kept.groupby("method", sort=False):
        look = style.look(str(method))
        part = part.sort_values("index")
        fig.add_scatter(
            x=[int(i) for i in part["index"]],
            y=_frames.plain(part["value"]),
            name=f"{method}, rank {len(part)}",
            mode="lines+markers" if len(part) <= 40 else "lines",
            line={"color": look.stroke, "width": 2.5, "dash": look.dash},
            marker={"symbol": look.marker, "size": 7, "color": look.fill, "line": {"color": look.stroke, "width": 1}},
            hovertemplate=f"{method}<br>direction %{{x}}<br>%{{y:.3g}}<extra></extra>",
        )
    span = _frames.spread(kept["value"], log=True)
    fig.update_yaxes(range=span)
    fig.update_xaxes(range=[0, 1.03 * float(kept["index"].max())])
    fig.update_layout(showlegend=True, hovermode="closest")
    told = ", ".join(f"{method} in {rank}" for method, rank in ranks.items())
    return style.finish(
        fig,
        title=title,
        alt=f"The matrix moved in this many directions: {told}.",
        caption="A curve ends where the rest is zero: its length is the rank of the change. One seed.",
        top=style.TOP + 24 * -(-len(ranks) // 2),
    )


def _digit_changes() -> pd.DataFrame:
    found, base = [], _digits.runs()["base"][0]
    for method in ("full", "lora"):
        trained = _digits.runs()[method][0]
        for kind, after in (("w1", _digits._effective(trained)), ("w2", trained["w2"])):
            found.append((method, "digits", kind, np.linalg.norm(after - base[kind]) / np.linalg.norm(base[kind])))
    return pd.DataFrame(found, columns=["method", "layer", "kind", "change"])


def _digit_spectra() -> pd.DataFrame:
    base = _digits.runs()["base"][0]["w1"]
    found = []
    for method in ("full", "lora"):
        values = np.linalg.svd(_digits._effective(_digits.runs()[method][0]) - base, compute_uv=False)
        found += [(method, i, float(value)) for i, value in enumerate(values, 1)]
    return pd.DataFrame(found, columns=["method", "index", "value"])


EXAMPLE = {"changes": lambda: {"rows": _digit_changes()}, "spectra": lambda: {"rows": _digit_spectra()}}
