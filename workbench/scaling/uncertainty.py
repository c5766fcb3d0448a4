"""Uncertainty that respects the data: resample runs (or cells of runs), never checkpoints of one run.

- *percentile* interval: quantiles of the bootstrap parameters;
- *BCa* interval: quantiles shifted by bias z0 and acceleration a (Efron 1987), a from the jackknife of the same units;
- *joint region*: the ellipse of two log-parameters under the bootstrap covariance;
- *leave-one-out* range: with few runs (< 3 per parameter) a bootstrap is a fiction; the range over n refits is not;
- *profile*: the objective minimised over everything but one parameter, in units of its own residual scale.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
from scipy import stats

from workbench.errors import UserError, choose
from workbench.scaling import engine

METHODS = ("percentile", "bca", "leave-one-out")


@dataclasses.dataclass(frozen=True)
class Bootstrap:
    """Bootstrap of a fitted law.

    Args:
        names: parameter names.
        estimate: (p,) the fit itself.
        samples: (B, p) refits under resampled weights.
        jackknife: (units, p) refits without one unit each.
        law: the fitted `ScalingLaw`.
        weights: (B, n) how often each resample holds each row, so that a second law can be resampled in step.
        units: what was resampled: "run" or the name of the groups.
    """

    names: tuple[str, ...]
    estimate: np.ndarray
    samples: np.ndarray
    jackknife: np.ndarray
    law: Any
    weights: np.ndarray
    units: str = "run"

    def interval(self, name: str, level: float = 0.95, method: str = "percentile") -> tuple[float, float]:
        """Interval of one parameter by "percentile", "bca" or "leave-one-out" (a range, no level)."""
        i = self.names.index(choose("parameter", name, self.names))
        return interval(self.samples[:, i], self.estimate[i], self.jackknife[:, i], level, method)

    def of(
        self, function: Callable[[np.ndarray], np.ndarray], level: float = 0.95, method: str = "percentile"
    ) -> tuple[float, float]:
        """Interval of any function of the parameters: `function` maps (batch, p) to (batch,)."""
        return interval(
            function(self.samples), float(function(self.estimate[None])[0]), function(self.jackknife), level, method
        )

    def predict(self, table: Any, level: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
        """Percentile band of the fitted curve (not of a new run's noise) at the rows of `table`: (low, high), each (n,)."""
        from workbench.scaling.fitter import _arrays

        x, _ = _arrays(self.law.law_, table, np.ones(len(table)))
        curves = self.law.law_.predict(x, self.samples)
        tail = (1 - level) / 2
        return np.quantile(curves, tail, axis=0), np.quantile(curves, 1 - tail, axis=0)

    def region(self, first: str, second: str, level: float = 0.95, points: int = 100) -> np.ndarray:
        """Outline (points, 2) of the joint region of two parameters: an ellipse of their logs, mapped back."""
        pick = [self.names.index(choose("parameter", name, self.names)) for name in (first, second)]
        logs = np.log(np.maximum(self.samples[:, pick], 1e-300))
        center = np.median(logs, axis=0)
        spread = np.cov(logs.T)
        radius = np.sqrt(stats.chi2.ppf(level, 2))
        angle = np.linspace(0, 2 * np.pi, points)
        circle = np.column_stack([np.cos(angle), np.sin(angle)]) * radius
        return np.exp(np.clip(center + circle @ np.linalg.cholesky(spread + 1e-18 * np.eye(2)).T, -690, 690))


def interval(
    samples: np.ndarray, estimate: float, jackknife: np.ndarray, level: float = 0.95, method: str = "percentile"
) -> tuple[float, float]:
    """(low, high) from bootstrap samples (B,), the estimate and its jackknife (units,)."""
    choose("interval", method, METHODS)
    if method == "leave-one-out":
        return float(jackknife.min()), float(jackknife.max())
    tails = np.array([(1 - level) / 2, (1 + level) / 2])
    if method == "bca":
        below = np.clip(np.mean(samples < estimate), 1 / (2 * len(samples)), 1 - 1 / (2 * len(samples)))
        bias = stats.norm.ppf(below)
        pull = jackknife.mean() - jackknife
        size = (pull**2).sum() ** 1.5
        acceleration = (pull**3).sum() / (6 * size) if size > 0 else 0.0
        z = bias + stats.norm.ppf(tails)
        tails = stats.norm.cdf(bias + z / (1 - acceleration * z))
    low, high = np.quantile(samples, tails)
    return float(low), float(high)


def bootstrap(law: Any, samples: int = 1000, *, groups: Any = None, seed: int = 0, units: str = "") -> Bootstrap:
    """Resample units with replacement and refit, all in one batch.

    Args:
        law: a fitted `ScalingLaw`.
        samples: resamples.
        groups: (n,) label of each row's unit (run, cell, seed); None makes every row its own unit. Give it whenever rows
            share a run: checkpoints of one run are not independent.
        seed: of the resampling.
        units: what a unit is called in reports (default: "run", or "group" where `groups` is given).
    """
    if samples < 10:
        raise UserError(f"{samples} resamples give no interval; use at least 200.")
    n = len(law.y_)
    labels = np.arange(n) if groups is None else np.unique(np.asarray(groups), return_inverse=True)[1]
    if len(labels) != n:
        raise UserError(f"There are {n} runs and {len(labels)} group labels; give one for every row that was fitted.")
    count = labels.max() + 1
    if count < 2:
        raise UserError("All rows belong to one group, so nothing can be resampled; group by run, not by experiment.")
    rng = np.random.default_rng(seed)
    counts = rng.multinomial(count, np.full(count, 1 / count), size=samples)[:, labels].astype(float)
    refits = law.refit(counts * law.weights_)
    without = (labels[None, :] != np.arange(count)[:, None]).astype(float)
    name = units or ("run" if groups is None else "group")
    return Bootstrap(
        law.law_.parameters, law.vector_, refits, law.refit(without * law.weights_), law, counts * law.weights_, name
    )


def profile(law: Any, name: str, values: np.ndarray) -> np.ndarray:
    """Profile of a parameter: n·ln(Q(v)/Q(best)) for each value v, comparable with χ²(1) quantiles.

    Q is the objective minimised over all other parameters: a Gaussian (squared) or Laplace-like (Huber) profile likelihood
    with its own scale estimated. 3.84 marks the 95 % limit for squared errors; for Huber it is approximate.

    Args:
        law: a fitted `ScalingLaw`.
        name: a parameter of the law.
        values: (v,) values to hold it at.
    """
    names = law.law_.parameters
    i = names.index(choose("parameter", name, names))
    values = np.asarray(values, dtype=float)
    if (values <= 0).any():
        raise UserError(f"{name} is positive in every law, so it cannot be held at {values.min():g}.")
    out = np.empty(len(values))
    last = {True: law.vector_, False: law.vector_}  # the nearest solution so far, below and above the fit
    for j in np.argsort(np.abs(np.log(values / law.vector_[i]))):
        above = bool(values[j] >= law.vector_[i])
        held, bounds = _hold(law, name, float(values[j]))
        begin = last[above].copy()
        begin[i] = values[j]
        best, _ = engine.fit(held, law.x_, law.y_, law.weights_, law._objective(), start=begin, bounds=bounds)
        out[j], last[above] = best.objective[0], best.parameters[0]
    return len(law.y_) * np.log(out / law.objective_)


def _hold(law: Any, name: str, value: float) -> tuple[Any, dict[str, tuple[float, float]]]:
    bounds = law._coefficient_bounds(law.law_)
    if name in law.law_.exponents:
        return dataclasses.replace(law.law_, exponents={**law.law_.exponents, name: (value, value)}), bounds
    return law.law_, {**bounds, name: (value, value)}


def profile_interval(law: Any, name: str, level: float = 0.95, reach: float = 0.5) -> tuple[float, float]:
    """Where the profile of a parameter crosses the χ²(1) quantile on both sides of the fit, found by bisection in its log.

    Args:
        law: a fitted `ScalingLaw`.
        name: a parameter of the law.
        level: of the interval.
        reach: first step in ln(parameter); doubled until the profile is high enough. A side that never rises (over a factor
            of e⁸) is given as 0 or infinity: the parameter is not bounded there.
    """
    limit = stats.chi2.ppf(level, 1)
    best = law.parameters_[name]
    ends = []
    for sign in (-1, 1):
        near, far = 0.0, reach
        while far < 8 and profile(law, name, np.array([best * np.exp(sign * far)]))[0] < limit:
            near, far = far, 2 * far
        if far >= 8:
            ends.append(0.0 if sign < 0 else np.inf)
            continue
        for _ in range(12):
            middle = (near + far) / 2
            inside = profile(law, name, np.array([best * np.exp(sign * middle)]))[0] < limit
            near, far = (middle, far) if inside else (near, middle)
        ends.append(float(best * np.exp(sign * (near + far) / 2)))
    return ends[0], ends[1]
