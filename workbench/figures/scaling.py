"""Scaling laws: the fit over compute and what it leaves over.

Ground beyond the fitted runs is shaded and labelled "beyond the data", and curves there are dashed: an extrapolation must
look like one. Held-out runs are hollow.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from workbench.figures import _frames, style
from workbench.figures.formats import number

RAMP = (
    "#00224E",
    "#2F477A",
    "#5D6570",
    "#7C7B78",
    "#A59C74",
    "#BCAF6F",
)  # cividis, dark to light: small to large models
UNITS = {"C": "FLOP", "N": "parameters", "D": "tokens", "S": "steps", "m": "rows", "U": "different tokens", "P": "streams",
         "N_e": "parameters", "N_d": "parameters", "N_v": "parameters", "L": "nats", "B": "tokens per step", "t": "days",
         "V": "entries"}  # fmt: skip
NAMES = {"C": "Training compute", "N": "Model size", "D": "Training data", "S": "Steps", "m": "Training rows",
         "U": "Different training data", "P": "Parallel streams", "N_e": "Encoder size", "N_d": "Decoder size",
         "N_v": "Vocabulary parameters", "L": "Loss", "B": "Batch", "t": "Time", "V": "Vocabulary"}  # fmt: skip
TARGET = "loss (nats per token)"


def _powers(fig: go.Figure, which: str, title: str, values: np.ndarray, pad: float = 0.05) -> None:
    """A log axis with explicit range and ticks at powers of ten (every second or third where there are many)."""
    low, high = _frames.spread(values, log=True, pad=pad)
    ticks = np.arange(np.ceil(low), np.floor(high) + 1)
    ticks = ticks[:: max(1, -(-len(ticks) // 6))]
    if len(ticks) < 2:
        ticks = np.linspace(low, high, 4)[1:-1]
    texts = [f"10<sup>{int(t)}</sup>" if t == int(t) else f"{10**t:.2g}" for t in ticks]
    fig.update_layout(
        {
            f"{which}axis": {
                "type": "log",
                "range": [low, high],
                "tickmode": "array",
                "tickvals": [float(10**t) for t in ticks],
                "ticktext": texts,
                "title": {"text": title},
            }
        }
    )


def _name(column: str) -> str:
    """The column inside a sentence."""
    return NAMES[column].lower() if column in NAMES else column


def _title(column: str) -> str:
    return f"{NAMES.get(column, column.capitalize())} ({UNITS.get(column, 'no unit')}, log scale)"


def law(
    rows: pd.DataFrame, curves: pd.DataFrame | None = None, *, x: str = "C", size: str = "N", target: str = TARGET
) -> go.Figure:
    """Draw runs and the fitted law over `x`, one curve per group.

    Args:
        rows: columns `x` (for example compute C in FLOP), loss (nats per token), `size` (colours the runs); optional
            held (true: not used in the fit, drawn hollow). One row per run.
        curves: group, `x`, loss; optional low, high (95 % band of the fit) and beyond (true: outside the fitted runs).
        x: column of the horizontal axis.
        size: column that colours the runs.
        target: what the column loss holds, with its unit in brackets.

    Returns:
        The light figure; an empty plot that says what will appear when there are no rows.

    Raises:
        UserError: a column is missing.
    """
    _frames.need(rows, (x, "loss", size), "a scaling law")
    fig = go.Figure()
    fig.update_xaxes(title_text=_title(x), type="log")
    word, _, unit = target.partition(" (")
    unit = unit.rstrip(")") or "no unit"
    log = rows.empty or bool((rows["loss"] > 0).all() and (curves is None or (curves["loss"] > 0).all()))
    kind = "log" if log else "linear"
    fig.update_yaxes(title_text=f"{word.capitalize()} ({unit}{', log scale' if log else ''})", type=kind)
    title = f"{word.capitalize()} against {_name(x)}, runs and fitted law"
    if rows.empty:
        fig.update_xaxes(type="linear")
        fig.update_yaxes(type="linear")
        style.empty(fig, "Runs and the fitted law appear here. Upload a table of training runs.")
        return style.finish(fig, title=title, alt="An empty plot: no runs have been given yet.")
    curves = pd.DataFrame(columns=["group", x, "loss"]) if curves is None else curves
    for group, part in curves.groupby("group", sort=False):
        _curve(fig, str(group), part, x)
    order = np.log(rows[size].to_numpy(float))
    place = (order - order.min()) / max(np.ptp(order), 1e-12)
    colors = np.array([RAMP[round(p * (len(RAMP) - 1))] for p in place])
    held = rows["held"].to_numpy(bool) if "held" in rows else np.zeros(len(rows), bool)
    for part, hollow in ((~held, False), (held, True)):
        if part.any():
            own = rows[part]
            fig.add_scatter(
                x=_frames.plain(own[x]),
                y=_frames.plain(own["loss"]),
                name="held out" if hollow else "run",
                mode="markers",
                showlegend=bool(held.any()),
                marker={
                    "size": 8,
                    "color": style.LIGHT["ground"] if hollow else list(colors[part]),
                    "line": {
                        "width": 2 if hollow else 1,
                        "color": list(colors[part]) if hollow else style.LIGHT["ground"],
                    },
                },
                hovertext=[_frames.hover(row, rows.columns) for row in own.itertuples()],
                hovertemplate="%{hovertext}<extra></extra>",
            )
    shown = np.concatenate([rows[x].to_numpy(float), curves[x].to_numpy(float)])
    _powers(fig, "x", _title(x), shown)
    losses = np.concatenate([rows["loss"].to_numpy(float), curves["loss"].to_numpy(float)])
    low, high = _frames.spread(losses, log=log, pad=0.06)
    fig.update_yaxes(range=[low, high], **(_loss_ticks(low, high) if log else {"tickmode": "auto"}))
    reach = np.log10(shown.max() / rows[x].max())
    if reach > 0.05:
        _beyond(fig, float(rows[x].max()), float(shown.max()), reach)
    fig.update_layout(hovermode="closest", showlegend=bool(held.any()))
    ends = f"{number(rows['loss'].max())} to {number(rows['loss'].min())}"
    alt = f"{len(rows)} runs: {word} between {ends} {unit}."
    caption = f"Each dot is one run, n = {len(rows)}; darker is smaller. Line: fitted law"
    caption += ", band: 95 % of the fit" if "low" in curves else ""
    caption += ". Hollow: held out of the fit." if held.any() else "."
    return style.finish(fig, title=title, alt=alt, caption=caption, top=style.TOP + (22 if held.any() else 0))


def _curve(fig: go.Figure, group: str, part: pd.DataFrame, x: str) -> None:
    color = style.LIGHT["accent"]
    if "low" in part:
        fig.add_scatter(
            x=_frames.plain([*part[x], *part[x][::-1]]),
            y=_frames.plain([*part["high"], *part["low"][::-1]]),
            mode="lines",
            fill="toself",
            fillcolor=style.alpha(color, 0.12),
            line={"width": 0, "color": color},
            hoverinfo="skip",
            showlegend=False,
        )
    beyond = part["beyond"].to_numpy(bool) if "beyond" in part else np.zeros(len(part), bool)
    for chosen, dash in ((~beyond, "solid"), (beyond, "dash")):
        if chosen.sum() > 1:
            fig.add_scatter(
                x=_frames.plain(part[x][chosen]),
                y=_frames.plain(part["loss"][chosen]),
                name=group,
                mode="lines",
                showlegend=False,
                line={"width": 1.6, "color": color, "dash": dash},
                hovertemplate=f"{group}<br>%{{y:.4g}}<extra></extra>",
            )


def _loss_ticks(low: float, high: float) -> dict:
    from workbench.figures._switch import log_ticks

    ticks, texts = log_ticks(10**low, 10**high)
    return {"tickmode": "array", "tickvals": ticks, "ticktext": texts}


def _beyond(fig: go.Figure, start: float, stop: float, decades: float) -> None:
    fig.add_shape(
        type="rect", xref="x", x0=start, x1=stop * 10, yref="paper", y0=0, y1=1, layer="below",
        fillcolor=style.alpha(style.LIGHT["muted"], 0.10), line={"width": 0, "color": style.LIGHT["muted"]},
    )  # fmt: skip
    fig.add_annotation(
        name="label", text=f"beyond the data by {decades:.1f} decades", xref="paper", x=1, xanchor="right", yref="paper", y=1,
        yanchor="top", showarrow=False, font={"size": 12, "color": style.LIGHT["muted"]},
    )  # fmt: skip


def residuals(rows: pd.DataFrame, *, x: str = "C", relative: bool = True) -> go.Figure:
    """Draw what the law leaves over: ln L̂ − ln L against `x`.

    Args:
        rows: columns `x`, residual (positive: predicted too high); optional held.
        x: column of the horizontal axis.
        relative: residuals are ln L̂ − ln L and shown in percent; else L̂ − L, shown as it is.

    Returns:
        The light figure; an empty plot that says what will appear when there are no rows.

    Raises:
        UserError: a column is missing.
    """
    _frames.need(rows, (x, "residual"), "residuals")
    fig = go.Figure()
    fig.update_xaxes(title_text=_title(x), type="log")
    unit = "%" if relative else "unit of the target"
    fig.update_yaxes(title_text=f"Predicted {'over' if relative else 'minus'} measured ({unit})", type="linear")
    title = f"What the law leaves over, against {_name(x)}"
    if rows.empty:
        fig.update_xaxes(type="linear")
        style.empty(fig, "The residual of each run appears here. Fit a law to fill it.")
        return style.finish(fig, title=title, alt="An empty plot: nothing is fitted yet.")
    left = rows["residual"].to_numpy(float)
    percent = 100 * np.expm1(left) if relative else left
    held = rows["held"].to_numpy(bool) if "held" in rows else np.zeros(len(rows), bool)
    for part, hollow in ((~held, False), (held, True)):
        if part.any():
            fig.add_scatter(
                x=_frames.plain(rows[x][part]),
                y=_frames.plain(percent[part]),
                mode="markers",
                showlegend=False,
                marker={
                    "size": 8,
                    "color": style.LIGHT["ground"] if hollow else style.LIGHT["accent"],
                    "line": {"width": 2 if hollow else 1, "color": style.LIGHT["accent" if hollow else "ground"]},
                },
                hovertext=[_frames.hover(row, rows.columns) for row in rows[part].itertuples()],
                hovertemplate="%{hovertext}<extra></extra>",
            )
    _powers(fig, "x", _title(x), rows[x].to_numpy(float))
    top = max(np.abs(percent).max() * 1.1, 0.1 if relative else 1e-9)
    fig.update_yaxes(range=[-top, top], tickmode="auto")
    fig.add_hline(y=0, line={"color": style.LIGHT["muted"], "width": 1})
    fig.update_layout(hovermode="closest")
    typical = np.median(np.abs(percent))
    return style.finish(
        fig,
        title=title,
        alt=f"Half of the {len(rows)} runs lie within {number(typical)} {'% ' if relative else ''}of the law.",
        caption=f"n = {len(rows)} runs. Above zero: the law predicts too much."
        + (" Hollow: held out." if held.any() else ""),
    )


def _example() -> pd.DataFrame:
    """12 of the points that were read off figure 4 of Hoffmann et al. 2022 (assets/scaling/chinchilla.csv)."""
    points = [
        (73824672, 3154403320, 3.405928), (57334197, 16860179357, 3.160113), (174943053, 9514050970, 2.940838),
        (305636065, 14831606869, 2.744991), (174943219, 38673313957, 2.769778), (424609882, 23212348711, 2.640121),
        (1793808924, 9036677011, 2.577587), (1592874407, 19437460007, 2.494015), (2979523285, 16409943745, 2.434941),
        (2638632712, 36637766452, 2.348944), (4516062221, 36707976153, 2.30364), (6795606774, 78994313041, 2.205694),
    ]  # fmt: skip
    table = pd.DataFrame(points, columns=["N", "D", "loss"])
    return table.assign(C=6 * table["N"] * table["D"], held=table["loss"] < 2.2)


def _example_curve() -> pd.DataFrame:
    c = np.geomspace(5e17, 1e23, 30)
    n = 0.6 * (c / 6) ** 0.46
    loss = 1.82 + 482 / n**0.348 + 2085 / (c / 6 / n) ** 0.366
    return pd.DataFrame(
        {"group": "optimal", "C": c, "loss": loss, "low": loss * 0.985, "high": loss * 1.015, "beyond": c > 7e21}
    )


EXAMPLE = {
    "law": lambda: {"rows": _example(), "curves": _example_curve()},
    "residuals": lambda: {
        "rows": (t := _example()).assign(
            residual=np.log((1.82 + 482 / t["N"] ** 0.348 + 2085 / t["D"] ** 0.366) / t["loss"])
        )
    },
}
