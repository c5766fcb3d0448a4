"""One engine for all laws: variable projection for the start, a batched Newton polish for the optimum.

1. *Projection.* For fixed exponents θ a law is linear in its coefficients, so a whole grid of θ is solved at once by
   non-negative weighted least squares of relative residuals (all sign patterns of up to four coefficients).
2. *Polish.* The objective Σ_i w_i ρ(r_i), r = ln L̂ − ln L (or L̂ − L), is minimised over (ln c, θ) by Newton's method
   with exact first and second derivatives and Levenberg damping. Problems that differ only in weights (bootstraps,
   jackknife, leave-one-out) are one batch, which is what makes a thousand of them cheap.

Conditioning: columns are divided by their geometric mean, which removes the correlation between a coefficient and its
exponent; the published objective of size 1e-3 is divided by δ·Σw so that tolerances mean something.
"""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np

from workbench.scaling.laws import Columns, Law


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


@dataclasses.dataclass
class Optimum:
    """Fitted parameters (batch, p) in natural units, objective (batch,), and whether each problem converged."""

    parameters: np.ndarray
    objective: np.ndarray
    converged: np.ndarray
    iterations: int


def scale_columns(law: Law, x: Columns) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """Divide the columns that only enter power terms by their geometric mean; returns them and the divisors."""
    special = {column for column in law.columns if not any(column in term.powers for term in law.terms)}
    means = {c: 1.0 if c in special else float(np.exp(np.mean(np.log(x[c])))) for c in law.columns}
    return {c: np.asarray(x[c], dtype=float) / means[c] for c in law.columns}, means


def _shift(law: Law, theta: np.ndarray, means: dict[str, float]) -> np.ndarray:
    """ln c in natural units minus ln c in scaled units, (batch, terms): Σ_j p_j ln mean_j."""
    names = list(law.exponents)
    shift = np.zeros((len(theta), len(law.terms)))
    for k, term in enumerate(law.terms):
        for column, exponent in term.powers.items():
            shift[:, k] += theta[:, names.index(exponent)] * np.log(means[column])
    return shift


def exponent_grid(law: Law, points: int = 600) -> np.ndarray:
    """A grid over the exponents, geometric in each, about `points` in all: (g, m)."""
    each = max(6, round(points ** (1 / len(law.exponents))))
    axes = [np.geomspace(max(low, 0.02), min(high, 4.0), each) for low, high in law.exponents.values()]
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
    phi = np.exp(values) * signs / (y[:, None] if law.log_residuals else 1.0)  # (g, n, k)
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


