"""The parts of the page `step-law` that train nothing: settings from other cells, valleys, exponents, errors of laws, noise.

Every function takes the grid (one row per run: n, d, lr, batch_tokens, seed, loss), or the whole sweep, and gives rows.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from workbench.errors import UserError

LAW, SINGLE, COMPUTE = "step law", "best single", "DeepSeek form"


def settings(table: pd.DataFrame, n: int, d: int) -> dict[str, tuple[float, int]]:
    """Arm → (learning rate, batch in tokens) for the cell (n, d), from all other cells."""
    from workbench.scaling.hyperparameters import HyperparameterLaw
    from workbench.scaling.sweep import nearest_batch

    rest = table[(table["n"] != n) | (table["d"] != d)]
    found = {}
    for arm, form in ((LAW, "step"), (COMPUTE, "compute")):
        told = HyperparameterLaw(form=form, samples=20).fit(rest).predict(n, d)
        found[arm] = (told["lr"][0], nearest_batch(told["batch_tokens"][0], d))
    found[SINGLE] = best_single(rest)
    return {arm: found[arm] for arm in (LAW, SINGLE, COMPUTE)}


def best_single(table: pd.DataFrame) -> tuple[float, int]:
    """The setting of lowest mean excess over all cells, among those that every cell has."""
    lowest = table.groupby(["n", "d"])["loss"].transform("min")
    each = (
        table.assign(excess=table["loss"] / lowest - 1).groupby(["lr", "batch_tokens"])["excess"].agg(["mean", "count"])
    )
    lr, batch = each.loc[each["count"] == each["count"].max(), "mean"].idxmin()
    return float(lr), int(batch)


def valleys(table: pd.DataFrame) -> list[dict[str, Any]]:
    """One row per cell: is the loss a valley, and where is its floor?"""
    from workbench.scaling.hyperparameters import by_cell, edge_of, plateau

    rows = []
    for (n, d), cell in by_cell(table):
        row = {"part": "valley", "n": int(n), "d": int(d), "edge": edge_of(cell)}
        try:
            found = plateau(cell)
        except UserError:  # too few runs near the best to tell: counted as no valley
            rows.append({**row, "valley": 0.0})
            continue
        rows.append({**row, "valley": float(found.convex), "lr": found.lr, "batch_tokens": found.batch_tokens,
                     "loss": found.loss, "curvature": found.eigenvalues[0], "rms": found.rms})  # fmt: skip
    return rows


def exponents(table: pd.DataFrame) -> list[dict[str, Any]]:
    """The law on all cells: one row per parameter with its 95 % interval over resampled cells."""
    from workbench.scaling.hyperparameters import HyperparameterLaw

    law = HyperparameterLaw(samples=1000).fit(table)
    low, high = np.quantile(law.draws_, [0.025, 0.975], axis=0)
    return [
        {"part": "exponent", "name": name, "value": value, "low": float(low[i]), "high": float(high[i])}
        for i, (name, value) in enumerate(law.parameters_.items())
    ]


def nearest(table: pd.DataFrame) -> list[dict[str, Any]]:
    """The paper's own score: in every cell the grid run nearest to the setting of the law fitted on the others."""
    rows = []
    for (n, d), cell in table.groupby(["n", "d"]):
        lr, batch = settings(table, n, d)[LAW]
        away = np.log(cell["lr"] / lr) ** 2 + np.log(cell["batch_tokens"] / batch) ** 2
        excess = 100 * (cell.loc[away.idxmin(), "loss"] / cell["loss"].min() - 1)
        rows.append({"part": "nearest", "n": int(n), "d": int(d), "excess": float(excess)})
    return rows


def loss_law(sweep: pd.DataFrame) -> list[dict[str, Any]]:
    """Errors on the largest fifth of the sweep's best runs, for the loss law and for simple baselines."""
    from workbench.scaling.fitter import ScalingLaw
    from workbench.scaling.holdout import holdout

    first = sweep[sweep["seed"] == 0]
    best = first.groupby(["n", "d"], as_index=False)["loss"].min().rename(columns={"n": "N", "d": "D"})
    table = holdout(ScalingLaw("chinchilla").fit(best), best)
    return [{"part": "holdout", **row} for row in table.rename(columns={"n": "runs"}).to_dict("records")]


def noise(sweep: pd.DataFrame) -> list[dict[str, Any]]:
    """Scatter over seeds alone: standard deviation of ln loss (percent) at one setting near the best of its cell."""
    grid = sweep[sweep["role"] == "grid"]
    same = grid.groupby(["n", "d", "lr", "batch_tokens"])["loss"].agg(["mean", "count", lambda x: np.log(x).var()])
    same.columns = ["mean", "count", "variance"]
    same = same[same["count"] > 1]
    near = same[same["mean"] <= 1.05 * same.groupby(["n", "d"])["mean"].transform("min")]
    if near.empty:
        return []
    return [{"part": "noise", "value": float(100 * near["variance"].mean() ** 0.5), "runs": int(near["count"].sum())}]
