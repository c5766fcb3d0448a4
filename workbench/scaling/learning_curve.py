"""Learning curves: error as a power of the number of training rows, its three regions, and how many rows a target needs.

    ε(m) = γ + h(m),   h(m) = α·m^β,   −∞ < β ≤ 0        (power-law region; γ: error no data removes)
    with a guess level g:  h = ((α·m^β)^(−4) + (g − γ)^(−4))^(−1/4)     (small data: no better than guessing)
    m₁ = ((g − γ)/α)^(1/β): guessing ends;   m₂ = (γ/α)^(1/β): half of the error is irreducible
    s(m) = σ·m^(β_p): the smallest model that reaches the best error on m rows

m counts training rows, errors are positive numbers of one unit (share, nats per token). The fit is least squares of ln ε,
weighted by the standard errors where given. Intervals come from refits of simulated curves with the fit's own scatter
(Student's t for few points), so they show how much β and γ give way to each other. They hold if the law does.

Source: Hestness et al. 2017, arXiv 1712.00409, §2 (eq. 1, regions in fig. 6) and §3 (protocol, in `workbench.scaling.shards`).
Departures: one weighted fit of all points instead of a log–log line through a region chosen by eye; the guess level enters by a
harmonic sum of fourth powers on the part above γ, so that γ stays the limit and m₁ follows from the constants.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats
from sklearn.base import BaseEstimator

from workbench.errors import UserError, choose
from workbench.scaling import _curve_fit
from workbench.scaling.fitter import ScalingLaw
from workbench.scaling.shards import best_models, estimator_score, measure_learning_curve, nested_shards, summarize

__all__ = [
    "Comparison", "LearningCurve", "ModelGrowth", "best_models", "estimator_score", "measure_learning_curve",
    "nested_shards", "summarize",
]  # fmt: skip

PARAMETERS = ("scale", "exponent", "floor")


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Two curves side by side.

    Args:
        slope_difference: β of the first minus β of the second, with its 95 % interval.
        p_slope: chance of so large a difference if the slopes were equal (F test of the joint fit).
        offset: error of the first over that of the second at one slope (α ratio).
        p_offset: chance of such an offset if there were none.
    """

    slope_difference: float
    slope_interval: tuple[float, float]
    p_slope: float
    offset: float
    p_offset: float