def polish(
    law: Law, x: Columns, y: np.ndarray, weights: np.ndarray, start: np.ndarray, objective: Objective,
    max_iterations: int = 200, tolerance: float = 1e-11,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:  # fmt: skip
    """Newton on a batch of problems in (ln c, θ).

    Args:
        law, x, y: the law, its scaled columns (n,), the losses (n,).
        weights: (batch, n), non-negative.
        start: (batch, p) of ln c then θ.
        objective: ρ.
        max_iterations: Newton steps at most.
        tolerance: stop when the predicted decrease of the mean scaled objective is below this.

    Returns:
        (parameters (batch, p), objective Σ w ρ (batch,), converged (batch,), iterations)
    """
    k, p = len(law.terms), len(law.parameters)
    signs = np.array([term.sign for term in law.terms], dtype=float)
    low = np.array([-700.0] * k + [bound[0] for bound in law.exponents.values()])
    high = np.array([700.0] * k + [bound[1] for bound in law.exponents.values()])
    scale = weights.sum(axis=1) * (objective.delta if objective.kind != "squared" else 1.0)
    z = np.clip(start, low, high)
    damping = np.full(len(z), 1e-6)
    done = np.zeros(len(z), dtype=bool)
    target = np.log(y) if law.log_residuals else y
    one_hot = np.eye(k)
    shared = None
    if law.linear:  # derivative of each term's exponent by z, the same for the whole batch: (n, k, p)
        _, slopes = law.log_terms(x, z[:1, k:])
        shared = np.concatenate([np.broadcast_to(one_hot, (len(y), k, k)), slopes[0]], axis=2)
        outer = np.einsum("nkp,nkq->nkpq", shared, shared).reshape(len(y) * k, p * p)

    def terms(point):
        if shared is not None:
            return np.exp(np.clip(np.einsum("nkp,bp->bnk", shared, point, optimize=True), -700, 700)), None
        values, slopes = law.log_terms(x, point[:, k:])
        table = np.concatenate([np.broadcast_to(one_hot, (*slopes.shape[:2], k, k)), slopes], axis=3)
        return np.exp(np.clip(values + point[:, None, :k], -700, 700)), table

    def residual(point, active):
        parts, table = terms(point)
        parts = parts * signs
        prediction = parts.sum(axis=2)
        if law.log_residuals:
            with np.errstate(invalid="ignore", divide="ignore"):
                r = np.where(prediction > 0, np.log(np.maximum(prediction, 1e-300)) - target, np.inf)
        else:
            r = prediction - target
        value, slope, bend = objective.rho(np.where(np.isfinite(r), r, 1e6))
        return parts, table, prediction, slope, bend, (weights[active] * value).sum(axis=1)

    index = np.arange(len(z))
    current = residual(z, index)
    loss = current[5].copy()
    iterations = 0
    for iterations in range(1, max_iterations + 1):  # noqa: B007 - the count is returned
        active = index[~done]
        if not len(active):
            break
        parts, table, prediction, slope, bend, _ = current
        w = weights[active]
        relative = parts / prediction[:, :, None] if law.log_residuals else parts
        if shared is not None:
            jacobian = sum(relative[:, :, i, None] * shared[None, :, i, :] for i in range(k))
            pull = (w * slope)[:, :, None] * relative
            hessian = (pull.reshape(len(active), -1) @ outer).reshape(-1, p, p)
        else:
            jacobian = np.einsum("bnk,bnkp->bnp", relative, table)
            pull = (w * slope)[:, :, None] * relative
            hessian = np.einsum("bnk,bnkp,bnkq->bpq", pull, table, table, optimize=True)
        gradient = np.einsum("bn,bnp->bp", w * slope, jacobian)
        curve = w * (bend - slope) if law.log_residuals else w * bend
        hessian = hessian + (jacobian * curve[:, :, None]).transpose(0, 2, 1) @ jacobian
        # Gauss–Newton diagonal with a floor: the damping's own scale, positive also where all residuals are outliers.
        gauss = np.einsum("bn,bnp->bp", w * np.maximum(bend, 1e-3), jacobian**2) + 1e-12 * scale[active, None]
        root = np.sqrt(gauss)
        trial, after = z[active].copy(), np.full(len(active), np.inf)
        open_ = np.arange(len(active))  # problems that have not found a step downhill yet
        for _ in range(60):
            rows = active[open_]
            damped = hessian[open_] + damping[rows, None, None] * (gauss[open_, :, None] * np.eye(p))
            eigen, vectors = np.linalg.eigh(damped / (root[open_, :, None] * root[open_, None, :]))
            scaled = np.einsum("bpq,bp->bq", vectors, gradient[open_] / root[open_]) / np.maximum(np.abs(eigen), 1e-13)
            step = -np.einsum("bpq,bq->bp", vectors, scaled) / root[open_]
            step = step * np.minimum(1.0, 3.0 / (np.abs(step).max(axis=1, keepdims=True) + 1e-300))
            trial[open_] = np.clip(z[rows] + step, low, high)
            after[open_] = residual(trial[open_], rows)[5]
            failed = after[open_] > loss[rows]
            if not failed.any() or (damping[rows[failed]] > 1e9).all():
                break
            open_ = open_[failed]
            damping[active[open_]] = np.maximum(damping[active[open_]], 1e-9) * 8
        better = after <= loss[active]
        expected = -np.einsum("bp,bp->b", gradient, trial - z[active]) / scale[active]
        gain = np.where(better, loss[active] - after, 0.0) / scale[active]
        z[active[better]] = trial[better]
        loss[active[better]] = after[better]
        damping[active[better]] = np.maximum(damping[active[better]] / 10, 1e-12)
        finished = (~better) | ((np.abs(expected) < tolerance) & (gain < tolerance))
        done[active[finished]] = True
        keep = index[~done]
        if len(keep):
            current = residual(z[keep], keep)
    return z, loss, done, iterations


def fit(
    law: Law, x: Columns, y: np.ndarray, weights: np.ndarray | None = None, objective: Objective | None = None,
    start: np.ndarray | None = None, starts: int = 6,
) -> tuple[Optimum, Optimum]:  # fmt: skip
    """Global fit of one data set.

    Args:
        law: see `workbench.scaling.laws`.
        x: columns (n,) in natural units.
        y: losses (n,).
        weights: (n,) or None for ones.
        objective: ρ; Huber with δ 1e-3 by default.
        start: (p,) parameters in natural units to start from instead of the grid.
        starts: how many of the best grid points are polished.

    Returns:
        (the optimum as a batch of one, all polished starts: their agreement is evidence of a global optimum)
    """
    objective = objective or Objective()
    weights = np.ones(len(y)) if weights is None else np.asarray(weights, dtype=float)
    scaled, means = scale_columns(law, x)
    k = len(law.terms)
    if start is None:
        grid = exponent_grid(law)
        logs, loss = project(law, scaled, y, weights, grid)
        order = _spread(grid, loss, starts)
        begin = np.concatenate([logs[order], grid[order]], axis=1)
    else:
        theta = start[None, k:]
        begin = np.concatenate([np.log(start[None, :k]) - _shift(law, theta, means), theta], axis=1)
    stacked = np.broadcast_to(weights, (len(begin), len(y)))
    z, loss, done, iterations = polish(law, scaled, y, stacked, begin, objective)
    everything = _natural(law, z, loss, done, iterations, means)
    best = int(np.argmin(loss))
    return _natural(law, z[[best]], loss[[best]], done[[best]], iterations, means), everything


def refit(
    law: Law, x: Columns, y: np.ndarray, weights: np.ndarray, optimum: np.ndarray, objective: Objective,
) -> Optimum:  # fmt: skip
    """Refit the same runs under many weightings (batch, n), each started at `optimum` (p,) in natural units."""
    scaled, means = scale_columns(law, x)
    k = len(law.terms)
    theta = optimum[None, k:]
    begin = np.concatenate([np.log(np.maximum(optimum[None, :k], 1e-300)) - _shift(law, theta, means), theta], axis=1)
    z, loss, done, iterations = polish(
        law, scaled, y, np.asarray(weights, dtype=float), np.repeat(begin, len(weights), axis=0), objective, 60, 1e-9
    )
    return _natural(law, z, loss, done, iterations, means)


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
    return np.array(chosen)
