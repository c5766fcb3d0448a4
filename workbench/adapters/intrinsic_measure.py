"""How many numbers a task needs: d90 from scores against d, and what that says about generalisation.

    d90 = smallest d whose mean score reaches 0.9 × the score of training directly
    bound: error ≤ training error + √((d·b·ln 2 + ln(1/δ)) / (2m))       b bits per number, m examples, confidence 1 − δ

The bound counts the networks that d numbers of b bits can write down (a finite class, Hoeffding's inequality); it is the
usable cousin of the O(√(d/m)) statement of Aghajanyan et al., and holds for the rounded numbers, drawn before the data.

Source: Li et al., ICLR 2018, arXiv 1804.08838, §2 and the plotting notebook of uber-research/intrinsic-dimension;
Aghajanyan et al., ACL 2021, arXiv 2012.13255, §5. Departures: means are made monotone first (a larger flat can do all that
a smaller one can); `between` places d90 on the line between two grid points, on a log axis.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from workbench.errors import UserError

if TYPE_CHECKING:
    import pandas as pd


class Threshold(NamedTuple):
    """d90 with its 95 % bootstrap interval; infinity means: more than the largest d tried."""

    d: float
    low: float
    high: float
    largest: int

    def __str__(self) -> str:
        return f"> {self.largest}" if math.isinf(self.d) else f"{self.d:.0f}"


def rising(values: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """The nearest non-decreasing sequence in weighted least squares (pool adjacent violators).

    Args:
        values: means in order of d.
        weights: how many runs each is the mean of; by default one.
    """
    weights = np.ones(len(values)) if weights is None else weights
    pools: list[list[float]] = []  # mean, weight, length
    for value, weight in zip(values, weights, strict=True):
        pools.append([float(value), float(weight), 1])
        while len(pools) > 1 and pools[-2][0] > pools[-1][0]:
            mean, total, count = pools.pop()
            left = pools[-1]
            left[0] = (left[0] * left[1] + mean * total) / (left[1] + total)
            left[1] += total
            left[2] += count
    return np.concatenate([np.full(int(count), mean) for mean, _, count in pools])


def crossing(dims: np.ndarray, scores: np.ndarray, line: float, between: bool = False) -> float:
    """Where a non-decreasing curve reaches a line; infinity when it does not.

    Args:
        dims: increasing d.
        scores: one per d, not decreasing.
        line: the score to reach.
        between: the point on the line between two grid points (log d) instead of the grid point.
    """
    reached = np.flatnonzero(scores >= line)
    if not len(reached):
        return math.inf
    first = int(reached[0])
    if not between or first == 0 or scores[first] == scores[first - 1]:
        return float(dims[first])
    share = (line - scores[first - 1]) / (scores[first] - scores[first - 1])
    return float(np.exp(np.log(dims[first - 1]) + share * (np.log(dims[first]) - np.log(dims[first - 1]))))


def d_threshold(
    rows: pd.DataFrame, baseline: float, fraction: float = 0.9, *, monotone: bool = True, between: bool = False,
    bootstrap: int = 1000, seed: int = 0,
) -> Threshold:  # fmt: skip
    """d90 and its interval from runs.

    Args:
        rows: columns d and score, one row per run (one learning rate per run, the best one).
        baseline: score of direct training.
        fraction: share of it that counts as solved.
        monotone: make the means rise with d first.
        between: see `crossing`.
        bootstrap: resamples of the runs at each d; 0 gives no interval.
        seed: of the resampling.

    Raises:
        UserError: no rows, or a fraction outside (0, 1].
    """
    if not len(rows) or not 0 < fraction <= 1:
        raise UserError(f"d90 needs runs and a fraction above 0 and at most 1, got {len(rows)} runs and {fraction}.")
    groups = [group["score"].to_numpy(float) for _, group in sorted(rows.groupby("d"), key=lambda pair: pair[0])]
    dims = np.array(sorted(rows["d"].unique()), float)
    counts = np.array([len(group) for group in groups], float)

    def found(samples: list[np.ndarray]) -> float:
        means = np.array([sample.mean() for sample in samples])
        return crossing(dims, rising(means, counts) if monotone else means, fraction * baseline, between)

    best, rng = found(groups), np.random.default_rng(seed)
    draws = sorted(found([rng.choice(group, len(group)) for group in groups]) for _ in range(bootstrap)) or [best]
    last = len(draws) - 1
    return Threshold(best, draws[int(0.025 * last)], draws[int(np.ceil(0.975 * last))], int(dims[-1]))


def compression_bound(train_error: float, d: int, m: int, delta: float = 0.05, bits: int = 16) -> float:
    """Error on new examples that is exceeded with probability `delta` at most.

    Args:
        train_error: share of training examples that the network with rounded numbers gets wrong.
        d: numbers.
        m: training examples.
        delta: 1 − confidence.
        bits: per number.

    Returns:
        A share; 1 or more says nothing.

    Raises:
        UserError: values that no experiment can have.
    """
    if not 0 <= train_error <= 1 or d < 0 or m < 1 or not 0 < delta < 1 or bits < 1:
        raise UserError(
            f"No bound for train_error={train_error}, d={d}, m={m}, delta={delta}, bits={bits}: an error lies in 0–1, there is "
            "at least one example and one bit, and delta lies between 0 and 1."
        )
    return train_error + math.sqrt((d * bits * math.log(2) + math.log(1 / delta)) / (2 * m))


def require_hard_enough(baseline: float, majority: float) -> None:
    """Refuse a task on which d90 would measure nothing.

    Args:
        baseline: accuracy of direct training.
        majority: accuracy of always naming the most frequent class.

    Raises:
        UserError: when 90 % of the baseline is not 5 points above the majority.
    """
    if 0.9 * baseline <= majority + 0.05:
        raise UserError(
            f"This task is too easy for d90: 90 % of {baseline:.1%} is not 5 points above {majority:.1%}, which naming the "
            "most frequent class gets; take a harder task or a balanced one."
        )
