"""One engine for all laws: variable projection for the start, a batched Newton polish for the optimum.

1. *Projection.* For fixed exponents θ a law is linear in its coefficients, so a whole grid of θ is solved at once by
   non-negative weighted least squares of relative residuals (all sign patterns of up to four coefficients).
2. *Polish.* The objective Σ_i w_i ρ(r_i), r = ln L̂ − ln L (or L̂ − L), is minimised over (ln c, θ) by Newton's method
   with analytic first and second derivatives and Levenberg damping (`workbench.scaling._newton`). Problems that differ only in
   weights (bootstraps, jackknife, leave-one-out) are one batch, which is what makes a thousand of them cheap.
3. *Small δ.* A Huber or quantile objective with δ well below the residuals is nearly Σ|r|; it is reached through a ladder of
   larger δ, each optimum the start of the next.

Conditioning: columns are divided by their geometric mean, which removes the correlation between a coefficient and its
exponent; the published objective of size 1e-3 is divided by δ·Σw so that tolerances mean something.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping

import numpy as np

from workbench.scaling._newton import polish
from workbench.scaling.laws import Columns, Law

Bounds = Mapping[str, tuple[float, float]]
LADDER = 1e-3  # δ down to which Newton needs no ladder, in units of the spread of the target (1 for log residuals)


@dataclasses.dataclass(frozen=True)
class Objective:
    """ρ of the residual.

    Args:
        kind: "huber" (quadratic inside ±δ, linear outside), "squared" (r²/2), or "quantile" (a Huber-smoothed pinball).
        delta: δ in the residual's unit; 1e-3 is the published choice on log residuals.
        quantile: share of runs that should lie below the fit, for "quantile".
    """

    kind: str = "huber"
    delta: float = 1e-3
    quantile: float = 0.5

    def rho(self, r: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """ρ(r), ρ′(r), ρ″(r)."""
        if self.kind == "squared":
            return r * r / 2, r, np.ones_like(r)
        inside = np.abs(r) <= self.delta
        value = np.where(inside, r * r / 2, self.delta * (np.abs(r) - self.delta / 2))
        slope = np.clip(r, -self.delta, self.delta)
        if self.kind == "huber":
            return value, slope, inside.astype(float)
        side = 2 * np.where(r < 0, self.quantile, 1 - self.quantile)
        return side * value, side * slope, side * inside

    def scale(self, weights: np.ndarray) -> np.ndarray:
        """Size of the objective for weights (batch, n), by which tolerances are measured: (batch,)."""
        return weights.sum(axis=1) * (1.0 if self.kind == "squared" else self.delta)

    def ladder(self) -> list[Objective]:
        """Objectives with larger δ to pass through, ending with this one."""
        if self.kind == "squared" or self.delta >= LADDER:
            return [self]
        steps = int(np.ceil(np.log(LADDER / self.delta) / np.log(3.0)))
        return [dataclasses.replace(self, delta=float(d)) for d in np.geomspace(LADDER, self.delta, steps + 1)]


@dataclasses.dataclass
class Optimum:
    """Fitted parameters (batch, p) in natural units, objective (batch,), and whether each problem converged."""

    parameters: np.ndarray
    objective: np.ndarray
    converged: np.ndarray
    iterations: int


def scale_columns(law: Law, x: Columns, bounds: Bounds | None = None) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """Divide the columns that only enter power terms by their geometric mean; returns them and the divisors.

    The columns of a term whose coefficient is bounded stay as they are: its bound is meant in natural units.
    """
    free = {column for term in law.terms for column in term.powers}
    free -= {column for term in law.terms if term.coefficient in (bounds or ()) for column in term.powers}
    means = {c: float(np.exp(np.mean(np.log(x[c])))) if c in free else 1.0 for c in law.columns}
    return {c: np.asarray(x[c], dtype=float) / means[c] for c in law.columns}, means


def _limits(law: Law, y: np.ndarray, bounds: Bounds | None) -> tuple[np.ndarray, np.ndarray]:
    """(lowest, highest) of (ln c, θ); a coefficient's bound of 0 is as good as none.

    A term of scaled columns is near its coefficient: one at 1e-15 of the smallest loss has vanished and need not shrink on.
    """
    low, high = np.full(len(law.parameters), -700.0), np.full(len(law.parameters), 700.0)
    least = np.log(np.abs(y)[y != 0].min()) + np.log(1e-15)
    low[: len(law.terms)] = [
        -700.0 if term.special or term.coefficient in (bounds or ()) else least for term in law.terms
    ]
    for i, name in enumerate(law.parameters):
        if name in law.exponents:
            low[i], high[i] = law.exponents[name]
        elif name in (bounds or ()):
            lowest, highest = bounds[name]
            low[i], high[i] = max(-700.0, np.log(max(lowest, 1e-300))), min(700.0, np.log(highest))
    return low, high


def _shift(law: Law, theta: np.ndarray, means: dict[str, float]) -> np.ndarray:
    """ln c in natural units minus ln c in scaled units, (batch, terms): ±Σ_j p_j ln mean_j."""
    names = list(law.exponents)
    shift = np.zeros((len(theta), len(law.terms)))
    for k, term in enumerate(law.terms):
        for column, exponent in term.powers.items():
            shift[:, k] -= term.direction * theta[:, names.index(exponent)] * np.log(means[column])
    return shift


def exponent_grid(law: Law, points: int = 600) -> np.ndarray:
    """A grid over the exponents, geometric in each, about `points` in all: (g, m); one empty row for a law without any."""
    if not law.exponents:
        return np.zeros((1, 0))
    each = max(6, round(points ** (1 / len(law.exponents))))
    axes = [
        np.unique(np.geomspace(max(low, min(0.02, high)), max(min(high, 8.0), low), each))
        for low, high in law.exponents.values()
    ]
    return np.array(list(itertools.product(*axes)))


def project(
    law: Law, x: Columns, y: np.ndarray, weights: np.ndarray, grid: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Best non-negative coefficients for every θ of the grid, by least squares of (relative) residuals.

    Returns:
        ln c of shape (g, terms), with −30 below the largest where a coefficient is zero, and the residual sums (g,).
    """
    values, _ = law.log_terms(x, grid)
    signs = np.array([term.sign for term in law.terms], dtype=float)
    target = np.ones_like(y) if law.log_residuals else y
    phi = np.exp(np.clip(values, -300, 300)) * signs / (y[:, None] if law.log_residuals else 1.0)  # (g, n, k)
    root = np.sqrt(weights)
    phi = phi * root[:, None]
    target = target * root
    gram = phi.transpose(0, 2, 1) @ phi
    moment = phi.transpose(0, 2, 1) @ target
    size = np.sqrt(np.einsum("gkk->gk", gram))
    size[size == 0] = 1.0
    gram = gram / (size[:, :, None] * size[:, None, :])
    moment = moment / size
    k = len(law.terms)
    best = np.full(len(grid), np.inf)
    coefficients = np.zeros((len(grid), k))
    for subset in (s for r in range(1, k + 1) for s in itertools.combinations(range(k), r)):
        part = gram[:, subset][:, :, subset] + 1e-13 * np.eye(len(subset))
        solution = np.linalg.solve(part, moment[:, subset, None])[:, :, 0]
        loss = target @ target - np.einsum("gs,gs->g", solution, moment[:, subset])
        better = (solution > 0).all(axis=1) & (loss < best)
        best[better] = loss[better]
        full = np.zeros((better.sum(), k))
        full[:, subset] = solution[better]
        coefficients[better] = full
    coefficients = coefficients / size
    tiny = coefficients.max(axis=1, keepdims=True) * np.exp(-30.0) + 1e-300
    return np.log(np.maximum(coefficients, tiny)), best


