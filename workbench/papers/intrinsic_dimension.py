"""Intrinsic dimension re-run: how many random directions do handwritten digits need, in networks of three sizes?

Networks 64-w-w-10 learn the digits of scikit-learn (1300 pictures, 300 steps of 128), directly and inside a random flat of
d dimensions (`_intrinsic_lab`). At every d both learning rates are tried and the better one counts; scores are those of
pictures not trained on. d90 lies between two grid points where the score crosses 90 percent of the same network's direct score.

    margin = min(log2(1.7 · smallest d90 / largest d90),  log2(d90 shuffled / d90 real / 5),
                 log2(1.5) − |log2(d90 dense / d90 fastfood)|)

in doublings of d: the widths differ by less than 1.7, labels dealt at random need 5 times as many numbers (256 pictures,
training accuracy), and dense and structured projections agree within one step of the grid (a factor of 1.5) at both widths
where the dense matrix is tried.

Departures from the paper: digits of 8 × 8 pixels instead of MNIST; d90 between grid points; a rate that falls to zero.
The dense matrix of the widest network (16 million numbers a step) is left out.

What to know before trusting the badge (three seeds, `assets/findings/intrinsic-dimension.json`):
- d90 lies between 87 and 136 in all widths and seeds; within a seed the widths differ by a factor of 1.2 to 1.4.
- Shuffled labels are the narrow part: 5.3 to 5.7 times as many numbers as real ones. Only 256 pictures are memorised; with
  more of them both numbers, and their ratio, would change.
- A network that has few weights to begin with is no substitute: 160 weights name a fifth of the digits, a flat of 135
  dimensions nine tenths. From 385 weights on the small network catches up in two of three seeds.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd

from workbench.errors import choose
from workbench.papers import _intrinsic_figures, cells
from workbench.papers.finding import Finding
from workbench.progress import Progress, silent

if TYPE_CHECKING:
    import plotly.graph_objects as go

CARD = {
    "slug": "intrinsic-dimension",
    "title": "Measuring the Intrinsic Dimension of Objective Landscapes",
    "authors": "Li, Farkhoor, Liu, Yosinski",
    "year": 2018,
    "arxiv": "1804.08838",
    "family": "adapters",
    "blocks": [
        "workbench.adapters._fastfood", "workbench.adapters._subspace", "workbench.adapters._subspace_module",
        "workbench.adapters.intrinsic_measure",
    ],
    "lesson": "02_intrinsic_dimension",
    "claim": "The number of random directions in which a network learns handwritten digits to 90 percent of its direct "
    "score is the same, to a factor of 1.7, in networks of 2 535, 17 610 and 55 210 parameters; labels dealt at random raise "
    "it at least 5 times; and a structured projection gives the same number as a dense one to one step of the grid.",
    "metric": "doublings of d to the nearest of the three limits",
    "threshold": "largest over smallest d90 of the widths at most 1.7, shuffled labels at least 5 times, dense and fastfood "
    "within 1.5",
    "published": [
        {"setting": "MNIST, fully connected, 199 210 parameters", "d90": 750, "source": "the code's printed outputs"},
        {"setting": "MNIST, LeNet, 44 426 parameters", "d90": 290, "source": "the code's printed outputs"},
        {"setting": "MNIST, all labels shuffled, training score", "d90": 190000, "source": "the code's printed outputs"},
    ],
    "cpu_minutes": 3,
}  # fmt: skip

WIDTHS, DENSE, RATIO, SHUFFLED, STEP = (25, 100, 200), (25, 100), 1.7, 5.0, 1.5
DIGITS, REAL, DEALT, SMALL = "digits", "256 pictures, real labels", "256 pictures, shuffled labels", "small networks"


@dataclass(frozen=True)
class Plan:
    """What is run: grids of d (steps of 1.5) for digits and for 256 pictures with real and dealt labels, rates, steps."""

    widths: tuple[int, ...]
    dense: tuple[int, ...]
    dims: tuple[int, ...]
    memorised: tuple[int, ...]
    dealt: tuple[int, ...]
    rates: tuple[float, ...] = (0.1, 0.3)
    direct: tuple[float, ...] = (3e-3, 1e-2)
    steps: int = 300


def plan_for(scale: str) -> Plan:
    """The plan of a scale: `smoke` (plumbing), `small` (gives the verdict) or `full` (wider, longer, all dense)."""
    grid = tuple(round(40 * 1.5**n) for n in range(14))
    known = {
        "smoke": Plan((4, 8), (4,), (8, 12), (8, 12), (8, 12), rates=(0.1,), direct=(1e-2,), steps=4),
        "small": Plan(WIDTHS, DENSE, grid[1:9], grid[:9], grid[4:]),
        "full": Plan(
            (50, 100, 200, 400), (50, 100, 200), grid[:12], grid, grid, rates=(0.03, 0.1, 0.3, 1.0), steps=3000
        ),
    }
    return known[choose("scale", scale, known)]


def experiment(
    scale: str = "small", seed: int = 0, device: str | None = None, progress: Progress | None = None
) -> Finding:
    """Measure d90 for every width and projection, for real and shuffled labels, for one seed.

    Args:
        scale: `smoke`, `small` or `full`.
        seed: which pictures are trained on, start of the networks, projections, batches.
        device: torch device; by default the CPU (these networks are too small for a GPU).
        progress: called with done, total, text.

    Returns:
        Finding; one row per task, width, projection and d, and one per direct training.
    """
    from workbench.papers import _intrinsic_lab as lab

    plan, progress, device = plan_for(scale), progress or silent, device or "cpu"
    pictures = lab.digits(seed, device)
    middle = plan.widths[len(plan.widths) // 2]
    work = [(DIGITS, width, "fastfood", pictures, plan.dims) for width in plan.widths]
    work += [(DIGITS, width, "dense", pictures, plan.dims) for width in plan.dense]
    for task, dealt, dims in ((REAL, False, plan.memorised), (DEALT, True, plan.dealt)):
        work.append((task, middle, "fastfood", lab.to_memorise(seed, dealt, device), dims))
    rows: list[dict[str, Any]] = []
    for index, (task, width, projection, data, dims) in enumerate(work):
        progress(index, len(work) + 1, f"seed {seed}: {task}, width {width}, {projection}")
        found = cells.cell(
            f"{task}, {width}, {projection}",
            lambda args=(width, projection, data, dims): lab.curve(*args, plan.rates, plan.direct, plan.steps, seed),
        )
        rows += [{"task": task, **row} for row in found]
    progress(len(work), len(work) + 1, f"seed {seed}: small networks")
    small = cells.cell(SMALL, lambda: lab.small_networks(pictures, range(1, 6), plan.direct, plan.steps, seed))
    rows += [{"task": SMALL, **row} for row in small]
    table = pd.DataFrame([{"seed": seed, **row} for row in rows])
    progress(1, 1, f"seed {seed}: done")
    return Finding(table, figure(table), margin(table), {**asdict(plan), "device": device}, note(table))


def found(rows: pd.DataFrame) -> dict[tuple[str, int, str], float]:
    """d90 by task, width and projection."""
    from workbench.papers._intrinsic_lab import d90

    told = rows[rows["task"] != SMALL]
    return {key: d90(own) for key, own in told.groupby(["task", "width", "projection"], sort=False)}


def margin(rows: pd.DataFrame) -> float:
    """Signed distance to the threshold for the rows of one seed, in doublings of d.

    A d90 above the grid counts as its last point where that speaks against the claim or changes nothing, and a width that is
    not solved at all gives −10.
    """
    measured = found(rows)
    widths = [d for (task, _, kind), d in measured.items() if task == DIGITS and kind == "fastfood"]
    (real,) = (d for (task, *_), d in measured.items() if task == REAL)
    (dealt,) = (d for (task, *_), d in measured.items() if task == DEALT)
    pairs = [(d, measured[DIGITS, w, "fastfood"]) for (task, w, kind), d in measured.items() if kind == "dense"]
    if any(map(math.isinf, [*widths, real, *(d for pair in pairs for d in pair)])):
        return -10.0
    dealt = min(dealt, float(rows.loc[(rows["task"] == DEALT) & ~rows["direct"].astype(bool), "d"].max()))
    agree = min(math.log2(STEP) - abs(math.log2(dense / fast)) for dense, fast in pairs)
    return float(min(math.log2(RATIO * min(widths) / max(widths)), math.log2(dealt / real / SHUFFLED), agree))


def note(rows: pd.DataFrame) -> str:
    """What was found, in a sentence or two."""
    measured = found(rows)
    told = [f"{kind} at width {w}: {d:.0f}" for (task, w, kind), d in measured.items() if task == DIGITS]
    real, dealt = (next(d for (task, *_), d in measured.items() if task == name) for name in (REAL, DEALT))
    least = rows[rows["task"] == SMALL].set_index("parameters")["score"]
    small = ", ".join(f"{size} weights {score:.2f}" for size, score in least.items())
    return (
        f"d90: {'; '.join(told)}; 256 pictures: {real:.0f} with real labels, {dealt:.0f} with shuffled ones. "
        f"Accuracy of networks that simply have few weights: {small}."
    )


def one_point(width: int, d: int, scale: str = "small", seed: int = 0) -> dict[str, Any]:
    """Train one network of a width of your choice in a flat of d dimensions; one row, for a lesson's knob.

    Args:
        width: hidden units of both layers.
        d: numbers trained.
        scale: decides how many steps are made.
        seed: of everything.
    """
    from workbench.adapters._subspace_module import RandomSubspace
    from workbench.papers import _intrinsic_lab as lab

    steps, data = plan_for(scale).steps, lab.digits(seed)
    score = lab.train(RandomSubspace(lab.network(width, seed), d, "fastfood", seed), data, 0.3, steps, seed)
    return {
        "seed": seed,
        "task": DIGITS,
        "width": width,
        "projection": "yours",
        "d": d,
        "direct": False,
        "score": score,
    }


def figure(rows: pd.DataFrame, yours: list[dict[str, Any]] | None = None) -> go.Figure:
    """Score against d for every width and projection, in percent of the direct score.

    Args:
        rows: of one or more seeds, as `experiment` makes them.
        yours: rows of `one_point`, drawn as one more curve.
    """
    flats = _curves(rows[rows["task"] == DIGITS])
    narrowest = flats[flats["width"] == flats["width"].min()].groupby("seed")["baseline"].first()
    small = rows[rows["task"] == SMALL].assign(curve="few weights", baseline=lambda t: t["seed"].map(narrowest))
    more = pd.DataFrame(yours or []).assign(curve="yours", baseline=flats["baseline"].mean())
    return _intrinsic_figures.score_vs_dimension(
        pd.concat([table for table in (flats, small, more) if len(table)]),
        "The same number at three sizes",
        "Accuracy",
    )


def labels_figure(rows: pd.DataFrame) -> go.Figure:
    """The second picture: real labels and labels dealt at random."""
    told = rows[rows["task"].isin((REAL, DEALT))]
    told = told.assign(task=told["task"].str.removeprefix("256 pictures, "))
    return _intrinsic_figures.score_vs_dimension(
        _curves(told, "task"), "Labels without a pattern need many more", "Training accuracy"
    )


def _curves(rows: pd.DataFrame, name: str | None = None) -> pd.DataFrame:
    """Rows in the flat, with the direct score of the same network beside them and a name per curve."""
    keys = ["seed", "task", "width", "projection"]
    base = rows[rows["direct"].astype(bool)].set_index(keys)["score"].rename("baseline")
    flat = rows[~rows["direct"].astype(bool)].join(base, on=keys)
    kinds = flat["projection"].map({"fastfood": " wide"}).fillna(", " + flat["projection"])
    return flat.assign(curve=flat[name] if name else flat["width"].map("{:.0f}".format) + kinds)
