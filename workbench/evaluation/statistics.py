"""Intervals and paired tests for scores that were measured item by item, document by document.

What is resampled is the unit that was drawn at random: documents (or questions), never tokens, because tokens of one
document resemble each other. Pass `groups` to sum the items of a document first.

- `bootstrap_mean`, `bootstrap_ratio`: percentile and BCa intervals (Efron 1987; Efron & Tibshirani 1993, eq. 14.9–14.15).
  With few units both are too narrow; `widen=True` takes the tails of Student's t instead of the normal's
  (Hesterberg 2015, "expanded percentile"): z → t(n−1)·√(n/(n−1)).
- `paired_permutation`: are two variants equal on the same items? Under "equal" each difference d_i may as well have had the
  other sign. p = share of the 2ⁿ sign patterns with |Σ ± d_i| ≥ |Σ d_i|: all of them for n ≤ 16, else a random sample.
- `mcnemar`: the same test for right/wrong answers in closed form.
- `holm`: p-values of several tests, corrected so that one false alarm among all of them stays rare.
- `tied_with_best`: which variants the data cannot tell from the best one. Testing each against the winner is too eager,
  since the winner is partly the luckiest; this is the model confidence set (Hansen, Lunde & Nason 2011, §2–3): test "all
  are equal" by the largest standardised difference of any pair, drop the worst while that is rejected. Departure: sign
  flips shared by all pairs instead of a block bootstrap, exact for few units.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy import special, stats

from workbench.errors import UserError, choose
from workbench.evaluation.resampling import EXACT, bca, check, largest_flip, resamples_of, sum_by_group, vector

RESAMPLES = 9_999


@dataclass(frozen=True)
class Interval:
    """A point estimate and its interval at `level`; low and high are nan where one unit leaves nothing to resample."""

    value: float
    low: float
    high: float
    level: float
    units: int


@dataclass(frozen=True)
class PairedTest:
    """Mean difference a − b per unit, two-sided p-value, number of units, and whether all sign patterns were visited."""

    difference: float
    p: float
    units: int
    exact: bool


@dataclass(frozen=True)
class Tied:
    """Which rows of the matrix are tied with the best: mask and p-values by row, and the index of the best row."""

    tied: np.ndarray
    p: np.ndarray
    best: int


def bootstrap_mean(
    values: ArrayLike,
    *,
    groups: Sequence[Any] | None = None,
    level: float = 0.95,
    method: str = "bca",
    widen: bool = False,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval:
    """Interval of a mean.

    Args:
        values: one score per item.
        groups: document of each item; documents are resampled, and the mean stays that over items.
        level: share of repeated studies whose interval covers the truth.
        method: "percentile" or "bca" (corrects bias and skewness).
        widen: correct for few units.
        resamples: bootstrap samples.
        seed: of the resampling.

    Raises:
        UserError: no values, values that are not finite, an unknown method, a level out of range.
    """
    values = vector("values", values)
    return bootstrap_ratio(
        values,
        np.ones_like(values),
        groups=groups,
        level=level,
        method=method,
        widen=widen,
        resamples=resamples,
        seed=seed,
    )


def bootstrap_ratio(
    numerators: ArrayLike,
    denominators: ArrayLike,
    *,
    groups: Sequence[Any] | None = None,
    level: float = 0.95,
    method: str = "bca",
    widen: bool = False,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval:
    """Interval of Σ numerators / Σ denominators, both resampled together by unit. See `bootstrap_mean` for arguments.

    Args:
        numerators: per unit, for instance the summed negative log-likelihood of a document (nats).
        denominators: per unit, positive, for instance its number of tokens.
    """
    choose("interval", method, ("percentile", "bca"))
    check(level, resamples)
    top, bottom = vector("numerators", numerators), vector("denominators", denominators)
    if len(top) != len(bottom):
        raise UserError(f"{len(top)} numerators but {len(bottom)} denominators; give one of each per unit.")
    if (bottom <= 0).any():
        raise UserError(f"A denominator is {bottom.min()}; every unit must weigh more than 0.")
    top, bottom = sum_by_group(top, groups), sum_by_group(bottom, groups)
    n = len(top)
    value = top.sum() / bottom.sum()
    if n == 1:
        return Interval(float(value), math.nan, math.nan, level, 1)
    drawn = np.concatenate([top[i].sum(1) / bottom[i].sum(1) for i in resamples_of(n, resamples, seed)])
    tail = (1 - level) / 2
    z = special.ndtri(tail)
    if widen:
        z = stats.t.ppf(tail, n - 1) * math.sqrt(n / (n - 1))
    ends = np.array([z, -z])
    if method == "bca":
        ends = bca(ends, drawn, value, (top.sum() - top) / (bottom.sum() - bottom))
    low, high = np.percentile(drawn, 100 * special.ndtr(ends))
    return Interval(float(value), float(low), float(high), level, n)


def paired_permutation(
    a: ArrayLike, b: ArrayLike, *, groups: Sequence[Any] | None = None, resamples: int = RESAMPLES, seed: int = 0
) -> PairedTest:
    """Two-sided sign-flip test of "a and b are equal" on the same items.

    Args:
        a, b: score of each variant on each item, same order.
        groups: document of each item; the differences of a document flip together.
        resamples: random sign patterns when there are more than 16 units; p is then (hits + 1)/(resamples + 1).
        seed: of the random patterns.

    Raises:
        UserError: different lengths, or values that are not finite.
    """
    check(0.95, resamples)
    a, b = vector("a", a), vector("b", b)
    if len(a) != len(b):
        raise UserError(f"{len(a)} scores against {len(b)}; a paired test needs both variants on the same items.")
    d = sum_by_group(a - b, groups)
    p = largest_flip(d[:, None], resamples, seed)
    return PairedTest(float((a - b).mean()), p, len(d), len(d) <= EXACT)


def mcnemar(a: ArrayLike, b: ArrayLike) -> float:
    """Exact two-sided McNemar p-value for right/wrong answers of two variants to the same questions.

    Only the questions on which they differ speak: of m such, k went to a; p = 2·P(Binomial(m, ½) ≤ min(k, m−k)), at most 1.

    Args:
        a, b: True where the variant is right, same order.

    Raises:
        UserError: different lengths, or values other than true and false.
    """
    a, b = vector("a", a), vector("b", b)
    if len(a) != len(b) or not np.isin(np.concatenate([a, b]), (0, 1)).all():
        raise UserError(
            "McNemar's test needs two lists of true and false of one length; for scores: paired_permutation."
        )
    k, m = int((a > b).sum()), int((a != b).sum())
    return float(min(1.0, 2 * stats.binom.cdf(min(k, m - k), m, 0.5))) if m else 1.0


def holm(p_values: ArrayLike) -> np.ndarray:
    """Holm's step-down correction: sorted p(1) ≤ … ≤ p(m) become max_{j ≤ i} min(1, (m − j + 1)·p(j)), in the given order."""
    p = np.asarray(p_values, dtype=np.float64)
    if p.ndim != 1 or not ((p >= 0) & (p <= 1)).all():
        raise UserError(f"These are not p-values between 0 and 1: {p_values}.")
    order = np.argsort(p, kind="stable")
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(1, np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)))
    return adjusted