class LearningCurve(BaseEstimator):
    """Fit ε(m).

    Args:
        guess: error of guessing, in the unit of the errors; None leaves the small-data region out.
        floor: fit γ; False holds it at 0 (the log–log line).
        samples: simulated curves behind the intervals.
        seed: of the simulation.

    Attributes:
        exponent_: β ≤ 0.  scale_: α.  floor_: γ.
        draws_: (samples, 3) refits of α, β, γ.
        regions_: {"m1", "m2"}: value, low, high, and reached ("yes", or why not).
        r2_: share of the variance of ln ε explained (of the log–log picture, never of raw axes).
        note_: a sentence where the numbers must not be trusted; empty otherwise.
    """

    def __init__(self, guess: float | None = None, floor: bool = True, samples: int = 400, seed: int = 0) -> None:
        self.guess = guess
        self.floor = floor
        self.samples = samples
        self.seed = seed

    def fit(self, m: Any, error: Any, sem: Any = None) -> LearningCurve:
        """Fit.

        Args:
            m: rows of each shard (n,).
            error: error on each, positive (n,).
            sem: standard error of each (n,), or None for equal relative weights.

        Raises:
            UserError: fewer than 5 shards, less than a decade of m, errors that are not positive or that rise with m.
        """
        self.m_, self.error_, spread = _points(m, error, sem)
        logs = np.log(self.error_)
        spread = np.ones_like(logs) if spread is None else spread / self.error_
        self.weights_ = (1 / spread) ** 2 / np.mean((1 / spread) ** 2)
        line = _line(np.log(self.m_), logs, self.weights_)
        self.note_, self.slope_ = "", line
        if line.low > 0:
            raise UserError(
                f"The error rises with more rows (by {line.slope:.3g} per unit of ln m): that is no learning curve. "
                "Check that m and error are not swapped or shuffled."
            )
        if line.high >= 0:
            return self._flat(line)
        self._model = _curve_fit.Model(np.log(self.m_), self.guess, self.floor)
        start = self._start()
        vector, rss = _curve_fit.solve(self._model, logs[None], self.weights_, start)
        self.vector_, self.rss_ = vector[0], float(rss[0])
        fitted = self._model.log_error(vector)[0]
        freedom = max(1, len(logs) - self._model.parameters)
        sigma = np.sqrt(self.rss_ / freedom) / np.sqrt(self.weights_)
        noise = np.random.default_rng(self.seed).standard_normal((self.samples, len(logs)))
        noise *= sigma * stats.t.ppf(0.975, freedom) / stats.norm.ppf(0.975)
        draws, _ = _curve_fit.solve(self._model, fitted + noise, self.weights_, vector)
        self.scale_, self.exponent_, self.floor_ = map(float, self._model.natural(vector)[0])
        self.draws_ = self._model.natural(draws)
        total = (self.weights_ * (logs - np.average(logs, weights=self.weights_)) ** 2).sum()
        self.r2_ = float(1 - self.rss_ / total)
        self.regions_ = self._regions()
        return self

    def interval(self, name: str, level: float = 0.95) -> tuple[float, float]:
        """Interval of `scale`, `exponent` or `floor`."""
        column = self.draws_[:, PARAMETERS.index(choose("parameter", name, PARAMETERS))]
        return tuple(map(float, np.quantile(column, [(1 - level) / 2, (1 + level) / 2])))

    def predict(self, m: Any, interval: bool = False) -> Any:
        """Error on `m` rows (n,); with `interval` also the 95 % band of the fitted curve: (value, low, high)."""
        m = np.atleast_1d(np.asarray(m, dtype=float))
        value = _error(np.array([[self.scale_, self.exponent_, self.floor_]]), m, self.guess)[0]
        if not interval:
            return value
        low, high = np.quantile(_error(self.draws_, m, self.guess), [0.025, 0.975], axis=0)
        return value, low, high

    def data_for(self, target: float) -> float:
        """Rows at which the fitted curve reaches `target`: m = ((ε − γ)/α)^(1/β), undone for the guess level.

        Raises:
            UserError: a target at or below the floor, at or above the guess level, or of a flat curve.
        """
        if self.exponent_ == 0:
            raise UserError(f"The curve is flat, so more rows promise nothing for a target of {target:g}. {self.note_}")
        gap = target - self.floor_
        if gap <= 0:
            raise UserError(
                f"No number of rows reaches {target:g}: the curve's floor is {self.floor_:.4g}. Improve labels or model."
            )
        if self.guess is not None:
            if target >= self.guess:
                raise UserError(f"A target of {target:g} is no better than guessing ({self.guess:g}); ask for less.")
            gap = (gap**-4.0 - (self.guess - self.floor_) ** -4.0) ** -0.25
        return float((gap / self.scale_) ** (1 / self.exponent_))

    def compare(self, other: LearningCurve) -> Comparison:
        """Test of equal slope, then of equal offset, by a joint fit of both curves.

        Args:
            other: a fitted curve with the same `floor` and no flat exponent.

        Raises:
            UserError: curves fitted with different settings, or one that is flat.
        """
        if self.floor != other.floor or self.exponent_ == 0 or other.exponent_ == 0:
            raise UserError("Only two falling curves fitted with the same `floor` can be compared; refit one of them.")
        p_slope, offset, p_offset = _curve_fit.joint(self, other)
        count = min(len(self.draws_), len(other.draws_))
        # Reversed: curves of one seed were drawn with the same noise.
        gaps = self.draws_[:count, 1] - other.draws_[:count][::-1, 1]
        low, high = np.quantile(gaps, [0.025, 0.975])
        difference = self.exponent_ - other.exponent_
        return Comparison(difference, (float(low), float(high)), p_slope, offset, p_offset)

    def _start(self) -> np.ndarray:
        """The shared engine's global fit of γ + α·m^β on the points below the guess level, as a start for the rest."""
        keep = self.error_ < (0.8 * self.guess if self.guess else np.inf)
        keep = keep if keep.sum() >= 5 else np.ones(len(keep), bool)
        table = pd.DataFrame({"m": self.m_, "x": self.m_, "loss": self.error_})[keep]
        law = ScalingLaw("learning-curve" if self.floor else "pure-power", objective="squared")
        found = law.fit(table, sample_weight=self.weights_[keep]).parameters_
        scale, slope = (found["alpha"], found["beta"]) if self.floor else (found["a"], found["alpha"])
        return self._model.internal(scale, -slope, found.get("gamma", 0.0))

    def _flat(self, line: _Line) -> LearningCurve:
        self.scale_, self.exponent_, self.floor_ = float(np.exp(line.mean)), 0.0, 0.0
        slopes = np.random.default_rng(self.seed).uniform(line.low, line.high, self.samples)
        slopes[:2] = line.low, line.high
        self.draws_ = np.column_stack([np.full(self.samples, self.scale_), slopes, np.zeros(self.samples)])
        self.r2_, self.regions_ = 0.0, {}
        self.note_ = f"The error does not fall over these {len(self.m_)} shards, so there is no exponent to report."
        return self

    def _regions(self) -> dict[str, dict[str, Any]]:
        alpha, beta, gamma = np.vstack([[self.scale_, self.exponent_, self.floor_], self.draws_]).T
        found = {}
        with np.errstate(all="ignore"):
            m2 = (gamma / alpha) ** (1 / beta)
            found["m2"] = _region(m2, m2[0] <= self.m_.max(), "not reached: the floor lies beyond the data")
            if self.guess is not None:
                m1 = ((self.guess - gamma) / alpha) ** (1 / beta)
                found["m1"] = _region(m1, m1[0] >= self.m_.min(), "not reached: all shards are past guessing")
        return found


