"""MiniCPM re-run: does one plateau with short decays do the work of three cosine runs?

A character-level decoder (width 32, 2 layers, MiniCPM's parametrization with base width 32) learns public-domain text. Three
lengths, T/4, T/2 and T:

    cosine     one run per length and rate; each length keeps the best of three peak rates
    WSD        one plateau; the rate is picked once, among the same three, at the end of the branch of length T/4, and the
               plateau of that rate goes on; each branch decays over the last 10 % of its length (five half-lives)
    plateau    the same run without any decay, at the same step (the embarrassing baseline)
    stopped    the long cosine, read at T/4 and T/2 (what a cosine gives that was planned longer)

All see the same text at the same step. Every training step of both is counted, those of the rates not kept too; plateau
steps after the last branch, which only serve the comparison, are not.

    margin = min over lengths of  1 − (WSD / cosine − 1) / 1 %
                                  1 − 3 · drop on the plateau / drop in the decay   (same number of steps)
             and                  1 − (steps of WSD / steps of cosine) / 60 %

The last part is arithmetic, not measurement: 30 % as above; with three plateaus tried at *every* length it would be 61 %.

Beside it, without a threshold: the ladder of `workbench.scaling.wsd_ladder`, four sizes at four ratios with the rate found
above, whose fit gives the compute-optimal characters per parameter.

The drop part is the fragile one: one reading of a plateau is noisy, and a plateau of a few hundred steps still learns. The
ladder's shortest runs are little more than their warm-up, and its fit leaves the ratio undetermined by decades.

Departures: 23 thousand parameters instead of 0.04–2 billion, characters instead of tokens, no second data stage.
"""

from __future__ import annotations

import functools
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from workbench.errors import choose
from workbench.papers import _minicpm_figures, _minicpm_runs
from workbench.papers._minicpm_runs import BASE, HALF_LIVES, LAYERS, Plan
from workbench.papers._schedule_lab import parameters
from workbench.papers.cells import cell
from workbench.papers.finding import Finding
from workbench.progress import Progress, silent

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from workbench.scaling.fitter import ScalingLaw

CARD = {
    "slug": "minicpm",
    "title": "MiniCPM: Unveiling the Potential of Small Language Models with Scalable Training Strategies",
    "authors": "Hu, Tu, Han, He, Cui, Long, Zheng, Fang, Huang, Zhao and others",
    "year": 2024,
    "arxiv": "2404.06395",
    "family": "training",
    "blocks": ["workbench.training.schedules", "workbench.training.parametrization", "workbench.scaling.wsd_ladder"],
    "lesson": "13_schedules",
    "claim": "One plateau with 10 % decays branching off it ends within 1 % of three cosine runs tuned for their lengths, with "
    "60 % of their training steps or less; the loss falls at least three times as fast inside a decay as on the plateau.",
    "metric": "share of the tightest allowance that is left (1: nothing used, 0: at the threshold)",
    "threshold": "loss within 1 % of the tuned cosine's at lengths T/4, T/2 and T; drop inside each decay at least 3 times "
    "that of as many plateau steps; at most 60 % of the steps, tuning counted",
    "published": [
        {"setting": "MiniCPM-2.4B, mean of 11 benchmarks", "MiniCPM-2.4B": 52.3, "Mistral-7B": 49.0, "Llama2-13B": 41.5,
         "source": "paper, recalled"},
        {"setting": "compute-optimal tokens per parameter at 1e21 FLOP", "average of domains": 191.9, "code": 194.9,
         "Ultratext": 95.6, "Chinese Wikihow": 834, "source": "paper, figure 17, second hand"},
    ],
    "cpu_minutes": 12,
}  # fmt: skip

WITHIN, FASTER, STEPS = 0.01, 3.0, 0.60


def plans(scale: str) -> Plan:
    """The plan of a scale: `smoke` (seconds), `small` (gives the verdict) or `full` (four times as long)."""
    rates = (2.0**-7, 2.0**-6, 2.0**-5)
    known = {
        "smoke": Plan(20, 1, rates[1:], (8, 16), (1, 2, 3), points=4, sequences=4, windows=16),
        "small": Plan(1600, 20, rates, (16, 24, 32, 40), (5, 10, 15, 20)),
        "full": Plan(6400, 80, rates, (16, 24, 32, 48, 64), (10, 20, 40, 60, 80)),
    }
    return known[choose("scale", scale, known)]


