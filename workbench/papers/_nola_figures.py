"""The two pictures of the page `nola`: the verdict in points, and quality against the count of trained numbers."""

from __future__ import annotations

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from workbench.errors import choose
from workbench.figures import style

TASKS = {  # task: (what is measured, unit, factor, sign that makes more better)
    "python": ("Loss on Python code", "nats per token", 1.0, -1),
    "century": ("Passages dated right", "percent", 100.0, 1),
}
REFERENCE = "LoRA r=1"
MUTED = {"size": 12, "color": style.LIGHT["muted"]}


def points_ahead(best: pd.DataFrame) -> pd.DataFrame:
    """Distance of every arm to LoRA at rank one on the same seed, in points; positive is better than LoRA.

    Args:
        best: rows at the chosen learning rate (columns seed, task, arm, test).

    Returns:
        The rows with a column `points`: accuracy in percent, or loss in percent of LoRA's.
    """
    keys = ["seed", "task"]
    one = best[best["arm"] == REFERENCE].set_index(keys)["test"]
    other = best.set_index(keys).index.map(one)
    gap = best["test"].to_numpy() - other.to_numpy()
    loss = (best["task"] == "python").to_numpy()
    return best.assign(points=100 * np.where(loss, -gap / other.to_numpy(), gap))


def half_interval(values: pd.Series) -> float:
    """Half width of the 95 % Student interval of the mean; 0 for a single value."""
    if len(values) < 2:
        return 0.0
    from scipy.stats import t

    return float(t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / len(values) ** 0.5)


def verdict(best: pd.DataFrame, note: str) -> go.Figure:
    """Every arm's distance to LoRA r=1 on both tasks, by count from the bottom up, with the band that counts as tied.

    Args:
        best: rows at the chosen learning rate.
        note: what else the caption says.
    """
    rows = points_ahead(best)
    arms = list(dict.fromkeys(rows.sort_values("share", kind="stable")["arm"]))
    trained = rows[rows["method"] != "base"]["points"]
    low, high = min(-2.0, trained.min() - 1), max(2.0, trained.max() + 1)
    fig = go.Figure()
    fig.add_vrect(x0=-1, x1=1, fillcolor=style.alpha(style.LIGHT["good"], 0.12), line={"width": 0}, layer="below")
    fig.add_vline(x=0, line={"color": style.LIGHT["muted"], "width": 1})
    for index, (task, (words, *_)) in enumerate(TASKS.items()):
        x, y, bars, looks = [], [], [], []
        for level, arm in enumerate(arms):
            own = rows[(rows["task"] == task) & (rows["arm"] == arm)]
            if own.empty:
                continue
            value, place = own["points"].mean(), level + (0.16, -0.16)[index]
            if value < low:
                fig.add_annotation(
                    text=f"◂ {value:.0f} {'loss' if task == 'python' else 'accuracy'}", x=low, y=place, xanchor="left",
                    showarrow=False, font=MUTED,
                )  # fmt: skip
                continue
            x.append(value)
            y.append(place)
            bars.append(half_interval(own["points"]))
            looks.append(style.look(own["method"].iloc[0]))
        fig.add_scatter(
            x=x, y=y, mode="markers", name=words, showlegend=False,
            error_x={"type": "data", "array": bars, "color": style.LIGHT["muted"], "thickness": 1.5, "width": 4},
            marker={
                "symbol": [look.marker for look in looks], "size": 11,
                "color": [look.fill if task == "python" else style.LIGHT["ground"] for look in looks],
                "line": {"color": [look.stroke for look in looks], "width": 2},
            },
            hovertemplate=f"{words}: %{{x:+.2f}} points<extra></extra>",
        )  # fmt: skip
    counts = rows.groupby("arm")["trainable"].mean()
    labels = [f"{arm}<br>{counts[arm]:,.0f}".replace(",", "\u2009") for arm in arms]
    fig.update_yaxes(type="linear", tickmode="array", tickvals=list(range(len(arms))), ticktext=labels, showgrid=False)
    fig.update_yaxes(range=[-0.6, len(arms) - 0.2])
    fig.update_xaxes(type="linear", range=[low, high], title_text="Points ahead of LoRA r=1 (right is better)")
    fig.add_annotation(text="tied", x=0, y=len(arms) - 0.35, showarrow=False, font=MUTED)
    seeds = rows["seed"].nunique()
    bars_say = f"Bars: 95 % interval over {seeds} seeds." if seeds > 1 else "One seed, no interval."
    return style.finish(
        fig, title="Below rank one: how far from LoRA r=1", alt=sentence(rows), left=186, plot=58 * len(arms),
        caption=f"Filled: loss on Python code, in percent. Hollow: passages dated right, in percent. Under each name: "
        f"numbers trained in the adapter. {bars_say} {note}",
    )  # fmt: skip


def sentence(rows: pd.DataFrame) -> str:
    """The finding in one sentence."""
    mean = rows.groupby(["arm", "task"])["points"].mean()
    told = []
    for arm in ("NOLA ½", "LoRA r=1, half the layers"):
        told.append(f"{arm} is {mean[arm, 'python']:+.1f} points of loss and {mean[arm, 'century']:+.1f} of accuracy")
    return f"Against LoRA r=1, {told[0]}; {told[1]}."


