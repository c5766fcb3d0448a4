"""The resampling under `statistics`, in whole-array numpy: draws with replacement, BCa ends, sign flips, checks of input."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy import special

from workbench.errors import UserError

EXACT = 16  # units up to which all 2ⁿ sign patterns are visited
CHUNK = 4_000_000  # numbers held at once


def vector(name: str, values: ArrayLike) -> np.ndarray:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or not array.size:
        raise UserError(f"{name} has shape {array.shape}; give a list with at least one number.")
    if not np.isfinite(array).all():
        where = int(np.flatnonzero(~np.isfinite(array))[0])
        raise UserError(f"{name} holds {array[where]} at position {where}; every score must be a finite number.")
    return array


def check(level: float, resamples: int) -> None:
    if not 0 < level < 1:
        raise UserError(f"The level is {level}; give a number between 0 and 1, such as 0.95.")
    if resamples < 99:
        raise UserError(f"{resamples} resamples cannot show a 95 % interval; use 999 or more.")


def sum_by_group(values: np.ndarray, groups: Sequence[Any] | None) -> np.ndarray:
    """Sum the last axis within groups: (…, n items) → (…, n groups), groups in order of first appearance."""
    if groups is None:
        return values
    if len(groups) != values.shape[-1]:
        raise UserError(f"{len(groups)} group names for {values.shape[-1]} items; give one name per item.")
    number = {group: index for index, group in enumerate(dict.fromkeys(groups))}
    index = np.array([number[group] for group in groups])
    out = np.zeros((*values.shape[:-1], len(number)))
    np.add.at(out, (..., index), values)
    return out


def resamples_of(n: int, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """Rows of n unit numbers drawn with replacement, in chunks (…, n)."""
    rng = np.random.default_rng(seed)
    step = max(1, CHUNK // n)
    for start in range(0, resamples, step):
        yield rng.integers(0, n, (min(step, resamples - start), n))


def bca(ends: np.ndarray, drawn: np.ndarray, value: float, left_out: np.ndarray) -> np.ndarray:
    """Shift normal quantiles by the bias z0 and the acceleration a of the jackknife values `left_out` (n,)."""
    share = ((drawn < value).mean() + (drawn <= value).mean()) / 2
    d = left_out.mean() - left_out
    spread = (d**2).sum()
    if spread == 0 or not 0 < share < 1:  # nothing varies: the percentiles are all there is
        return ends
    z0, a = special.ndtri(share), (d**3).sum() / (6 * spread**1.5)
    return z0 + (z0 + ends) / (1 - a * (z0 + ends))


def largest_flip(d: np.ndarray, resamples: int, seed: int) -> float:
    """Sign-flip p-value of the largest |Σ_i ± d_ik| / √Σ_i d_ik² over the columns k of d (units, pairs).

    The signs are shared by the columns, so their correlation is kept and one p-value holds for all pairs together.
    """
    norm = np.sqrt((d**2).sum(0))
    d = d[:, norm > 0] / norm[norm > 0]
    if not d.size:
        return 1.0
    seen = np.abs(d.sum(0)).max() * (1 - 1e-12)
    hits = count = 0
    for signs in signs_of(len(d), resamples, seed):
        hits += int((np.abs(signs @ d).max(1) >= seen).sum())
        count += len(signs)
    return hits / count if len(d) <= EXACT else (hits + 1) / (count + 1)


def signs_of(n: int, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """Rows of ±1: all patterns for few units (the first sign fixed: a pattern and its mirror count the same)."""
    if n <= EXACT:
        bits = (np.arange(2 ** (n - 1))[:, None] >> np.arange(n)) & 1
        yield 1.0 - 2.0 * bits
        return
    rng = np.random.default_rng(seed)
    step = max(1, CHUNK // n)
    for start in range(0, resamples, step):
        yield 1.0 - 2.0 * rng.integers(0, 2, (min(step, resamples - start), n), dtype=np.int8)
