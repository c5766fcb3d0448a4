"""Uncertainty that respects the data: resample runs (or cells of runs), never checkpoints of one run.

- *percentile* interval: quantiles of the bootstrap parameters;
- *BCa* interval: quantiles shifted by bias z0 and acceleration a (Efron 1987), a from the jackknife of the same units;
- *joint region*: the ellipse of two log-parameters under the bootstrap covariance;
- *leave-one-out* range: with few runs (< 3 per parameter) a bootstrap is a fiction; the range over n refits is not;
- *profile*: the objective minimised over everything but one parameter, in units of its own residual scale.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from scipy import stats

from workbench.errors import UserError, choose
from workbench.scaling import engine


@dataclasses.dataclass(frozen=True)
class Bootstrap:
    """Bootstrap of a fitted law.

    Args:
        names: parameter names.
        estimate: (p,) the fit itself.
        samples: (B, p) refits under resampled weights.
        jackknife: (units, p) refits without one unit each.
        law: the fitted `ScalingLaw`.
    """

    names: tuple[str, ...]
    estimate: np.ndarray
    samples: np.ndarray
    jackknife: np.ndarray
    law: Any

    def interval(self, name: str, level: float = 0.95, method: str = "percentile") -> tuple[float, float]:
        """Interval of one parameter by "percentile", "bca" or "leave-one-out" (a range, no level)."""
        i = self.names.index(choose("parameter", name, self.names))
        return _interval(self.samples[:, i], self.estimate[i], self.jackknife[:, i], level, method)

    def of(self, function: Any, level: float = 0.95, method: str = "percentile") -> tuple[float, float]:
        """Interval of any function of the parameters: `function` maps (batch, p) to (batch,)."""
        return _interval(
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
        logs = np.log(self.samples[:, pick])
        center = np.median(logs, axis=0)
        spread = np.cov(logs.T)
        radius = np.sqrt(stats.chi2.ppf(level, 2))
        angle = np.linspace(0, 2 * np.pi, points)
        circle = np.column_stack([np.cos(angle), np.sin(angle)]) * radius
        return np.exp(center + circle @ np.linalg.cholesky(spread + 1e-18 * np.eye(2)).T)


def _interval(samples, estimate, jackknife, level, method) -> tuple[float, float]:
    choose("interval", method, ("percentile", "bca", "leave-one-out"))
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


def bootstrap(law: Any, samples: int = 1000, *, groups: Any = None, seed: int = 0) -> Bootstrap:
    """Resample units with replacement and refit, all in one batch.

    Args:
        law: a fitted `ScalingLaw`.
        samples: resamples.
        groups: (n,) label of each row's unit (run, cell, seed); None makes every row its own unit. Give it whenever rows
            share a run: checkpoints of one run are not independent.
        seed: of the resampling.
    """
    if samples < 10:
        raise UserError(f"{samples} resamples give no interval; use at least 200.")
    n = len(law.y_)
    labels = np.arange(n) if groups is None else np.unique(np.asarray(groups), return_inverse=True)[1]
    units = labels.max() + 1
    if units < 2:
        raise UserError("All rows belong to one group, so nothing can be resampled; group by run, not by experiment.")
    rng = np.random.default_rng(seed)
    counts = rng.multinomial(units, np.full(units, 1 / units), size=samples)
    refits = law.refit(counts[:, labels] * law.weights_)
    without = (labels[None, :] != np.arange(units)[:, None]).astype(float)
    return Bootstrap(law.law_.parameters, law.vector_, refits, law.refit(without * law.weights_), law)


def profile(law: Any, name: str, values: np.ndarray) -> np.ndarray:
    """Profile of a parameter: n·ln(Q(v)/Q(best)) for each value v, comparable with χ²(1) quantiles.

    Q is the objective minimised over all other parameters: a Gaussian (squared) or Laplace-like (Huber) profile likelihood
    with its own scale estimated. 3.84 marks the 95 % limit for squared errors; for Huber it is approximate.

    Args:
        law: a fitted `ScalingLaw`.
        name: a parameter of the law.
        values: (v,) values to hold it at.
    """
    import dataclasses as dc

    names = law.law_.parameters
    i = names.index(choose("parameter", name, names))
    terms = len(law.law_.terms)
    out = []
    for value in np.asarray(values, dtype=float):
        if i >= terms:
            held = dc.replace(law.law_, exponents={**law.law_.exponents, name: (value, value)})
            start = law.vector_.copy()
            start[i] = value
            best, _ = engine.fit(held, law.x_, law.y_, law.weights_, law._objective(), start=start)
            out.append(best.objective[0])
        else:
            out.append(_held_coefficient(law, i, value))
    return len(law.y_) * np.log(np.array(out) / law.objective_)


def _held_coefficient(law: Any, i: int, value: float) -> float:
    from scipy.optimize import minimize

    free = [j for j in range(len(law.vector_)) if j != i]
    logs = np.log(law.vector_)
    target = np.log(law.y_) if law.law_.log_residuals else law.y_

    def objective(z):
        point = logs.copy()
        point[free] = z
        point[i] = np.log(value)
        fitted = law.law_.predict(law.x_, np.exp(point)[None])[0]
        r = (np.log(fitted) if law.law_.log_residuals else fitted) - target
        return (law.weights_ * law._objective().rho(r)[0]).sum() / law.objective_

    found = minimize(
        objective, logs[free], method="Nelder-Mead", options={"maxiter": 4000, "xatol": 1e-9, "fatol": 1e-9}
    )
    return float(found.fun * law.objective_)