def against_count(best: pd.DataFrame, task: str = "python") -> go.Figure:
    """Quality of one task against trained numbers on a log axis, with the wall that LoRA cannot pass.

    Args:
        best: rows at the chosen learning rate, of one or more seeds.
        task: `python` or `century`.
    """
    words, unit, factor, _ = TASKS[choose("task", task, TASKS)]
    rows = best[best["task"] == task]
    fig = go.Figure()
    values: dict[str, float] = {}
    for arm, own in rows.groupby("arm", sort=False):
        look, test = style.look(own["method"].iloc[0]), own["test"] * factor
        bar = {"type": "data", "array": [half_interval(test)], "color": look.stroke, "thickness": 1.5, "width": 4}
        values[arm] = test.mean()
        if own["method"].iloc[0] == "base":
            fig.add_hline(y=values[arm], line={"color": look.stroke, "dash": "dot", "width": 1.5})
            fig.add_annotation(
                text="no adapter" if task == "python" else "output layer only", x=1, xref="paper", y=values[arm],
                xanchor="right", yanchor="bottom", showarrow=False, font=MUTED,
            )  # fmt: skip
            continue
        half = "half" in arm
        fig.add_scatter(
            x=[own["trainable"].mean()], y=[values[arm]], mode="markers", name=arm, error_y=bar,
            marker={"symbol": look.marker, "size": 12, "color": style.LIGHT["ground"] if half else look.fill,
                    "line": {"color": look.stroke, "width": 2}},
            hovertemplate=f"{arm}<br>%{{x:,.0f}} trained numbers<br>%{{y:.4g}} {unit}<extra></extra>",
        )  # fmt: skip
    wall = rows.loc[rows["arm"] == REFERENCE, "trainable"].mean()
    fig.add_vline(x=wall, line={"color": style.LIGHT["muted"], "width": 1, "dash": "dash"})
    fig.add_annotation(
        text="rank one: LoRA's smallest", x=np.log10(wall), y=1, yref="paper", xanchor="right", yanchor="top",
        xshift=-6, showarrow=False, font=MUTED,
    )  # fmt: skip
    fig.update_xaxes(type="log", title_text="Numbers trained in the adapter")
    fig.update_yaxes(type="linear", title_text=f"{words} ({unit})")
    seeds = rows["seed"].nunique()
    bars = f"Bars: 95 % interval over {seeds} seeds." if seeds > 1 else "One seed, no interval."
    alt = f"{words} against trained numbers: " + ", ".join(f"{arm} {value:.3g}" for arm, value in values.items()) + "."
    return style.finish(
        fig, title=f"{words} against the count of trained numbers", alt=alt, top=style.TOP + 88,
        caption=f"{bars} Hollow: adapter on every second layer only.",
    )  # fmt: skip


def sum_of_matrices(coeffs: tuple[float, ...], seed: int = 0, shape: tuple[int, int] = (4, 16)) -> go.Figure:
    """Picture of the idea: a few frozen random matrices, their coefficients, and the weighted sum below them.

    Args:
        coeffs: one number per matrix, at most five.
        seed: of the matrices.
        shape: (rank, d_in) of each.
    """
    from workbench.adapters._random import random_numbers

    rows, columns = shape
    numbers = random_numbers(seed, 0, len(coeffs) * rows * columns).view(-1, rows, columns).numpy()
    total = np.tensordot(np.array(coeffs, dtype=numbers.dtype), numbers, 1) / len(coeffs) ** 0.5
    names = [f"{c:+.1f} × M{j}" for j, c in enumerate(coeffs, start=1)] + ["their sum / √k"]
    fig = go.Figure()
    for index, (name, matrix) in enumerate(zip(names, [*numbers, total], strict=True)):
        top = (len(names) - 1 - index) * (rows + 2)
        fig.add_heatmap(
            z=matrix, y=[top + row for row in range(rows)], zmin=-1, zmax=1, zmid=0, showscale=False, name=name,
            colorscale=[[0, "#2166AC"], [0.5, "#F7F7F7"], [1, "#B2182B"]], xgap=1, ygap=1,
            hovertemplate=f"{name}<br>%{{z:.2f}}<extra></extra>",
        )  # fmt: skip
    tops = [(len(names) - 1 - index) * (rows + 2) + (rows - 1) / 2 for index in range(len(names))]
    fig.update_yaxes(type="linear", tickmode="array", tickvals=tops, ticktext=names, showgrid=False)
    fig.update_xaxes(type="linear", showticklabels=False, ticks="", showgrid=False, title_text=f"{columns} columns")
    return style.finish(
        fig, title="One factor as a sum of frozen random matrices", left=128, plot=74 * len(names),
        alt=f"{len(coeffs)} random matrices with coefficients {', '.join(f'{c:+.1f}' for c in coeffs)} and their sum.",
        caption="Only the coefficients are trained; the matrices come back from their seed. Blue −1, white 0, red 1.",
    )  # fmt: skip
