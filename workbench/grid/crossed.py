"""Uncertainty of a score that was measured with several seeds on the same documents: both were drawn by chance.

Scores x_sg of seed s on document g, with weights w_g (items or tokens):  score = Σ_sg x_sg / (S Σ_g w_g).

    documents   v_G = G/(G−1) · Σ_g (x̄_g − score·w_g)² / (Σ w)²     (linearised ratio; x̄ averaged over seeds)
    seeds       v_S = (1/S) · variance over s of Σ_g x_sg / Σ w
    together    v = v_G + v_S,   t with (v_G + v_S)² / (v_G²/(G−1) + v_S²/(S−1)) degrees of freedom (Satterthwaite 1946)

The part of chance that belongs to seed and document together is in both terms, which errs on the careful side. A paired test
takes the differences of two methods, seed by seed and document by document, and asks whether their mean is 0 by the same t.
Three seeds often look alike by luck, and a pair that does would be called different too readily. So the variance over seeds
of a paired test is at least the mean of all pairs of the block (with the degrees of freedom of all methods): in simulated grids
of six equal methods and three seeds this brings false alarms from 12 % to 1 % (6 % where the seeds of one method scatter four
times as much), and a difference of one standard deviation between documents is found in 8 of 10.
With one seed only documents speak, and nothing can be said about other seeds: no winner is named.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy import stats

LEVEL = 0.95
OWN_FREEDOM = 3


@dataclass(frozen=True)
class Crossed:
    """A score and its uncertainty.

    Attributes:
        value: mean over seeds and documents.
        low, high: 95 % interval over both.
        items: 95 % interval over documents, for these seeds.
        seeds: 95 % interval over seeds, on these documents; nan for one seed.
        p: two-sided, of the value being 0 (for differences).
        groups, runs: documents and seeds.
    """

    value: float
    low: float
    high: float
    items: tuple[float, float]
    seeds: tuple[float, float]
    p: float
    groups: int
    runs: int


def crossed(scores: np.ndarray, weights: np.ndarray, floor: tuple[float, int] = (0.0, 0)) -> Crossed:
    """Judge scores of seeds on documents.

    Args:
        scores: (S, G), summed within each document.
        weights: (G,), items or tokens of each document.
        floor: least variance over seeds, and its degrees of freedom.
    """
    scores, weights = np.atleast_2d(np.asarray(scores, float)), np.asarray(weights, float)
    runs, groups = scores.shape
    total = weights.sum()
    value = float(scores.sum() / (runs * total))
    over_items = 0.0
    if groups > 1:
        rest = scores.mean(0) - value * weights
        over_items = float(groups / (groups - 1) * (rest**2).sum() / total**2)
    each = scores.sum(1) / total
    own, free_seeds = (float(each.var(ddof=1)), runs - 1) if runs > 1 else (0.0, 1)
    if floor[1]:
        # The larger of two estimates is careful already, so it has more freedom than an estimate of its own.
        own, free_seeds = floor if floor[0] >= own else (own, min(floor[1], OWN_FREEDOM * free_seeds))
    over_seeds = own / runs
    both = over_items + over_seeds
    below = over_items**2 / max(1, groups - 1) + over_seeds**2 / free_seeds
    if both == 0 or below == 0:
        half, p = 0.0, 1.0 if value == 0 else 0.0
    else:
        free = both**2 / below
        half = stats.t.ppf((1 + LEVEL) / 2, free) * math.sqrt(both)
        p = float(2 * stats.t.sf(abs(value) / math.sqrt(both), free))
    return Crossed(
        value, value - half, value + half, _interval(value, over_items, groups - 1),
        _interval(value, over_seeds, runs - 1) if runs > 1 else (math.nan, math.nan), p, groups, runs,
    )  # fmt: skip


def _interval(value: float, variance: float, free: int) -> tuple[float, float]:
    half = stats.t.ppf((1 + LEVEL) / 2, free) * math.sqrt(variance) if free > 0 else math.nan
    return float(value - half), float(value + half)


def difference(a: np.ndarray, b: np.ndarray, weights: np.ndarray, floor: tuple[float, int] = (0.0, 0)) -> Crossed:
    """Paired: mean of a − b, seed by seed and document by document (a method without seeds stands for all of them)."""
    return crossed(_paired(a, b), weights, floor)


def _paired(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    a, b = np.atleast_2d(a), np.atleast_2d(b)
    runs = min(len(a), len(b))
    return a - b if runs == 1 else a[:runs] - b[:runs]


def common_floor(measured: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> tuple[float, int]:
    """Mean variance over seeds of all paired differences, and its degrees of freedom (methods with seeds less one, times
    seeds less one)."""
    found = []
    for (a, weights), (b, _) in itertools.combinations(measured.values(), 2):
        each = _paired(a, b).sum(1) / weights.sum()
        if len(each) > 1:
            found.append(float(each.var(ddof=1)))
    runs = [len(scores) for scores, _ in measured.values() if len(scores) > 1]
    return (float(np.mean(found)), max(1, len(runs) - 1) * (min(runs) - 1)) if found else (0.0, 0)
