"""muP re-run: does the best learning rate stay where it is while the network grows sixteen times wider?

A network 64-w-w-10 with ReLU learns to read handwritten digits (8 × 8 pixels, scikit-learn), 40 steps of Adam at batch 128.
Every width is trained at every rate 2^−13 … 2^−3 under two parametrizations:

    standard   torch's own initialisation, one rate for the whole network (the baseline)
    muP        `mup_init_` and `mup_param_groups` from base width 64, readout starts at zero

One seed trains four networks per cell; its loss is their geometric mean, over all 1797 pictures, after the last step. Both
parametrizations see the same batches. Below, r*(w) is the rate of lowest loss at width w, in octaves (log2).

    margin = min(r*(64) − r*(1024) − 1½ under standard,   1½ − |r*(64) − r*(1024)| under muP,
                 log2 of the loss of width 64 over that of width 1024, both under muP at muP's r*(64))

Rates stand one octave apart, so a drift of at least 2 is one above 1½, and of at most 1 is one below it. A coordinate check
(how much three steps move each layer's output, over widths) is measured beside it and drawn by `check_figure`.

What this does not say: that muP ends lower. After 40 steps a wide standard network whose rate was tuned at its own width has
about half the loss of muP's with the transferred rate (`_mup_lesson.price_of_not_tuning`); the claim is about not having to
tune again.

Departures from the paper: its claim there is a theorem and features learned at infinite width; the transfer of the rate is
the practical face that Yang et al. 2022 (arXiv 2203.03466) gave it.
"""

from __future__ import annotations

import functools
import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from workbench.errors import choose
from workbench.figures.lr_transfer import coordinate_check, lr_transfer, steepest
from workbench.papers.finding import Finding
from workbench.progress import Progress, silent

if TYPE_CHECKING:
    import plotly.graph_objects as go
    import torch
    from torch import nn

CARD = {
    "slug": "mup",
    "title": "Feature Learning in Infinite-Width Neural Networks",
    "authors": "Yang, Hu",
    "year": 2021,
    "arxiv": "2011.14522",
    "family": "training",
    "blocks": ["workbench.training.mup", "workbench.training.mup_infinite"],
    "lesson": "14_mup",
    "claim": "Under muP the best learning rate found at width 64 is still the best at width 1024, within one octave, and "
    "serves it no worse; under the standard parametrization the best rate falls by two octaves or more.",
    "metric": "octaves (doublings) of the learning rate, and of the loss",
    "threshold": "between widths 64 and 1024 the best rate drifts at least 2 octaves under standard and at most 1 under muP, "
    "and at muP's transferred rate the widest network is no worse than the narrowest",
    "published": [
        {"setting": "Omniglot 5-way 1-shot, first-order MAML, accuracy in percent", "kernel (NTK)": 47.8,
         "muP width 32": 66.2, "muP width 8192": 66.4, "muP infinite": 66.4, "source": "paper, section on few-shot learning"},
    ],
    "cpu_minutes": 5,
}  # fmt: skip

BASE = 64
KINDS = ("standard", "muP")  # the judged ones; the others are controls of the lesson
CONTROLS = ("standard, readout at zero", "rates of muP only")
LAYERS = {"0": "input", "2": "hidden", "4": "readout"}


@dataclass(frozen=True)
class Plan:
    """What one scale runs: widths, learning rates in octaves, steps, networks per cell, rate of the coordinate check."""

    widths: tuple[int, ...]
    octaves: tuple[int, ...]
    steps: int
    networks: int
    batch: int = 128
    check_octave: int = -6


def plans(scale: str) -> Plan:
    """The plan of a scale: `smoke` (seconds), `small` (gives the verdict) or `full` (up to width 4096)."""
    known = {
        "smoke": Plan((64, 128), (-9, -7, -5, -3), steps=6, networks=1),
        "small": Plan((64, 128, 256, 512, 1024), tuple(range(-13, -2)), steps=40, networks=4),
        "full": Plan((64, 128, 256, 512, 1024, 2048, 4096), tuple(range(-13, -2)), steps=40, networks=8),
    }
    return known[choose("scale", scale, known)]


