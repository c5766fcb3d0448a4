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
        steps = int(np.ceil(np.log(LADDER / self.delta) / np.log(4.0)))
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

    The columns of a term whose coefficient is bounded stay as they are: its bound is a bound in natural units.
    """
    held = set(bounds or ())
    powers = [term.powers for term in law.terms if term.special is None]
    free = {c for c in law.columns if any(c in p for p in powers)}
    free -= {c for term in law.terms for c in law.columns if term.special is not None and c not in term.powers}
    free -= {c for term in law.terms if term.coefficient in held for c in term.powers}
    free |= {c for c in law.columns if any(c in p for p in powers) and _only_powers(law, c, held)}
    means = {c: float(np.exp(np.mean(np.log(x[c])))) if c in free else 1.0 for c in law.columns}
    return {c: np.asarray(x[c], dtype=float) / means[c] for c in law.columns}, means