def experiment(
    scale: str = "small", seed: int = 0, device: str | None = None, progress: Progress | None = None
) -> Finding:
    """Train the cosine runs, the plateau with its branches and the ladder of one seed.

    Args:
        scale: `smoke`, `small` or `full`.
        seed: initial weights and order of documents.
        device: not used; decoders this small are trained fastest on the CPU.
        progress: called with done, total, text.

    Returns:
        Finding; rows with `part` = "end" (one per trained run or reading), "curve" (loss along the way) and "ladder".
    """
    plan, progress = plans(scale), progress or silent
    sizes = {width: parameters(width, LAYERS) for width in plan.widths}
    jobs: list[tuple[float, str, Any]] = [
        (length, f"cosine of {length} steps, rate {rate:.3g}", (_minicpm_runs.cosine, plan, seed, length, rate))
        for length in plan.lengths for rate in plan.rates
    ]  # fmt: skip
    jobs.append((1.7 * plan.steps, "plateau and branches", (_minicpm_runs.plateau, plan, seed)))
    for width, n in sizes.items():
        jobs.append(
            (
                max(plan.ratios) * n / plan.batch.tokens,
                f"ladder, width {width}",
                (_minicpm_runs.rung, plan, seed, width, n),
            )
        )
    total, done = sum(work for work, *_ in jobs), 0.0
    rows: list[dict[str, Any]] = []
    for work, text, (function, *arguments) in jobs:
        progress(done, total, f"seed {seed}: {text}")
        if function is _minicpm_runs.rung:
            arguments.append(next(row["rate"] for row in rows if row.get("chosen")))
        rows += cell(text, functools.partial(function, *arguments))
        done += work
    table = keep_tuned(pd.DataFrame([{"seed": seed, **row} for row in rows]))
    progress(total, total, f"seed {seed}: done")
    parts = {name: round(value, 3) for name, value in allowances(table).items()}
    ran = {**asdict(plan), "layers": LAYERS, "base width": BASE, "half-lives": HALF_LIVES, "parts": parts}
    return Finding(table, figure(table), margin(table), ran, note(table))


def keep_tuned(rows: pd.DataFrame) -> pd.DataFrame:
    """Mark the best rate of every cosine length as chosen; drop the other rates' curves and early readings."""
    ending = rows["part"] == "end"
    own = rows["schedule"].isin(["cosine", "stopped"])
    cosines = rows[ending & (rows["schedule"] == "cosine")]
    best = cosines.loc[cosines.groupby("length")["loss"].idxmin()].set_index("length")["rate"]
    tuned = own & (rows["rate"] == rows["planned"].fillna(rows["length"]).map(best))
    kept = ~own | tuned | (ending & (rows["schedule"] == "cosine"))
    return rows.assign(chosen=rows["chosen"].eq(True) | (tuned & ending))[kept].reset_index(drop=True)


def of(rows: pd.DataFrame, part: str) -> pd.DataFrame:
    """The rows of one part, `end`, `curve` or `ladder`, without columns that only the others fill."""
    return rows[rows["part"] == part].dropna(axis="columns", how="all").reset_index(drop=True)


def ends(rows: pd.DataFrame) -> pd.DataFrame:
    """Final losses (nats per character) by seed and length: columns cosine, WSD, plateau, stopped, before."""
    own = of(rows, "end")
    kept = own[own["chosen"] | (own["schedule"] == "plateau")]
    kept = kept[(kept["schedule"] != "stopped") | (kept["planned"] == own["length"].max())]
    table = kept.pivot(index=["seed", "length"], columns="schedule", values="loss")
    return table.assign(before=kept[kept["schedule"] == "WSD"].set_index(["seed", "length"])["before"])


def allowances(rows: pd.DataFrame) -> dict[str, float]:
    """What is left of each allowance for the rows of one seed: worst loss, worst drop, steps."""
    table, spent = ends(rows), of(rows, "end").groupby("schedule")["spent"].sum()
    excess = (table["WSD"] / table["cosine"] - 1).max()
    decay, flat = table["before"] - table["WSD"], table["before"] - table["plateau"]
    drops = [1 - FASTER * f / d if d > 0 else -1.0 for d, f in zip(decay, flat, strict=True)]
    share = spent["WSD"] / spent["cosine"]
    return {"loss": float(1 - excess / WITHIN), "drop": float(min(drops)), "steps": float(1 - share / STEPS)}


def margin(rows: pd.DataFrame) -> float:
    """Signed distance to the threshold for the rows of one seed: the least allowance that is left."""
    return min(allowances(rows).values())


def fit(rows: pd.DataFrame) -> ScalingLaw:
    """The data–model law of the ladder's rows, by least squares as in the paper."""
    from workbench.scaling.fitter import ScalingLaw

    runs = of(rows, "ladder")
    return ScalingLaw("minicpm", objective="squared").fit(runs.assign(N=runs["n"] / 1e9, D=runs["d"] / 1e9))


def note(rows: pd.DataFrame) -> str:
    """What a reader must know beside the margin."""
    from workbench.scaling.wsd_ladder import data_model_ratio, saved

    left, runs, law = allowances(rows), of(rows, "ladder"), fit(rows)
    excess = ", ".join(f"{100 * (row.WSD / row.cosine - 1):+.2f} %" for row in ends(rows).itertuples())
    sizes = runs["n"].to_numpy()
    without = law.refit((sizes[None, :] != np.unique(sizes)[:, None]).astype(float))
    flops = float(6 * (runs["n"] * runs["d"]).max())
    ratio = data_model_ratio(law, flops, without, level=1.0)
    return (
        f"WSD against tuned cosine at T/4, T/2 and T: {excess}; steps {STEPS * (1 - left['steps']):.0%}. "
        f"Left of the allowances: loss {left['loss']:+.2f}, drop {left['drop']:+.2f}, steps {left['steps']:+.2f}. "
        f"Ladder of this seed at {flops:.1e} FLOP: {ratio.value:.3g} characters per parameter, "
        f"{ratio.low:.3g} to {ratio.high:.3g} with one size left out; it took {saved(runs):.0%} of the tokens of separate runs."
    )


def figure(rows: pd.DataFrame) -> go.Figure:
    """Loss along the plateau with its decays, and the tuned cosines.

    Args:
        rows: the rows of one or more seeds, as `experiment` makes them.
    """
    return _minicpm_figures.branches(of(rows, "curve"), ends(rows))
