"""Learning curves of one or several runs: thin line = training loss, thick line with marks = evaluation.

The best evaluation of each run is a star. Colour follows the method; runs of one method differ by dash. The axes range
themselves: with a constant `uirevision`, plotly.js keeps a reader's zoom over a redraw only while the figure's own range
stays the same, and an explicit range would change with every new step (measured in 3.3.1 and 4.1.1). For the same reason
the linear/log button does not outlive a redraw: a live page has its own switch and passes `log` and `switch=False`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from workbench.figures import _digits, _frames, _switch, style
from workbench.figures._thin import MAX_POINTS, keep
from workbench.figures.formats import number

COLUMNS = ("run", "split", "step", "value")
SHOWN = 12  # runs drawn at most; later ones come first


def curve_rows(metrics: Iterable[Mapping[str, Any]], run: str, method: str = "") -> pd.DataFrame:
    """Tidy rows from the metric lines of a run.

    Args:
        metrics: mappings with `step` and any of `loss` (training) and `eval_loss`.
        run: the name to show.
        method: fine-tuning method, for the colour.

    Returns:
        Columns run, method, split ("train" or "eval"), step, value; one row per number.
    """
    keys = {"loss": "train", "eval_loss": "eval"}
    found = [
        (run, method or run, split, int(line["step"]), float(line[key]))
        for line in metrics
        for key, split in keys.items()
        if line.get(key) is not None and line.get("step") is not None
    ]
    return pd.DataFrame(found, columns=["run", "method", "split", "step", "value"])


def curves(
    rows: pd.DataFrame, *, log: bool = False, switch: bool = True, metric: str = "Loss", unit: str = "nats per token"
) -> go.Figure:
    """Draw learning curves.

    Args:
        rows: columns run (name), split ("train" or "eval"), step (optimizer updates), value (in `unit`); optional method
            (colour; the run's name where absent). Order of runs is the order of first appearance.
        log: start with a logarithmic vertical axis.
        switch: show the linear/log button.
        metric: what the value is, for the title and the axis.
        unit: unit of the value, for the axis.

    Returns:
        The light figure, at most 2 000 points; an empty plot that says what will appear when there are no rows.

    Raises:
        UserError: a column is missing.
    """
    _frames.need(rows, COLUMNS, "learning curves")
    fig = go.Figure()
    fig.update_xaxes(title_text=style.AXES["step"].title, type="linear")
    fig.update_yaxes(title_text=f"{metric} ({unit})", type="log" if log else "linear")
    if rows.empty:
        style.empty(fig, f"{metric} appears here from the first step. Start a fine-tuning run, or pick a finished one.")
        return style.finish(
            fig, title=f"{metric} while training", alt=f"An empty plot: no run has reported its {metric.lower()} yet."
        )

    names = list(dict.fromkeys(rows["run"]))[-SHOWN:]
    rows = rows[rows["run"].isin(names)].sort_values("step", kind="stable")
    share = max(3, MAX_POINTS // max(1, rows.groupby(["run", "split"]).ngroups) - 1)
    ends, seen, finding = [], {}, []
    for name in names:
        own = rows[rows["run"] == name]
        method = str(own["method"].iloc[0]) if "method" in own else name
        look = style.look(method)
        nth = seen[look.stroke] = seen.get(look.stroke, -1) + 1
        dash = style.DASHES[(style.DASHES.index(look.dash) + nth) % len(style.DASHES)]
        leading = "eval" if (own["split"] == "eval").any() else "train"
        for split, part in own.groupby("split"):
            _line(fig, name, split, part, look, dash if split == leading else "solid", share, legend=split == leading)
        eval_part = own[(own["split"] == "eval") & np.isfinite(own["value"])]
        shown = eval_part if len(eval_part) else own
        ends.append((name, float(shown["value"].iloc[-1]), look))
        if len(eval_part):
            best = eval_part.loc[eval_part["value"].idxmin()]
            _star(fig, name, best, look)
            finding.append((float(best["value"]), name, int(best["step"])))

    direct = len(names) <= 6
    fig.update_xaxes(autorange=True)
    both = _switch.set_axis(fig, "y", f"{metric} ({unit})", rows["value"], log=log, pad=0.05, auto=True)
    if direct:
        _end_labels(fig, ends, rows["value"], log)
    room = _switch.add(fig, {"y": (log, both)}) if switch else 0
    fig.update_layout(showlegend=not direct, hovermode="closest")
    alt = f"{metric} over steps for {len(names)} run{'s' * (len(names) > 1)}; no evaluation yet."
    if finding:
        value, name, step = min(finding)
        alt = alt.replace(
            "no evaluation yet", f"the lowest evaluation is {number(value)} {unit}, {name} at step {step}"
        )
    return style.finish(
        fig,
        title=f"{metric} while training",
        alt=alt,
        caption="Thick line with marks: held-out data. Thin line: training batches. Star: best evaluation. One seed per line.",
        right=24 + round(_frames.CHAR * max(len(_frames.shorten(n)) for n in names)) if direct else style.RIGHT,
        buttons=room,
        top=style.TOP + (0 if direct else 22 * -(-len(names) // 3)),
    )


def _line(
    fig: go.Figure,
    name: str,
    split: str,
    part: pd.DataFrame,
    look: style.Look,
    dash: str,
    share: int,
    *,
    legend: bool,
) -> None:
    evaluation = split == "eval"
    at = keep(part["step"].to_numpy(), part["value"].to_numpy(), share)
    fig.add_scatter(
        x=[int(s) for s in part["step"].to_numpy()[at]],
        y=_frames.plain(part["value"].to_numpy()[at]),
        name=name,
        legendgroup=name,
        showlegend=legend,
        mode="lines+markers" if evaluation and len(at) <= 60 else "lines",
        line={
            "color": look.stroke if evaluation else style.alpha(look.stroke, 0.45),
            "width": 2.5 if evaluation else 1.2,
            "dash": dash,
        },
        marker={"color": look.fill, "symbol": look.marker, "size": 7, "line": {"color": look.stroke, "width": 1}},
        hovertemplate=f"{name}<br>{split} · step %{{x}}<br>%{{y:.4g}}<extra></extra>",
    )


def _star(fig: go.Figure, name: str, best: pd.Series, look: style.Look) -> None:
    fig.add_scatter(
        x=[int(best["step"])],
        y=_frames.plain([best["value"]]),
        name=f"{name}, best",
        legendgroup=name,
        showlegend=False,
        mode="markers",
        marker={"symbol": "star", "size": 14, "color": look.fill, "line": {"color": style.LIGHT["text"], "width": 1}},
        hovertemplate=f"{name}, best evaluation<br>step %{{x}}<br>%{{y:.4g}}<extra></extra>",
    )


def _end_labels(fig: go.Figure, ends: list[tuple[str, float, style.Look]], values: pd.Series, log: bool) -> None:
    """Names at the right edge, level with the last value; moved apart in pixels where two runs end close together."""
    height = style.PLOT
    low, high = _frames.spread(values, log=log)
    level = [float(np.log10(max(v, 1e-300)) if log else v) for _, v, _ in ends]
    pixels = [height * (v - low) / (high - low) for v in level]
    for (name, _, look), y, own, moved in zip(ends, level, pixels, _frames.apart(pixels, 16), strict=True):
        if not np.isfinite(y):
            continue
        fig.add_annotation(
            name="label",
            text=f"<b>{_frames.shorten(name)}</b>",
            xref="paper",
            x=1,
            xanchor="left",
            xshift=6,
            yref="y",
            y=y,
            yanchor="middle",
            yshift=round(moved - own),
            showarrow=False,
            font={"size": 12, "color": look.ink},
        )


EXAMPLE = {"curves": lambda: {"rows": _digits.curve_rows(), "unit": "nats per image"}}
