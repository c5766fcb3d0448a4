"""`ScalingLaw`: one estimator for every law, in scikit-learn's manner.

    law = ScalingLaw("chinchilla").fit(runs)              # runs: DataFrame with columns N, D, loss
    law.parameters_                                        # {"E": 1.817, "A": 477.8, …}
    law.predict(more_runs)                                 # L̂
    law.bootstrap(1000).interval("alpha")                  # resamples runs, not checkpoints

The default objective is the published one: Σ Huber_δ(ln L̂ − ln L) with δ = 1e-3 (Hoffmann et al. 2022, appendix D.3;
Besiroglu et al. 2024), minimised globally (`workbench.scaling.engine`).
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from sklearn.base import BaseEstimator, RegressorMixin

from workbench.errors import UserError, choose
from workbench.scaling import engine
from workbench.scaling.laws import Law, get_law

if TYPE_CHECKING:
    from workbench.scaling.uncertainty import Bootstrap

OBJECTIVES = ("huber", "squared", "quantile")


class ScalingLaw(RegressorMixin, BaseEstimator):
    """Fit one law to a table of training runs.

    Args:
        law: name of a law (`workbench methods --kind law`), or a `Law` of your own.
        objective: "huber" (robust, the published choice), "squared", or "quantile".
        delta: where Huber turns linear, in units of the residual (ln loss for most laws); 1e-8 is least absolute errors.
        quantile: share of runs below the curve, for objective "quantile".
        log_residuals: None takes the law's own choice; False fits plain differences, as some published fits do.
        bounds: parameter → (lowest, highest), in natural units; equal numbers hold a parameter fixed.

    Attributes:
        parameters_: name → fitted value in the units of the columns given.
        objective_: Σ w ρ at the optimum.
        starts_: objective of every polished start; agreement is evidence of a global optimum.
        seconds_: time the fit took.
    """

    def __init__(
        self,
        law: str | Law = "chinchilla",
        objective: str = "huber",
        delta: float = 1e-3,
        quantile: float = 0.5,
        log_residuals: bool | None = None,
        bounds: Mapping[str, tuple[float, float]] | None = None,
    ) -> None:
        self.law = law
        self.objective = objective
        self.delta = delta
        self.quantile = quantile
        self.log_residuals = log_residuals
        self.bounds = bounds

    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> ScalingLaw:
        """Fit.

        Args:
            X: one row per run, holding the law's columns (an array has them in the law's order); and `loss` when `y` is not
                given.
            y: losses (n,), or None to read the column `loss`.
            sample_weight: (n,) or None.

        Raises:
            UserError: missing columns, values that are not positive numbers (row named), fewer runs than parameters + 1, a
                column with one value only.
        """
        law = self._law()
        x, loss = _arrays(law, X, y)
        distinct = len(np.unique(np.column_stack([*x.values(), loss]), axis=0))
        need = len(law.parameters) + 1
        if distinct < need:
            raise UserError(
                f"The law {law.name} has {len(law.parameters)} parameters, so it needs at least {need} different runs; "
                f"the table has {distinct}. Add runs or choose a law with fewer parameters."
            )
        for column, values in x.items():
            if np.ptp(values) == 0:
                raise UserError(
                    f"All {len(loss)} runs have {column} = {values[0]:.6g}, so what {column} does cannot be known. "
                    f"Add runs with another {column}, or fit a law without it."
                )
        weights = _weights(sample_weight, len(loss))
        begun = time.perf_counter()
        best, starts = engine.fit(law, x, loss, weights, self._objective(), bounds=self._coefficient_bounds(law))
        self.seconds_ = time.perf_counter() - begun
        self.law_, self.x_, self.y_, self.weights_ = law, x, loss, weights
        self.vector_ = best.parameters[0]
        self.parameters_ = dict(zip(law.parameters, map(float, self.vector_), strict=True))
        self.objective_ = float(best.objective[0])
        self.starts_ = starts.objective
        self.start_parameters_ = starts.parameters
        self.n_features_in_ = len(law.columns)
        return self

    def predict(self, X: Any) -> np.ndarray:
        """L̂ for the rows of `X` (n,)."""
        x, _ = _arrays(self.law_, X, np.ones(len(X)))
        return self.law_.predict(x, self.vector_[None])[0]

    def residuals(self) -> np.ndarray:
        """ln L̂ − ln L of the fitted runs (or L̂ − L for laws on plain residuals), (n,)."""
        fitted = self.law_.predict(self.x_, self.vector_[None])[0]
        return np.log(fitted) - np.log(self.y_) if self.law_.log_residuals else fitted - self.y_

    def refit(self, weights: np.ndarray) -> np.ndarray:
        """Parameters under many weightings of the same runs: (batch, n) → (batch, p), one batched Newton solve."""
        bounds = self._coefficient_bounds(self.law_)
        found = engine.refit(self.law_, self.x_, self.y_, weights, self.vector_, self._objective(), bounds)
        return found.parameters

    def bootstrap(self, samples: int = 1000, *, groups: Any = None, seed: int = 0) -> Bootstrap:
        """Resample runs (or whole `groups` of them) with replacement; see `workbench.scaling.uncertainty`."""
        from workbench.scaling.uncertainty import bootstrap

        return bootstrap(self, samples, groups=groups, seed=seed)

    def _law(self) -> Law:
        """The law with this estimator's choices: kind of residual, limits of the exponents."""
        law = get_law(self.law)
        choose("objective", self.objective, OBJECTIVES)
        if not self.delta > 0 or not 0 < self.quantile < 1:
            raise UserError(
                f"delta must be above 0 and quantile inside (0, 1), not {self.delta:g} and {self.quantile:g}."
            )
        limits = dict(law.exponents)
        for name, (low, high) in (self.bounds or {}).items():
            choose("parameter", name, law.parameters)
            if not 0 <= low <= high or high == 0:
                raise UserError(
                    f"The bounds of {name} are {low:g} and {high:g}; give 0 ≤ lowest ≤ highest, highest > 0."
                )
            if name in limits:
                limits[name] = (max(low, 1e-6), high)
        log = law.log_residuals if self.log_residuals is None else self.log_residuals
        return dataclasses.replace(law, exponents=limits, log_residuals=log)

    def _coefficient_bounds(self, law: Law) -> dict[str, tuple[float, float]]:
        return {name: limits for name, limits in (self.bounds or {}).items() if name not in law.exponents}

    def _objective(self) -> engine.Objective:
        return engine.Objective(self.objective, self.delta, self.quantile)


