"""Newton's method on a batch of scaling-law fits that share their runs and differ in their weights.

Unknowns z = (ln c, θ), limits allowed. One step solves (H + μ·diag G) s = −g with the Hessian H of Σ w ρ(r), eigenvalues taken
positive, and G the Gauss–Newton diagonal; μ falls tenfold after a success and grows eightfold after a failure. Unknowns
at a limit whose gradient points outside are held. H is exact for laws of powers; for `special` terms the curvature of
log φ in θ is left out, which costs a few more steps and no accuracy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from workbench.scaling.engine import Objective
    from workbench.scaling.laws import Columns, Law


class Problem:
    """Value and derivatives of the objective for a batch of weightings (batch, n)."""

    def __init__(self, law: Law, x: Columns, y: np.ndarray, weights: np.ndarray, objective: Objective) -> None:
        self.law, self.x, self.weights, self.objective = law, x, weights, objective
        self.k, self.p = len(law.terms), len(law.parameters)
        self.signs = np.array([term.sign for term in law.terms], dtype=float)
        self.target = np.log(y) if law.log_residuals else y
        self.one_hot = np.eye(self.k)
        self.shared = self.flat = self.outer = None
        if law.linear:  # derivative of each term's exponent by z, the same for the whole batch: (n, k, p)
            _, slopes = law.log_terms(x, np.zeros((1, self.p - self.k)))
            unit = np.broadcast_to(self.one_hot, (len(y), self.k, self.k))
            self.shared = np.concatenate([unit, slopes[0]], axis=2)
            self.flat = np.ascontiguousarray(self.shared.reshape(-1, self.p).T)
            outer = np.einsum("nkp,nkq->nkpq", self.shared, self.shared)
            self.outer = outer.reshape(len(y) * self.k, self.p * self.p)

    def _terms(self, z: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        if self.shared is not None:
            logs = (z @ self.flat).reshape(len(z), -1, self.k)
            return np.exp(np.clip(logs, -700, 700)), None
        values, slopes = self.law.log_terms(self.x, z[:, self.k :])
        unit = np.broadcast_to(self.one_hot, (*slopes.shape[:2], self.k, self.k))
        return np.exp(np.clip(values + z[:, None, : self.k], -700, 700)), np.concatenate([unit, slopes], axis=3)

    def residual(self, z: np.ndarray, rows: np.ndarray) -> tuple:
        """(signed terms, derivative table, L̂, ρ′, ρ″, objective) at `z` for the weightings `rows`."""
        parts, table = self._terms(z)
        parts = parts * self.signs
        prediction = parts.sum(axis=2)
        if self.law.log_residuals:
            with np.errstate(invalid="ignore", divide="ignore"):
                r = np.where(prediction > 0, np.log(np.maximum(prediction, 1e-300)) - self.target, np.inf)
        else:
            r = prediction - self.target
        value, slope, bend = self.objective.rho(np.where(np.isfinite(r), r, 1e6))
        return parts, table, prediction, slope, bend, (self.weights[rows] * value).sum(axis=1)

    def derivatives(self, state: tuple, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Gradient (b, p), Hessian (b, p, p) and Gauss–Newton diagonal (b, p) of the objective at a `residual` state."""
        parts, table, prediction, slope, bend, _ = state
        log, w = self.law.log_residuals, self.weights[rows]
        relative = parts / prediction[:, :, None] if log else parts
        pull = (w * slope)[:, :, None] * relative
        if self.shared is not None:
            jacobian = sum(relative[:, :, i, None] * self.shared[None, :, i, :] for i in range(self.k))
            hessian = (pull.reshape(len(rows), -1) @ self.outer).reshape(-1, self.p, self.p)
        else:
            jacobian = np.einsum("bnk,bnkp->bnp", relative, table)
            hessian = np.einsum("bnk,bnkp,bnkq->bpq", pull, table, table, optimize=True)
        gradient = np.einsum("bn,bnp->bp", w * slope, jacobian)
        curve = w * (bend - slope) if log else w * bend
        hessian = hessian + (jacobian * curve[:, :, None]).transpose(0, 2, 1) @ jacobian
        # The damping's own scale: positive also where all residuals are outliers.
        gauss = np.einsum("bn,bnp->bp", w * np.maximum(bend, 1e-3), jacobian**2)
        return gradient, hessian, gauss


def polish(
    law: Law, x: Columns, y: np.ndarray, weights: np.ndarray, start: np.ndarray, objective: Objective,
    limits: tuple[np.ndarray, np.ndarray], max_iterations: int = 200, tolerance: float = 1e-11,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:  # fmt: skip
    """Minimise for every weighting.

    Args:
        law, x, y: the law, its scaled columns (n,), the losses (n,).
        weights: (batch, n), non-negative.
        start: (batch, p) of ln c then θ.
        objective: ρ.
        limits: (lowest, highest) z, each (p,).
        max_iterations: Newton steps at most.
        tolerance: stop when the predicted decrease of the mean scaled objective is below this.

    Returns:
        (parameters (batch, p), objective Σ w ρ (batch,), converged (batch,), iterations)
    """
    low, high = limits
    problem = Problem(law, x, y, weights, objective)
    scale = objective.scale(weights)
    z = np.clip(start, low, high)
    damping = np.full(len(z), 1e-6)
    done = np.zeros(len(z), dtype=bool)
    index = np.arange(len(z))
    current = problem.residual(z, index)
    loss = current[5].copy()
    iterations = 0
    for iterations in range(1, max_iterations + 1):  # noqa: B007 - the count is returned
        active = index[~done]
        if not len(active):
            break
        gradient, hessian, gauss = problem.derivatives(current, active)
        gauss = gauss + 1e-12 * scale[active, None]
        held = ((z[active] <= low) & (gradient > 0)) | ((z[active] >= high) & (gradient < 0))
        if held.any():
            gradient = np.where(held, 0.0, gradient)
            hessian = np.where(held[:, :, None] | held[:, None, :], 0.0, hessian)
            hessian = hessian + np.where(held, gauss, 0.0)[:, :, None] * np.eye(problem.p)
        root = np.sqrt(gauss)
        trial, after = z[active].copy(), np.full(len(active), np.inf)
        open_ = np.arange(len(active))  # problems that have not found a step downhill yet
        for _ in range(60):
            rows = active[open_]
            damped = hessian[open_] + damping[rows, None, None] * (gauss[open_, :, None] * np.eye(problem.p))
            eigen, vectors = np.linalg.eigh(damped / (root[open_, :, None] * root[open_, None, :]))
            scaled = np.einsum("bpq,bp->bq", vectors, gradient[open_] / root[open_]) / np.maximum(np.abs(eigen), 1e-13)
            step = -np.einsum("bpq,bq->bp", vectors, scaled) / root[open_]
            step = step * np.minimum(1.0, 3.0 / (np.abs(step).max(axis=1, keepdims=True) + 1e-300))
            trial[open_] = np.clip(z[rows] + step, low, high)
            after[open_] = problem.residual(trial[open_], rows)[5]
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
            current = problem.residual(z[keep], keep)
    return z, loss, done, iterations
