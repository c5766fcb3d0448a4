"""Equal losses over size and data, and loss against size at fixed training compute: two cuts through one law.

Ground covered by runs shows as dots; the compute-optimal path and the best size of each budget are marked.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from workbench.figures import _frames, style
from workbench.figures._plan import example_plan, power_of_ten, star
from workbench.figures.formats import number
from workbench.figures.scaling import EXAMPLE as RUNS
from workbench.figures.scaling import RAMP, _loss_ticks, _powers, _title


def iso_loss(rows: pd.DataFrame, path: pd.DataFrame | None = None, runs: pd.DataFrame | None = None) -> go.Figure:
    """Draw lines of equal loss over model size and data, the compute-optimal path, and the runs.

    Args:
        rows: columns N, D, loss: the points of each line, grouped by loss.
        path: N, D of the compute-optimal path.
        runs: N, D of the fitted runs.

    Returns:
        The light figure; an empty plot that says what will appear when there are no rows.

    Raises:
        UserError: a column is missing.
    """
    _frames.need(rows, ("N", "D", "loss"), "lines of equal loss")
    fig = go.Figure()
    fig.update_xaxes(title_text=_title("N"), type="log")
    fig.update_yaxes(title_text=_title("D"), type="log")
    title = "Model size and data that give one loss"
    if rows.empty:
        fig.update_xaxes(type="linear")
        fig.update_yaxes(type="linear")
        style.empty(fig, "Lines of equal loss appear here. Fit a law of N and D to fill it.")
        return style.finish(fig, title=title, alt="An empty plot: nothing is fitted yet.")
    groups = list(rows.groupby("loss"))
    for i, (loss, part) in enumerate(groups):
        color = style.readable(RAMP[round(i * (len(RAMP) - 1) / max(1, len(groups) - 1))], style.LIGHT["ground"])
        fig.add_scatter(
            x=_frames.plain(part["N"]), y=_frames.plain(part["D"]), mode="lines", name=f"{loss:.3g}", showlegend=True,
            line={"color": color, "width": 2}, hovertemplate=f"loss {loss:.4g}<extra></extra>",
        )  # fmt: skip
    every = [rows[["N", "D"]]]
    if runs is not None and len(runs):
        every.append(runs[["N", "D"]])
        fig.add_scatter(
            x=_frames.plain(runs["N"]), y=_frames.plain(runs["D"]), mode="markers", name="runs", showlegend=False,
            marker={"size": 6, "color": style.alpha(style.LIGHT["muted"], 0.6), "line": {"width": 0}},
            hovertemplate="run<br>N %{x:.3g}<br>D %{y:.3g}<extra></extra>",
        )  # fmt: skip
    if path is not None and len(path):
        fig.add_scatter(
            x=_frames.plain(path["N"]), y=_frames.plain(path["D"]), mode="lines", name="optimal", showlegend=True,
            line={"color": style.LIGHT["bad"], "width": 2.5, "dash": "dash"}, hovertemplate="optimal<extra></extra>",
        )  # fmt: skip
    both = pd.concat(every)
    _powers(fig, "x", _title("N"), both["N"].to_numpy(float))
    _powers(fig, "y", _title("D"), both["D"].to_numpy(float))
    fig.update_layout(hovermode="closest", showlegend=True)
    return style.finish(
        fig,
        title=title,
        alt=f"{len(groups)} lines of equal loss from {groups[0][0]:.3g} to {groups[-1][0]:.3g} nats per token.",
        caption="Each line holds one loss (nats per token). Dashed: the cheapest size for every budget. Dots: fitted runs.",
        top=style.TOP + 24 * -(-(len(groups) + 1) // 5),
    )


def iso_flop(rows: pd.DataFrame, planned: pd.DataFrame | None = None) -> go.Figure:
    """Draw loss against model size at fixed training compute, one curve per budget, with the best size of each.

    Args:
        rows: columns C (FLOP), N, loss: the points of each curve.
        planned: N, loss of the plan, and optional N_low, N_high (95 % interval of the size).

    Returns:
        The light figure; an empty plot that says what will appear when there are no rows.

    Raises:
        UserError: a column is missing.
    """
    _frames.need(rows, ("C", "N", "loss"), "loss at fixed compute")
    fig = go.Figure()
    fig.update_xaxes(title_text=_title("N"), type="log")
    fig.update_yaxes(title_text="Loss (nats per token, log scale)", type="log")
    title = "Loss against model size at fixed training compute"
    if rows.empty:
        fig.update_xaxes(type="linear")
        fig.update_yaxes(type="linear")
        style.empty(fig, "One curve per budget appears here. Fit a law of N and D to fill it.")
        return style.finish(fig, title=title, alt="An empty plot: nothing is fitted yet.")
    budgets = list(rows.groupby("C"))
    low, high = _frames.spread(rows["loss"], log=True, pad=0.06)
    ends = [np.log10(part["loss"].iloc[-1]) for _, part in budgets]
    pixels = [(end - low) / (high - low) * style.PLOT for end in ends]
    shifts = np.array(_frames.apart(pixels, 15)) - pixels
    best = pd.DataFrame([part.loc[part["loss"].idxmin()] for _, part in budgets])
    for i, (flops, part) in enumerate(budgets):
        color = style.readable(RAMP[round(i * (len(RAMP) - 1) / max(1, len(budgets) - 1))], style.LIGHT["ground"])
        fig.add_scatter(
            x=_frames.plain(part["N"]), y=_frames.plain(part["loss"]), mode="lines", showlegend=False,
            name=f"{flops:.3g} FLOP", line={"color": color, "width": 2},
            hovertemplate=f"{flops:.3g} FLOP<br>N %{{x:.3g}}<br>loss %{{y:.4f}}<extra></extra>",
        )  # fmt: skip
        fig.add_annotation(
            name="label", text=power_of_ten(flops), x=np.log10(part["N"].iloc[-1]), y=ends[i], xanchor="left", xshift=6,
            yshift=float(shifts[i]), showarrow=False, font={"size": 12, "color": style.LIGHT["text"]},
        )  # fmt: skip
    fig.add_scatter(
        x=_frames.plain(best["N"]), y=_frames.plain(best["loss"]), mode="lines+markers", showlegend=False, name="best size",
        line={"color": style.LIGHT["muted"], "width": 1.5, "dash": "dot"},
        marker={"size": 8, "color": style.LIGHT["text"], "line": {"width": 1, "color": style.LIGHT["ground"]}},
        hovertemplate="best size %{x:.3g}<br>loss %{y:.4f}<extra></extra>",
    )  # fmt: skip
    told = "Dots: the best size of each budget."
    if planned is not None and len(planned):
        star(fig, planned.iloc[0], "N", "loss", along="x")
        told += " Star: the plan" + (", bar: 95 % interval of its size." if "N_low" in planned else ".")
    _powers(fig, "x", _title("N"), rows["N"].to_numpy(float))
    fig.update_yaxes(range=[low, high], **_loss_ticks(low, high))
    fig.update_layout(hovermode="closest")
    return style.finish(
        fig, title=title, right=78,
        alt=f"The best size grows from {number(best['N'].iloc[0])} to {number(best['N'].iloc[-1])} parameters over "
        f"{len(budgets)} budgets.",
        caption=f"Each curve spends one budget (label, FLOP) on a smaller model with more tokens or the reverse. {told}",
    )  # fmt: skip


def _example_curves() -> pd.DataFrame:
    """Curves of L = 1.82 + 482/N^0.348 + 2085/D^0.366 (Besiroglu et al. 2024) at four budgets."""
    parts = []
    for flops in (1e19, 1e20, 1e21, 1e22):
        n = 0.6 * (flops / 6) ** 0.46 * np.geomspace(0.1, 10, 21)
        loss = 1.82 + 482 / n**0.348 + 2085 / (flops / 6 / n) ** 0.366
        parts.append(pd.DataFrame({"C": flops, "N": n, "loss": loss}))
    return pd.concat(parts, ignore_index=True)


def _example_lines() -> pd.DataFrame:
    parts = []
    for loss in (2.2, 2.6, 3.0):
        gap = loss - 1.82
        n = (482 / gap) ** (1 / 0.348) * np.geomspace(1.05, 1e3, 40)
        parts.append(pd.DataFrame({"N": n, "D": (2085 / (gap - 482 / n**0.348)) ** (1 / 0.366), "loss": loss}))
    return pd.concat(parts)


EXAMPLE = {
    "iso_loss": lambda: {
        "rows": _example_lines(),
        "runs": RUNS["law"]()["rows"],
        "path": pd.DataFrame({"N": [1e8, 1e10], "D": [2e9, 2e11]}),
    },
    "iso_flop": lambda: {"rows": _example_curves(), "planned": example_plan()},
}