def experiment(
    scale: str = "small", seed: int = 0, device: str | None = None, progress: Progress | None = None
) -> Finding:
    """Sweep widths and learning rates under both parametrizations for one seed, then check coordinates.

    Args:
        scale: `smoke`, `small` or `full`.
        seed: initial weights and order of batches.
        device: torch device; by default the GPU when there is one.
        progress: called with done, total, text.

    Returns:
        Finding; rows hold one line per parametrization, width and rate (`part` = "rate"), and per layer of the
        coordinate check (`part` = "coordinate").
    """
    import torch

    plan = plans(scale)
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    progress = progress or silent
    rows: list[dict[str, Any]] = []
    total = len(KINDS) * sum(map(_work, plan.widths))
    done = 0.0
    for width in plan.widths:
        for kind in KINDS:
            progress(done, total, f"seed {seed}: width {width}, {kind}")
            rows += bowl(width, kind, plan, seed, device)
            done += _work(width)
    rows += coordinates(plan, seed, device)
    table = pd.DataFrame([{"seed": seed, **row} for row in rows])
    progress(total, total, f"seed {seed}: done")
    return Finding(table, figure(table), margin(table), {**asdict(plan), "base": BASE, "device": device})


def _work(width: int) -> float:
    return 2e4 + 74 * width + width**2  # multiplications per picture, and the overhead of a step


def bowl(width: int, kind: str, plan: Plan, seed: int = 0, device: str = "cpu") -> list[dict[str, Any]]:
    """Train one width at every rate: one bowl of the figure.

    Args:
        width: hidden units of both layers.
        kind: one of KINDS or CONTROLS.
        plan: rates, steps, networks per cell.
        seed, device: as in `experiment`.

    Returns:
        One row per rate with the geometric mean of the loss (nats) over the plan's networks.
    """
    choose("parametrization", kind, KINDS + CONTROLS)
    rows = []
    for octave in plan.octaves:
        losses = [train(width, kind, 2.0**octave, plan, 1000 * seed + i, device) for i in range(plan.networks)]
        loss = math.exp(np.mean(np.log(losses)))
        rows.append({"part": "rate", "parametrization": kind, "width": width, "rate": 2.0**octave, "loss": loss})
    return rows


