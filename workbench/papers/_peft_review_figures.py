"""Figures of the page `peft-review` and its lesson: the scores of a grid, and what chance alone does to a ranking."""

from __future__ import annotations

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from workbench.errors import choose
from workbench.figures import intervals, style
from workbench.papers import _peft_review_runs as runs


def scores(rows: pd.DataFrame, trainings: int | None = None, modules: int | None = None) -> go.Figure:
    """Loss of every method with its interval over seeds and modules; tied with the best is shaded.

    Args:
        rows: of one or more seeds of the page.
        trainings: judge by the first of each method only; None takes all.
        modules: judge by the first test modules only; None takes all.
    """
    from workbench.grid.judging import judge

    seen = {
        name: (nats[:trainings, :modules], tokens[:modules]) for name, (nats, tokens) in runs.measured(rows).items()
    }
    found = judge(seen, higher=False, reference="full")
    first = rows.groupby("name", sort=False).first()
    table = pd.DataFrame([
        {"name": name, "method": first.loc[name, "method"], "loss": row["value"], "loss_low": row["low"],
         "loss_high": row["high"], "loss_tied": row["tied"], "n": row["n"],
         "seeds": max(one["seeds"] for one in found.values()), "within_budget": bool(first.loc[name, "within_budget"])}
        for name, row in found.items()
    ])  # fmt: skip
    return intervals(table, "loss", items="modules", budget="as many numbers as LoRA of rank 2")


def paired(rows: pd.DataFrame, first: str = "full", second: str = "prompt") -> go.Figure:
    """Loss of every test module under two rows of the grid: modules differ far more than methods do.

    Args:
        rows: of one or more seeds of the page.
        first, second: names of rows; below the line the second is better.
    """
    from workbench.grid.crossed import common_floor, crossed, difference

    seen = runs.measured(rows)
    names = [choose("row of the grid", name, seen) for name in (first, second)]
    tokens = seen[first][1]
    x, y = (seen[name][0].mean(0) / tokens for name in names)
    alone = [crossed(*seen[name]) for name in names]
    apart = difference(seen[second][0], seen[first][0], tokens, common_floor(seen))
    ends = [float(min(x.min(), y.min())) - 0.1, float(max(x.max(), y.max())) + 0.1]
    fig = go.Figure()
    fig.add_scatter(
        x=ends, y=ends, mode="lines", showlegend=False, hoverinfo="skip",
        line={"color": style.LIGHT["muted"], "width": 1, "dash": "dash"},
    )  # fmt: skip
    fig.add_scatter(
        x=x.tolist(), y=y.tolist(), mode="markers", showlegend=False,
        marker={"size": 9, "color": style.LIGHT["accent"], "line": {"color": style.LIGHT["text"], "width": 1}},
        hovertemplate=f"{first} %{{x:.3f}}<br>{second} %{{y:.3f}}<extra></extra>",
    )  # fmt: skip
    fig.update_xaxes(type="linear", range=ends, title_text=f"Loss of a module, {first} (nats per token)")
    fig.update_yaxes(type="linear", range=ends, title_text=f"Loss of a module, {second}")
    told = ", ".join(
        f"{name} {one.value:.3f} ± {one.high - one.value:.3f}" for name, one in zip(names, alone, strict=True)
    )
    between = f"{second} − {first} = {apart.value:+.3f} ± {apart.high - apart.value:.3f} nats"
    return style.finish(
        fig, title="The same modules, two methods", left=64,
        alt=f"Modules lie along the line of equal loss: {between}.",
        caption=f"Each for itself: {told}. Paired: {between} (95 % intervals, {apart.runs} seeds, {apart.groups} modules).",
    )  # fmt: skip


def lottery(methods: int = 12, questions: int = 1319, truth: float = 0.5, seed: int = 0) -> go.Figure:
    """Methods that are all equally good, each scored once on the same number of questions: a table full of winners.

    Args:
        methods: rows of the table.
        questions: test items.
        truth: share that every method gets right in the long run.
        seed: of the draw.
    """
    rng = np.random.default_rng(seed)
    found = np.sort(rng.binomial(questions, truth, methods) / questions)
    half = 1.96 * np.sqrt(truth * (1 - truth) / questions)
    names = [f"method {chr(65 + index)}" for index in rng.permutation(methods)]
    fig = go.Figure()
    band = {"fillcolor": style.alpha(style.LIGHT["accent"], 0.12), "line": {"width": 0}, "layer": "below"}
    fig.add_vrect(x0=truth - half, x1=truth + half, **band)
    fig.add_scatter(
        x=found.tolist(), y=list(range(methods)), mode="markers", showlegend=False,
        marker={"symbol": "circle", "size": 10, "color": style.LIGHT["muted"],
                "line": {"color": style.LIGHT["text"], "width": 1}},
        hovertemplate="%{x:.3f}<extra></extra>",
    )  # fmt: skip
    fig.update_yaxes(type="linear", tickmode="array", tickvals=list(range(methods)), ticktext=names, showgrid=False)
    fig.update_yaxes(range=[-0.7, methods - 0.3])
    pad = max(3.2 * half, float(np.abs(found - truth).max()) * 1.15)
    fig.update_xaxes(type="linear", range=[truth - pad, truth + pad], title_text="Accuracy (share of questions right)")
    lead = 100 * (found[-1] - found[0])
    return style.finish(
        fig, title=f"{methods} equally good methods, one run each", left=96, plot=22 * methods,
        alt=f"The best of {methods} equal methods leads the worst by {lead:.1f} points, by luck alone.",
        caption=f"Shaded: where 95 % of such scores fall ({questions} questions). First and last differ by {lead:.1f} points.",
    )  # fmt: skip
