"""Measuring a learning curve: nested shards, a search over model size in each, the smallest model that reaches the best.

Shuffle once; every shard T_0 ⊂ T_1 ⊂ … is a prefix of that order, each about twice the one before. One validation set picks
model size (and whatever else the caller searches), one test set that nothing is picked on gives the error that is reported:
taking the best *test* error per shard makes small shards look too good and tilts the line.

Source: Hestness et al. 2017, arXiv 1712.00409, §3 (protocol). Departure: the paper reports the best validation error; here a
separate test error of the model so chosen is carried along and fitted.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from workbench.errors import UserError
from workbench.progress import Progress, silent

FitScore = Callable[[np.ndarray, Any, int], tuple[float, float]]
KEYS = ["m", "size", "seed"]


def nested_shards(n: int, smallest: int, factor: float = 2, seed: int = 0, stratify: Any = None) -> list[np.ndarray]:
    """Row numbers of shards of sizes smallest, smallest·factor, … ≤ n, each a prefix of one permutation.

    Args:
        n: rows there are.
        smallest: rows of the first shard.
        factor: growth, above 1.
        seed: of the permutation.
        stratify: (n,) class of each row; then every prefix holds the classes in their overall shares, as nearly as whole
            rows allow.

    Raises:
        UserError: sizes that give no second shard, or `stratify` of another length.
    """
    if not (smallest >= 1 and factor > 1 and smallest * factor <= n):
        raise UserError(
            f"{n} rows, first shard {smallest}, factor {factor:g}: that gives fewer than two shards. Shrink the first shard."
        )
    order = np.random.default_rng(seed).permutation(n)
    if stratify is not None:
        classes = np.asarray(stratify)
        if len(classes) != n:
            raise UserError(f"`stratify` names {len(classes)} rows, but there are {n}; give one class per row.")
        place = np.empty(n)
        for name in np.unique(classes):
            own = np.flatnonzero(classes[order] == name)
            place[own] = (np.arange(len(own)) + 0.5) / len(own)
        order = order[np.argsort(place, kind="stable")]
    sizes, size = [], float(smallest)
    while round(size) <= n:
        sizes.append(round(size))
        size *= factor
    return [order[:size] for size in dict.fromkeys(sizes)]


def measure_learning_curve(
    fit_score: FitScore, shards: Sequence[np.ndarray], sizes: Sequence[Any], seeds: Sequence[int], *,
    rows: pd.DataFrame | None = None, each: Callable[[pd.DataFrame], None] | None = None, progress: Progress = silent,
) -> pd.DataFrame:  # fmt: skip
    """Train every model size on every shard with every seed.

    Args:
        fit_score: (row numbers, size, seed) → (validation error, test error) of a model trained on those rows.
        shards: from `nested_shards`.
        sizes: model sizes, smallest first; anything `fit_score` understands (numbers for `ModelGrowth`).
        seeds: of starting values and order of rows.
        rows: result of an earlier, interrupted call; its cells are not trained again.
        each: called with all rows so far after every cell (write them down there, and a killed run goes on).
        progress: called before every cell.

    Returns:
        m (rows in the shard), size, seed, validation, error; one row per cell.

    Raises:
        UserError: shards that are no prefixes of each other.
    """
    for small, large in itertools.pairwise(shards):
        if len(small) >= len(large) or not np.array_equal(small, large[: len(small)]):
            raise UserError(
                f"The shard of {len(small)} rows is no prefix of the shard of {len(large)}: a learning curve needs nested "
                "shards. Make them with nested_shards(n, smallest)."
            )
    done = [] if rows is None else rows.to_dict("records")
    have = {tuple(row[key] for key in KEYS) for row in done}
    cells = [(shard, size, seed) for shard in shards for size in sizes for seed in seeds]
    for index, (shard, size, seed) in enumerate(cells):
        if (len(shard), size, seed) in have:
            continue
        progress(index, len(cells), f"{len(shard)} rows, size {size}")
        validation, error = fit_score(shard, size, seed)
        done.append({"m": len(shard), "size": size, "seed": seed, "validation": validation, "error": error})
        if each:
            each(pd.DataFrame(done))
    return pd.DataFrame(done)


def best_models(rows: pd.DataFrame, tolerance: float = 0.0) -> pd.DataFrame:
    """Per shard and seed the smallest model whose validation error is the best, with its test error.

    Args:
        rows: from `measure_learning_curve`, sizes in increasing order.
        tolerance: how much worse than the best still counts as reaching it (0.05: five per cent).

    Returns:
        m, seed, size, validation, error.
    """
    found = []
    for (m, seed), own in rows.groupby(["m", "seed"]):
        reached = own[own["validation"] <= own["validation"].min() * (1 + tolerance)]
        found.append({"m": m, "seed": seed, **reached.iloc[0][["size", "validation", "error"]].to_dict()})
    return pd.DataFrame(found)


def summarize(best: pd.DataFrame) -> pd.DataFrame:
    """Mean error per shard over seeds and its standard error: m, error, sem (NaN for one seed), n.

    Means are of errors, not of their logarithms, so that an error of zero does no harm.
    """
    grouped = best.groupby("m")["error"]
    table = pd.DataFrame({"error": grouped.mean(), "sem": grouped.sem(), "n": grouped.size()})
    return table.reset_index()


def estimator_score(
    estimator: Any, x: np.ndarray, y: np.ndarray, validation: tuple[Any, Any], test: tuple[Any, Any], size: str
) -> FitScore:
    """A `fit_score` for any scikit-learn estimator: error = 1 − its own `score`.

    Args:
        estimator: cloned for every cell; `random_state` is set where it has one.
        x, y: the pool of training rows.
        validation, test: (x, y) each.
        size: name of the parameter that is the capacity, such as `max_depth` or `C`.
    """
    from sklearn.base import clone

    def fit_score(rows: np.ndarray, value: Any, seed: int) -> tuple[float, float]:
        model = clone(estimator).set_params(**{size: value})
        if "random_state" in model.get_params():
            model.set_params(random_state=seed)
        model.fit(x[rows], y[rows])
        return 1.0 - model.score(*validation), 1.0 - model.score(*test)

    return fit_score