@functools.cache
def digits(device: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Pictures (1797, 64) between 0 and 1, and their digits (1797,)."""
    import torch
    from sklearn.datasets import load_digits

    data = load_digits()
    pictures = torch.tensor(data.data, dtype=torch.float32, device=device) / 16
    return pictures, torch.tensor(data.target, device=device)


def network(width: int, kind: str = "muP") -> nn.Sequential:
    """A fresh network 64-w-w-10, before muP's own initialisation."""
    from torch import nn

    from workbench.training.mup import MupReadout

    readout = MupReadout(width, 10, base_d_in=BASE) if kind == "muP" else nn.Linear(width, 10)
    return nn.Sequential(nn.Linear(64, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), readout)


def build(width: int, kind: str, rate: float, device: str = "cpu") -> tuple[nn.Module, torch.optim.Optimizer]:
    """A network and its Adam under one parametrization.

    Args:
        width: hidden units of both layers.
        kind: "standard"; "muP"; "standard, readout at zero"; "rates of muP only" (initialisation and readout untouched).
        rate: learning rate at the base width.
        device: torch device.
    """
    import torch

    from workbench.training.mup import mup_init_, mup_param_groups

    model = network(width, kind)
    with torch.device("meta"):
        base = network(BASE, kind)
    if kind == "muP":
        mup_init_(model, base, zero_readout=True)
    elif kind == "standard, readout at zero":
        torch.nn.init.zeros_(model[-1].weight)
    model = model.to(device)
    scaled = kind in ("muP", "rates of muP only")
    groups = mup_param_groups(model, base, rate) if scaled else model.parameters()
    return model, torch.optim.Adam(groups, rate, fused=True)


def train(width: int, kind: str, rate: float, plan: Plan, seed: int, device: str = "cpu") -> float:
    """Train one network; its mean loss (nats) over all pictures after the last step."""
    import torch
    from torch.nn.functional import cross_entropy

    x, y = digits(device)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model, optimizer = build(width, kind, rate, device)
        passes = -(-plan.steps * plan.batch // len(x))
        order = torch.cat([torch.randperm(len(x)) for _ in range(passes)]).to(device)
    for step in range(plan.steps):
        batch = order[step * plan.batch : (step + 1) * plan.batch]
        optimizer.zero_grad()
        cross_entropy(model(x[batch]), y[batch]).backward()
        optimizer.step()
    with torch.no_grad():
        return cross_entropy(model(x), y).item()


def coordinates(plan: Plan, seed: int = 0, device: str = "cpu") -> list[dict[str, Any]]:
    """How far three steps on one batch move the output of each layer, at every width.

    Returns:
        One row per parametrization, width and layer with the geometric mean of `size` over the plan's networks.
    """
    import torch
    from torch.nn.functional import cross_entropy

    from workbench.training.mup import coord_check

    x, y = digits(device)
    batch = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))[: plan.batch].to(device)
    seeds = [1000 * seed + i for i in range(plan.networks)]
    rows = []
    for kind in KINDS:
        with torch.random.fork_rng(devices=[]):
            found = coord_check(
                lambda width, kind=kind: build(width, kind, 2.0**plan.check_octave, device), plan.widths,
                lambda model: cross_entropy(model(x[batch]), y[batch]), steps=3, seeds=seeds,
            )  # fmt: skip
        last = found[found["step"] == 3].assign(log=lambda t: np.log(t["size"]))
        for (layer, width), size in last.groupby(["layer", "width"], sort=False)["log"].mean().items():
            row = {"part": "coordinate", "parametrization": kind, "width": width, "layer": LAYERS[layer]}
            rows.append({**row, "size": math.exp(size)})
    return rows


def of(rows: pd.DataFrame, part: str) -> pd.DataFrame:
    """The rows of one part, `rate` or `coordinate`, without columns that only the other part fills."""
    return rows[rows["part"] == part].dropna(axis="columns", how="all").reset_index(drop=True)


def best_rates(rows: pd.DataFrame) -> pd.DataFrame:
    """Octave of the rate with the lowest loss, for the rows of one seed; index parametrization, columns width."""
    rates = of(rows, "rate")
    lowest = rates.loc[rates.groupby(["parametrization", "width"], sort=False)["loss"].idxmin()]
    table = lowest.pivot(index="parametrization", columns="width", values="rate")
    return np.log2(table).round().astype(int)


def margin(rows: pd.DataFrame) -> float:
    """Signed distance to the threshold for the rows of one seed, in octaves."""
    best = best_rates(rows)
    narrow, wide = best.columns.min(), best.columns.max()
    drift = best[narrow] - best[wide]
    loss = of(rows, "rate").set_index(["parametrization", "width", "rate"])["loss"]
    moved = 2.0 ** best.loc["muP", narrow]
    gain = math.log2(loss["muP", narrow, moved] / loss["muP", wide, moved])
    return float(min(drift["standard"] - 1.5, 1.5 - abs(drift["muP"]), gain))


def slope_of_check(rows: pd.DataFrame) -> dict[str, float]:
    """Steepest slope of the coordinate check under each parametrization, in octaves per octave of width."""
    return steepest(of(rows, "coordinate"))


def figure(rows: pd.DataFrame) -> go.Figure:
    """Bowls of both parametrizations, with the coordinate check's slopes in the caption.

    Args:
        rows: the rows of one or more seeds, as `experiment` makes them.
    """
    told = ", ".join(f"{slope:+.2f} under {kind}" for kind, slope in slope_of_check(rows).items())
    note = f"Coordinate check: steepest growth of a layer's change with width (0 is flat) {told}."
    return lr_transfer(of(rows, "rate"), note=note)


def check_figure(rows: pd.DataFrame) -> go.Figure:
    """The second picture: how far three steps move each layer's output, over widths.

    Args:
        rows: as for `figure`.
    """
    return coordinate_check(of(rows, "coordinate"))
