"""What the pages about single adapters share: arms that get the same learning rates on the task `python`, and one figure.

An arm is a name, the method whose look it has, and a function that puts it on a model. Every arm gets the same rates; the
one that is best on the eval part is scored on the test part. The figure shows how far each arm is from a reference arm,
in percent of its loss.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import pandas as pd
import plotly.graph_objects as go

from workbench.errors import choose
from workbench.figures import style
from workbench.papers._nola_figures import half_interval, interval_words, thin
from workbench.papers.cells import cell
from workbench.progress import Progress, part

if TYPE_CHECKING:
    from torch import nn

    from workbench.papers._transfer import Plan, Task

Wrap = Callable[["nn.Module"], "nn.Module"]
MUTED = {"size": 12, "color": style.LIGHT["muted"]}


def plan_for(scale: str) -> Plan:
    """How much of the task `python` a scale runs.

    Args:
        scale: `smoke`, `small` or `full`.
    """
    from workbench.papers._transfer import Plan

    known = {
        "smoke": Plan("tiny-lm", window=32, batch=4, steps=2, evaluated=8, tested=8, documents=12),
        "small": Plan("tiny-lm", window=64, batch=4, steps=40, evaluated=48, tested=192, documents=60),
        "full": Plan("smollm2-135m", window=256, batch=16, steps=400, evaluated=128, tested=768, documents=160),
    }
    return known[choose("scale", scale, known)]


def run_arms(
    task: Task, arms: Mapping[str, tuple[str, Wrap]], rates: Sequence[float], seed: int, progress: Progress
) -> list[dict[str, Any]]:
    """Train every arm at every rate; score each arm's best on the test part.

    Args:
        task: what is learned.
        arms: name → (method for its look, function that puts it on a copy of the base).
        rates: peak learning rates, the same for every arm.
        seed: batches and starting values.
        progress: called along the way; ends below 1.

    Returns:
        One row per arm and rate; the chosen ones also have `test`.
    """
    rows: list[dict[str, Any]] = []
    for index, (arm, (method, wrap)) in enumerate(arms.items()):
        inner = part(progress, index / (len(arms) + 1), (index + 1) / (len(arms) + 1))
        rows += cell(arm, partial(_arm, task, arm, method, wrap, rates, seed, inner))
    return rows


def _arm(
    task: Task, arm: str, method: str, wrap: Wrap, rates: Sequence[float], seed: int, progress: Progress
) -> list[dict[str, Any]]:
    from workbench.papers._transfer import score, train

    rows, best, kept = [], None, None
    for index, rate in enumerate(rates):
        progress(index, len(rates), f"seed {seed}: {arm}, learning rate {rate:g}")
        model, trainable = train(task, wrap, rate, seed)
        row = {
            "seed": seed, "arm": arm, "method": method, "rate": rate, "trainable": trainable,
            "eval": score(model, task, "eval"), "chosen": False,
        }  # fmt: skip
        rows.append(row)
        if best is None or math.isnan(best["eval"]) or row["eval"] < best["eval"]:
            best, kept = row, model
    best |= {"chosen": True, "test": score(kept, task, "test")}
    return rows


def scores(rows: pd.DataFrame) -> pd.Series:
    """Test loss of every arm of one seed, at its chosen rate."""
    return chosen(rows).set_index("arm")["test"]


def chosen(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows at the chosen learning rates."""
    return rows[rows["chosen"].fillna(False).astype(bool)]


def ahead(losses: pd.Series, ours: str, other: str) -> float:
    """How far an arm is ahead of another one, in percent of the other's loss."""
    return float(100 * (losses[other] - losses[ours]) / losses[other])


def verdict(rows: pd.DataFrame, reference: str, title: str, note: str, band: float | None = None) -> go.Figure:
    """Distance of every arm to a reference arm, in percent of its loss; better is further right.

    Args:
        rows: of one or more seeds, as `run_arms` makes them.
        reference: name of the arm that is zero.
        title: of the figure.
        note: what else the caption says.
        band: distance that the page counts as tied, shaded.
    """
    best = chosen(rows)
    zero = best[best["arm"] == reference].set_index("seed")["test"]
    points = best.assign(points=100 * (1 - best["test"].to_numpy() / best["seed"].map(zero).to_numpy()))
    arms = list(dict.fromkeys(points.sort_values("trainable", kind="stable")["arm"]))
    means = points.groupby("arm")["points"].mean()
    fig = go.Figure()
    if band is not None:
        fig.add_vrect(
            x0=-band, x1=band, fillcolor=style.alpha(style.LIGHT["good"], 0.12), line={"width": 0}, layer="below"
        )
    fig.add_vline(x=0, line={"color": style.LIGHT["muted"], "width": 1})
    for level, arm in enumerate(arms):
        own = points[points["arm"] == arm]
        look = style.look(own["method"].iloc[0])
        fig.add_scatter(
            x=[means[arm]], y=[level], mode="markers", name=arm, showlegend=False,
            error_x={"type": "data", "array": [half_interval(own["points"])], "color": style.LIGHT["muted"], "thickness": 1.5,
                     "width": 4},
            marker={"symbol": look.marker, "size": 11, "color": look.fill, "line": {"color": look.stroke, "width": 2}},
            hovertemplate=f"{arm}: %{{x:+.2f}} percent<extra></extra>",
        )  # fmt: skip
    counts = points.groupby("arm")["trainable"].mean()
    labels = [f"{arm}<br>{thin(counts[arm])}" for arm in arms]
    fig.update_yaxes(type="linear", tickmode="array", tickvals=list(range(len(arms))), ticktext=labels, showgrid=False)
    fig.update_yaxes(range=[-0.6, len(arms) - 0.4])
    edge = max(1.0, 1.15 * float(points["points"].abs().max()))
    low = -edge if points["points"].min() < 0 else -0.1 * edge
    fig.update_xaxes(type="linear", range=[low, edge], title_text="Percent ahead (right is better)")
    told = ", ".join(f"{arm} {means[arm]:+.1f}" for arm in arms if arm != reference)
    return style.finish(
        fig, title=title, alt=f"Percent of loss ahead of {reference}: {told}.", left=150, plot=48 * len(arms),
        caption=f"Loss on Python code that was not seen; zero is {reference}. Under each name: numbers trained. "
        f"{interval_words(points['seed'].nunique())} {note}".strip(),
    )  # fmt: skip
