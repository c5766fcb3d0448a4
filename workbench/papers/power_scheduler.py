"""Power scheduler re-run: does one setting, found on the shortest budget and one batch, serve longer ones and other batches?

A character-level decoder (width 32, 2 layers, AdamW) learns public-domain text. Everything is tuned once, on the shortest
budget with 8 sequences per step; each schedule tries six values there:

    power     η(n) = β·a·n^(−0.51), capped at the top of the grid; a is tuned
    WSD       a plateau; its rate is tuned
    cosine    one half-wave down to zero; its peak rate is tuned

Then nothing is touched any more: budgets ×1, ×4, ×16 and batches ×½, ×1, ×2 (in sequences), nine cells. Warm-up (a tenth of the
shortest budget), decay (the last tenth, straight down to zero) and text are the same for power and WSD. In each cell the
grid of six WSD rates is run too, and

    excess = final loss / best loss of that cell's WSD grid − 1                  (percent; the tuned rate is one of the six)

    margin = min( 1 − mean excess of power,  mean excess of WSD / 2 − mean excess of power )     over the 8 cells transferred to

Beside it, free since it lies on the grid: WSD whose rate is moved in proportion to the batch, which knows half of the law.

Where it fails, the second picture says why: in the committed run the best rate falls with the text more slowly than the
published power and rises with the batch like its root rather than in proportion, so that one a leaves the curve too low on
long budgets and too high on large batches; and the power curve starts behind in the very cell it was tuned in.

Departures: 24 thousand parameters and 16 to 262 thousand characters. One width: at its base width muP is the plain model; that
muP groups keep their ratios is a test of the block. The cap is the top of the grid, not the published 0.02.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from workbench.errors import choose
from workbench.papers import _power_figures
from workbench.papers.cells import cell
from workbench.papers.finding import Finding
from workbench.progress import Progress, silent

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from workbench.papers._power_runs import Plan

CARD = {
    "slug": "power-scheduler",
    "title": "Power Scheduler: A Batch Size and Token Number Agnostic Learning Rate Scheduler",
    "authors": "Shen, Stallone, Mishra, Zhang, Tan, Prasad, Soria, Cox, Panda",
    "year": 2024,
    "arxiv": "2408.13359",
    "family": "training",
    "blocks": ["workbench.training.schedules"],
    "lesson": "13_schedules",
    "claim": "A power schedule tuned once, on the shortest budget and one batch, stays within 1 % of the best WSD rate of "
    "every other budget and batch on average, and loses at most half as much as WSD with its rate transferred.",
    "metric": "percentage points of final loss above the best of six WSD rates in the same cell",
    "threshold": "mean excess over the 8 transferred cells (budgets ×1, ×4, ×16; batches ×½, ×1, ×2) below 1 %, and at most "
    "half of that of WSD with the transferred rate",
    "published": [
        {"setting": "fit of the best rate per sequence against tokens, 12M to 121M parameters", "a": 4.6, "b": -0.51,
         "source": "paper, recalled"},
    ],
    "cpu_minutes": 6,
}  # fmt: skip

ALLOWED, TIMES = 1.0, 2.0
ARMS = ("power", "WSD", "WSD, rate × batch", "cosine")


def plans(scale: str) -> Plan:
    """The plan of a scale: `smoke` (seconds), `small` (gives the verdict) or `full` (four times as long, twice as wide)."""
    from workbench.papers._power_runs import Plan

    grid = tuple(2.0**k for k in range(-10, -4))
    known = {
        "smoke": Plan(
            1024, grid[::2], multiples=(1, 2), factors=(1.0, 2.0), sequences=2, width=16, layers=1, windows=16
        ),
        "small": Plan(16384, grid),
        "full": Plan(131072, grid, window=64, width=64),
    }
    return known[choose("scale", scale, known)]


def experiment(
    scale: str = "small", seed: int = 0, device: str | None = None, progress: Progress | None = None
) -> Finding:
    """Tune every schedule in one cell, then run all cells, for one seed.

    Args:
        scale: `smoke`, `small` or `full`.
        seed: initial weights and order of the text.
        device: not used; decoders this small are trained fastest on the CPU.
        progress: called with done, total, text.

    Returns:
        Finding; rows with `part` = "tune" (18 runs of the tuning cell) and "cell" (8 runs of every cell).
    """
    from workbench.papers import _power_runs

    plan, progress = plans(scale), progress or silent
    places = [(factor, multiple) for factor in plan.factors for multiple in plan.multiples]
    work = [3.0] + [8 / 6 * multiple * (1 + 1 / factor) for factor, multiple in places]
    progress(0, sum(work), f"seed {seed}: tuning in one cell")
    rows: list[dict[str, Any]] = cell("tune", functools.partial(_power_runs.tune, plan, seed))
    tuned = {row["schedule"]: row["value"] for row in rows if row["chosen"]}
    for index, (factor, multiple) in enumerate(places):
        progress(sum(work[: index + 1]), sum(work), f"seed {seed}: batch ×{factor:g}, text ×{multiple}")
        rows += cell(f"{factor} {multiple}", functools.partial(_power_runs.cells, plan, seed, factor, multiple, tuned))
    table = pd.DataFrame([{"seed": seed, **row} for row in rows])
    progress(1.0, 1.0, f"seed {seed}: done")
    ran = {**_power_runs.as_dict(plan), "tuned": {name: round(value, 6) for name, value in tuned.items()}}
    return Finding(table, figure(table), margin(table), ran, note(table))


def excess(rows: pd.DataFrame) -> pd.DataFrame:
    """How far every arm ends above the best WSD rate of its cell, in percent.

    Args:
        rows: the rows of one or more seeds.

    Returns:
        One row per seed, cell and arm: seed, factor, multiple, arm, percent, transferred (false for the tuning cell).
    """
    found = []
    for (seed, factor, multiple), own in rows[rows["part"] == "cell"].groupby(["seed", "factor", "multiple"]):
        grid = own[own["schedule"] == "WSD"].sort_values("value")
        tuned = grid.loc[grid["chosen"], "value"].iloc[0]
        near = grid.loc[(np.log(grid["value"]) - np.log(tuned * factor)).abs().idxmin(), "loss"]
        kept = own[own["chosen"]].set_index("schedule")["loss"]
        losses = {"power": kept["power"], "WSD": kept["WSD"], "WSD, rate × batch": near, "cosine": kept["cosine"]}
        first = factor == 1 and multiple == rows["multiple"].min()
        place = {"seed": seed, "factor": factor, "multiple": multiple, "transferred": not first}
        found += [{**place, "arm": arm, "percent": 100 * (losses[arm] / grid["loss"].min() - 1)} for arm in ARMS]
    return pd.DataFrame(found)


def means(rows: pd.DataFrame) -> pd.Series:
    """Mean excess of every arm over the transferred cells, in percent."""
    table = excess(rows)
    return table[table["transferred"]].groupby("arm")["percent"].mean()


def margin(rows: pd.DataFrame) -> float:
    """Signed distance to the threshold for the rows of one seed, in percentage points."""
    mean = means(rows)
    return float(min(ALLOWED - mean["power"], mean["WSD"] / TIMES - mean["power"]))


def best_rates(rows: pd.DataFrame, sequences: int = 8) -> pd.DataFrame:
    """Where each cell's WSD grid is lowest, by a parabola through the best rate and its neighbours (in the logarithm).

    Args:
        rows: the rows of one or more seeds.
        sequences: per step at batch ×1.

    Returns:
        One row per seed and cell: factor, multiple, rate, gamma (rate per sequence), edge (the best rate ends the grid).
    """
    found = []
    wsd = rows[(rows["part"] == "cell") & (rows["schedule"] == "WSD")]
    for (seed, factor, multiple), own in wsd.groupby(["seed", "factor", "multiple"]):
        own = own.sort_values("value")
        x, y = np.log(own["value"].to_numpy(float)), own["loss"].to_numpy(float)
        at = int(y.argmin())
        edge = at in (0, len(y) - 1)
        if not edge:
            low, high = y[at - 1] - y[at], y[at + 1] - y[at]
            shift = 0.5 * (x[at + 1] - x[at]) * (low - high) / (low + high)
        rate = float(np.exp(x[at] + (0.0 if edge else shift)))
        place = {"seed": seed, "factor": factor, "multiple": multiple}
        found.append({**place, "rate": rate, "gamma": rate / (sequences * factor), "edge": edge})
    return pd.DataFrame(found)


def power_law(best: pd.DataFrame, budget: int) -> dict[str, float]:
    """Least squares of ln γ on ln T, and of the logarithm of the rate on both ln T and ln batch, inside the grid.

    Args:
        best: as from `best_rates`.
        budget: characters at multiple 1.

    Returns:
        a, b, low and high (95 % Student interval of b), batch (exponent of the batch; the paper's law says 1), n. With
        fewer than three usable cells all but n are NaN.
    """
    from scipy import stats

    inside = best[~best["edge"].astype(bool)]
    if len(inside) < 3 or inside["multiple"].nunique() < 2:
        return {**dict.fromkeys(("a", "b", "low", "high", "batch"), np.nan), "n": len(inside)}
    text, batch = np.log(inside["multiple"] * budget), np.log(inside["factor"])
    line = stats.linregress(text, np.log(inside["gamma"]))
    half = stats.t.ppf(0.975, len(inside) - 2) * line.stderr
    both, *_ = np.linalg.lstsq(np.column_stack([np.ones(len(text)), text, batch]), np.log(inside["rate"]), rcond=None)
    found = {"a": np.exp(line.intercept), "b": line.slope, "low": line.slope - half, "high": line.slope + half}
    return {**{name: float(value) for name, value in found.items()}, "batch": float(both[2]), "n": len(inside)}


def note(rows: pd.DataFrame) -> str:
    """What a reader must know beside the margin."""
    mean, best = means(rows), best_rates(rows)
    law = power_law(best, plans("small").budget)
    slope = f"{law['b']:.2f} ({law['low']:.2f} to {law['high']:.2f})" if np.isfinite(law["b"]) else "not measurable"
    told = ", ".join(f"{arm} {mean[arm]:+.2f} %" for arm in ARMS)
    return (
        f"Mean excess over the transferred cells: {told}. Exponent of the best rate per sequence against tokens: {slope}, "
        f"published −0.51; of the best rate against the batch {law['batch']:.2f}, published 1; "
        f"in {int(best['edge'].sum())} of {len(best)} cells the best rate ends the grid."
    )


def figure(rows: pd.DataFrame) -> go.Figure:
    """Excess of every arm in every cell.

    Args:
        rows: the rows of one or more seeds, as `experiment` makes them.
    """
    return _power_figures.transfer(excess(rows))


def law_figure(rows: pd.DataFrame) -> go.Figure:
    """The second picture: best rate per sequence against tokens.

    Args:
        rows: as for `figure`.
    """
    plan, best = plans("small"), best_rates(rows)
    return _power_figures.gamma(best, power_law(best, plan.budget), plan.budget)