def _arrays(law: Law, table: Any, y: Any) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """The law's columns and the losses as float64, or one sentence that names the first bad row."""
    if not isinstance(table, pd.DataFrame):
        values = np.asarray(table)
        if values.ndim != 2 or values.shape[1] != len(law.columns):
            raise UserError(
                f"An array for the law {law.name} has the {len(law.columns)} columns {', '.join(law.columns)} in this order, "
                f"not the shape {values.shape}."
            )
        table = pd.DataFrame(values, columns=list(law.columns))
    missing = [column for column in law.columns if column not in table]
    if y is None and "loss" not in table:
        missing.append("loss")
    if missing:
        raise UserError(
            f"The law {law.name} needs the columns {', '.join(law.columns)} and loss; missing: {', '.join(missing)}. "
            f"The table has: {', '.join(map(str, table.columns))}."
        )
    x = {column: _numbers(table[column], column, positive=True) for column in law.columns}
    loss = _numbers(pd.Series(np.asarray(y)) if y is not None else table["loss"], "loss", positive=law.log_residuals)
    if len(loss) != len(table):
        raise UserError(f"There are {len(table)} rows and {len(loss)} losses; give one loss for every row.")
    return x, loss


def _numbers(values: pd.Series, name: str, *, positive: bool) -> np.ndarray:
    numbers = pd.to_numeric(values, errors="coerce").to_numpy(dtype=float)
    bad = ~np.isfinite(numbers) | ((numbers <= 0) if positive else False)
    if bad.any():
        row = int(np.argmax(bad))
        raise UserError(
            f"Row {row + 1} has {values.iloc[row]!r} in {name}; {int(bad.sum())} rows are affected. "
            f"Every value must be a {'positive ' if positive else ''}number: fix or drop those rows."
        )
    return numbers


def _weights(given: Any, n: int) -> np.ndarray:
    weights = np.ones(n) if given is None else np.asarray(given, dtype=float)
    if weights.shape != (n,) or not np.isfinite(weights).all() or (weights < 0).any() or not weights.any():
        raise UserError(
            f"sample_weight needs {n} numbers of 0 or more, one per run, not all 0; got shape {weights.shape}."
        )
    return weights
