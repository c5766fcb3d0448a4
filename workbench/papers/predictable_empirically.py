"""Learning curves re-run on an endless labelled stream: are they power laws whose slope no architecture changes?

Two architectures (one ReLU layer; two tanh layers of half the width) learn to name the class that a fixed random tanh network
gives to 16 Gaussian inputs (`_teacher`). Nested shards of 8 … 32768 rows, three sizes (16, 64, 256 hidden units), early
stopping on 2000 validation rows; per shard the smallest size with the best validation error, scored on 8000 test rows. A
third curve has 20 % of all labels replaced at random: no model can come below an error of 0.18.

On the shards from 128 rows up:

    1. log–log fit with R² ≥ 0.97, both architectures
    2. their exponents differ by less than 0.05 …
    3. … and their offsets significantly (p < 0.05, F test of the joint fit at one slope)
    4. the two largest shards, predicted from the others, are within 10 %
    5. better so than an exponential a + b·e^(−cm) and a straight line in m
    6. with noisy labels the interval of γ holds 0.18, or m₂ is said to be not reached

Each part is written as the share of its allowance that is left (1: nothing used, 0: at the threshold); the margin is the least.

Departures: no search over learning rate and batch (one Adam rate, cut twice by five on plateau); the real-data twin (characters
of public text) is not here. Teacher, rows, labels and starting values are new for every seed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from workbench.errors import UserError, choose
from workbench.papers import _learning_figures
from workbench.papers.finding import Finding
from workbench.progress import Progress, part, silent

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from workbench.scaling.learning_curve import LearningCurve

CARD = {
    "slug": "predictable-empirically",
    "title": "Deep Learning Scaling is Predictable, Empirically",
    "authors": "Hestness, Narang, Ardalani, Diamos, Jun, Kianinejad, Patwary, Yang, Zhou",
    "year": 2017,
    "arxiv": "1712.00409",
    "family": "scaling",
    "blocks": ["workbench.scaling.learning_curve", "workbench.scaling.shards"],
    "lesson": "11_fitting_scaling_laws",
    "claim": "Test error falls as a power of the number of training rows; another architecture shifts the line and does not "
    "tilt it; the largest shards are predicted by the smaller ones; label noise shows as a floor.",
    "metric": "share of the tightest allowance that is left (1: nothing used, 0: at the threshold)",
    "threshold": "from 128 rows up: log-log R² ≥ 0.97; exponents differ by less than 0.05 and offsets significantly; the two "
    "largest shards predicted within 10 % and better than by an exponential or a line; with noise the floor's interval "
    "holds 0.18 or the tool says not reached",
    "published": [
        {"setting": "word language model, LSTM and RHN", "exponent": -0.066, "source": "paper, recalled"},
        {"setting": "ImageNet, ResNets, top-1 error", "exponent": -0.309, "source": "paper, recalled"},
    ],
    "cpu_minutes": 9,
}  # fmt: skip

NOISE, FLOOR, HELD = 0.2, 0.18, 2
SIZES = (16, 64, 256)
SCALES: dict[str, dict[str, Any]] = {
    "smoke": {"smallest": 8, "largest": 1024, "sizes": (16,), "validation": 300, "test": 500, "limit": 60},
    "small": {"smallest": 8, "largest": 32768, "sizes": SIZES, "validation": 2000, "test": 8000, "limit": 8000},
    "full": {
        "smallest": 8,
        "largest": 131072,
        "sizes": (*SIZES, 512),
        "validation": 4000,
        "test": 16000,
        "limit": 40000,
    },
}
NOISY = "relu, noisy labels"
ARMS = {"relu": ("relu", 0.0), "tanh": ("tanh", 0.0), NOISY: ("relu", NOISE)}


def experiment(
    scale: str = "small", seed: int = 0, device: str | None = None, progress: Progress | None = None
) -> Finding:
    """Measure the three curves of one seed.

    Args:
        scale: `smoke`, `small` (to 32768 rows) or `full` (to 131072 rows, four sizes).
        seed: of teacher, rows, labels and starting values.
        device: not used; networks this small are trained fastest on the CPU.
        progress: called with done, total, text.

    Returns:
        Finding; one row per architecture, shard and size, `chosen` where validation picked it.
    """
    from workbench.papers import _teacher
    from workbench.scaling.learning_curve import best_models, measure_learning_curve, nested_shards

    plan = SCALES[choose("scale", scale, SCALES)]
    progress = progress or silent
    tables = []
    for index, (arm, (architecture, noise)) in enumerate(ARMS.items()):
        data = _teacher.stream(seed, plan["largest"], plan["validation"], plan["test"], noise)
        shards = nested_shards(plan["largest"], plan["smallest"], seed=seed)

        def fit_score(rows, size, own, data=data, architecture=architecture):
            return _teacher.train(data, rows, architecture, size, own, limit=plan["limit"])

        inner = part(progress, index / len(ARMS), (index + 1) / len(ARMS))
        rows = measure_learning_curve(fit_score, shards, plan["sizes"], [seed], progress=inner)
        best = best_models(rows).set_index("m")["size"]
        rows["chosen"] = rows["size"] == rows["m"].map(best)
        tables.append(rows.assign(arm=arm, guess=data.guess))
    table = pd.concat(tables, ignore_index=True)
    found = verdict(table)
    progress(1.0, 1.0, f"seed {seed}: done")
    ran = {**plan, "sizes": list(plan["sizes"]), "noise": NOISE, "parts": {k: round(v, 4) for k, v in found.items()}}
    return Finding(table, figure(table), min(found.values()), ran, note(table, found))


def start_of(rows: pd.DataFrame) -> int:
    """Where the judged region begins: 128 rows, or the smallest shard when the measurement is too short for that."""
    sizes = np.sort(rows["m"].unique())
    return 128 if (sizes >= 128).sum() - HELD >= 5 else int(sizes[0])


def curve_rows(rows: pd.DataFrame) -> pd.DataFrame:
    """Test error of the chosen models, averaged over seeds: arm, m, error, sem, held."""
    from workbench.scaling.learning_curve import summarize

    chosen = rows[rows["chosen"].astype(bool) & (rows["m"] >= start_of(rows))]
    parts = [summarize(own).assign(arm=arm) for arm, own in chosen.groupby("arm", sort=False)]
    table = pd.concat(parts, ignore_index=True)
    return table.assign(held=table["m"] >= np.sort(table["m"].unique())[-HELD])


def fits(table: pd.DataFrame, held_out: bool) -> dict[str, LearningCurve]:
    """Fitted curves: log–log lines for the two architectures, with a floor for the noisy labels."""
    from workbench.scaling.learning_curve import LearningCurve

    used = table[~table["held"]] if held_out else table
    return {
        arm: LearningCurve(floor=arm == NOISY, samples=200).fit(own["m"], own["error"])
        for arm, own in used.groupby("arm", sort=False)
    }


def verdict(rows: pd.DataFrame) -> dict[str, float]:
    """Share of each allowance that is left, for the rows of one seed."""
    table = curve_rows(rows)
    try:
        full, short = fits(table, held_out=False), fits(table, held_out=True)
        beside = full["relu"].compare(full["tanh"])
    except UserError:  # a curve that does not fall has no exponent: the claim fails on it
        return {"falls": -1.0}
    errors = {"law": [], "exponential": [], "line": []}
    for arm in ("relu", "tanh"):
        own = table[table["arm"] == arm]
        train, test = own[~own["held"]], own[own["held"]]
        guesses = {"law": short[arm].predict(test["m"]), **baselines(train, test["m"].to_numpy(float))}
        for name, guess in guesses.items():
            errors[name] += list(np.abs(guess / test["error"] - 1))
    worst = {name: max(values) for name, values in errors.items()}
    other = min(worst["exponential"], worst["line"])
    low, high = full[NOISY].interval("floor")
    reached = full[NOISY].regions_["m2"]["reached"] == "yes"
    return {
        "straight": (min(full[arm].r2_ for arm in ("relu", "tanh")) - 0.97) / 0.03,
        "one slope": 1 - abs(beside.slope_difference) / 0.05,
        "two offsets": 1 - beside.p_offset / 0.05,
        "prediction": 1 - worst["law"] / 0.10,
        "baselines": 1 - worst["law"] / other,
        "floor": 1.0 if not reached else min(FLOOR - low, high - FLOOR) / FLOOR,
    }


def baselines(train: pd.DataFrame, m: np.ndarray) -> dict[str, np.ndarray]:
    """Predictions at `m` of an exponential a + b·e^(−cm) (best c of 200) and of a straight line in m, least squares."""
    x, y = train["m"].to_numpy(float), train["error"].to_numpy()
    best = (np.inf, np.empty(0))
    for c in np.geomspace(0.01 / x.max(), 3 / x.min(), 200):
        design = np.column_stack([np.ones_like(x), np.exp(-c * x)])
        weights, *_ = np.linalg.lstsq(design, y, rcond=None)
        left = float(((design @ weights - y) ** 2).sum())
        if left < best[0]:
            best = (left, weights[0] + weights[1] * np.exp(-c * m))
    return {"exponential": best[1], "line": np.polyval(np.polyfit(x, y, 1), m)}


def margin(rows: pd.DataFrame) -> float:
    """The least share left of the allowances, for the rows of one seed."""
    return float(min(verdict(rows).values()))


def growth(rows: pd.DataFrame) -> str:
    """How the chosen size grows with the data, in words."""
    from workbench.scaling.learning_curve import ModelGrowth

    own = rows[rows["chosen"].astype(bool) & (rows["arm"] == "relu")]
    fitted = ModelGrowth().fit(own["m"], own["size"])
    return (
        f"The chosen ReLU size grows as m to the power {fitted.exponent_:.2f} ({fitted.low_:.2f} to {fitted.high_:.2f})"
    )


def note(rows: pd.DataFrame, found: dict[str, float]) -> str:
    """What a reader must know beside the margin."""
    least = min(found, key=found.get)
    missed = ", ".join(name for name, left in found.items() if left <= 0) or "none"
    return (
        f"Tightest part: {least} ({found[least]:+.2f}); parts missed: {missed}. {growth(rows)}, on a grid of "
        f"{rows['size'].nunique()} sizes. A toy whose teacher the students can represent; the real-data twin waits."
    )


def figure(rows: pd.DataFrame) -> go.Figure:
    """The three curves with their fits to all but the two largest shards (means over the seeds)."""
    table = curve_rows(rows)
    curves = fits(table, held_out=True)
    slopes = ", ".join(f"{arm} {curve.exponent_:.2f}" for arm, curve in curves.items() if arm != NOISY)
    told = f"Exponents: {slopes}; with noisy labels a floor of {curves[NOISY].floor_:.2f} is fitted, 0.18 is true."
    return _learning_figures.several(table, curves, told, FLOOR)
