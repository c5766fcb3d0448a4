"""DCLS re-run: does it pay to learn where the weights of a wide kernel stand?

A small ConvNeXt learns to say whether motifs 6 to 9 pixels apart are the same (`_dcls_task`: pictures, networks). Its
depthwise layers are dense 7 × 7 kernels, a fixed dilation, or DCLS; number of parameters, pictures and steps are equal. The
learning rate is the best of three trials on seed 100, which the badge does not use; positions, whose rate is one more
thing to choose, had three trials more. Enlarged digits are shown beside it, where no long reach is needed.

    margin = min(DCLS − fixed dilation − 3 + ½·t,   DCLS − 7 × 7 + ½·t,   growth of mean |P| − 1)

The first two in percentage points of test accuracy on the motifs (t is one test picture, so that "at least" counts a tie as
holding), the last in pixels: how much farther from the centre the positions stand, on average, after training.

What this does not say: that DCLS is better than dense kernels where the 7 × 7 suffices; see the digits.

Departures from the paper: ImageNet and 300 epochs become a task made for the question, and minutes. Positions get 30 times the
rate, not 5: in 400 steps the recipe's factor does not carry them anywhere (on seed 100: 71 % right and mean |P| as at the
start with 5; 99.8 % and 0.7 pixels farther out with 20; 98.9 % and 2.7 pixels with 50; 80 % with 100), and no repulsion.
The claim asks for "no worse than 7 × 7" in every seed, not only on the mean. Pointwise layers are 2 times as wide as the
channels, not 4.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import pandas as pd

from workbench.errors import choose
from workbench.papers import _dcls_figures, cells
from workbench.papers._dcls_task import ARMS, SIZE, Plan
from workbench.papers.finding import Finding
from workbench.progress import Progress, silent

if TYPE_CHECKING:
    import plotly.graph_objects as go

CARD = {
    "slug": "dcls",
    "title": "Dilated convolution with learnable spacings",
    "authors": "Khalfaoui-Hassani, Pellegrini, Masquelier",
    "year": 2023,
    "arxiv": "2112.03740",
    "family": "layers",
    "blocks": ["workbench.layers.dcls", "workbench.layers.dcls_kernel", "workbench.layers.dcls_fft"],
    "lesson": "15_dcls",
    "claim": "At equal parameters a small ConvNeXt that must compare motifs 6 to 9 pixels apart is at least 3 points better "
    "with DCLS (17 × 17, 34 weights) than with a fixed dilation and no worse than with dense 7 × 7 kernels, and its "
    "positions move outwards by more than a pixel.",
    "metric": "percentage points of test accuracy, and pixels",
    "threshold": "DCLS at least 3 points above fixed dilation and not below 7 × 7 in every seed; mean |P| grows by more than "
    "1 pixel",
    "published": [
        {"setting": "ConvNeXt-T, ImageNet-1k top-1 in percent", "7 × 7": 82.1, "DCLS": 82.5, "source": "released code"},
        {"setting": "ConvNeXt-S, ImageNet-1k top-1 in percent", "7 × 7": 83.1, "DCLS": 83.7, "source": "released code"},
        {"setting": "ConvNeXt-B, ImageNet-1k top-1 in percent", "7 × 7": 83.8, "DCLS": 84.1, "source": "released code"},
    ],
    "cpu_minutes": 5,
}  # fmt: skip

TASKS = ("motifs", "digits")
OURS, FIXED, DENSE = "DCLS", "fixed dilation", "7 × 7"
GAIN, MOVE = 3.0, 1.0  # points over fixed dilation, pixels
RATES = {DENSE: 6e-3, FIXED: 3e-3, OURS: 6e-3}  # best of 3, 6 and 12e-3 (DCLS: 3 and 6e-3) on seed 100
FASTER = 30.0


def plans(scale: str) -> Plan:
    """The plan of a scale: `smoke` (seconds), `small` (gives the verdict) or `full` (deeper, longer)."""
    known = {
        "smoke": Plan({"motifs": 2, "digits": 2}, RATES, batch=8, test=40, channels=(4, 8)),
        "small": Plan({"motifs": 400, "digits": 60}, RATES, FASTER),
        "full": Plan(
            {"motifs": 10000, "digits": 1000},
            RATES,
            channels=(32, 64),
            depths=(3, 3),
            batch=64,
            expansion=4,
            test=10000,
        ),
    }
    return known[choose("scale", scale, known)]


def experiment(
    scale: str = "small", seed: int = 0, device: str | None = None, progress: Progress | None = None
) -> Finding:
    """Train the three arms on both tasks for one seed.

    Args:
        scale: `smoke`, `small` or `full`.
        seed: of the networks, the pictures and their order; the test pictures are the same for all arms.
        device: torch device; by default the GPU when there is one.
        progress: called with done, total, text.

    Returns:
        Finding; rows hold one line per task and arm (`part` = "accuracy"), and, for DCLS on motifs, the positions of all
        layers in bins (`part` = "bin") and of one channel over training (`part` = "point").
    """
    import torch

    from workbench.papers import _dcls_train

    plan = plans(scale)
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    progress = progress or silent
    total = len(ARMS) * sum(plan.steps.values())
    rows: list[dict[str, Any]] = []
    done = 0.0
    for task in TASKS:
        for arm in ARMS:
            part = cells.cell(
                f"{task}, {arm}",
                lambda task=task, arm=arm, done=done: _dcls_train.run(
                    arm,
                    task,
                    plan,
                    seed,
                    device,
                    lambda now: progress(done + now, total, f"seed {seed}: {task}, {arm}"),
                ),
            )
            rows += part
            done += plan.steps[task]
    table = pd.DataFrame([{"seed": seed, **row} for row in rows])
    progress(total, total, f"seed {seed}: done")
    return Finding(table, figure(table), margin(table), {**asdict(plan), "device": device}, note(table))


def of(rows: pd.DataFrame, part: str) -> pd.DataFrame:
    """The rows of one part, without columns that only other parts fill."""
    return rows[rows["part"] == part].dropna(axis="columns", how="all").reset_index(drop=True)


def scores(rows: pd.DataFrame, task: str = "motifs") -> pd.Series:
    """Mean test accuracy in percent, by arm."""
    told = of(rows, "accuracy")
    return told[told["task"] == task].groupby("arm")["accuracy"].mean()


def outwards(rows: pd.DataFrame) -> float:
    """How much farther from the centre the positions stand after training, in pixels: the mean over layers of both axes."""
    away = of(rows, "mean").groupby("when")["away"].mean()
    return float(away["end"] - away["start"])


def margin(rows: pd.DataFrame, test: int = 1000) -> float:
    """Signed distance to the threshold for the rows of one seed.

    Args:
        rows: as `experiment` makes them.
        test: test pictures; half of one is added to both differences, so that "at least" holds in a tie.
    """
    found, half = scores(rows), 50 / test
    gain = found[OURS] - found[FIXED] - GAIN + half
    return float(min(gain, found[OURS] - found[DENSE] + half, outwards(rows) - MOVE))


def note(rows: pd.DataFrame) -> str:
    """What a reader must know beside the margin."""
    digits, motifs = scores(rows, "digits"), scores(rows)
    near, far = (", ".join(f"{arm} {found[arm]:.1f} %" for arm in ARMS) for found in (digits, motifs))
    grown = f"mean |P| grew by {outwards(rows):.2f} pixels"
    return f"Motifs: {far}; {grown}. Enlarged digits, where no reach is needed: {near}."


def figure(rows: pd.DataFrame) -> go.Figure:
    """Test accuracy of the arms on both tasks.

    Args:
        rows: the rows of one or more seeds, as `experiment` makes them.
    """
    return _dcls_figures.verdict(of(rows, "accuracy"))


def points_figure(rows: pd.DataFrame, seed: int | None = None) -> go.Figure:
    """The second picture: the dense kernel of one channel after training, with the paths its weights took.

    Args:
        rows: as for `figure`.
        seed: whose network; the first one by default.
    """
    points = of(rows, "point")
    return _dcls_figures.moving_points(points[points["seed"] == (points["seed"].min() if seed is None else seed)])


def spread_figure(rows: pd.DataFrame) -> go.Figure:
    """The third picture: how far from the centre the positions stand before and after training."""
    return _dcls_figures.spread(of(rows, "bin"), SIZE // 2)
