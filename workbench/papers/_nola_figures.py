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


def thin(count: float) -> str:
    """A count with thin spaces between thousands."""
    return f"{count:,.0f}".replace(",", "\u2009")


def interval_words(seeds: int) -> str:
    """What the bars of a figure mean."""
    return f"Bars: 95 % interval over {seeds} seeds." if seeds > 1 else "One seed, no interval."


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
    labels = [f"{arm}<br>{thin(counts[arm])}" for arm in arms]
    fig.update_yaxes(type="linear", tickmode="array", tickvals=list(range(len(arms))), ticktext=labels, showgrid=False)
    fig.update_yaxes(range=[-0.6, len(arms) - 0.2])
    fig.update_xaxes(type="linear", range=[low, high], title_text="Points ahead of LoRA r=1 (right is better)")
    fig.add_annotation(text="tied", x=0, y=len(arms) - 0.35, showarrow=False, font=MUTED)
    seeds = rows["seed"].nunique()
    return style.finish(
        fig, title="Below rank one: how far from LoRA r=1", alt=sentence(rows), left=186, plot=58 * len(arms),
        caption=f"Filled: loss on Python code, in percent. Hollow: passages dated right, in percent. Under each name: "
        f"numbers trained in the adapter. {interval_words(seeds)} {note}",
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
    words, unit, factor, better = TASKS[choose("task", task, TASKS)]
    rows = best[best["task"] == task]
    groups: dict[str, list[pd.DataFrame]] = {}  # NOLA's arms are one curve, every other arm a point
    for arm, own in rows.groupby("arm", sort=False):
        curve = own["method"].iloc[0] == "nola" and arm.startswith("NOLA")
        groups.setdefault("NOLA r=4" if curve else arm, []).append(own)
    fig, values = go.Figure(), {}
    for name, parts in groups.items():
        parts.sort(key=lambda own: own["trainable"].mean())
        y = [own["test"].mean() * factor for own in parts]
        values |= {own["arm"].iloc[0]: value for own, value in zip(parts, y, strict=True)}
        if parts[0]["method"].iloc[0] == "base":
            continue
        look, half = style.look(parts[0]["method"].iloc[0]), "half" in name
        bars = [half_interval(own["test"] * factor) for own in parts]
        own_point = name == "your NOLA"
        fig.add_scatter(
            x=[own["trainable"].mean() for own in parts], y=y, name=name, mode="markers+lines" if len(parts) > 1 else "markers",
            error_y={"type": "data", "array": bars, "color": look.stroke, "thickness": 1.5, "width": 4},
            line={"color": look.stroke, "width": 1.5},
            marker={"symbol": "star" if own_point else look.marker, "size": 16 if own_point else 11,
                    "color": style.LIGHT["accent"] if own_point else style.LIGHT["ground"] if half else look.fill,
                    "line": {"color": style.LIGHT["text"] if own_point else look.stroke, "width": 2}},
            hovertemplate=f"{name}<br>%{{x:,.0f}} trained numbers<br>%{{y:.4g}} {unit}<extra></extra>",
        )  # fmt: skip
    trained = rows[rows["method"] != "base"]
    wall = trained.loc[trained["arm"] == REFERENCE, "trainable"].mean()
    fig.add_vline(x=wall, line={"color": style.LIGHT["muted"], "width": 1, "dash": "dash"})
    low, high = trained["test"].min() * factor, trained["test"].max() * factor
    room = 0.14 * (high - low) or 1.0
    floor = values.get("nothing")
    notes = [(np.log10(wall), "right", -6, "rank one: LoRA's smallest")]
    if floor is not None:
        what = "no adapter" if task == "python" else "output layer only"
        notes.append((0, "left", 6, f"{what}: {floor:.3g} {'(above)' if better < 0 else '(below)'}"))
    for x, anchor, shift, text in notes:
        fig.add_annotation(
            text=text, x=x, xref="x" if anchor == "right" else "paper", y=1 if better < 0 or anchor == "right" else 0,
            yref="paper", xanchor=anchor, yanchor="bottom" if better > 0 and anchor == "left" else "top", xshift=shift,
            showarrow=False, font=MUTED,
        )  # fmt: skip
    counts = sorted(trained["trainable"].unique())
    fig.update_xaxes(
        type="log", title_text="Numbers trained in the adapter (log scale)", tickmode="array", tickvals=counts,
        ticktext=[thin(count) for count in counts],
    )  # fmt: skip
    fig.update_yaxes(type="linear", title_text=f"{words} ({unit})", range=[low - room, high + 2 * room])
    seeds = rows["seed"].nunique()
    alt = f"{words} against trained numbers: " + ", ".join(f"{arm} {value:.3g}" for arm, value in values.items()) + "."
    return style.finish(
        fig, title="Quality against trained numbers", alt=alt, top=style.TOP + 24 * -(-len(fig.data) // 2),
        caption=f"{interval_words(seeds)} Hollow: adapter on every second layer only.",
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
        fig, title="One factor, a sum of random matrices", left=128, plot=74 * len(names),
        alt=f"{len(coeffs)} random matrices with coefficients {', '.join(f'{c:+.1f}' for c in coeffs)} and their sum.",
        caption="Only the coefficients are trained; the matrices come back from their seed. Blue −1, white 0, red 1.",
    )  # fmt: skip