def fit(
    law: Law, x: Columns, y: np.ndarray, weights: np.ndarray | None = None, objective: Objective | None = None,
    start: np.ndarray | None = None, starts: int = 6, bounds: Bounds | None = None,
) -> tuple[Optimum, Optimum]:  # fmt: skip
    """Global fit of one data set.

    Args:
        law: see `workbench.scaling.laws`; its exponents carry their limits.
        x: columns (n,) in natural units.
        y: losses (n,).
        weights: (n,) or None for ones.
        objective: ρ; Huber with δ 1e-3 by default.
        start: (p,) parameters in natural units to start from instead of the grid.
        starts: how many of the best grid points are polished.
        bounds: coefficient → (lowest, highest), in natural units.

    Returns:
        (the optimum as a batch of one, all polished starts: their agreement is evidence of a global optimum)
    """
    objective = objective or Objective()
    weights = np.ones(len(y)) if weights is None else np.asarray(weights, dtype=float)
    scaled, means = scale_columns(law, x, bounds)
    if start is None:
        grid = exponent_grid(law)
        logs, loss = project(law, scaled, y, weights, grid)
        order = _spread(grid, loss, starts)
        if not len(order):  # no sign pattern fits: the target rises where the law falls; polish from the middle anyway
            order = np.array([len(grid) // 2])
            logs[order] = np.log(np.maximum(np.abs(y).mean(), 1e-300) / len(law.terms))
        begin = np.concatenate([logs[order], grid[order]], axis=1)
    else:
        begin = _lifted(law, scaled, y, _internal(law, start[None], means))
    stacked = np.broadcast_to(weights, (len(begin), len(y)))
    limits = _limits(law, y, bounds)
    for step in objective.ladder():
        begin, loss, done, iterations = polish(law, scaled, y, stacked, begin, step, limits)
    everything = _natural(law, begin, loss, done, iterations, means)
    best = int(np.argmin(loss))
    return _natural(law, begin[[best]], loss[[best]], done[[best]], iterations, means), everything


def refit(
    law: Law, x: Columns, y: np.ndarray, weights: np.ndarray, optimum: np.ndarray, objective: Objective,
    bounds: Bounds | None = None,
) -> Optimum:  # fmt: skip
    """Refit the same runs under many weightings (batch, n), each started at `optimum` (p,) in natural units."""
    scaled, means = scale_columns(law, x, bounds)
    weights, limits = np.asarray(weights, dtype=float), _limits(law, y, bounds)
    best = None
    for start in _lifted(law, scaled, y, _internal(law, optimum[None], means)):
        z = np.repeat(start[None], len(weights), axis=0)
        for step in objective.ladder():
            z, loss, done, iterations = polish(law, scaled, y, weights, z, step, limits, 60, 1e-9)
        if best is not None:
            worse = best[1] < loss
            z[worse], loss[worse], done[worse] = best[0][worse], best[1][worse], best[2][worse]
        best = z, loss, done, iterations
    return _natural(law, *best, means)


def _lifted(law: Law, x: Columns, y: np.ndarray, start: np.ndarray) -> np.ndarray:
    """The start (1, p), and where a term has vanished a second one with that term at a tenth of the smallest loss.

    The objective is flat in the logarithm of a coefficient near zero, so Newton cannot bring a lost term back by itself; other
    weights of the same runs may well want it.
    """
    k = len(law.terms)
    values, _ = law.log_terms(x, start[:, k:])
    largest = (values[0] + start[:, :k]).max(axis=0)
    least = np.log(np.abs(y)[y != 0].min())
    gone = largest < least + np.log(1e-4)
    if not gone.any():
        return start
    lifted = start.copy()
    lifted[0, :k] = np.where(gone, start[0, :k] + least + np.log(0.1) - largest, start[0, :k])
    return np.concatenate([start, lifted])


def _internal(law: Law, parameters: np.ndarray, means: dict[str, float]) -> np.ndarray:
    """(batch, p) in natural units → (ln c of the scaled columns, θ)."""
    k = len(law.terms)
    theta = parameters[:, k:]
    return np.concatenate([np.log(np.maximum(parameters[:, :k], 1e-300)) - _shift(law, theta, means), theta], axis=1)


def _natural(law, z, loss, done, iterations, means) -> Optimum:
    k = len(law.terms)
    theta = z[:, k:]
    coefficients = np.exp(np.clip(z[:, :k] + _shift(law, theta, means), -700, 700))
    return Optimum(np.concatenate([coefficients, theta], axis=1), loss, done, iterations)


def _spread(grid: np.ndarray, loss: np.ndarray, count: int) -> np.ndarray:
    """The best grid points that are not neighbours of a better one."""
    chosen: list[int] = []
    for i in np.argsort(loss):
        if not np.isfinite(loss[i]):
            break
        if all(np.abs(np.log(grid[i] / grid[j])).max() > 0.45 for j in chosen):
            chosen.append(int(i))
        if len(chosen) == count:
            break
    return np.array(chosen, dtype=int)
