"""Step law re-run on our own sweep: does a law fitted on some (N, D) cells choose learning rate and batch for another?

`assets/scaling/sweep.csv` (`workbench sweep`) holds a grid of learning rates and batches for three decoders (24 to 195
thousand parameters without embeddings) on three budgets of characters. Five cells of the two smaller sizes are left out
in turn; three ways to choose a setting see the other cells and are then trained there, now:

    step law         lr = c·N^a·D^b, B = k·D^m
    best single      the one (lr, B) of lowest mean excess over all other cells (among settings that all of them have)
    DeepSeek form    lr and B both powers of C = 6ND, fitted in the same way

Excess: percent over the grid's lowest loss in that cell. The table holds the cheapest cell for seeds 0, 1 and 2
and the others for seed 0. Where it lacks a cell's grid for the seed, the cell's best setting is trained again with
this seed instead, so that starting weights and order of text are the same on both sides.

    margin = min(0.5 − law, single − law, DeepSeek − law      mean excess, percentage points
                 share of valleys − 0.8, −a, m)               valley: the quadratic of ln loss has a minimum

Reported beside it, not judged: the grid run nearest to the law's setting in every cell (the paper's own score), and the
loss law of the sweep predicting its largest runs.

Source: Li et al. 2025, arXiv 2503.04715. Departures: 9 cells instead of 17, models a thousand times smaller, characters
instead of tokens.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd

from workbench.errors import UserError, choose
from workbench.papers import _step_law_figures
from workbench.papers._step_law_parts import (
    COMPUTE,
    LAW,
    SINGLE,
    exponents,
    loss_law,
    nearest,
    noise,
    settings,
    valleys,
)
from workbench.papers.cells import cell as kept
from workbench.papers.finding import Finding
from workbench.progress import Progress, silent

if TYPE_CHECKING:
    import plotly.graph_objects as go

CARD = {
    "slug": "step-law",
    "title": "Predictable Scale: Part I -- Optimal Hyperparameter Scaling Law in Large Language Model Pretraining",
    "authors": "Li, Zheng, Hu, Wang and others",
    "year": 2025,
    "arxiv": "2503.04715",
    "family": "scaling",
    "blocks": ["workbench.scaling.hyperparameters", "workbench.scaling.sweep", "workbench.scaling.fleet"],
    "lesson": "12_planning_a_run",
    "claim": "A power law for the learning rate (in model size and data) and the batch (in data), fitted on other cells, "
    "chooses settings for an unseen size and budget that lose less than 0.5 percent against the grid's best, and less than "
    "one setting for all or a law in compute alone; the loss over both is a valley.",
    "metric": "percentage points of loss over the grid's best (for valleys and signs: distance of the share to 0.8, of the "
    "exponent to 0)",
    "threshold": "mean excess over held-out cells below 0.5 % and below that of the best single setting and of DeepSeek's "
    "form; at least 80 % of the cells a valley; exponent of N in the rate below 0, exponent of D in the batch above 0",
    "published": [
        {"setting": "test cells, predicted setting", "percent over the grid's best": 0.094, "source": "paper (abstract 0.07)"},
        {"setting": "17 dense cells, nearest grid run, mean", "percent over the grid's best": 0.096,
         "source": "recomputed from the released table"},
    ],
    "cpu_minutes": 4,
}  # fmt: skip

TARGET, VALLEYS = 0.5, 0.8
BEST = "grid's best"
SMOKE = 16
SHORT, MIDDLE, LONG = 32_768, 98_304, 294_912
# Cells that are left out and trained: (size, budget).
SCALES: dict[str, tuple[tuple[str, int], ...]] = {
    "smoke": (("32x2", SHORT),),
    "small": (("32x2", SHORT), ("32x2", MIDDLE), ("32x2", LONG), ("48x3", SHORT), ("48x3", MIDDLE)),
    "full": tuple((size, tokens) for size in ("32x2", "48x3", "64x4") for tokens in (SHORT, MIDDLE, LONG)),
}


def experiment(
    scale: str = "small", seed: int = 0, device: str | None = None, progress: Progress | None = None
) -> Finding:
    """Leave cells out, choose a setting for each in three ways, train there; for one seed.

    Args:
        scale: `smoke` (one cell, a sixteenth of its tokens: plumbing only), `small`
            (five cells of the two smaller sizes) or `full` (all nine).
        seed: starting weights and order of text; also whose grid is fitted where the table has several.
        device: not used; decoders this small are trained fastest on the CPU.
        progress: called with done, total, text.

    Returns:
        Finding; `part` says what a row is: "cell" (a trained setting), "valley", "exponent", "nearest",
        "holdout", "noise".
    """
    from workbench.scaling.sweep import SIZES, load_sweep

    places, share = SCALES[choose("scale", scale, SCALES)], SMOKE if scale == "smoke" else 1
    progress = progress or silent
    sweep = load_sweep()
    table = grid_of(sweep, seed)
    rows, done = [], 0.0
    total = float(sum(cost(size, tokens) for size, tokens in places))
    for size, tokens in places:
        progress(done, total, f"seed {seed}: {size} on {tokens} tokens")
        width, layers = SIZES[size]
        n = int(table.loc[(table["width"] == width) & (table["layers"] == layers), "n"].iloc[0])
        place = {"part": "cell", "n": n, "d": tokens}
        floor = reference(table, size, n, tokens, seed, share)
        for arm, (lr, batch) in settings(table, n, tokens).items():
            loss = trained(size, tokens // share, lr, batch, seed)
            excess = 100 * (loss / floor["loss"] - 1)
            rows.append({**place, "arm": arm, "lr": lr, "batch_tokens": batch, "loss": loss, "excess": excess})
        rows.append({**place, **floor, "arm": BEST, "excess": 0.0})
        done += cost(size, tokens)
    rows += valleys(table) + exponents(table) + nearest(table) + loss_law(sweep) + noise(sweep)
    found = pd.DataFrame([{"seed": seed, **row} for row in rows])
    progress(total, total, f"seed {seed}: done")
    ran = {
        "cells": [f"{size} on {tokens}" for size, tokens in places],
        "runs in the table": len(sweep),
        "device": "cpu",
    }
    return Finding(found, figure(found), margin(found), ran, note(found))


def cost(size: str, tokens: int) -> float:
    """Work of one run in FLOP, for the progress."""
    from workbench.scaling.sweep import Job, work

    return work(Job(size, tokens, 0.01, 512))


def grid_of(sweep: pd.DataFrame, seed: int) -> pd.DataFrame:
    """The grid as one seed sees it: cell by cell its own runs where the sweep has them, else those of seed 0."""
    grid = sweep[sweep["role"] == "grid"]
    cells = [
        cell[cell["seed"] == (seed if (cell["seed"] == seed).any() else 0)] for _, cell in grid.groupby(["n", "d"])
    ]
    return pd.concat(cells, ignore_index=True)


def reference(table: pd.DataFrame, size: str, n: int, d: int, seed: int, share: int = 1) -> dict[str, Any]:
    """Lowest loss of the cell's grid under this seed, or its best setting trained again where there is no such grid."""
    cell = table[(table["n"] == n) & (table["d"] == d)]
    best = cell.loc[cell["loss"].idxmin()]
    lr, batch, loss = float(best["lr"]), int(best["batch_tokens"]), float(best["loss"])
    if best["seed"] != seed:
        loss = trained(size, d // share, lr, batch, seed)
    return {"lr": lr, "batch_tokens": batch, "loss": loss}


def trained(size: str, tokens: int, lr: float, batch: int, seed: int) -> float:
    """Held-out loss of one run, nats per character."""
    from workbench.scaling.sweep import Job, train

    job = Job(size, tokens, lr, batch, seed)
    return kept(f"{size} {tokens} {lr:.8g} {batch}", lambda: train([job])[0]["loss"])


def of(rows: pd.DataFrame, part: str) -> pd.DataFrame:
    """The rows of one part, without columns that only other parts fill."""
    return rows[rows["part"] == part].dropna(axis="columns", how="all").reset_index(drop=True)


def means(rows: pd.DataFrame) -> pd.Series:
    """Mean excess over the held-out cells by arm, in percent."""
    return of(rows, "cell").groupby("arm")["excess"].mean()


def margin(rows: pd.DataFrame) -> float:
    """Signed distance to the threshold for the rows of one seed."""
    mean, value = means(rows), of(rows, "exponent").set_index("name")["value"]
    law = mean[LAW]
    share = of(rows, "valley")["valley"].mean()
    return float(
        min(TARGET - law, mean[SINGLE] - law, mean[COMPUTE] - law, share - VALLEYS, -value["lr_N"], value["B_D"])
    )


def note(rows: pd.DataFrame) -> str:
    """What a reader must know beside the margin."""
    mean, near, power = means(rows), of(rows, "nearest")["excess"], of(rows, "exponent").set_index("name")
    cells = of(rows, "valley")
    edges = cells["edge"].ne("").sum()
    held = of(rows, "holdout").set_index("method")
    scatter = of(rows, "noise")
    doubt = ""
    if len(scatter):
        value, count = float(scatter["value"].iloc[0]), len(of(rows, "cell")["d"]) // 4
        doubt = (
            f" Runs that differ in the seed alone scatter by {value:.2f} % (standard deviation, {scatter['runs'].iloc[0]:.0f} "
            f"runs), so a mean difference between two ways over {count} cells is known to about "
            f"±{value * (2 / count) ** 0.5:.2f} points in one seed."
        )
    told = ", ".join(
        f"{words} {power['value'][name]:+.2f} ({power['low'][name]:+.2f} to {power['high'][name]:+.2f})"
        for name, words in (("lr_N", "of N in the rate"), ("lr_D", "of D in the rate"), ("B_D", "of D in the batch"))
    )
    return (
        f"Mean excess: step law {mean[LAW]:.2f} %, one setting {mean[SINGLE]:.2f} %, DeepSeek's form {mean[COMPUTE]:.2f} %. "
        f"Exponents {told}. {cells['valley'].mean():.0%} of {len(cells)} cells are valleys; {edges} have their best run on "
        f"the grid's edge and are left out of the fits. Nearest grid run: {near.mean():.2f} % on average, worst "
        f"{near.max():.2f} %. Largest runs held out (n = {held['runs'].iloc[0]:.0f}): the loss law is "
        f"{100 * held['median'].iloc[0]:.1f} % off at the median, a straight line in the logarithms "
        f"{100 * held['median']['log-linear']:.1f} %, the nearest smaller run "
        f"{100 * held['median']['carry forward']:.1f} %.{doubt}"
    )


def figure(rows: pd.DataFrame) -> go.Figure:
    """Excess loss on the held-out cells, by arm."""
    cells = of(rows, "cell")
    return _step_law_figures.verdict(cells[cells["arm"] != BEST], TARGET)


def valley_figure(n: int, d: int, seed: int = 0) -> go.Figure:
    """The second picture: the loss over rate and batch in one cell of the shipped sweep, and where each rule would have
    gone.

    Args:
        n: parameters without embeddings of the cell.
        d: tokens of the cell.
        seed: which seed's grid.
    """
    from workbench.scaling.hyperparameters import HyperparameterLaw
    from workbench.scaling.sweep import load_sweep

    table = grid_of(load_sweep(), seed)
    inside = (table["n"] == n) & (table["d"] == d)
    if not inside.any():
        known = ", ".join(f"({n}, {d})" for n, d in sorted(set(zip(table["n"], table["d"], strict=True))))
        raise UserError(f"The sweep has no cell with N = {n} and D = {d}; it has {known}.")
    law = HyperparameterLaw().fit(table[~inside])
    return _step_law_figures.valley(table[inside], law)