class ModelGrowth(BaseEstimator):
    """s(m) = σ·m^(β_p): how the smallest sufficient model grows with the data; a line through ln s against ln m.

    Attributes:
        exponent_: β_p; low_, high_: its 95 % interval (Student's t).  scale_: σ.
    """

    def fit(self, m: Any, best_size: Any) -> ModelGrowth:
        """Fit `best_size` (n,) against `m` rows (n,).

        Raises:
            UserError: fewer than 5 shards, less than a decade, or sizes that are not positive.
        """
        m, size, _ = _points(m, best_size, None, "best_size")
        line = _line(np.log(m), np.log(size), np.ones(len(m)))
        self.exponent_, self.low_, self.high_ = line.slope, line.low, line.high
        self.scale_ = float(np.exp(line.mean - line.slope * np.log(m).mean()))
        return self

    def predict(self, m: Any) -> np.ndarray:
        """Model size for `m` rows."""
        return self.scale_ * np.asarray(m, dtype=float) ** self.exponent_


@dataclasses.dataclass(frozen=True)
class _Line:
    slope: float
    low: float
    high: float
    mean: float


def _line(x: np.ndarray, y: np.ndarray, weights: np.ndarray) -> _Line:
    center, mean = np.average(x, weights=weights), np.average(y, weights=weights)
    spread = (weights * (x - center) ** 2).sum()
    slope = float((weights * (x - center) * y).sum() / spread)
    left = (weights * (y - mean - slope * (x - center)) ** 2).sum()
    half = float(stats.t.ppf(0.975, len(x) - 2) * np.sqrt(left / (len(x) - 2) / spread))
    if half < 1e-12 and abs(slope) < 1e-12:  # an exactly constant curve, but for rounding
        slope = half = 0.0
    return _Line(slope, slope - half, slope + half, float(mean))


def _error(vectors: np.ndarray, m: np.ndarray, guess: float | None) -> np.ndarray:
    alpha, beta, gamma = (vectors[:, i, None] for i in range(3))
    h = alpha * m**beta
    if guess is not None:
        h = (h**-4.0 + np.maximum(guess - gamma, 1e-12) ** -4.0) ** -0.25
    return gamma + h


def _region(values: np.ndarray, reached: bool, otherwise: str) -> dict[str, Any]:
    known = np.nan_to_num(values, nan=np.inf, posinf=np.inf)
    low, high = np.quantile(known[1:], [0.025, 0.975], method="nearest")  # infinite where a resample has no floor
    return {
        "value": float(known[0]),
        "low": float(low),
        "high": float(high),
        "reached": "yes" if reached else otherwise,
    }


def _points(m: Any, error: Any, sem: Any, name: str = "error") -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    columns = [np.asarray(v, dtype=float) for v in ((m, error) if sem is None else (m, error, sem))]
    if len({column.shape for column in columns}) != 1:
        raise UserError(f"m and {name} have {[len(c) for c in columns]} values; give one of each per shard.")
    for column, what in zip(columns, ("m", name, "sem"), strict=False):
        if (bad := ~(np.isfinite(column) & (column > 0))).any():
            row = int(np.argmax(bad))
            raise UserError(f"Shard {row + 1} has {column[row]:g} in {what}; every value must be a positive number.")
    sizes = np.unique(columns[0])
    if len(sizes) < 5:
        raise UserError(f"{len(sizes)} shard sizes are too few for a curve with regions; measure at least 5.")
    if sizes[-1] < 10 * sizes[0]:
        raise UserError(
            f"The shards go from {sizes[0]:g} to {sizes[-1]:g} rows; over less than a factor of 10 any smooth curve looks "
            "like a power law. Add smaller shards."
        )
    order = np.argsort(columns[0], kind="stable")
    return columns[0][order], columns[1][order], columns[2][order] if sem is not None else None