def tied_with_best(
    matrix: ArrayLike,
    *,
    higher_is_better: bool = True,
    groups: Sequence[Any] | None = None,
    level: float = 0.05,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Tied:
    """The variants that these items cannot tell from the best one.

    Args:
        matrix: scores, shape (variants, items); every variant on the same items.
        higher_is_better: False for losses.
        groups: document of each item; documents are the units.
        level: chance of excluding a variant that is truly as good as the best, over the whole table.
        resamples: random sign patterns when there are more than 16 units.
        seed: of the patterns.

    Returns:
        Mask, p-value per row (a row is tied when p > level), and the row with the best mean, which is always tied.

    Raises:
        UserError: the matrix is empty, not two-dimensional, or not finite.
    """
    check(level, resamples)
    scores = np.asarray(matrix, dtype=np.float64)
    if scores.ndim != 2 or not scores.size or not np.isfinite(scores).all():
        raise UserError(
            f"Scores of shape {scores.shape} must be finite numbers, one row per variant, one column per item."
        )
    scores = sum_by_group(scores if higher_is_better else -scores, groups)
    alive, p, reached = list(range(len(scores))), np.ones(len(scores)), 0.0
    best = int(scores.sum(1).argmax())
    while len(alive) > 1:
        d = np.stack([scores[i] - scores[j] for k, i in enumerate(alive) for j in alive[k + 1 :]], 1)
        reached = max(reached, largest_flip(d, resamples, seed))
        if reached > level:
            p[alive] = reached
            break
        behind = [_distance(scores[best] - scores[i]) for i in alive]
        worst = alive[int(np.argmax(behind))]
        p[worst] = reached
        alive.remove(worst)
    tied = np.zeros(len(scores), dtype=bool)
    tied[alive] = True
    return Tied(tied, p, best)


def _distance(d: np.ndarray) -> float:
    return float(d.sum() / norm) if (norm := np.sqrt((d**2).sum())) > 0 else 0.0
